"""Published checkpoints in the layout that timm reads.

`visual_names` renames the tensors of a CLIP vision tower that transformers saved to the names of OpenAI's and
OpenCLIP's files. `as_dinov2` resamples position embeddings to another grid, as the DINOv2 code does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_RENAMED = (
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding", "conv1"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm", "ln_pre"),  # the misspelling is in every published file
    ("post_layernorm", "ln_post"),
    ("encoder.layers.", "transformer.resblocks."),
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
_GRID_OFFSET = 0.1
"""The DINOv2 code adds this to the grid size before it divides, which shifts the points that are sampled."""
_QKV = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)")


def visual_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with "vision_model.*" as "visual.*" and the text tower left out; any other state as it is."""
    if "vision_model.embeddings.class_embedding" not in state:
        return dict(state)
    named: dict[str, Tensor] = {}
    stacked: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name = _visual_name(key)
        parts = _QKV.fullmatch(name or "")
        if parts is not None:
            stacked.setdefault(f"{parts[1]}.attn.in_proj_{parts[3]}", {})[parts[2]] = tensor
        elif name is not None:
            named[name] = tensor
    if "visual_projection.weight" in state:
        named["visual.proj"] = state["visual_projection.weight"].T
    return named | {
        name: torch.cat([tensor for _, tensor in sorted(of.items(), key=_qkv_order)]) for name, of in stacked.items()
    }


def _qkv_order(item: tuple[str, Tensor]) -> int:
    return "qkv".index(item[0])


def _visual_name(key: str) -> str | None:
    """The name of a vision-tower tensor in OpenAI's layout; None for all other tensors and for the position ids."""
    if not key.startswith("vision_model.") or key.endswith("position_ids"):
        return None
    name = key.removeprefix("vision_model.")
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return f"visual.{name}"


def as_dinov2(state: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """`state` with "pos_embed" [1, 1 + M^2, D] resampled to the h x w of `grid`: [1, 1 + h w, D].

    A state without position embeddings, or with ones that fit already, is returned unchanged.

    The released ViT/14 hold 37 x 37 positions (518 px). At 224 px the DINOv2 code samples them bicubically (a = -0.75,
    without antialiasing) at (i + 1/2) M / (h + 0.1) - 1/2, in float32; timm antialiases and leaves out the 0.1.
    """
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or positions.shape[1] == 1 + math.prod(grid):
        return dict(state)
    side = math.isqrt(positions.shape[1] - 1)
    if side * side != positions.shape[1] - 1:
        return dict(state)  # another model's embeddings, which the loader refuses
    patches = positions[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = [(length + _GRID_OFFSET) / side for length in grid]
    patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return {**state, "pos_embed": torch.cat([positions[:, :1].float(), patches.flatten(2).mT], 1)}
