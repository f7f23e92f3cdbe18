"""`LoadedAutoencoder` encodes images to latents and decodes them; `AutoencoderSpec` holds all that decides both."""

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
"""Image sizes that are tried, in this order, to see what an encoder returns before the size of the images is known."""
_CHECKED = 2
"""Images in a trial batch."""
_OVERSHOOT = 0.5
"""Decoded values further outside of the range than this share of it count as far outside."""
_OUTSIDE_SHARE = 0.05
"""If more than this share of the decoded values lie far outside, the value range is refused as wrong."""
_SUSPICIOUS = 4.0
"""A warning is given if the other value range makes the mean squared error this many times smaller."""
_LEAST_SUSPICIOUS = 0.003
"""Below this mean squared error (25 dB) the value range is taken as correct."""


@dataclass(frozen=True)
class AutoencoderSpec:
    """All that decides latents and decoded images: two specs with the same `hash` give the same ones.

    `name` is a description; every other field enters the hash.
    """

    name: str
    """The name that the user gave: "dct:16", "stabilityai/sd-vae-ft-mse"."""
    family: str
    """"weight-free", "diffusers", "torchscript", "export", "factory" or "object"."""
    model: str
    """The architecture: "dct:16", "AutoencoderKL", "my_model:build"."""
    weights: str
    """sha256 (64 hex digits) of the weights and of the user's code, if any; "none" without weights, or "unknown"."""
    value_range: tuple[float, float] = SIGNED
    """The values of black and white in the images that `encode` takes and `decode` returns."""
    posterior: str = "deterministic"
    """"sample" or "mean" if the encoder returns a distribution over latents; else "deterministic"."""
    seed: int = 0
    """Seed for the noise of posterior samples; 0 for the other kinds of posterior."""
    dtype: str = "float32"
    """"float32" or "bf16" (autocast)."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further settings of the family that change latents or images, sorted by key."""

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
        """16 hex digits over all fields but `name`."""
        fields = asdict(self)
        del fields["name"]
        text = json.dumps({"autoencoders_version": AUTOENCODERS_VERSION, **fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Codec(Protocol):
    """A model with `encode` and `decode` for one batch; `posterior.py` reads what they return."""

    def encode(self, images: Tensor, /) -> Any: ...

    def decode(self, latents: Tensor, /) -> Any: ...


class LoadedAutoencoder:
    """An autoencoder on its device, made by `load_autoencoder`.

    The argument `spec` describes it as declared. The first encoding shows whether the encoder returns a distribution,
    and then the property `spec` is complete. `posterior` is what the user asked for ("sample" or "mean"), and
    `usual_posterior` is used if the user asked for nothing.
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
        self._is_distribution: bool | None = None
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
        """The complete spec. Encodes blank images of usual sizes if nothing was encoded yet.

        Raises `InputError` if no size succeeds, or if samples of a deterministic encoder were asked for.
        """
        if self._is_distribution is None:
            self._probe()
        if not self._is_distribution and self._posterior == "sample":
            raise InputError(
                f"{self.name} has a deterministic encoder, whose posterior cannot be sampled; leave it out."
            )
        chosen = (self._posterior or self._usual_posterior) if self._is_distribution else "deterministic"
        return replace(self._declared, posterior=chosen, seed=self._declared.seed if chosen == "sample" else 0)

    def _probe(self) -> None:
        failure: InputError | None = None
        for side in PROBED_SIDES:
            try:
                self.latent_shape(side, side)
                return
            except InputError as error:
                failure = failure or error
        raise InputError(
            f"{self.name} encodes no image of {', '.join(map(str, PROBED_SIDES))} px, so what it returns is not known; "
            f"name the size of its images first, by check(height, width). At {PROBED_SIDES[0]} px: {failure}"
        ) from failure

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The latent shape of an image of this size: (C, h, w), (L, C) or (D,). Encodes blank images, once."""
        if (height, width) not in self._shapes:
            blank = torch.full((_CHECKED, 3, height, width), 0.5)
            self._posterior_of(blank)
        return self._shapes[height, width]

    def encode(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        """Encode images [B, 3, H, W] in [0, 1] to float32 latents [B, *latent_shape].

        The noise of posterior samples depends on the seed and on `rows`, the numbers of the images, alone. Raises
        `InputError` for other inputs, a model that fails, and latents that are not finite.
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
        """Decode latents [B, *latent_shape] to float32 images [B, 3, H, W]: black 0, white 1, not clamped.

        Grey images are repeated to three channels. A decoder that draws noise draws the same for every batch. Raises
        `InputError` for a model that fails or returns no images.
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
        """Encode and decode two procedural images of this size to see that the autoencoder can be used.

        Raises `InputError` if the encoder draws noise of its own, or if decoded images have another size, are not
        finite or lie far outside of the value range. Warns (`FdrWarning`) if another range reconstructs far better.
        """
        images = _pictures(height, width)
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
        """Warn if the other common value range reconstructs far better: a wrong range still gives images, poor ones."""
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
                f"{_range_text(self.value_range)}, and of {there:.2g} in {_range_text(other)}; give --value-range.",
                FdrWarning,
                stacklevel=3,
            )

    def _posterior_of(self, images: Tensor, value_range: tuple[float, float] | None = None) -> Posterior:
        """The posterior of images in [0, 1]; mean and deviation are float32 [B, *latent_shape]."""
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
        self._is_distribution = std is not None
        self._shapes[images.shape[2], images.shape[3]] = tuple(mean.shape[1:])
        return Posterior(mean, std)

    @contextlib.contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Seed torch's random generators inside, and restore them afterwards.

        `torch.manual_seed` is not used: without CUDA it formats a stack trace, which is slow and not safe in threads.
        """
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.default_generator.manual_seed(seed)
            if is_cuda:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

    def _run(self, what: str, method: Callable[[Tensor], Any], value: Tensor) -> Any:
        is_bf16 = self._declared.dtype == "bf16"
        try:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
                return method(value)
        except (FdrError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a user's model may raise anything
            raise InputError(
                f"{what} of {self.name} failed on a batch of shape {list(value.shape)} ({type(error).__name__}: "
                f"{first_line(error)}); check the size of the images, and that it takes batches of any length."
            ) from error


def _range_text(value_range: tuple[float, float]) -> str:
    return f"{value_range[0]:g}:{value_range[1]:g}"


def _pictures(height: int, width: int) -> Tensor:
    """Procedural images with edges and flat parts, float32 [2, 3, height, width] in [0, 1]."""
    side = max(height, width)
    pictures = np.stack([draw(0, index, side)[:height, :width] for index in range(_CHECKED)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
