"""Encoders that timm builds: the pinned ViTs and the ConvNeXt of the catalogue, and any `timm:NAME`.

Preprocessing is the row's own. For FDr^6 and `timm:NAME` the float image is squashed to the input size by torch's
antialiased bicubic kernel (left alone when it has that size already; overshoot is not clamped), then normalised with
the model's own mean and std.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fdr import runtime
from fdr import weights as weight_files
from fdr.encoders.base import EncoderOptions, EncoderSpec
from fdr.encoders.catalogue import DINOV2_POSITIONS, EncoderRow, find_row, timm_weights
from fdr.encoders.network import NetworkEncoder, build_spec
from fdr.errors import InputError, unknown
from fdr.weights import WeightsFile, archive_state, is_archive, load_library

PREFIX = "timm:"
DYNAMIC_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True}
"""A ViT then takes any size: position embeddings are resampled in the forward pass, and the image is padded right
and below to whole patches (256 px at patch 14: to 266, 19 x 19 tokens)."""
TOKEN_OUTPUTS = ("cls", "attention-pool")
"""Main outputs of the ViTs among the catalogue's rows."""
PROJECTED = ("embedding", "embedding-l2")
"""Outputs behind the model's own projection, its `head`."""


def load(name: str, options: EncoderOptions) -> NetworkEncoder:
    """The encoder `name`: a row of the catalogue, or "timm:" and any of timm's models.

    Raises `InputError` for a name timm does not know or a timm that cannot be imported, `WeightsError` for its file.
    """
    row = find_row(name) or _row_of(name, load_library("timm", name), has_own_weights=options.weights is not None)
    return load_row(row, options)


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The weight file of "timm:NAME"."""
    row = _row_of(name, load_library("timm", name), has_own_weights=False)
    assert row.weights is not None
    return (row.weights,)


def load_row(row: EncoderRow, options: EncoderOptions) -> NetworkEncoder:
    """The encoder that `row` describes, with every parameter read from the row's weight file."""
    timm = load_library("timm", row.name)
    device = runtime.resolve_device(options.device)
    runtime.check_dtype(options.dtype, device)
    assert row.weights is not None
    found = weight_files.resolve(row.weights, options, row.name)
    model, extra = _build(row, timm, device)
    _fill(model, row, found.path, timm)
    width = row.width or getattr(model, "head_hidden_size", model.num_features)
    spec = build_spec(replace(row, width=width), options, found.sha256, found.path, extra=extra)
    return encoder_of(spec, model.eval().requires_grad_(False), device)


def encoder_of(spec: EncoderSpec, model: Any, device: torch.device) -> NetworkEncoder:
    """A network of timm that `spec` describes; the ViTs among the presets also give the mean of their tokens."""
    outputs = (spec.output, "mean") if spec.output in TOKEN_OUTPUTS else (spec.output,)
    return NetworkEncoder(spec, outputs, model, _run, device)


