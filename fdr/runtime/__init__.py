"""The machine and the process: devices, environment, files and locks, threads, seeds, progress, ranks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
