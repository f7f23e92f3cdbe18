from .callback import EvaluationCallback as EvaluationCallback
