"""`Generator`: a network that turns noise (and labels) into images, with all that one must know to use it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fdr.errors import FdrError, InputError, RunError
from fdr.generators.label_bounds import LabelBounds
from fdr.generators.labels import labels_of, noise_of
from fdr.runtime import described, is_out_of_memory
from fdr.weights import UNKNOWN, TakenWeights, digest_state, module_digest

VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0))
CHECKED_SAMPLES = 4
OVERSHOOT = 0.1
"""Values further outside of the range than this share of its span count; networks without a tanh exceed it slightly."""
OUTSIDE_SHARE = 0.05
"""If more than this share of the values lie further outside, the value range is refused as wrong."""


@dataclass(frozen=True)
class GeneratorSpec:
    """The inputs of a generator and the range of its images."""

    noise_shape: tuple[int, ...]
    """The shape of the noise of one sample."""
    num_classes: int | None = None
    """Labels are 0 to num_classes - 1; None for an unconditional generator, which takes noise alone."""
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
    """Where the network of a generator comes from, so that a run folder can rebuild it."""

    kind: str
    """"factory", "torchscript" or "export"."""
    target: str
    """"module:factory", the name of a preset, or the path of the program."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the factory: numbers, strings, booleans, None, and lists and objects of those."""
    digest: str = ""
    """sha256 of the file that contains the factory, or of the program."""


class Generator(nn.Module):
    """`generator(noise, labels)` -> images [B, 3, H, W], black 0 and white 1, differentiable.

    The values of a network that overshoots its range are not clamped: a clamp would end the gradient there. Sampling
    (`fdr.generators.source`) clamps. One channel is repeated to three.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: GeneratorSpec,
        *,
        name: str = "generator",
        architecture: Architecture | None = None,
        weights: TakenWeights | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.name = name
        self.architecture = architecture
        self.weights = weights or TakenWeights()
        """Which of a checkpoint's weights these are: "online", or the label of an average."""
        self.image_size: tuple[int, int] | None = None
        """(H, W), known after `check`."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.spec.noise_shape

    @property
    def num_classes(self) -> int | None:
        return self.spec.num_classes

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a network without any."""
        for tensor in itertools.chain(self.network.parameters(), self.network.buffers()):
            return tensor.device
        return torch.device("cpu")

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of float32 noise [B, *noise_shape] and int64 labels [B], which an unconditional network never sees."""
        if self.spec.num_classes is None:
            return self._images(self.network(noise), len(noise))
        if labels is None:
            raise InputError(f"{self.name} is class-conditional; give labels [B] of 0 to {self.spec.num_classes - 1}.")
        return self._images(self.network(noise, labels), len(noise))

    def run(self, noise: Tensor, labels: Tensor | None, where: str) -> Tensor:
        """Images as `forward` makes them, in the middle of a run: what is wrong with them is told with `where`.

        Raises `RunError` for whatever the network raises, and for images that are none, or of another size than before.
        """
        with telling(self.name, where):
            images = self(noise, labels)
        size = (images.shape[2], images.shape[3])
        if self.image_size not in (None, size):
            raise RunError(
                f"{self.name} made images of {_times(size)} in {where}, and of {_times(self.image_size)} before; all "
                "its images must be of one size."
            )
        self.image_size = size
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
        """sha256 over code, weights and spec, as they are now; None where the code of a class cannot be read."""
        if not getattr(self.network, "has_identity", True):
            return None
        facts: dict[str, Any] = asdict(self.spec)
        digest = hashlib.sha256()
        if self.architecture is None or self.architecture.kind == "factory":
            structure = module_digest(self.network)
            if structure == UNKNOWN:
                return None
            facts |= {"structure": structure}
        else:
            digest_state(self.network, digest)
        if self.architecture is not None:
            facts |= {"arguments": dict(self.architecture.arguments), "code": self.architecture.digest}
        digest.update(json.dumps(facts, sort_keys=True).encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Make a few images and raise `InputError` where they are none, not finite, or not of the declared range.

        The last label is among theirs, which a network of fewer classes cannot take.
        """
        refuse_empty(self.network, self.name)
        labels = None
        if self.num_classes is not None:
            labels = labels_of("random", 0, range(CHECKED_SAMPLES), self.num_classes, self.device)
            labels[-1] = self.num_classes - 1
        try:
            images = self._tried(labels)
        except InputError:
            raise
        except BaseException as error:  # what a user's network raises is anything
            if is_out_of_memory(error) or isinstance(error, KeyboardInterrupt):
                raise
            raise self._unusable(error, labels) from error
        self._check_range(images)
        self.image_size = (images.shape[2], images.shape[3])

    def _tried(self, labels: Tensor | None) -> Tensor:
        """The images of a few samples."""
        is_cuda = self.device.type == "cuda"
        noise = noise_of(0, range(CHECKED_SAMPLES), self.noise_shape, self.device)
        bounds = LabelBounds() if is_cuda and labels is not None else contextlib.nullcontext()
        with torch.no_grad(), torch.random.fork_rng([self.device] if is_cuda else []), bounds:
            return self(noise, labels)

    def _unusable(self, error: BaseException, labels: Tensor | None) -> InputError:
        """What a network that failed at the first try was given, and what to check."""
        shape = [CHECKED_SAMPLES, *self.noise_shape]
        if labels is not None and self.num_classes is not None and isinstance(error, Exception):
            with contextlib.suppress(Exception):
                self._tried(torch.zeros_like(labels))
                return InputError(
                    f"{self.name} takes label 0, but fails on labels up to {self.num_classes - 1} ({described(error)})"
                    f": it holds fewer classes than --num-classes {self.num_classes}."
                )
        takes = "noise" if labels is None else "noise and labels"
        return InputError(
            f"{self.name} failed on {takes} of shape {shape} ({described(error)}); check the noise shape and the "
            "number of classes, and that it was saved for batches of any length."
        )

    def _check_range(self, images: Tensor) -> None:
        if not bool(images.isfinite().all()):
            raise InputError(f"{self.name} makes values that are not finite; check its weights.")
        outside = ((images < -OVERSHOOT) | (images > 1 + OVERSHOOT)).float().mean().item()
        if outside <= OUTSIDE_SHARE:
            return
        low, high = self.spec.value_range
        least, most = (float(value) * (high - low) + low for value in images.aminmax())
        advice = "declare -1:1" if low == 0 and least > -1.5 and most < 1.5 else "end it in a sigmoid or tanh"
        raise InputError(
            f"{self.name} makes values from {least:.3g} to {most:.3g}, {outside:.0%} of them outside of its value "
            f"range {low:g}:{high:g}; {advice}."
        )


@contextlib.contextmanager
def telling(name: str, where: str) -> Iterator[None]:
    """Turn whatever a user's network raises inside into a `RunError` with `where`, but for a lack of memory."""
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


def refuse_empty(network: nn.Module, name: str) -> None:
    """Raise `InputError` for a network with tensors on the device meta, which have a shape and no values."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    empty = [key for key, tensor in tensors if tensor.is_meta]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise InputError(
            f"{name} has tensors on the device meta, which hold no values ({empty[0]}{more}); make the network on the "
            "CPU, or give it its values with to_empty and load_state_dict."
        )


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
