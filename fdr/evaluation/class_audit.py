"""How much of an FD can be won by matching classes alone (Kynkäänniemi et al. 2023, arXiv 2203.06026).

The samples stay as they are and only their weights change: so that their predicted classes have the frequencies of the
reference (Top-1), so that their Top-N classes have, or so that FD itself is as low as weights can make it, down to its
noise floor: the bias that images of the reference's own distribution would have. What the last wins is the most that
choosing among the samples can win, and the first says how much of that is class frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.evaluation.baseline_gain import BaselineGain, ClassedFeatures, KnownOfSamples, baseline_gain, check_counts
from fdr.evaluation.class_matching import (
    Histograms,
    Matching,
    best_weights,
    check_logits,
    distances_by_weights,
    top1_weights,
    top_n_weights,
)
from fdr.frechet import Moments, frechet_distance
from fdr.runtime import Progress, as_progress, memory_for

TOP1, OPTIMISED = "top-1", "optimised"


@dataclass(frozen=True)
class ClassAudit:
    """How FD changes, under one encoder and held-out ones, when the classes of the samples are matched."""

    encoder: str
    """The encoder whose FD is optimised, and whose logits are the classes."""
    held_out: tuple[str, ...]
    reference_count: int
    histograms: Histograms
    fd: Mapping[str, float]
    """FD of the samples as they are, by encoder."""
    noise_floor: float
    """The bias in the FD of `encoder`, where its optimisation ends; 0 if there are too few images to tell."""
    matchings: tuple[Matching, ...]
    baseline: BaselineGain | None = None
    """The difference to a baseline, where there is one."""

    def __getitem__(self, name: str) -> Matching:
        """The matching "top-1", "top-5" or "optimised"."""
        return next(one for one in self.matchings if one.name == name)

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self.matchings[0].weights)

    def gain(self, name: str, encoder: str | None = None) -> float:
        """How much a matching lowers FD; see `Matching.gain`."""
        return self[name].gain(encoder or self.encoder)

    def share(self, name: str = TOP1) -> float | None:
        """The gain of a matching as a share of the gain of the optimised weights; None where they win nothing."""
        most = self.gain(OPTIMISED)
        return self.gain(name) / most if most > 0 and self[OPTIMISED].steps > 0 else None

    def sentences(self) -> Iterator[str]:
        """The result in sentences, the most important first."""
        yield self._on_histograms()
        yield self._on_gain()
        for name in self.held_out:
            parts = [f"{self._label(one.name)} by {self._change(one, name)}" for one in self.matchings]
            yield f"{name} (held out): the same weights change FD: {', '.join(parts)}."
        if self.baseline is not None:
            yield from self.baseline.sentences()

    def _on_histograms(self) -> str:
        found = self.histograms
        text = f"{found.distance:.1%} of the samples would need another class for the frequencies of the reference"
        if len(found.missing):
            many = "1 class has" if len(found.missing) == 1 else f"{len(found.missing)} classes have"
            text += f"; {many} no sample and {found.missing_share:.1%} of the reference"
        return text + "."

    def _on_gain(self) -> str:
        share, before, best = self.share(), self.fd[self.encoder], self[OPTIMISED]
        if share is None:
            floor = f" (its noise floor is {self.noise_floor:.4g})" if self.noise_floor >= before else ""
            return f"{self.encoder}: FD {before:.4g} leaves nothing that weights could win{floor}."
        part = "none" if share <= 0 else "all" if share >= 1 else f"{share:.0%}"
        first = self[TOP1]
        return (
            f"{self.encoder}: weights alone lower FD from {best.control[self.encoder]:.4g} (in a random order) to "
            f"{best.fd[self.encoder]:.4g}, and {part} of this gain is class frequencies (Top-1 matching: from "
            f"{first.control[self.encoder]:.4g} to {first.fd[self.encoder]:.4g})."
        )

    def _change(self, one: Matching, encoder: str) -> str:
        before = self.fd[encoder]
        found, control = one.fd[encoder] - before, one.control[encoder] - before
        if before <= 0:
            return f"{found:+.4g} (in a random order: {control:+.4g})"
        return f"{found / before:+.1%} (in a random order: {control / before:+.1%})"

    @staticmethod
    def _label(name: str) -> str:
        return "optimised weights" if name == OPTIMISED else f"{name.capitalize()} matching"

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them, without the weights."""
        found = self.histograms
        return {
            "encoder": self.encoder,
            "held_out": list(self.held_out),
            "count": self.count,
            "reference_count": self.reference_count,
            "classes": {
                "distance": found.distance,
                "missing": found.missing.tolist(),
                "missing_share": found.missing_share,
            },
            "fd": dict(self.fd),
            "noise_floor": self.noise_floor,
            "matchings": [
                {
                    "name": one.name,
                    "effective_count": one.effective_count,
                    "steps": one.steps,
                    "fd": dict(one.fd),
                    "control": dict(one.control),
                    "share_of_gain": self.share(one.name),
                }
                for one in self.matchings
            ],
            **({} if self.baseline is None else {"baseline": self.baseline.to_dict()}),
            "sentences": list(self.sentences()),
        }


