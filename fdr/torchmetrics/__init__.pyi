from .drawn import evaluate_samples as evaluate_samples
from .evaluation import Evaluation as Evaluation
from .frechet import FrechetDistance as FrechetDistance
