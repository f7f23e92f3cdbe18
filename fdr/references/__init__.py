"""References: real images summarised as moments, found by name, in files of any tool, or in a folder."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
