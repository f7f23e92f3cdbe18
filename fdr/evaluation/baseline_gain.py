"""How much of the difference of FD between two sets of samples, a model and a baseline, is class frequencies.

Each set gets weights that give its predicted (Top-1) classes the frequencies of the other, which leaves its images as
they are. This is the decomposition of Kitagawa (1955), by the weights of DiNardo, Fortin & Lemieux (1996). With FD' for
the FD under these weights, and FD'' for that of the same weights in an order that ignores the images,

    C_1 = FD''(baseline) - FD'(baseline),      C_2 = FD'(samples) - FD''(samples)
    share = (C_1 + C_2) / 2 / (FD(baseline) - FD(samples))

C_1 is how much the baseline would win by the frequencies of the samples alone, C_2 how much the samples would lose by
those of the baseline. The share is the same if samples and baseline are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.evaluation.class_matching import Distance, Histograms, Matching, distances_by_weights, top1_weights
from fdr.frechet import (
    Combination,
    Moments,
    fd_influence,
    frechet_distance,
    paired_stderr,
)

COUNT_TOLERANCE = 0.01
"""The number of samples and that of the baseline may differ by this share, such as by unreadable images.

Raising it lets the bias of FD, which is about 1/N, into the difference.
"""
MAX_ROWS = 5000
"""Images of each side that standard errors are computed from. Raising it makes them more accurate and slower."""
NOISE = 2.0
"""A difference below so many standard errors is noise, and no share of it is given. Raising it hides more shares."""


@dataclass(frozen=True)
class BaselineGain:
    """The difference of FD between samples and a baseline, by encoder, and the part that is class frequencies."""

    encoders: tuple[str, ...]
    """The first gives the classes; the others are held out."""
    count: int
    """Images of the baseline."""
    histograms: Histograms
    """The classes of the baseline (as `samples`) and of the samples (as `reference`)."""
    samples_fd: Mapping[str, float]
    fd: Mapping[str, float]
    """FD of the baseline as it is."""
    stderr: Mapping[str, float | None]
    """The standard error of the difference."""
    forward: Matching
    """The baseline with the class frequencies of the samples."""
    backward: Matching
    """The samples with the class frequencies of the baseline."""
    matched: tuple[Matching, Matching]
    """The samples and the baseline, both with the class frequencies of the reference."""

    def gain(self, encoder: str) -> float:
        """FD of the baseline less FD of the samples; negative if the samples are worse."""
        return self.fd[encoder] - self.samples_fd[encoder]

    def is_noise(self, encoder: str) -> bool:
        """True for a difference within its noise."""
        return abs(self.gain(encoder)) <= NOISE * (self.stderr[encoder] or 0.0)

    def shares(self, encoder: str) -> tuple[float, float] | None:
        """C_1 and C_2 as shares of the difference; None where it is noise."""
        gain = self.gain(encoder)
        if self.is_noise(encoder):
            return None
        return self.forward.gain(encoder) / gain, -self.backward.gain(encoder) / gain

    def share(self, encoder: str) -> float | None:
        """The share of the difference that is class frequencies: the mean of `shares`, at best between 0 and 1."""
        found = self.shares(encoder)
        return None if found is None else sum(found) / 2

    def left(self, encoder: str) -> float:
        """The gain that is left where both sets have the class frequencies of the reference."""
        samples, baseline = self.matched
        return self.gain(encoder) + samples.gain(encoder) - baseline.gain(encoder)

    def sentences(self) -> Iterator[str]:
        """A sentence for each encoder, and one if classes of the samples could not be matched."""
        yield from map(self._on, self.encoders)
        found = self.histograms
        swapped = Histograms(found.reference, found.samples)
        for one, name, other in ((found, "samples", "baseline"), (swapped, "baseline", "samples")):
            if len(one.missing):
                yield (
                    f"{one.missing_share:.1%} of the {name} are in classes of which the {other} "
                    f"{'has' if other == 'baseline' else 'have'} no image; no weights can match these."
                )

    def _on(self, encoder: str) -> str:
        label = encoder if encoder == self.encoders[0] else f"{encoder} (held out)"
        own, base, gain = self.samples_fd[encoder], self.fd[encoder], self.gain(encoder)
        error, shares = self.stderr[encoder], self.shares(encoder)
        noise = "" if error is None else f" ± {error:.2g}"
        if shares is None:
            return (
                f"{label}: FD {own:.4g} and that of the baseline, {base:.4g}, differ by {abs(gain):.2g}{noise}, which "
                "is within the noise, so that there is no gain to divide."
            )
        side, kind = ("below", "gain over") if gain > 0 else ("above", "loss against")
        low, high = map(percent, sorted(shares))
        return (
            f"{label}: FD {own:.4g} is {abs(gain):.4g}{noise} {side} that of the baseline, {base:.4g}, and "
            f"{percent(sum(shares) / 2)} of the {kind} the baseline is class frequencies ({low} to {high}, depending "
            "on which of the two gets the frequencies of the other). With the frequencies of the reference for both, "
            f"{percent(self.left(encoder) / gain)} of it is left."
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them, without the weights."""
        return {
            "count": self.count,
            "class_distance": self.histograms.distance,
            "encoders": {
                name: {
                    "fd": self.fd[name],
                    "gain": self.gain(name),
                    "stderr": self.stderr[name],
                    "share_of_gain": self.share(name),
                    "shares": self.shares(name),
                    "left": self.left(name),
                }
                for name in self.encoders
            },
            "weightings": [
                {"name": one.name, "effective_count": one.effective_count, "fd": one.fd, "control": one.control}
                for one in (self.forward, self.backward, *self.matched)
            ],
        }


