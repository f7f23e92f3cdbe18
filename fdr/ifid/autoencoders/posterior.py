"""Reads whatever `encode` and `decode` of an autoencoder return, as a posterior and as images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdr.errors import InputError

_INNER = ("latent_dist", "latents", "latent")
"""Attributes of the outputs of diffusers that hold the posterior or the latents."""
_LOGVAR_RANGE = (-30.0, 20.0)
"""Log variances are clamped to this range, as diffusers does in its KL autoencoders."""


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents, or the one latent of a deterministic encoder."""

    mean: Tensor
    """[B, ...]"""
    std: Tensor | None = None
    """Standard deviation in the shape of `mean`; None if the encoder is deterministic."""


def read_posterior(output: Any, name: str) -> Posterior:
    """The posterior in whatever `encode` returned.

    It may be a tensor; a distribution with `mean` (or `mode()`) and `std`, `stddev`, `logvar` or `var`, as attributes
    or as items of a dict; an object or dict that holds one of these as `latent_dist`, `latents` or `latent`; or a tuple
    that begins with one of these. Raises `InputError` for anything else.
    """
    if isinstance(output, Posterior):
        return output
    if isinstance(output, Tensor):
        return Posterior(output)
    if isinstance(output, tuple | list) and output:
        return read_posterior(output[0], name)
    for key in _INNER:
        inner = _field(output, key)
        if inner is not None:
            return read_posterior(inner, name)
    mean, std = _mean(output), _std(output)
    if std is None and callable(getattr(output, "sample", None)):
        raise InputError(
            f"encode of {name} returned {_kind(output)} without logvar, std or var, whose samples fdr cannot draw"
            "; return mean and logvar."
        )
    if mean is not None:
        return Posterior(mean, std)
    raise InputError(
        f"encode of {name} returned {_kind(output)}; expected latents [B, ...], or a distribution with mean and logvar "
        "(or std), as an object or a dict."
    )


def read_images(output: Any, name: str) -> Tensor:
    """The images in whatever `decode` returned: a tensor, the `sample` of an object or dict, or the first of a tuple.

    Raises `InputError` for anything else.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and output:
        return read_images(output[0], name)
    sample = _tensor(output, "sample")
    if sample is None:
        raise InputError(f"decode of {name} returned {_kind(output)}; expected images [B, 3, H, W].")
    return sample


def _mean(output: Any) -> Tensor | None:
    mean, mode = _tensor(output, "mean"), getattr(output, "mode", None)
    made = mode() if mean is None and callable(mode) else mean
    return made if isinstance(made, Tensor) else None


def _std(output: Any) -> Tensor | None:
    for key in ("std", "stddev"):
        std = _tensor(output, key)
        if std is not None:
            return std
    logvar = _tensor(output, "logvar")
    if logvar is not None:
        return torch.exp(0.5 * logvar.float().clamp(*_LOGVAR_RANGE))
    var = _tensor(output, "var")
    return None if var is None else var.float().sqrt()


def _field(output: Any, key: str) -> Any:
    return output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)


def _tensor(output: Any, key: str) -> Tensor | None:
    value = _field(output, key)
    return value if isinstance(value, Tensor) else None


def _kind(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    return "an empty tuple" if isinstance(output, tuple | list) else f"a {type(output).__name__}"
