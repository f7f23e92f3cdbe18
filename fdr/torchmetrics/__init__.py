"""Metrics for training loops with the interface of the package torchmetrics: update, compute, reset, sync."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
