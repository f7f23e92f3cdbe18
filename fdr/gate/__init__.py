"""The gate of CI: numbers against limits and a baseline, and the files that say the verdict."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
