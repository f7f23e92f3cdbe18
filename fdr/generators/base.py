"""`Generator`: a network that turns noise (and labels) into images, with its inputs and value range."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fdr.errors import FdrError, InputError, RunError
from fdr.runtime import described, is_out_of_memory
from fdr.weights import UNKNOWN, TakenWeights, digest_state, module_digest

VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0))
OVERSHOOT = 0.1
"""A value counts as outside if it exceeds its range by more than this share of the span. Networks without a tanh exceed
it slightly; raising this accepts more of them, and more networks whose range is declared wrongly."""
OUTSIDE_SHARE = 0.05
"""The share of values that may lie outside. Beyond it the value range is refused as wrong; raising it accepts more."""


@dataclass(frozen=True)
class GeneratorSpec:
    """The inputs of a generator and the range of its images."""

    noise_shape: tuple[int, ...]
    """The shape of the noise of one sample."""
    num_classes: int | None = None
    """Labels are 0 to num_classes - 1. None means unconditional: the network takes noise alone."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Black and white in the network's own images: (0, 1) or (-1, 1)."""

    def __post_init__(self) -> None:
        if not self.noise_shape or not all(_is_whole(size) and size > 0 for size in self.noise_shape):
            raise InputError(
                f"A noise shape is the sizes of one sample's noise, such as 64 or 3x32x32; got {self.noise_shape!r}."
            )
        if self.num_classes is not None and not (_is_whole(self.num_classes) and self.num_classes > 0):
            raise InputError(f"The number of classes is a whole number above 0; got {self.num_classes!r}.")
        if self.value_range not in VALUE_RANGES:
            raise InputError(f"The value range of a generator is 0:1 or -1:1; got {self.value_range!r}.")


@dataclass(frozen=True)
class Architecture:
    """The origin of a network, from which a run folder can make it again."""

    kind: str
    """"factory", "torchscript" or "export"."""
    target: str
    """"module:factory", the name of a preset, or the path of the program."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the factory: numbers, strings, booleans, None, and lists and objects of those."""
    digest: str = ""
    """sha256 of the file that contains the factory, or of the program."""


class Generator(nn.Module):
    """`generator(noise, labels)` gives images [B, 3, H, W], black 0 and white 1, with a gradient.

    Values outside of the range are not clamped, because a clamp has no gradient; `GeneratorSource` clamps. One channel
    is repeated to three.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: GeneratorSpec,
        *,
        name: str = "generator",
        architecture: Architecture | None = None,
        weights: TakenWeights | None = None,
        trained_on: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.name = name
        self.architecture = architecture
        self.weights = weights or TakenWeights()
        """The weights of the checkpoint that were taken: "online", or the label of an average."""
        self.trained_on = None if trained_on is None else tuple(trained_on)
        """The encoders whose FD was the loss in `fdr train`; None if nothing says."""
        self.image_size: tuple[int, int] | None = None
        """(H, W); None until the first images are made."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.spec.noise_shape

    @property
    def num_classes(self) -> int | None:
        return self.spec.num_classes

    @property
    def device(self) -> torch.device:
        """The device of the weights; the CPU for a network without weights."""
        for tensor in itertools.chain(self.network.parameters(), self.network.buffers()):
            return tensor.device
        return torch.device("cpu")

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of float32 noise [B, *noise_shape] and int64 labels [B].

        An unconditional network is called without labels.
        """
        if self.spec.num_classes is None:
            return self._images(self.network(noise), len(noise))
        if labels is None:
            raise InputError(f"{self.name} is class-conditional; give labels [B] of 0 to {self.spec.num_classes - 1}.")
        return self._images(self.network(noise, labels), len(noise))

    def run(self, noise: Tensor, labels: Tensor | None, where: str) -> Tensor:
        """Images as `forward` makes them, in the middle of a run.

        Raises `RunError`, which names `where`, for whatever the network raises and for a result that is no batch of
        images or has another size than before.
        """
        with failures_named(self.name, where):
            images = self(noise, labels)
        self.image_size = one_size(images, self.image_size, self.name, where)
        return images

    def _images(self, made: Any, count: int) -> Tensor:
        is_batch = isinstance(made, Tensor) and made.ndim == 4 and len(made) == count and made.shape[1] in (1, 3)
        if not is_batch or not made.is_floating_point():
            raise InputError(
                f"{self.name} must make images [B, 3, H, W] or [B, 1, H, W], in one floating point tensor; of {count} "
                f"samples it made {_words_of(made)}."
            )
        low, high = self.spec.value_range
        images = made.float() if (low, high) == (0.0, 1.0) else (made.float() - low) / (high - low)
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def digest(self) -> str | None:
        """sha256 over the present code, weights and spec; None if the code of a class cannot be read."""
        if not getattr(self.network, "has_identity", True):
            return None
        decisive: dict[str, Any] = asdict(self.spec)
        digest = hashlib.sha256()
        if self.architecture is None or self.architecture.kind == "factory":
            structure = module_digest(self.network)
            if structure == UNKNOWN:
                return None
            decisive |= {"structure": structure}
        else:
            digest_state(self.network, digest)
        if self.architecture is not None:
            decisive |= {"arguments": dict(self.architecture.arguments), "code": self.architecture.digest}
        digest.update(json.dumps(decisive, sort_keys=True).encode())
        return digest.hexdigest()


def one_size(images: Any, before: tuple[int, int] | None, name: str, where: str) -> tuple[int, int]:
    """(H, W) of images [B, 3, H, W]. Raises `RunError` if those `before` had another size."""
    size = (images.shape[2], images.shape[3])
    if before not in (None, size):
        raise RunError(
            f"{name} made images of {_times(size)} in {where}, and of {_times(before)} before; all its images must be "
            "of one size."
        )
    return size


@contextlib.contextmanager
def failures_named(name: str, where: str) -> Iterator[None]:
    """Turn whatever a user's network raises into a `RunError` that names `where`; a lack of memory stays what it is."""
    try:
        yield
    except InputError as error:
        raise RunError(f"In {where}: {error}") from error
    except (FdrError, KeyboardInterrupt):
        raise
    except BaseException as error:  # it may even end the program
        if is_out_of_memory(error):
            raise
        raise RunError(
            f"{name} failed in {where} ({described(error)}); what was cached or saved stays, and the same command "
            "goes on."
        ) from error


def _words_of(made: Any) -> str:
    """ "a dict with images [4, 3, 8, 8]" for what a network returned."""
    if isinstance(made, Tensor):
        return str(list(made.shape)) if made.is_floating_point() else f"{list(made.shape)} of {made.dtype}"
    parts = made if isinstance(made, Mapping) else getattr(made, "__dict__", {})
    parts = dict(enumerate(made)) if isinstance(made, list | tuple) else parts
    held = [f"{key} {list(value.shape)}" for key, value in parts.items() if isinstance(value, Tensor)]
    return f"a {type(made).__name__}{' with ' if held else ''}{', '.join(held[:3])}"


def _times(size: tuple[int, int] | None) -> str:
    return " x ".join(map(str, size or ()))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
