"""CLIP's vision tower as transformers saves it -> the names of OpenAI's and OpenCLIP's files, which timm reads."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
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
    """Of a tensor of the vision tower, its name in OpenAI's layout; None for the others, and for the position ids."""
    if not key.startswith("vision_model.") or key.endswith("position_ids"):
        return None
    name = key.removeprefix("vision_model.")
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return f"visual.{name}"
