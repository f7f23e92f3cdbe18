"""Images from files or memory as ordered, sized, decoded batches: the only place where files become pixels."""

from fdr.images.base import BadImage, ImageBatch, ImageOptions, ImageSource
from fdr.images.registry import open_images

__all__ = ["BadImage", "ImageBatch", "ImageOptions", "ImageSource", "open_images"]
