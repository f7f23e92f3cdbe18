"""`FDLoss`: Fréchet distance as a training loss (FD-loss, arXiv 2604.28190), for any generator and training loop.

    total = sum_i w_i F_i / (stopgrad(F_i) + eps)

over encoders i with weights w_i. F_i is the Fréchet distance between the fixed reference and a population of generated
features, of which the batch is a part. The gradient is about that of sum_i w_i log F_i, so no encoder outweighs the
others because its distances are larger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.errors import InputError
from fdr.loss.class_labels import NO_LABELS, check_same_labels, checked_ratio, images_and_labels, joined_labels
from fdr.loss.class_target import class_targets, number_of_classes, without_classes
from fdr.loss.encoders import LossEncoder, checked_images
from fdr.loss.lag import check_previous, check_same_noise, joined, population_of
from fdr.loss.options import EmaPopulation, LossOptions, Population
from fdr.loss.output import LossOutput, output_of
from fdr.loss.rank_terms import LossTerms
from fdr.loss.setup import checked_weights, load_named, references_of, warn_of_other_size
from fdr.loss.terms import TermValue
from fdr.loss.transport import frechet_loss
from fdr.references import DEFAULT_REFERENCE, moments_digest
from fdr.runtime import Group, Progress, as_progress, named_arguments, tensor_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

FILL_BATCH = 64
"""Images in a batch when a population is filled from one tensor. Raising it needs more memory."""
STATE_VERSION = 1
"""Version of `FDLoss.state_dict`; other versions are refused."""
IDENTITY = {
    "spec": "encoder spec",
    "reference": "reference",
    "population": "population",
    "solver": "solver",
    "conditional": "conditional term",
}
"""The fields of a saved population that must be equal for it to be loaded, and the words for them in errors."""
UNCONDITIONAL = "none"
"""The conditional term of a loss without one, and of a state that was saved before there were such terms."""
REPEAT_TOLERANCE = 0.05
"""Largest difference between the features of two passes over the same images, relative to their spread.

