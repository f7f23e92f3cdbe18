"""Functions of other tools, under their names and with their arguments, computed by fdr."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
