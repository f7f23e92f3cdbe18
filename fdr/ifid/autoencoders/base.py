"""`LoadedAutoencoder`: images to latents and back, with everything that moves either of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fdr.errors import FdrError, FdrWarning, InputError, first_line, unknown
from fdr.generators import POSTERIOR, noise_of
from fdr.ifid.autoencoders.posterior import Posterior, read_images, read_posterior
from fdr.images import draw
from fdr.runtime import DTYPES
from fdr.weights import UNKNOWN

AUTOENCODERS_VERSION = 1  # raised whenever a release changes latents or decoded images of an unchanged spec

POSTERIORS = ("sample", "mean", "deterministic")
SIGNED, UNIT = (-1.0, 1.0), (0.0, 1.0)
PROBED_SIDES = (64, 256, 224, 32, 28, 128, 512)
"""Images that are tried, in this order, to find out what an encoder returns before any size is known."""
_CHECKED = 2
_OVERSHOOT = 0.5
"""Share of the range by which decoded values may lie outside of it."""
_OUTSIDE_SHARE = 0.05
"""Share of the values that may lie further outside."""
_SUSPICIOUS = 4.0
"""How many times worse than in the other range a mean squared error must be to be told."""
_LEAST_SUSPICIOUS = 0.003
"""A smaller one (25 dB) is that of a model in its own range."""


@dataclass(frozen=True)
class AutoencoderSpec:
    """All that decides latents and decoded images. Two specs with one `hash` give the same ones.

    `name` only describes; every other field enters the hash.
    """

    name: str
    """What it was asked for by: "dct:16", "stabilityai/sd-vae-ft-mse"."""
    family: str
    """"weight-free", "diffusers", "torchscript", "export", "factory" or "object"."""
    model: str
    """The architecture: "dct:16", "AutoencoderKL", "my_model:build"."""
    weights: str
    """sha256 (64 hex digits) of weights, and of the code where that is the user's; "none", or "unknown"."""
    value_range: tuple[float, float] = SIGNED
    """Black and white, as its encode takes them and its decode returns them."""
    posterior: str = "deterministic"
    """"sample" or "mean" of a distribution over latents, or "deterministic"."""
    seed: int = 0
    """Of the noise of samples; 0 for the other two."""
    dtype: str = "float32"
    """"float32" or "bf16" (autocast)."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further number-moving settings of the family, sorted by key."""

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(
                f"The value range of an autoencoder is black:white, such as -1:1 or 0:1; got {low:g}:{high:g}."
            )
        if self.posterior not in POSTERIORS:
            raise unknown("posterior", self.posterior, POSTERIORS)
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.seed < 0:
            raise InputError(f"The seed of an autoencoder is {self.seed}; it must be at least 0.")

    @property
    def hash(self) -> str:
        """16 hex digits over all number-moving fields."""
        fields = asdict(self)
        del fields["name"]
        text = json.dumps({"autoencoders_version": AUTOENCODERS_VERSION, **fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Codec(Protocol):
    """Two methods, over images and latents of one batch; what they return is read by `posterior.py`."""

    def encode(self, images: Tensor, /) -> Any: ...

    def decode(self, latents: Tensor, /) -> Any: ...


class _NotSampled(InputError):
    """A sample was asked for of an encoder that has no distribution, whatever the size of the images."""


class LoadedAutoencoder:
    """An autoencoder on its device. Made by `as_autoencoder` and `load_autoencoder`.

    `spec` is of it as it is declared; whether its encoder is deterministic shows when it first encodes. `posterior` is
    what was asked for ("sample" or "mean"), `usual_posterior` what it is used with where nothing was.
    """

    def __init__(
        self,
        codec: Codec,
        spec: AutoencoderSpec,
        device: torch.device,
        *,
        posterior: str | None = None,
        usual_posterior: str = "sample",
    ) -> None:
        if posterior not in (None, "sample", "mean"):
            raise unknown("posterior", str(posterior), ("sample", "mean"))
        self.device = device
        self.is_cacheable = spec.weights != UNKNOWN
        self._codec = codec
        self._declared = spec
        self._posterior = posterior
        self._usual_posterior = usual_posterior
        self._spec: AutoencoderSpec | None = None
        self._shapes: dict[tuple[int, int], tuple[int, ...]] = {}

    def __repr__(self) -> str:
        return f"LoadedAutoencoder({self.name!r}, device={str(self.device)!r})"

    @property
    def name(self) -> str:
        return self._declared.name

    @property
    def value_range(self) -> tuple[float, float]:
        return self._declared.value_range

    @property
    def spec(self) -> AutoencoderSpec:
        """Complete; encodes a blank image where it never did. Raises `InputError` if it fails on all usual sizes."""
        if self._spec is None:
            self._probe()
        assert self._spec is not None
        return self._spec

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of one image of this size: (C, h, w), (L, C) or (D,); found by encoding a blank one, once."""
        if (height, width) not in self._shapes:
            blank = torch.full((_CHECKED, 3, height, width), 0.5)
            self._posterior_of(blank)
        return self._shapes[height, width]

    def encode(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        """float32 latents [B, *latent_shape] of images [B, 3, H, W] in [0, 1].

        Sampled posteriors take their noise from the seed and `rows`, the numbers of the images, alone. Raises
        `InputError` for another kind of input, a model that fails, and latents that are not finite.
        """
        if len(rows) != len(images):
            raise InputError(
                f"{self.name} was given {len(images)} images and the numbers of {len(rows)}; give one each."
            )
        return self._latents(self._posterior_of(images), rows)

    def _latents(self, posterior: Posterior, rows: Sequence[int]) -> Tensor:
        latents = posterior.mean
        if self.spec.posterior == "sample" and posterior.std is not None:
            noise = noise_of(self.spec.seed, rows, latents.shape[1:], self.device, POSTERIOR)
            latents = latents + posterior.std * noise
        if not bool(latents.isfinite().all()):
            raise InputError(f"{self.name} makes latents that are not finite; check its weights, and --dtype float32.")
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """float32 images [B, 3, H, W] of latents [B, *latent_shape]: black 0, white 1, not clamped.

        One channel is repeated to three. A decoder that draws noise draws the same for every batch. Raises `InputError`
        for a model that fails or makes no images.
        """
        return self._decoded(latents, self.value_range)

    def _decoded(self, latents: Tensor, value_range: tuple[float, float]) -> Tensor:
        with self._seeded(0):
            output = self._run("decode", self._codec.decode, latents.to(self.device, torch.float32))
        images = read_images(output, self.name)
        if images.ndim != 4 or len(images) != len(latents) or images.shape[1] not in (1, 3):
            raise InputError(
                f"decode of {self.name} must make images [B, 3, H, W]; of latents {list(latents.shape)} it made "
                f"{list(images.shape)}."
            )
        low, high = value_range
        images = (images.to(self.device, torch.float32) - low) / (high - low)
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def check(self, height: int, width: int) -> None:
        """Encode and decode two drawn images of this size.

        Raises `InputError` where the encoder draws noise of its own, or decoded images are of another size, not finite
        or far outside of the range of values; warns (`FdrWarning`) where another range reconstructs far better.
        """
        images = _drawn(height, width)
        with self._seeded(0):
            first = self._posterior_of(images)
        with self._seeded(1):
            second = self._posterior_of(images)
        if float((first.mean - second.mean).abs().mean()) > 1e-3 * float(first.mean.abs().mean()):
            raise InputError(
                f"encode of {self.name} draws noise of its own, so its latents are other ones every time; let it "
                "return mean and logvar (a dict, or a distribution), which are sampled by the number of the image."
            )
        decoded = self.decode(self._latents(first, range(_CHECKED)))
        if decoded.shape != images.shape:
            made, given = ("x".join(map(str, one.shape[2:])) for one in (decoded, images))
            raise InputError(
                f"{self.name} decodes images of {given} to {made}; give it images of a size that it returns unchanged."
            )
        self._check_range(decoded)
        self._compare_ranges(images.to(self.device), decoded)

    def _check_range(self, decoded: Tensor) -> None:
        if not bool(decoded.isfinite().all()):
            raise InputError(
                f"{self.name} decodes to values that are not finite; check its weights, and --dtype float32."
            )
        outside = ((decoded < -_OVERSHOOT) | (decoded > 1 + _OVERSHOOT)).float().mean().item()
        if outside > _OUTSIDE_SHARE:
            low, high = self.value_range
            least, most = (float(value) * (high - low) + low for value in decoded.aminmax())
            raise InputError(
                f"{self.name} decodes to values from {least:.3g} to {most:.3g}, {outside:.0%} of them far outside of "
                f"its value range {low:g}:{high:g}; give --value-range."
            )

    def _compare_ranges(self, images: Tensor, decoded: Tensor) -> None:
        """A model of [0, 1] that is used as one of [-1, 1] still makes images; that they are poor ones is told."""
        here = float((decoded - images).square().mean())
        if here <= _LEAST_SUSPICIOUS:
            return
        other = UNIT if self.value_range == SIGNED else SIGNED
        try:
            again = self._decoded(self._posterior_of(images, other).mean, other)
        except InputError:
            return
        there = float((again - images).square().mean()) if again.shape == images.shape else here
        if here > _SUSPICIOUS * there:
            warnings.warn(
                f"{self.name} reconstructs with a mean squared error of {here:.2g} in the value range "
                f"{_shown(self.value_range)}, and of {there:.2g} in {_shown(other)}; give --value-range.",
                FdrWarning,
                stacklevel=3,
            )

    def _posterior_of(self, images: Tensor, value_range: tuple[float, float] | None = None) -> Posterior:
        """float32, each [B, *latent_shape], of images in [0, 1]."""
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            found = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"{self.name} takes float32 images [B, 3, H, W] in [0, 1]; got {found}.")
        low, high = value_range or self.value_range
        scaled = images.to(self.device, torch.float32) * (high - low) + low
        posterior = read_posterior(self._run("encode", self._codec.encode, scaled), self.name)
        mean = posterior.mean.to(self.device, torch.float32)
        std = None if posterior.std is None else posterior.std.to(self.device, torch.float32)
        if mean.ndim < 2 or len(mean) != len(images) or (std is not None and std.shape != mean.shape):
            shapes = f"{list(mean.shape)}" + ("" if std is None else f" with a deviation {list(std.shape)}")
            raise InputError(
                f"encode of {self.name} must make latents [B, C, h, w] or [B, L, C]; of images {list(images.shape)} it "
                f"made {shapes}."
            )
        self._settle(std is not None)
        self._shapes[images.shape[2], images.shape[3]] = tuple(mean.shape[1:])
        return Posterior(mean, std)

    def _settle(self, is_distribution: bool) -> None:
        """Complete the spec by what the encoder has shown to return."""
        if self._spec is not None:
            return
        if not is_distribution and self._posterior == "sample":
            raise _NotSampled(
                f"{self.name} has a deterministic encoder, whose posterior cannot be sampled; leave it out."
            )
        chosen = (self._posterior or self._usual_posterior) if is_distribution else "deterministic"
        seed = self._declared.seed if chosen == "sample" else 0
        self._spec = replace(self._declared, posterior=chosen, seed=seed)

    @contextlib.contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """torch's generators are seeded in it, and what they were after it.

        Not by `torch.manual_seed`, which without CUDA prints a stack, slow and not safe in threads, for a later one.
        """
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.default_generator.manual_seed(seed)
            if is_cuda:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

    def _probe(self) -> None:
        failure: InputError | None = None
        for side in PROBED_SIDES:
            try:
                self.latent_shape(side, side)
                return
            except _NotSampled:
                raise
            except InputError as error:
                failure = failure or error
        raise InputError(
            f"{self.name} encodes no image of {', '.join(map(str, PROBED_SIDES))} px, so what it returns is not known; "
            f"name the size of its images first, by check(height, width). At {PROBED_SIDES[0]} px: {failure}"
        ) from failure

    def _run(self, what: str, method: Callable[[Tensor], Any], value: Tensor) -> Any:
        is_bf16 = self._declared.dtype == "bf16"
        try:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
                return method(value)
        except (FdrError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # what a user's model raises is anything
            raise InputError(
                f"{what} of {self.name} failed on a batch of shape {list(value.shape)} ({type(error).__name__}: "
                f"{first_line(error)}); check the size of the images, and that it takes batches of any length."
            ) from error


def _shown(value_range: tuple[float, float]) -> str:
    return f"{value_range[0]:g}:{value_range[1]:g}"


def _drawn(height: int, width: int) -> Tensor:
    """float32 [2, 3, height, width] in [0, 1]: images with edges and flat parts."""
    side = max(height, width)
    pictures = np.stack([draw(0, index, side)[:height, :width] for index in range(_CHECKED)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
