"""Fréchet distance as a training loss: populations, terms, solvers and the closed-form gradient."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
