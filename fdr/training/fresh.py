"""Fresh images of a run's present weights, and what encoders say of them; nothing of the run changes by it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from fdr.errors import FdrError, FdrWarning
from fdr.frechet import Moments, debiased_frechet_distance
from fdr.runtime import TensorGroup, memory_for
from fdr.training.alarms import PAIRS, AlarmPlan, FreshFD
from fdr.training.setup import Parts
from fdr.training.snapshots import evaluated
from fdr.training.step import stream_seed

Images = Callable[[Tensor, Tensor | None, str], Tensor]


class FreshImages:
    """Makes and measures images of the present weights; `images_of` runs the generator."""

    def __init__(self, parts: Parts, plan: AlarmPlan, images_of: Images, ranks: TensorGroup) -> None:
        self._parts, self._plan, self._images_of, self._ranks = parts, plan, images_of, ranks

    def distances(self, step: int, batch: Mapping[str, Tensor]) -> tuple[dict[str, FreshFD], dict[str, int]]:
        """FD by encoder of the features [B, d] of this rank's `batch`, and of as many more images as are needed.

        The second says how many images had features that are not finite, for the encoders for which there were any.
        Every rank must call it, and each gets the values of all ranks' images.
        """
        with memory_for("the fresh images of an alarm", "lower --alarm-images or --encoder-batch-size"):
            parts = [batch, *self._more(step, batch)]
        found, broken = {}, {}
        for index, name in enumerate(batch):
            # Part by part, so that the rows have the order that one process gives them.
            rows = torch.cat([self._ranks.gather_rows(part[name])[0] for part in parts])
            finite = rows.isfinite().all(1)
            if not bool(finite.all()):
                broken[name] = int((~finite).sum())
            elif index % self._ranks.size == self._ranks.rank:  # each rank measures some of the encoders
                found[name] = fresh_fd(rows, self._parts.loss.references[name].moments)
        merged = {name: value for part in self._ranks.gather(found) for name, value in part.items()}
        return {name: merged[name] for name in batch if name in merged}, broken

    def sensitivities(self) -> dict[str, dict[str, float]]:
        """By kind, "noise" and (with several classes) "labels", and by encoder; see `AlarmRecord`.

        The noise and the labels are the same at every call.
        """
        parts, draws = self._parts, self._parts.draws
        noise, labels = draws.of("sensitivity", 0, PAIRS)
        other, _ = draws.of("sensitivity", PAIRS, 2 * PAIRS)
        drawn = {"": (noise, labels), "noise": (other, labels)}
        if labels is not None and draws.num_classes is not None and draws.num_classes > 1:
            shift = torch.arange(PAIRS, device=labels.device) % (draws.num_classes - 1) + 1
            drawn["labels"] = (noise, (labels + shift) % draws.num_classes)
        with evaluated(parts.generator), memory_for("the fresh images of an alarm", "lower --encoder-batch-size"):
            features = {
                kind: parts.loss.features(self._images_of(*inputs, "an alarm")) for kind, inputs in drawn.items()
            }
        first = features.pop("")
        traces = {name: self._trace(name) for name in first}
        return {
            kind: {name: _mean_distance(rows, first[name], traces[name]) for name, rows in others.items()}
            for kind, others in features.items()
        }

    def _more(self, step: int, batch: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """Features of this rank's part of further images, drawn for this alarm alone, in parts as large as a step's.

        A rank without images in a part gives no rows, shaped as those of `batch`.
        """
        parts, use = self._parts, f"alarm {step}"
        size = max(1, parts.options.batch_size // parts.options.chunks)
        with _unchanged(parts.generator), torch.no_grad():
            torch.manual_seed(stream_seed(parts.options.seed, f"{use}, rank {self._ranks.rank}"))
            for drawn in parts.draws.batches(use, self._plan.extra, size, self._ranks):
                if len(drawn[0]):
                    yield parts.loss.features(self._images_of(*drawn, f"the alarm of step {step}"))
                else:
                    yield {name: rows[:0] for name, rows in batch.items()}

    def _trace(self, name: str) -> float:
        return float(self._parts.loss.references[name].moments.sigma.trace())


@contextmanager
def _unchanged(generator: torch.nn.Module) -> Iterator[None]:
    """Restore the buffers of a generator, which a normalisation in training mode changes."""
    buffers = [(buffer, buffer.clone()) for buffer in generator.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def fresh_fd(rows: Tensor, reference: Moments) -> FreshFD:
    """FD of features [N, d] to a reference whose moments are taken as exact, as a loss takes them.

    From N = d/4 on it is debiased, and its error has a part for what is extrapolated below N = d. Where the features
    do not allow that (all are equal, or many repeat), it is a lower bound of FD.
    """
    exact = Moments(reference.mu, reference.sigma)
    rows = rows if rows.device.type != "mps" else rows.cpu()  # which has no float64
    trace = float(exact.sigma.trace())
    spread = float(rows.double().var(0).sum()) / (trace or 1.0)
    try:
        with warnings.catch_warnings():  # what makes the value doubtful is in the error
            warnings.simplefilter("ignore", FdrWarning)
            found = debiased_frechet_distance(rows, exact, stderr="influence", extrapolate=True)
    except FdrError:
        found = None
    if found is None or found.value is None or found.stderr is None:
        value, error = _lower_bound(rows, exact, trace)
        return FreshFD(value, error, trace, "bound", spread)
    return FreshFD(found.value, math.hypot(found.stderr, found.systematic), trace, found.regime, spread)


def _lower_bound(rows: Tensor, exact: Moments, trace: float) -> tuple[float, float]:
    """|m_q - m_p|^2 + (sqrt(tr S_q) - sqrt(tr S_p))^2 without bias, with its standard error.

    It is at most FD, since tr (S_q S_p)^{1/2} is at most sqrt(tr S_q tr S_p) (Cauchy and Schwarz).
    """
    rows = rows.double()
    offset = rows.mean(0) - torch.as_tensor(exact.mu.copy(), device=rows.device)
    centred = rows - rows.mean(0)
    squares = centred.square().sum(1)
    own = float(squares.sum()) / (len(rows) - 1)
    value = float(offset.square().sum()) - own / len(rows) + (math.sqrt(own) - math.sqrt(trace)) ** 2
    slope = 1 - math.sqrt(trace / own) if own > 0 else 0.0
    influence = 2 * centred @ offset + slope * (squares - squares.mean())
    return value, float(influence.std()) / math.sqrt(len(rows))


def _mean_distance(a: Tensor, b: Tensor, trace: float) -> float:
    """The mean distance of rows [n, d] of a and b, over the root of the mean squared distance of reference images."""
    distances = (a.double() - b.double()).square().sum(1).sqrt()
    return float(distances.mean()) / (math.sqrt(2 * trace) if trace > 0 else 1.0)
