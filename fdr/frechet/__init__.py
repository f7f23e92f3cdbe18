"""The Fréchet distance: moments of features, their files, the distance itself, and its ratios FDr and FDr^k."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