@memory_for("the audit of classes", "use --device cpu, fewer images, or an encoder of fewer dimensions")
def audit_classes(
    samples: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    logits: tuple[np.ndarray, ...],
    *,
    baseline: Mapping[str, np.ndarray] | None = None,
    top_n: int = 5,
    steps: int = 100,
    device: str | None = None,
    progress: Progress | bool | None = None,
) -> ClassAudit:
    """Weight the samples to match the classes of the reference, and measure every encoder's FD of what results.

    `samples` and `reference` are features [N, D] and [M, D] by encoder, the rows of all encoders in one order. The
    first encoder is optimised for, the others are held out. `logits` [N, C] and [M, C] are those of a classifier for
    the samples and the reference, and for the `baseline`, if there is one: features of another model's samples, as many
    as of the first. Raises `InputError` where shapes disagree or values are not finite.
    """
    sets = {"samples": samples, "reference": reference} | ({} if baseline is None else {"baseline": baseline})
    _check(sets, logits)
    check_logits(logits, top_n)
    encoder, *held_out = samples
    targets = {name: replace(Moments.from_features(rows), rows=rows) for name, rows in reference.items()}
    histograms = Histograms.of(logits[0], logits[1])
    fd = {
        name: frechet_distance(Moments.from_features(samples[name], device=device), target, device=device)
        for name, target in targets.items()
    }
    distances = distances_by_weights(samples, targets, device)

    def measured(name: str, weights: np.ndarray, taken: int = 0) -> Matching:
        return Matching.of(name, weights, logits[0].argmax(1), distances, taken)

    settings: dict[str, Any] = {"steps": steps, "device": device, "progress": as_progress(progress)}
    top1 = measured(TOP1, top1_weights(logits[0], histograms))
    found = None
    if baseline is not None:
        both = ClassedFeatures(samples, logits[0]), ClassedFeatures(baseline, logits[2])
        known = KnownOfSamples(histograms, fd, distances, top1)
        found = baseline_gain(*both, targets, known, device=device)
    optimised, taken, floor = best_weights(samples[encoder], targets[encoder], f"weights for {encoder}", **settings)
    matchings = (
        top1,
        measured(f"top-{top_n}", *top_n_weights(logits[0], logits[1], top_n, **settings)),
        measured(OPTIMISED, optimised, taken),
    )
    return ClassAudit(encoder, tuple(held_out), len(logits[1]), histograms, fd, floor, matchings, found)


def _check(sets: Mapping[str, Mapping[str, np.ndarray]], logits: tuple[np.ndarray, ...]) -> None:
    for side, found in sets.items():
        if not isinstance(found, Mapping):
            raise InputError(f"The {side} must be a dict of features [N, D] by encoder; got {type(found).__name__}.")
    samples = sets["samples"]
    for side, found in sets.items():
        if not samples or set(samples) != set(found):
            raise InputError(
                f"The samples have features of {', '.join(samples) or 'no encoder'} and the {side} of "
                f"{', '.join(found) or 'no encoder'}; both need the same encoders."
            )
    if len(logits) != len(sets):
        raise InputError(f"{len(sets)} sets of images need as many arrays of logits; got {len(logits)}.")
    for (side, found), known in zip(sets.items(), logits, strict=True):
        for name, features in found.items():
            if len(features) != len(known):
                raise InputError(
                    f"The set {side!r} has {len(features)} rows of features of {name} and {len(known)} of logits; each "
                    "image needs a row in both."
                )
    if "baseline" in sets:
        check_counts(len(logits[0]), len(logits[2]))
