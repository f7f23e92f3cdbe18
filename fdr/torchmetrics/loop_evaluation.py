"""What a metric of a loop collects of its images, and the report of it: an evaluation without files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.errors import InputError
from fdr.evaluation import Evaluator, Measurement, kept_outputs, measurement_of, outputs_of
from fdr.features import ExtractionOptions
from fdr.frechet import Moments
from fdr.images import ImageOptions
from fdr.loss import warn_of_other_size
from fdr.neighbours import DEFAULT_MEMORY
from fdr.reports import Report
from fdr.torchmetrics.batch_images import LoopImages
from fdr.torchmetrics.loop_encoders import LoopEncoders

LoopSide = Literal["samples", "reference"]
"""The generated images, or the real ones."""
WORDS: Mapping[LoopSide, str] = {"samples": "generated", "reference": "real"}


@dataclass(frozen=True)
class Slot:
    """One output of an encoder that is collected for one side, and the state of the metric that it is collected in."""

    side: LoopSide
    encoder: str
    output: str
    keeps_features: bool
    """True if all features [N, D] are kept, because their sums are not enough for some metric."""

    @property
    def state(self) -> str:
        """The name of the state, for example "generated_sums:inception:pool"."""
        kind = "features" if self.keeps_features else "sums"
        return f"{WORDS[self.side]}_{kind}:{self.encoder}:{self.output}"


@dataclass(frozen=True)
class Collected:
    """What was collected of one side, over all ranks."""

    count: int
    moments: Mapping[tuple[str, str], Moments] = field(default_factory=dict)
    """By (encoder, output), where only sums are collected."""
    features: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """float32 [N, D] by (encoder, output), where features are kept."""
    labels: np.ndarray | None = None
    """int64 [N]; None if no metric needs classes."""


@dataclass(frozen=True)
class LoopSetup:
    """What a metric of a loop is made with; see `Evaluation`."""

    encoders: Any
    metrics: Any
    reference: Any
    training_set: Any = None
    prompts: Any = None
    weights: Mapping[str, Path] | None = None
    encoder_options: EncoderOptions = field(default_factory=EncoderOptions)
    quantize: str = "uint8"
    batch_size: int | None = None
    num_features: int | None = None
    memory: int = DEFAULT_MEMORY

    def image_options(self) -> ImageOptions:
        """How images become pixels. Raises `InputError` for an unknown quantisation."""
        return ImageOptions(quantize=self.quantize)


class LoopEvaluation:
    """An `Evaluator` for images that come batch by batch. It is opened again after a pickle, and on another device."""

    def __init__(self, setup: LoopSetup) -> None:
        self.setup = setup
        self._image_options = setup.image_options()
        self.encoders = LoopEncoders(setup.encoders, setup.encoder_options, setup.weights, setup.batch_size)
        self._opened: Evaluator | None = None
        needed = {side: self.evaluator.needs(side) for side in WORDS}
        self.takes_real = setup.reference is None and any(needed["reference"].values())
        """True if real images are collected, because there is no reference and a metric needs one."""
        self.slots = [slot for side in self.sides for slot in _slots(side, needed[side])]
        metrics = self.evaluator.metrics.values()
        self.labelled = [side for side in self.sides if any(side in metric.labels for metric in metrics)]
        """The sides of which a metric needs the class of every image."""

    @property
    def sides(self) -> tuple[LoopSide, ...]:
        """The sides that are collected."""
        return ("samples", "reference") if self.takes_real else ("samples",)

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, which holds the encoders, metrics and the reference."""
        if self._opened is None:
            setup = self.setup
            self._opened = Evaluator(
                list(self.encoders.encoders),
                self._source("reference", Collected(0)) if setup.reference is None else setup.reference,
                setup.metrics,
                image_options=self._image_options,
                encoder_options=self.encoders.options,
                extraction_options=ExtractionOptions(batch_size=setup.batch_size),
                memory=setup.memory,
                stderr=False,
                training_set=setup.training_set,
                prompts=setup.prompts,
            )
        return self._opened

    def move(self, device: Any) -> None:
        """Run on another device from now on."""
        if self.encoders.move(device):
            self._opened = None

    def width(self, slot: Slot) -> int:
        """Width D of the features of a slot. Raises `InputError` if nothing says it."""
        known = self.evaluator.reference.moments.get((slot.encoder, slot.output))
        width = known.moments.dim if known is not None else self.encoders.width(slot.encoder, slot.output)
        width = width or self.setup.num_features
        if not width:
            raise InputError(
                f"The encoder {slot.encoder!r} does not say how wide its features are; give num_features=D."
            )
        return width

    def features(self, images: Tensor, side: LoopSide) -> dict[Slot, Tensor]:
        """The features [B, D] of images [B, 3, H, W] in [0, 1] that the slots of a side collect."""
        if self.evaluator.reference.moments:
            warn_of_other_size(images, {str(key): one for key, one in self.evaluator.reference.moments.items()})
        slots = [slot for slot in self.slots if slot.side == side]
        wanted = {name: [slot.output for slot in slots if slot.encoder == name] for name in self.encoders.specs}
        found = self.encoders(images, wanted)
        return {slot: found[slot.encoder, slot.output] for slot in slots}

    def report(self, collected: Mapping[LoopSide, Collected]) -> Report:
        """The report of what was collected. Raises `InputError` if no number can be computed."""
        measured = {side: self._measured(side, one) for side, one in collected.items()}
        with self.encoders.frozen():
            if "reference" in measured:
                self.evaluator.reference.take(measured["reference"][1], measured["reference"][0])
            return self.evaluator.report_of(*measured["samples"])

    def _measured(self, side: LoopSide, collected: Collected) -> tuple[LoopImages, Measurement]:
        source = self._source(side, collected)
        needs = self.evaluator.needs(side)
        return source, measurement_of(source, needs, collected.moments, collected.features)

    def _source(self, side: LoopSide, collected: Collected) -> LoopImages:
        labels = np.empty(0, np.int64) if collected.labels is None and not collected.count else collected.labels
        return LoopImages(f"{WORDS[side]} images of the loop", collected.count, self._image_options, labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> LoopEvaluation:
        """A copy that shares encoders and reference, until one of the two is moved."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.encoders = self.encoders.__deepcopy__(memo)
        return twin


def _slots(side: LoopSide, needs: Any) -> Iterator[Slot]:
    kept = kept_outputs(needs)
    for name, outputs in outputs_of(needs).items():
        for output in outputs:
            yield Slot(side, name, output, output in kept[name])
