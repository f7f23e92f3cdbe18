"""`random`: a small convolutional network with seeded random weights, the same on every machine, for demos and tests.

Random embeddings can rank image sets (Naeem et al. 2020), but a distance over them is not FID.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.encoders.catalogue import find_row
from fdr.encoders.network import build_spec
from fdr.encoders.resize import bicubic_antialias
from fdr.errors import InputError

WIDTHS = (16, 32, 32, 48)
"""Channels of each stage; every stage but the first halves the resolution."""
STD_FLOOR = 1e-2
"""Keeps the standard deviation of a constant map from amplifying rounding."""


def load(name: str, options: EncoderOptions) -> RandomEncoder:
    """The encoder "random" (seed 0) or "random:SEED". Raises `InputError` for another seed, weights or dtype."""
    if options.weights is not None:
        raise InputError(f"Encoder {name!r} draws its weights from its seed and takes no weight file; drop `weights`.")
    device = runtime.resolve_device(options.device)
    if runtime.check_dtype(options.dtype, device) is not torch.float32:
        raise InputError(f"Encoder {name!r} runs in float32 only, so that it is the same everywhere; drop --dtype.")
    seed, row = _seed(name), find_row("random")
    assert row is not None
    return RandomEncoder(build_spec(replace(row, name=name), options, f"seed:{seed}"), seed, device)


def _seed(name: str) -> int:
    text = name.partition(":")[2] or "0"
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise InputError(f"Encoder {name!r} has no valid seed; expected random:SEED with a whole number below 2^63.")
    return int(text)


class RandomEncoder(AbstractEncoder):
    """Mean and standard deviation of every channel at four scales: "features" [B, 256]."""

    outputs = ("features",)
    stored_outputs = ("features",)

    def __init__(self, spec: EncoderSpec, seed: int, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self._kernels = [kernel.to(device) for kernel in _kernels(seed)]
        self._last_map = nn.Identity()
        """The output of the last stage, [B, 48, 8, 8], passes through it, so that a hook can read it."""

    def preprocess(self, images: Tensor) -> Tensor:
        return 2 * bicubic_antialias(images, self.spec.input_size) - 1

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        x = inputs
        parts: list[Tensor] = []
        for stage, kernel in enumerate(self._kernels):
            x = F.relu(F.conv2d(x, kernel, stride=2 if stage else 1, padding=1))
            x = self._last_map(x) if stage == len(WIDTHS) - 1 else x
            variance = x.var(dim=(2, 3), correction=0)
            parts += [x.mean(dim=(2, 3)), torch.sqrt(variance + STD_FLOOR**2)]
        return {"features": torch.cat(parts, 1)} if "features" in outputs else {}


def _kernels(seed: int) -> list[Tensor]:
    """[out, in, 3, 3] per stage, of variance 2 / fan-in; every other one of the first sums to zero and sees edges."""
    kernels: list[Tensor] = []
    start, in_channels = 0, 3
    for width in WIDTHS:
        shape = (width, in_channels, 3, 3)
        values = uniform(seed, start, math.prod(shape)).reshape(shape) * math.sqrt(6 / (9 * in_channels))
        if not kernels:
            values[::2] -= values[::2].mean(axis=(2, 3), keepdims=True)
        kernels.append(torch.from_numpy(values.astype(np.float32)))
        start, in_channels = start + math.prod(shape), width
    return kernels


def uniform(seed: int, start: int, count: int) -> np.ndarray:
    """`count` float64 numbers in [-1, 1) of the stream `seed`, from position `start`, equal on every machine.

    A counter-based generator (SplitMix64; Steele, Lea and Flood 2014) in integer arithmetic, since neither torch nor
    numpy promises that its streams stay as they are.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        counter = np.arange(start + 1, start + count + 1, dtype=np.uint64)
        bits = _mix(key + counter * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
