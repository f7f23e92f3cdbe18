"""Encoder names: what they mean and which module loads them. Imports neither torch nor timm until one is loaded."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions
from fdr.encoders.catalogue import BUNDLES, ROWS, EncoderRow, find_row
from fdr.errors import InputError, unknown
from fdr.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from torch import Tensor

FACTORIES = {
    "inception": "fdr.encoders.inception:load",
    "timm": "fdr.encoders.timm_models:load",
    "random": "fdr.encoders.random_net:load",
    "hf": "fdr.encoders.transformers_models:load",
    "openclip": "fdr.encoders.openclip_models:load",
}
"""Family -> "module:function", called with (name, EncoderOptions)."""

PREFIXES = {"timm:": "timm", "random:": "random", "hf:": "hf", "openclip:": "openclip"}
"""Open-ended names -> family: "timm:resnet50.a1_in1k", "random:7"."""


def list_encoders() -> tuple[EncoderRow, ...]:
    """The encoders known by name. Besides them, "timm:NAME" takes any model of timm."""
    return ROWS


def parse_encoders(names: str | Sequence[str]) -> list[str]:
    """Encoder names from "inception,fdr6" or a list: bundles expanded, each name once, in order.

    Raises `InputError` for an unknown name, with near matches, and for none at all.
    """
    given = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    parsed: dict[str, None] = {}
    for name in filter(None, (part.strip() for part in given)):
        for member in BUNDLES.get(name, (name,)):
            _family(member)
            parsed[member] = None
    if not parsed:
        raise InputError("No encoder was named; name at least one, for example inception.")
    return list(parsed)


def load_encoder(
    encoder: str | AbstractEncoder | Callable[[Tensor], Tensor],
    *,
    weights: str | os.PathLike[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    device: str | None = None,
    dtype: str = "float32",
    exact_order: bool = False,
    tf32: bool = False,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> AbstractEncoder:
    """The encoder of a name such as "inception", "dinov2" or "timm:resnet50.a1_in1k", ready to be called.

    `weights` is a file to use as it is; otherwise `weights_dir` and the usual places are searched, then the network
    (unless `offline`). An `AbstractEncoder` is returned as it is, another callable from images to [B, D] is wrapped.
    Raises `InputError` for an unknown name, `WeightsError` for missing or wrong weights.
    """
    options = EncoderOptions(
        weights=None if weights is None else Path(weights),
        weights_dir=None if weights_dir is None else Path(weights_dir),
        device=None if device is None else str(device),
        dtype=dtype,
        exact_order=exact_order,
        tf32=tf32,
        offline=offline,
        progress=progress or SilentProgress(),
    )
    return as_encoder(encoder, options)


def as_encoder(encoder: Any, options: EncoderOptions) -> AbstractEncoder:
    """`encoder` itself, the one it names, or a wrapped callable."""
    if isinstance(encoder, AbstractEncoder):
        return encoder
    if isinstance(encoder, str):
        return _load(encoder, options)
    if callable(encoder):
        from fdr.encoders.callables import CallableEncoder

        return CallableEncoder(encoder, options.device)
    raise InputError(
        f"An encoder is a name, an AbstractEncoder or a callable from images to [B, D]; got {type(encoder).__name__}."
    )


def _load(name: str, options: EncoderOptions) -> AbstractEncoder:
    if name in BUNDLES:
        raise InputError(f"{name!r} is a bundle, not one encoder; load {', '.join(BUNDLES[name])} one by one.")
    module, _, function = FACTORIES[_family(name)].partition(":")
    runtime.set_tf32(options.tf32)
    return getattr(importlib.import_module(module), function)(name, options)


def _family(name: str) -> str:
    """The family that loads `name`. Raises `InputError` for a name that means nothing."""
    row = find_row(name)
    if row is not None:
        return row.family
    for prefix, family in PREFIXES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return family
    names = [*(row.name for row in ROWS), *BUNDLES]
    raise unknown("encoder", name, names, "Any timm model works as timm:NAME.")
