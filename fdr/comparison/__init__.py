"""Whether two numbers may be compared, how much a difference of protocol matters, and correlations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
