"""Exact nearest neighbours in bounded memory: docs/neighbour-search.md explains the method."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