Raising it accepts a generator whose second pass draws slightly different images.
"""


class _Batch:
    """Whether the gradient of a batch has been used, so that its features may enter the populations."""

    def __init__(self) -> None:
        self.is_used = False

    def mark_used(self, gradient: Tensor | None = None) -> None:
        """Record that the gradient was computed; this is registered as a hook on the features."""
        self.is_used = True


class FDLoss:
    """Fréchet distance of generated images under several encoders, as a loss.

    `encoders` are names ("inception,dinov2", "fdr6"), objects, callables from images to [B, D], or a dict of those by
    names of your own. `reference` is a registry name, a statistics file, a folder of `fdr stats`, `Moments`, or a dict
    of those by encoder name. An encoder with weight 0 is only watched: its FD is computed, and it needs no gradient.

    `conditional` adds a term that compares the mean features of every class, so that labels get a gradient: its
    gradient has the norm `conditional` times that of FD (8.0 is usual; None is no such term). The reference must hold
    classes, and every batch comes with its labels.

    `weight_files` names the weight files of encoders that are given by name. `group` is the ranks that train together:
    a process group, or what `fdr.join_ranks()` gives. None takes the program's process group when there is one.

    A batch enters the populations when its gradient was used: after `backward`, with the next call, `state_dict` or
    `commit`; `discard` drops it. Raises `InputError` for anything unusable, before the first image.
    """

    @named_arguments
    def __init__(
        self,
        encoders: Any,
        reference: Any = DEFAULT_REFERENCE,
        population: Population = EmaPopulation(),  # noqa: B008 (frozen)
        options: LossOptions = LossOptions(),  # noqa: B008 (frozen)
        *,
        conditional: float | None = None,
        weights: Mapping[str, float] | None = None,
        encoder_options: EncoderOptions | None = None,
        weight_files: Mapping[str, Path] | None = None,
        group: Group | ProcessGroup | None = None,
    ) -> None:
        encoder_options = encoder_options or EncoderOptions()
        loaded = load_named(encoders, encoder_options, weight_files)
        self.weights = checked_weights(weights, list(loaded))
        self.population, self.options = population, options
        self._populations = {name: population_of(population, self.weights[name]) for name in loaded}
        self.references = references_of(without_classes(reference), loaded, encoder_options)
        self._encoders = {name: LossEncoder(name, encoder, options) for name, encoder in loaded.items()}
        self._check_gradients()
        self.conditional = checked_ratio(conditional)
        self._class_targets = None if conditional is None else class_targets(reference, self.references)
        self.num_classes = number_of_classes(self._class_targets)
        self._terms = LossTerms(
            {name: reference.moments for name, reference in self.references.items()},
            self._populations,
            options,
            {name: encoder.term_device for name, encoder in self._encoders.items()},
            tensor_ranks(group, _computing_device(self._encoders)),
            self._class_targets,
            self.conditional or 0.0,
        )
        self._batch = _Batch()
        self._is_range_checked = self._is_noise_checked = False

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders, in order."""
        return tuple(self._encoders)

    @torch.compiler.disable
    def __call__(self, images: Tensor, labels: Tensor | None = None, *, previous: Tensor | None = None) -> LossOutput:
        """The loss of images [B, 3, H, W] (or [B, 1, H, W]) in [0, 1]; on several ranks, of this rank's part of them.

        A conditional loss takes their labels [B] too, whole numbers from 0.

        `total.backward()` gives each rank the gradient of its own images under the loss of all: gradients of parameters
        are to be summed over the ranks, not averaged. Raises `InputError` for other images, `NonFiniteError` for
        features that are not finite; the populations are then as they were before.

        `previous` belongs to `EmaPopulation(lag_correction=True)`: the images that the weights of the last step that
        was taken make of the same noise and labels, made without gradient. Only the first step goes without them.
        """
        self._settle()
        features, before, labels = self._encoded(images if labels is None else (images, labels), previous)
        values, seconds = self._evaluate(features, before, labels)
        batch = self._batch = _Batch()
        for rows in features.values():
            if rows.requires_grad:
                rows.register_hook(batch.mark_used)
        return output_of(self._total(features, values), values, features, self.references, seconds)

    @torch.compiler.disable
    def accumulate(
        self,
        generate: Callable[[int], Any],
        num_chunks: int,
        *,
        scale: float = 1.0,
        previous: Callable[[int], Tensor] | None = None,
    ) -> LossOutput:
        """The loss of a batch that is too large for one autograd graph; the gradient is added to `.grad`.

        The result is that of the whole batch at once. `generate(i)` makes the images of chunk i of `num_chunks`, or the
        pair (images, labels) for a conditional loss. It is called twice a chunk, without and with gradient, and must
        make the same images both times: take noise and labels from i, and switch dropout off. `scale` multiplies the
        gradient. The output's total is detached. `previous(i)` makes the images of the previous weights, see
        `__call__`. Raises `InputError` where the second images differ.
        """
        if num_chunks < 1:
            raise InputError(f"accumulate takes one chunk or more; got {num_chunks}.")
        self._settle()
        with torch.no_grad():
            made = [self._encoded(generate(i), previous and previous(i)) for i in range(num_chunks)]
        chunks, befores, labels = zip(*made, strict=True)
        features, before = joined(chunks), joined(befores)
        values, seconds = self._evaluate(features, before, joined_labels(labels))
        batch, start = _Batch(), 0
        for i, chunk in enumerate(chunks):
            stop = start + len(next(iter(chunk.values())))
            again, _, labels_again = self._encoded(generate(i))
            _check_same(chunk, again, i)
            check_same_labels(labels[i], labels_again, i)
            part = {name: replace(v, gradient=v.gradient[start:stop]) for name, v in values.items()}
            (scale * self._total(again, part)).backward()
            start = stop
        batch.mark_used()
        self._batch = batch
        return output_of(self._total(features, values), values, features, self.references, seconds)

    @torch.no_grad()
    def fill(
        self, batches: Tensor | Iterable[Any], count: int | None = None, *, progress: Progress | bool | None = None
    ) -> None:
        """Build the initial populations from generated images, without gradient.

        `batches` is one tensor of images, or an iterable of batches, which are pairs (images, labels) for a conditional
        loss; with `count` it may be endless, and that many
        images are taken, over all ranks. Every rank brings a part of its own. Raises `InputError` when there are fewer.
        """
        self.discard()
        source, filled = _batches_of(batches), 0
        with as_progress(progress).task("filling the populations", count) as task:
            while count is None or filled < count:
                added = self._filled(next(source, None), None if count is None else count - filled)
                if not added:
                    break
                filled += added
                task.advance(added)
        if filled == 0 or (count is not None and filled < count):
            raise InputError(f"There were {filled} images to fill the populations with; expected {count or 'some'}.")

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The features [B, d] of `images` by encoder, without gradient; no population changes."""
        return self._features(images)

    def commit(self) -> None:
        """Let the last batch enter the populations now, whether or not `backward` has run."""
        self._terms.commit()
        self._batch = _Batch()

    def discard(self) -> None:
        """Drop the last batch, as is right when the step with its gradient is not taken."""
        self._terms.discard()
        self._batch = _Batch()

    def state_dict(self) -> dict[str, Any]:
        """All populations and what they belong to, as nested dicts of tensors on the CPU, texts and numbers.

        A batch whose gradient was used enters first. All ranks must call it, and each gets the whole state. It may be
        loaded on another number of ranks.
        """
        self._settle()
        states = self._terms.state()
        return {"version": STATE_VERSION, "encoders": {n: {**self._identity(n), "term": states[n]} for n in self.names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave. Raises `InputError` for other encoders, references or populations."""
        self.discard()
        if state.get("version") != STATE_VERSION:
            raise InputError(
                f"This is no state of an FDLoss of version {STATE_VERSION}; give what state_dict() returned."
            )
        stored = state["encoders"]
        if set(stored) != set(self.names):
            raise InputError(f"The state is of the encoders {', '.join(stored)}; the loss has {', '.join(self.names)}.")
        for name in self.names:
            for key, value in self._identity(name).items():
                found = stored[name].get(key, UNCONDITIONAL if key == "conditional" else None)
                if found != value:
                    raise InputError(
                        f"The state of {name!r} was saved with another {IDENTITY[key]} ({found}; "
                        f"here {value}); go on with that one, or fill a new population."
                    )
        self._terms.load({name: stored[name]["term"] for name in self.names})

    def _identity(self, name: str) -> dict[str, str]:
        """What the population of encoder `name` belongs to."""
        return {
            "spec": self._encoders[name].spec_hash,
            "reference": moments_digest(self.references[name].moments),
            "population": repr(self._populations[name]),
            "solver": self.options.solver,
            "conditional": self._conditional_words(name),
        }

    def _conditional_words(self, name: str) -> str:
        if self._class_targets is None:
            return UNCONDITIONAL
        return f"ratio {self.conditional}, classes {self._class_targets[name].digest()}"

    def _settle(self) -> None:
        """Let the previous batch enter the populations if its gradient was used; otherwise drop it."""
        if self._batch.is_used:
            self.commit()
        else:
            self.discard()

    def _features(self, images: Any) -> dict[str, Tensor]:
        images = checked_images(images, has_range_check=not self._is_range_checked)
        if not self._is_range_checked:
            warn_of_other_size(images, self.references)
        self._is_range_checked = True
        return {name: self._features_of(name, images) for name in self.names}

    def _encoded(
        self, batch: Any, previous: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        """The features of a batch, those of `previous` for encoders whose history is carried along, and the labels."""
        images, labels = images_and_labels(batch, self.num_classes)
        features = self._features(images)
        return features, {} if previous is None else self._features_before(images, previous, features), labels

    @torch.no_grad()
    def _features_before(self, images: Tensor, previous: Tensor, features: dict[str, Tensor]) -> dict[str, Tensor]:
        check_previous(self.population, images, previous)
        images = checked_images(previous, has_range_check=False)
        before = {name: self._features_of(name, images) for name in self.names if self.weights[name]}
        if not self._is_noise_checked:
            for name, rows in before.items():
                check_same_noise(name, features[name], rows)
        self._is_noise_checked = True
        return before

    def _features_of(self, name: str, images: Tensor) -> Tensor:
        if self.weights[name]:
            return self._encoders[name](images)
        with torch.no_grad():
            return self._encoders[name](images)

    def _filled(self, batch: Any, most: int | None) -> int:
        """Fill the populations with a batch of each rank, None where it has no more; return how many images entered."""
        if batch is not None:
            features, _, labels = self._encoded(batch)
            return self._terms.fill(features, labels, most)
        dims = {name: reference.moments.dim for name, reference in self.references.items()}
        none = {name: torch.empty(0, dim, device=self._encoders[name].device) for name, dim in dims.items()}
        return self._terms.fill(none, None if self.num_classes is None else NO_LABELS, most)

    def _evaluate(
        self, features: Mapping[str, Tensor], before: Mapping[str, Tensor], labels: Tensor | None
    ) -> tuple[dict[str, TermValue], float]:
        began = time.perf_counter()
        values = self._terms.evaluate(features, before, labels)
        return values, time.perf_counter() - began

    def _total(self, features: Mapping[str, Tensor], values: Mapping[str, TermValue]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=next(iter(values.values())).fd.device)
        for name, value in values.items():
            scale = self.weights[name] / (float(value.fd) + self.options.eps)
            objective = value.fd.new_tensor(value.objective)
            total = total + scale * frechet_loss(features[name], objective, value.gradient).to(total.device)
        return total

    def _check_gradients(self) -> None:
        for name, encoder in self._encoders.items():
            if self.weights[name] and not encoder.has_gradient:
                raise InputError(
                    f"Encoder {name!r} resizes images in Pillow, which has no gradient, so it can be watched (weight "
                    "0) but not trained on; choose another, such as inception, dinov2 or dinov2:edm2."
                )


def _computing_device(encoders: Mapping[str, LossEncoder]) -> torch.device:
    """The GPU of the first encoder that has one, else the CPU."""
    devices = [encoder.device for encoder in encoders.values()]
    return next((device for device in devices if device.type == "cuda"), devices[0])


def _batches_of(batches: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    return iter(batches.split(FILL_BATCH) if isinstance(batches, Tensor) else batches)


def _check_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], chunk: int) -> None:
    """Raise `InputError` unless both passes saw the same images, whose features then differ by rounding only."""
    for name, rows in first.items():
        again = second[name].detach()
        spread = float((rows - rows.mean(0)).norm() + REPEAT_TOLERANCE * rows.norm())
        if again.shape != rows.shape or not float((again - rows).norm()) <= REPEAT_TOLERANCE * spread:
            raise InputError(
                f"generate({chunk}) made other images the second time; draw its noise and labels from a seed of the "
                "chunk, and switch dropout off."
            )
