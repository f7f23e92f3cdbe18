from .frechet import FrechetDistance as FrechetDistance
