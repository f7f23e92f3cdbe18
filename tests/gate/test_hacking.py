"""The sentence about a model that has got better under the encoders that it was trained on, and worse under others."""

from __future__ import annotations

import pytest
from gate_worlds import report, row

from fdr.gate import GateOptions, baseline_of, judge
from fdr.reports import Report

MEANS = ("fdr_k:trained", "fdr_k:held_out")


def means(trained: float, held_out: float, stderr: float | None = 0.01, metrics: tuple[str, str] = MEANS) -> Report:
    values = zip(metrics, (trained, held_out), strict=True)
    rows = (row(metric, value, None, encoders=("inception", "dinov2"), stderr=stderr) for metric, value in values)
    return report(*rows)


def said(now: Report, before: Report, confidence: float = 0.95) -> list[str]:
    verdict = judge([now], GateOptions(confidence=confidence), baseline_of([before], "old.json"))
    return [text for text in verdict.warnings if "Fréchet hacking" in text]


def test_trained_falls_and_held_out_rises() -> None:
    (text,) = said(means(1.5, 2.5), means(2.0, 2.0))
    assert text.startswith("samples.npz: fdr_k:trained fell from 2 to 1.5, and fdr_k:held_out rose from 2 to 2.5: the ")


@pytest.mark.parametrize("now", [(1.5, 1.9), (2.5, 2.5), (2.5, 1.5), (2.0, 2.5), (1.5, 2.0)])
def test_any_other_change_is_none(now: tuple[float, float]) -> None:
    assert said(means(*now), means(2.0, 2.0)) == []


@pytest.mark.parametrize(("change", "found"), [(0.022, 0), (0.024, 1)])
def test_both_changes_exceed_their_noise(change: float, found: int) -> None:
    """1.645 x sqrt(0.01^2 + 0.01^2) = 0.02326."""
    assert len(said(means(1.0, 2.0 + change), means(2.0, 2.0))) == found
    assert len(said(means(2.0 - change, 3.0), means(2.0, 2.0))) == found
    assert said(means(1.0, 2.024), means(2.0, 2.0), confidence=0.99) == []


def test_without_errors_any_change_counts() -> None:
    assert len(said(means(1.999, 2.001, None), means(2.0, 2.0, None))) == 1


@pytest.mark.parametrize("mean", ["fdr_debiased_k", "mind_k"])
def test_other_means_over_encoders(mean: str) -> None:
    metrics = (f"{mean}:trained", f"{mean}:held_out")
    assert len(said(means(1.5, 2.5, metrics=metrics), means(2.0, 2.0, metrics=metrics))) == 1


def test_limits_alone_say_nothing_of_it() -> None:
    verdict = judge([means(1.5, 2.5)], GateOptions.parse(["fdr_k:held_out=3"]))
    assert verdict.passes and not [text for text in verdict.warnings if "hacking" in text]
    assert judge([means(1.5, 3.5)], GateOptions.parse(["fdr_k:held_out=3"])).exit_code == 1