@dataclass(frozen=True)
class ClassedFeatures:
    """A set of images: features [N, D] by encoder, and the logits [N, C] of the classifier."""

    features: Mapping[str, np.ndarray]
    logits: np.ndarray


@dataclass(frozen=True)
class KnownOfSamples:
    """The result of the audit of the samples."""

    histograms: Histograms
    fd: Mapping[str, float]
    distances: Mapping[str, Distance]
    top1: Matching


def baseline_gain(
    samples: ClassedFeatures,
    baseline: ClassedFeatures,
    targets: Mapping[str, Moments],
    known: KnownOfSamples,
    *,
    device: str | None = None,
) -> BaselineGain:
    """Divide the difference of FD between samples and a baseline. `targets` are moments of the reference with rows."""
    own, real = known.histograms.samples, known.histograms.reference
    other = Histograms.of(baseline.logits, samples.logits).samples
    distances = distances_by_weights(baseline.features, targets, device)

    def matched(of: ClassedFeatures, histograms: Histograms, *names: str) -> Matching:
        weights = top1_weights(of.logits, histograms, (names[0], names[1]))
        by_weights = distances if of is baseline else known.distances
        return Matching.of(name_of(*names), weights, of.logits.argmax(1), by_weights)

    found = Histograms(other, own)
    forward = matched(baseline, found, "baseline", "samples")
    backward = matched(samples, Histograms(own, other), "samples", "baseline")
    both = matched(baseline, Histograms(other, real), "baseline", "reference")
    moments = {name: replace(Moments.from_features(rows), rows=rows) for name, rows in baseline.features.items()}
    return BaselineGain(
        tuple(targets),
        len(baseline.logits),
        found,
        known.fd,
        {name: frechet_distance(moments[name], target, device=device) for name, target in targets.items()},
        {name: _stderr(samples.features[name], moments[name], target, device) for name, target in targets.items()},
        forward,
        backward,
        (replace(known.top1, name=name_of("samples", "reference")), both),
    )


def percent(share: float) -> str:
    """0.724 -> "72%"."""
    return f"{round(100 * share)}%"


def name_of(one: str, other: str) -> str:
    """The name of a weighting."""
    return f"{one} with the classes of the {other}"


def _stderr(samples: np.ndarray, baseline: Moments, reference: Moments, device: str | None) -> float | None:
    """The standard error of the difference of FD, from a random part of the images of each side."""
    parts = []
    for one in (replace(Moments.from_features(samples), rows=samples), baseline):
        influence = fd_influence(one, reference, device=device, max_rows=MAX_ROWS)
        parts.append(Combination.of([(1.0, influence)], one.count, reference.count))
    a, b = parts
    return None if a is None or b is None else paired_stderr(a, b)


def check_counts(samples: int, baseline: int) -> None:
    """Raise `InputError` unless both sets have about as many images."""
    if abs(samples - baseline) > COUNT_TOLERANCE * min(samples, baseline):
        raise InputError(
            f"There are {samples} samples and {baseline} images of the baseline, and FD is larger for fewer images; "
            f"measure as many of each (--count {min(samples, baseline)})."
        )
