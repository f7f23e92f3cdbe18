"""Feature likelihood divergence (FLD; Jiralerspong et al. 2023): the likelihood of held-out images under the samples.

Each of at most 10,000 samples c_j [D] is the centre of an isotropic Gaussian with a variance v_j of its own, and

    log p(x) = log mean_j exp(-|x - c_j|^2 / (2 v_j) - D / 2 log(2 pi v_j)).

The variances are fitted to the training set, so that a copy of a training image gets a small variance, which makes
held-out images, the reference, unlikely. FLD is 100 / D times the mean of -log p over the held-out images, less the
same for a mixture around as many training images, at most half of them, fitted to the others. `fld_gap` is 100 / D
times the mean of -log p over the training set, less that over the held-out images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.feature_checks import check_features, check_training_set
from fdr.metrics.resampling import influence_stderr
from fdr.runtime import resolve_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_CENTRES, SEED = 10_000, 2020
"""Samples that become centres, at most; and the seed for their choice and for the halves of the training set."""
LEARNING_RATE, NUM_EPOCHS, BATCH = 0.5, 50, 10_000
"""Adam's learning rate, passes over the training set at most, and images per step."""
STEADY, STEADY_PASSES = 5e-4, 5
"""The fit ends when the means of -log p / D of so many passes in a row differ by less than that."""
LEAST_SQUARED = 1e-3
"""Added to the squared distance to the nearest training image, from which a variance starts."""
LARGEST_LOG = 40.0
"""Logarithms of variances lie within plus and minus this."""
SHRINK = 0.81
"""While variances are fitted, a further centre at the mean of the training set has squared distances smaller by this
factor and weighs as much as all samples together, so that a training image far from all samples stays finite."""
COPIES = 1000
"""A larger FLD is noted as a sign of copies."""
_ROWS = 512
"""Images whose distances are computed at once."""


