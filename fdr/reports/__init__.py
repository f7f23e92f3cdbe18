"""Reports: numbers with all that made them, their signatures, and how they are written."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
