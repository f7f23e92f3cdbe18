from .evaluation import Evaluation as Evaluation
from .frechet import FrechetDistance as FrechetDistance
