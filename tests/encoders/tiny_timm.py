"""Small relatives of the networks of the catalogue, under names that timm builds: timm's code, our sizes."""

from __future__ import annotations

import timm
from timm.models import vision_transformer
from timm.models._registry import register_model


def _register(name: str, relative: str, **sizes) -> None:
    base = getattr(vision_transformer, relative)

    def build(pretrained: bool = False, **kwargs):
        original = vision_transformer._create_vision_transformer
        vision_transformer._create_vision_transformer = lambda _, pretrained, **args: original(
            relative, pretrained=False, **{**args, **sizes, **kwargs}
        )
        try:
            return base(pretrained=False)
        finally:
            vision_transformer._create_vision_transformer = original

    build.__name__, build.__module__ = name, vision_transformer.__name__
    setattr(vision_transformer, name, build)
    if not timm.is_model(name):
        register_model(build)


DINOV2 = "fdr_tiny_patch14_dinov2"
_register(DINOV2, "vit_large_patch14_dinov2", embed_dim=48, depth=2, num_heads=3)

CLIP_SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 1}
CLIP_B32 = "fdr_tiny_patch32_clip"
_register(CLIP_B32, "vit_base_patch32_clip_quickgelu_224", **CLIP_SIZES)
CLIP_L14_336 = "fdr_tiny_patch14_clip_336"
_register(CLIP_L14_336, "vit_large_patch14_clip_quickgelu_336", **CLIP_SIZES, img_size=336)