def fld(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Score]:
    """FLD and its gap of features [N, D], with held-out images as the reference [M, D] and the training set in
    `context.training` [T, D]; all are standardised by the mean and the deviation of the held-out images.

    The standard error holds the mixtures as they are and covers the drawing of the images that are judged.
    """
    name, training = context.names[0], context.training
    check_features(name, samples, reference, 1)
    check_training_set(name, samples, training, 3)
    device = resolve_device(context.device or "cpu")
    samples, reference, training = _standardised(samples, reference, training)
    random, dim = np.random.default_rng(SEED), samples.shape[1]
    order = random.permutation(len(samples))[:MAX_CENTRES]
    with context.progress.task(", ".join(context.names), None, "passes") as task:
        mixture = Mixture(samples[np.sort(order)], device)
        mixture.fit(training, context, task.advance)
        judged, scores = mixture.surprise(reference), {}
        if "fld" in context.names:
            mixed = random.permutation(len(training))
            num_centres = min(len(mixture.centres), len(training) // 2)
            base = Mixture(training[np.sort(mixed[:num_centres])], device)
            base.fit(training[np.sort(mixed[num_centres:])], context, task.advance)
            scores["fld"] = _divergence(judged, base.surprise(reference), len(mixture.centres))
        if "fld_gap" in context.names:
            of_training = mixture.surprise(training)
            gap = 100 * float(of_training.mean() - judged.mean())
            stderr = 100 * influence_stderr(of_training, judged)
            scores["fld_gap"] = Score(gap, stderr, details={"centres": len(mixture.centres), "dim": dim})
    return scores


def _divergence(judged: np.ndarray, baseline: np.ndarray, num_centres: int) -> Score:
    value, stderr = 100 * float((judged - baseline).mean()), 100 * influence_stderr(judged - baseline)
    details = {"baseline": 100 * float(baseline.mean()), "centres": num_centres}
    note = f"an FLD above {COPIES} is a sign that samples are copies of training images; look at fld_gap and authpct"
    return Score(value, stderr, details=details, notes=(note,) if value > COPIES else ())


class Mixture:
    """Isotropic Gaussians of equal weight around `centres` [n, D], with a log variance each, float64 [n]."""

    def __init__(self, centres: np.ndarray, device: torch.device) -> None:
        import torch

        self.centres, self.device, self.dim = centres, device, centres.shape[1]
        self._centres = torch.from_numpy(centres).to(device)
        self.log_variances = torch.zeros(len(centres), dtype=torch.float64, device=device)

    def fit(self, images: np.ndarray, context: Context, done: Callable[[], None]) -> None:
        """Fit the variances to `images` [T, D] by Adam, from the distance to the nearest of them."""
        import torch

        steps = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
        images = images[np.random.default_rng(SEED).permutation(len(images))]
        keep = len(images) * len(self.centres) * 4 <= context.memory // 2
        source = _Distances(self, images, with_mean=True, keep=keep)
        nearest = torch.stack([each.amin(0) for rows in steps for each in source.blocks(rows)]).amin(0)
        logs = ((nearest + LEAST_SQUARED) / self.dim).log()
        logs[-1] = 0
        adam, losses = _Adam(logs), []
        for _ in range(NUM_EPOCHS):
            found = []
            for rows in steps:
                loss, slope = self._loss(source, rows, logs)
                logs = adam.step(logs, slope)
                logs[:-1].clamp_(-LARGEST_LOG, LARGEST_LOG)
                found.append(loss)
            losses.append(sum(found) / len(found))
            done()
            last = losses[-STEADY_PASSES:]
            if len(losses) > STEADY_PASSES + 1 and max(last) - min(last) < STEADY:
                break
        self.log_variances = logs[:-1]

    def _loss(self, source: _Distances, rows: slice, logs: Tensor) -> tuple[float, Tensor]:
        """The mean of -log p / D over some images, and its derivative in the log variances [n + 1]."""
        import torch

        weights = torch.full_like(logs, -math.log(len(self.centres)))
        weights[-1] = 0
        loss, slope, count = 0.0, torch.zeros_like(logs), 0
        for squared in source.blocks(rows):
            scaled = squared * (-0.5 * (-logs).exp())
            terms = scaled - self.dim / 2 * (logs + math.log(2 * math.pi)) + weights
            log_p = terms.logsumexp(1, keepdim=True)
            share = (terms - log_p).exp()
            loss, count = loss - float(log_p.sum()), count + len(squared)
            slope += (share * (scaled + self.dim / 2)).sum(0)
        return loss / count / self.dim, slope / count / self.dim

    def surprise(self, images: np.ndarray) -> np.ndarray:
        """-log p / D of every image, float64 [n]."""
        logs, found = self.log_variances, []
        for squared in _Distances(self, images).blocks(slice(0, len(images))):
            density = squared * (-0.5 * (-logs).exp()) - self.dim / 2 * (logs + math.log(2 * math.pi))
            found.append(-(density.logsumexp(1) - math.log(len(logs))).cpu().numpy() / self.dim)
        return np.concatenate(found)


class _Distances:
    """Squared distances of images to the centres of a mixture, float64 [n, centres], a few images at a time.

    `with_mean` adds the mean of the images as a centre, whose distances are shrunk; `keep` holds them as float32.
    """

    def __init__(self, mixture: Mixture, images: np.ndarray, *, with_mean: bool = False, keep: bool = False) -> None:
        self.mixture, self.images, self.keep = mixture, images, keep
        self.mean = images.mean(0, dtype=np.float64) if with_mean else None
        self._kept: dict[int, Tensor] = {}

    def blocks(self, rows: slice) -> Iterator[Tensor]:
        """The distances of `rows`."""
        for start in range(rows.start, min(rows.stop, len(self.images)), _ROWS):
            if start in self._kept:
                yield self._kept[start].double()
                continue
            found = self._block(self.images[start : min(start + _ROWS, rows.stop)])
            if self.keep:
                self._kept[start] = found.float()
                found = self._kept[start].double()
            yield found

    def _block(self, images: np.ndarray) -> Tensor:
        import torch

        x, centres = torch.from_numpy(images).to(self.mixture.device).double(), self.mixture._centres
        parts = [_squared(x, part.double()) for part in centres.split(4 * _ROWS)]
        if self.mean is not None:
            mean = torch.from_numpy(self.mean).to(x.device)
            parts.append(SHRINK * (x - mean).square().sum(1, keepdim=True))
        return torch.cat(parts, 1)


class _Adam:
    """Adam (Kingma & Ba 2015) with its usual betas."""

    def __init__(self, like: Tensor) -> None:
        import torch

        self.first, self.second, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def step(self, values: Tensor, slope: Tensor) -> Tensor:
        """The values after a step down the slope."""
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * slope
        self.second = 0.999 * self.second + 0.001 * slope.square()
        first, second = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        return values - LEARNING_RATE * first / (second.sqrt() + 1e-8)


def _squared(x: Tensor, centres: Tensor) -> Tensor:
    """[n, m]; a distance within the rounding of its terms is 0, so that copies are found."""
    import torch

    norms = x.square().sum(1)[:, None] + centres.square().sum(1)
    squared = torch.addmm(norms, x, centres.T, alpha=-2)
    return squared.masked_fill(squared <= x.shape[1] * torch.finfo(torch.float64).eps * norms, 0)


def _standardised(samples: np.ndarray, reference: np.ndarray, training: np.ndarray) -> list[np.ndarray]:
    """Float32; features that do not vary over the reference are left as they are but for their mean."""
    mean, deviation = reference.mean(0, dtype=np.float64), reference.std(0, ddof=1, dtype=np.float64)
    deviation[deviation == 0] = 1
    sets = [((each - mean) / deviation).astype(np.float32) for each in (samples, reference, training)]
    for each in sets:
        if not np.isfinite(each).all():
            raise InputError("Features hold NaN or infinity, or are too large; their distances mean nothing.")
    return sets


FLD = Metric(
    fld,
    CollectedFeatures,
    needs_training_set=True,
    settings={"centres": str(MAX_CENTRES), "seed": str(SEED)},
)
