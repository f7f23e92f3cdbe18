"""`LoopMetric`, the common part of the metrics: what they collect, how ranks are merged, how they move and reset."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fdr.errors import InputError
from fdr.frechet import as_numpy
from fdr.reports import Report
from fdr.runtime import synonyms, tensor_ranks
from fdr.torchmetrics.batch_images import unit_images
from fdr.torchmetrics.loop_evaluation import WORDS, Collected, LoopEvaluation, LoopSetup, LoopSide, Slot
from fdr.torchmetrics.packed_sums import add_features, check_features, merged, moments_of, no_sums
from fdr.torchmetrics.plots import draw

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise InputError(
        "fdr.torchmetrics needs the package torchmetrics, which is not installed: pip install 'fdr-eval[torchmetrics]'."
    ) from None

FEATURE_MEMORY = 2**33
"""Bytes of features that a metric may keep, over all ranks: a million images of Inception. Raising it takes more memory
where metrics need the features of all images."""


class LoopMetric(Metric, ABC):
    """Collects sums or features of the images of a loop. Subclasses give `update` and `compute`."""

    is_differentiable = False
    full_state_update = False

    source: Tensor
    report: Report | None
    """The report of the last `compute`, as `fdr.evaluate` gives it; None before."""

    def __init__(
        self, setup: LoopSetup, reset_real_features: bool, feature_memory: int, metric_options: Mapping[str, Any]
    ) -> None:
        self._check_names(metric_options)
        super().__init__(**metric_options)
        self.reset_real_features = reset_real_features
        self.feature_memory = feature_memory
        self.report = None
        self._evaluation = LoopEvaluation(setup)
        for slot in self._evaluation.slots:
            if slot.keeps_features:
                self.add_state(slot.state, [], dist_reduce_fx="cat")
            else:
                self.add_state(slot.state, no_sums(self._evaluation.width(slot)), dist_reduce_fx=merged)
        for side in self._evaluation.labelled:
            self.add_state(_labels_state(side), [], dist_reduce_fx="cat")
        self.add_state("source", self._identity(), dist_reduce_fx="max")
        self.to(self._evaluation.encoders.sums_device)

    def extra_repr(self) -> str:
        """What stands between the brackets of `repr`."""
        evaluation = self._evaluation
        return f"{', '.join(evaluation.encoders.specs)}; {', '.join(evaluation.evaluator.metrics)}"

    @classmethod
    def _check_names(cls, given: Iterable[str]) -> None:
        """Raise `InputError` for a name that another tool has for an argument; torchmetrics refuses other names."""
        own = inspect.signature(cls.__init__).parameters
        for name in given:
            for meant in synonyms(name, own):
                raise InputError(f"{cls.__name__} has no argument {name!r}; did you mean {meant!r}?")

    @property
    def takes_real(self) -> bool:
        """True for a metric without a reference, which needs real images."""
        return self._evaluation.takes_real

    def reset(self) -> None:
        """Forget all images, except real ones where `reset_real_features` is False."""
        kept = {} if self.reset_real_features else {name: getattr(self, name) for name in self._states("reference")}
        kept = {name: list(value) if isinstance(value, list) else value for name, value in kept.items()}
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw values with matplotlib, one panel for each metric: those of `compute`, or `val`, a value of `compute` or
        a list of them over time. Returns the figure (None where `ax` is given) and the axes.

        `ax` is one axes, or as many as there are metrics. Raises `InputError` without matplotlib.
        """
        values = self.compute() if val is None else val
        encoders = list(self._evaluation.encoders.specs)
        return draw(list(values) if isinstance(values, list | tuple) else [values], ax, encoders)

    # Collecting

    def _add(self, images: Any, real: bool, labels: Any) -> None:
        """Add images to one side; it is as before if they are refused."""
        side: LoopSide = "reference" if real else "samples"
        if real and not self._evaluation.takes_real:
            raise InputError(
                "This metric has a reference, or needs none; real images are for a metric that is made with "
                "reference=None."
            )
        unit = unit_images(images, self._evaluation.setup.quantize)
        classes = self._checked_labels(side, labels, len(unit))
        self._check_source()
        if not len(unit):
            return
        found = self._evaluation.features(unit, side)
        for slot, features in found.items():
            check_features(features, None if slot.keeps_features else getattr(self, slot.state).shape[1])
        self._check_memory(side, found)
        for slot, features in found.items():
            self._add_features(slot, features)
        if classes is not None:
            getattr(self, _labels_state(side)).append(classes)

    def _checked_labels(self, side: LoopSide, labels: Any, count: int) -> Tensor | None:
        """The class of each image, int64 [count]; None if no metric needs it."""
        if side not in self._evaluation.labelled:
            return None
        if labels is None:
            raise InputError(
                f"A metric needs the class of every {WORDS[side]} image: give update(images, labels=...), a whole "
                "number for each image."
            )
        classes = torch.as_tensor(labels)
        if classes.shape != (count,) or classes.is_floating_point() or classes.is_complex():
            raise InputError(
                f"Labels are whole numbers [{count}], one for each image; got {classes.dtype} {list(classes.shape)}."
            )
        return classes.detach().to(self._sums_device, torch.int64)

    def _check_memory(self, side: LoopSide, found: Mapping[Slot, Tensor]) -> None:
        """Raise `InputError` if the features of all images become larger than `feature_memory`."""
        kept = [slot for slot in self._evaluation.slots if slot.keeps_features]
        held = sum(part.numel() for slot in kept for part in getattr(self, slot.state))
        held += sum(features.numel() for slot, features in found.items() if slot.keeps_features)
        num_bytes = 4 * held * (tensor_ranks(self.process_group, self._sums_device).size if self._to_sync else 1)
        if num_bytes > self.feature_memory:
            raise InputError(
                f"The features of all images take {num_bytes / 1e9:.3g} GB, more than this metric may keep "
                f"({self.feature_memory / 1e9:.3g} GB). Reset it more often, take metrics that need moments only (fd, "
                "sfid), or raise feature_memory."
            )

    def _add_features(self, slot: Slot, features: Tensor) -> None:
        if slot.keeps_features:
            getattr(self, slot.state).append(features.to(self._sums_device, torch.float32))
            return
        sums = getattr(self, slot.state)
        if sums.is_inference() and not torch.is_inference_mode_enabled():
            sums = sums.clone()  # a reset within inference mode left what cannot be changed outside of it
        add_features(sums, features)
        setattr(self, slot.state, sums)

    def _add_without_value(self, images: Any, real: bool, labels: Any = None) -> None:
        """What `forward` does: a collection may share the states of metrics, but calls `forward` of each."""
        for name in self._defaults:
            value = getattr(self, name)
            setattr(self, name, list(value) if isinstance(value, list) else value.clone())
        self.update(images, real, **({} if labels is None else {"labels": labels}))

    # Computing

    def _measured(self) -> Report:
        """The report of all images of all ranks, which is kept as `report`."""
        self._check_source()
        self.report = self._evaluation.report({side: self._collected(side) for side in self._evaluation.sides})
        return self.report

    def _collected(self, side: LoopSide) -> Collected:
        states = {slot: getattr(self, slot.state) for slot in self._evaluation.slots if slot.side == side}
        values = {slot: joined for slot, state in states.items() if (joined := _joined(state)) is not None}
        count = next((len(v) if slot.keeps_features else int(v[0, 0]) for slot, v in values.items()), 0)
        if count < 2:
            call = "update(images)"
            if side == "reference":
                call = "update(images, real=True), or give the metric a reference"
            images = f"{count} {WORDS[side]} image{'' if count == 1 else 's'}"
            raise InputError(f"{images} given; 2 or more are needed: call {call}.")
        labels = _joined(getattr(self, _labels_state(side))) if side in self._evaluation.labelled else None
        return Collected(
            count,
            {(s.encoder, s.output): moments_of(value) for s, value in values.items() if not s.keeps_features},
            {(s.encoder, s.output): as_numpy(value) for s, value in values.items() if s.keeps_features},
            None if labels is None else as_numpy(labels),
        )

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self._sums_device)

    # Ranks, devices and checkpoints

    @contextlib.contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """As that of torchmetrics; where `compute` fails, the metric has its own images again, too."""
        try:
            with super().sync_context(*args, **kwargs):
                yield
        except BaseException:
            if self._is_synced:
                self.unsync()
            raise

    def _sync_dist(self, dist_sync_fn: Callable, process_group: Any = None) -> None:  # type: ignore[override]
        """Gather the states; a rank without images takes part with empty features, which are left out again."""

        def gathered(tensor: Tensor, group: Any = None) -> list[Tensor]:
            parts = dist_sync_fn(tensor, group=group)
            return [part for part in parts if part.numel()] or parts[:1]

        for name, default in self._defaults.items():
            if isinstance(default, list):
                empty = torch.empty(0, dtype=torch.int64) if name.endswith("_labels") else torch.empty(0, 0)
                found = _joined(getattr(self, name))
                setattr(self, name, [empty.to(self._sums_device) if found is None else found])
        super()._sync_dist(gathered, process_group)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Any:
        """Move the states and the encoders to the device that `fn` moves to; dtypes stay."""
        device = fn(torch.zeros(1, device=self.device)).device
        self._evaluation.move(device)
        target = torch.device("cpu") if device.type == "mps" else device  # a Mac's GPU has no float64
        return super()._apply(lambda tensor: tensor.to(target), exclude_state)

    def _states(self, side: LoopSide) -> list[str]:
        """The names of the states of a side."""
        return [name for name in self._defaults if name.startswith(f"{WORDS[side]}_")]

    @property
    def _sums_device(self) -> torch.device:
        return self.source.device

    def _identity(self) -> Tensor:
        """Eight bytes that tell what is collected, so that no collection shares the states of others; int64 [8]."""
        hashes = [(name, spec.hash) for name, spec in self._evaluation.encoders.specs.items()]
        text = repr((hashes, self._evaluation.setup.quantize, [slot.state for slot in self._evaluation.slots]))
        return torch.tensor(list(hashlib.sha256(text.encode()).digest()[:8]))

    def _check_source(self) -> None:
        if not torch.equal(self.source.cpu(), self._identity()):
            raise InputError(
                "What this metric collected comes from another encoder or quantisation than its own, from a checkpoint "
                "or another rank; make the metric as it was made there, or reset it."
            )


def _labels_state(side: LoopSide) -> str:
    """The name of the state with the class of every image."""
    return f"{WORDS[side]}_labels"


def _joined(value: Tensor | list[Tensor]) -> Tensor | None:
    """A state as one tensor; None for an empty list."""
    if isinstance(value, Tensor):
        return value
    return torch.cat(value) if value else None