def _run(model: Any, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    features = model.forward_features(inputs)
    return {name: _POOLS[name](model, features) for name in outputs}


def _class_token(model: Any, tokens: Tensor) -> Tensor:
    return tokens[:, 0]


def _mean(model: Any, features: Tensor) -> Tensor:
    """The mean of the patch tokens [B, T, D] without the prefix, or of the positions of a map [B, D, h, w]."""
    return features[:, model.num_prefix_tokens :].mean(1) if features.ndim == 3 else features.mean((2, 3))


def _own_pooling(model: Any, features: Tensor) -> Tensor:
    return model.forward_head(features, pre_logits=True)


def _embedding(model: Any, features: Tensor) -> Tensor:
    return model.forward_head(features)


def _unit_embedding(model: Any, features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(model.forward_head(features).float(), dim=1, eps=0)


_POOLS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "cls": _class_token,
    "mean": _mean,
    "attention-pool": _own_pooling,
    "features": _own_pooling,
    "embedding": _embedding,
    "embedding-l2": _unit_embedding,
}


def _row_of(name: str, timm: ModuleType, *, has_own_weights: bool) -> EncoderRow:
    """What "timm:NAME" means: timm's own input size, normalisation and pooling for that model and weight tag."""
    config = _pretrained_config(name, timm, has_own_weights)
    channels, height, width = config.input_size
    if channels != 3 or height != width:
        raise InputError(f"Encoder {name!r} takes {channels} x {height} x {width} inputs; fdr runs square RGB only.")
    model = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    mean, std = tuple(config.mean), tuple(config.std)
    return EncoderRow(name, model, 0, "features", height, mean, std, _weights_of(model, config))  # its width is unknown


def _pretrained_config(name: str, timm: ModuleType, has_own_weights: bool) -> Any:
    model = name.removeprefix(PREFIX)
    architecture, _, tag = model.partition(".")
    tagged = timm.list_models(pretrained=True)
    if not timm.is_model(architecture):
        raise _unknown_model(model, tagged if tag else timm.list_models())
    if tag and model not in tagged:
        raise _unknown_model(model, [name for name in tagged if name.startswith(f"{architecture}.")])
    config = timm.get_pretrained_cfg(model)
    if not has_own_weights and not (config and config.has_weights):
        raise InputError(f"timm has no weights for {model!r}: give a file with weights=PATH, or name another model.")
    return config or timm.models.PretrainedCfg(architecture=architecture)


def _unknown_model(model: str, names: Sequence[str]) -> InputError:
    near = difflib.get_close_matches(model, names, n=3, cutoff=0.5)
    if near:
        return unknown("timm model", model, near)
    return InputError(f"Unknown timm model {model!r}; timm.list_models(pretrained=True) lists the known ones.")


def _weights_of(model: str, config: Any) -> WeightsFile:
    if config.hf_hub_id or not config.url:
        return timm_weights(model, licence=config.license or "")
    suffix = Path(config.url).suffix
    return WeightsFile(f"{model}{suffix}", (f"{model}.safetensors",), licence=config.license or "", url=config.url)


def _build(row: EncoderRow, timm: ModuleType, device: torch.device) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """The network with uninitialised or random parameters, without its classifier, and the settings to record."""
    if row.name.startswith(PREFIX):
        return timm.create_model(row.model, pretrained=False, num_classes=0).to(device), ()
    settings = _settings(row)
    with torch.device("meta"):  # drawing 300 million random numbers that the file replaces takes seconds
        model = timm.create_model(row.model, pretrained=False, **settings)
    recorded = {key: str(value).lower() for key, value in settings.items() if key != "num_classes"}
    weight_files.to_memory(model, device)
    return model, tuple(sorted({**recorded, **dict(row.extra)}.items()))


def _settings(row: EncoderRow) -> dict[str, int | bool]:
    """The arguments with which timm builds the network of a row of the catalogue."""
    if row.output in PROJECTED:
        return {"num_classes": row.width}
    if DINOV2_POSITIONS in row.extra:
        return {"num_classes": 0, "img_size": row.input_size}
    return {"num_classes": 0, **(DYNAMIC_SIZE if row.output in TOKEN_OUTPUTS else {})}


def _fill(model: Any, row: EncoderRow, path: Path, timm: ModuleType) -> None:
    """Read every parameter of `model` from `path`; the file's classifier, if its model has one, is left out."""
    own = model.state_dict()
    raw = archive_state(path) if is_archive(path) else weight_files.load_state_dict(path)
    if DINOV2_POSITIONS in row.extra:
        raw = as_dinov2(raw, model.patch_embed.grid_size)
    given = _in_timm_names(visual_names(raw), model, row, timm)
    if any(key not in own for key in given):
        with torch.device("meta"):
            full = timm.create_model(row.model, pretrained=False).state_dict()
        given = {key: tensor for key, tensor in given.items() if key in own or key not in full}
    weight_files.load_into(model, given, path, row.name)


def _in_timm_names(raw: Mapping[str, Tensor], model: Any, row: EncoderRow, timm: ModuleType) -> dict[str, Tensor]:
    """`raw` with the names of timm's modules, by timm's own converter, which also reads the authors' first layouts.

    The converter resamples embeddings of another size; such a file is of another model, so the tensor is put back for
    the loader to refuse.
    """
    entrypoint = timm.models.model_entrypoint(row.model.partition(".")[0])
    convert = getattr(sys.modules[entrypoint.__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(raw)
    try:
        converted = convert(dict(raw), model)
    except (KeyError, AttributeError, IndexError, RuntimeError, ValueError, AssertionError):
        return dict(raw)  # the loader then says which names or shapes are wrong
    return {
        key: raw[key] if key in raw and raw[key].numel() != tensor.numel() else tensor
        for key, tensor in converted.items()
    }


# --- published checkpoints in the layout that timm reads --------------------------------------------------------------

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
