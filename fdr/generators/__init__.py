"""Generators, which turn noise and labels into images, with their checkpoints, run folders and sample sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
