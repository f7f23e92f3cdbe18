"""Files of networks: found, fetched, verified and read; programs and user code; what identifies a network."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
