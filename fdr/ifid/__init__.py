"""Interpolated FID of an autoencoder: latents, neighbours, interpolants, report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
