"""A callback of Lightning that logs FD and the other metrics of images that the model makes during training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
