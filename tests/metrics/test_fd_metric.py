"""FD as a metric, FDr and FDr^k: closed forms of one-dimensional Gaussians, notes at their boundary, intervals."""

from __future__ import annotations

import numpy as np
import pytest

from fdr.errors import InputError, RunError
from fdr.frechet import Moments, ValidationFD, frechet_terms
from fdr.metrics import Context, Score, fd_score, mean_score, ratio_score


def gaussian(mean: float, spread: float, count: int | None = 9) -> Moments:
    return Moments(np.array([mean]), np.array([[spread**2]]), count)


def test_fd_of_two_gaussians_and_its_parts() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2"""
    score = fd_score(gaussian(1.0, 2.0), gaussian(4.0, 3.0), Context())
    assert score.value == pytest.approx(9 + 1, rel=1e-12)
    assert score.details["mean_term"] == pytest.approx(9, rel=1e-12)
    assert score.details["trace_term"] == pytest.approx(1, rel=1e-12)
    assert 0 < score.details["rounding"] < 1e-12 and score.details["route"]
    assert (score.stderr, score.interval, score.notes) == (None, None, ())
    assert set(score.details) == {"mean_term", "trace_term", "rounding", "route"}


def test_an_audit_is_a_second_computation() -> None:
    score = fd_score(gaussian(1.0, 2.0), gaussian(4.0, 3.0), Context(audit=True))
    assert score.details["audit"] == pytest.approx(10, rel=1e-12)


def test_it_is_computed_on_the_device_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def terms(samples: Moments, reference: Moments, **options: object) -> object:
        asked.append(options)
        return frechet_terms(samples, reference)

    monkeypatch.setattr("fdr.metrics.fd.frechet_terms", terms)
    fd_score(gaussian(1.0, 2.0), gaussian(4.0, 3.0), Context(device="cuda:1"))
    assert asked == [{"audit": False, "device": "cuda:1"}]


def moments_of(count: int, dim: int = 4) -> Moments:
    return Moments.from_features(np.random.default_rng(count).normal(size=(count, dim)))


def test_a_note_for_each_side_with_no_more_images_than_dimensions() -> None:
    assert fd_score(moments_of(5), moments_of(6), Context()).notes == ()
    assert fd_score(moments_of(4), moments_of(6), Context()).notes == (
        "4 samples for 4 dimensions: FD is biased upward",
    )
    assert fd_score(moments_of(5), moments_of(3), Context()).notes == (
        "3 reference images for 4 dimensions: FD is biased upward",
    )
    unknown = Moments(np.zeros(4), np.eye(4), None)
    assert fd_score(moments_of(5), unknown, Context()).notes == ()


def test_a_ratio_to_an_exact_denominator_has_no_interval() -> None:
    score = ratio_score(Score(3.0), ValidationFD(2.0, None, "measured"))
    assert score == Score(1.5, details={"val_fd": 2.0, "val_fd_source": "measured"})


@pytest.mark.parametrize(("value", "has_note"), [(0.50, True), (0.51, False), (1.68, False)])
def test_a_rounded_denominator_leaves_an_interval(value: float, has_note: bool) -> None:
    """With two decimals: FD / (value + 0.005) to FD / (value - 0.005); a note from 1 % on."""
    score = ratio_score(Score(3.0), ValidationFD(value, 2, "a paper"))
    assert score.interval == pytest.approx((3 / (value + 0.005), 3 / (value - 0.005)), rel=1e-12)
    assert score.value == pytest.approx(3 / value, rel=1e-15)
    assert bool(score.notes) == has_note
    if has_note:
        assert score.notes == ("validation FD 0.50 is published to 2 decimals: FDr is ±1 % wide",)


def test_a_ratio_of_nothing() -> None:
    score = ratio_score(Score(0.0), ValidationFD(0.04, 2, "a paper"))
    assert (score.value, score.interval, score.notes) == (0.0, (0.0, 0.0), ())
    with pytest.raises(InputError, match="above 0"):
        ratio_score(Score(1.0), ValidationFD(0.0, None, "x"))


def test_the_mean_of_ratios_has_an_interval_if_one_of_them_has() -> None:
    exact, rounded = Score(2.0), Score(4.0, interval=(3.0, 6.0))
    assert mean_score({"a": exact, "b": exact}) == Score(2.0, details={"fdr": {"a": 2.0, "b": 2.0}})
    mean = mean_score({"a": exact, "b": rounded})
    assert (mean.value, mean.interval) == (3.0, (2.5, 4.0))
    assert mean.details == {"fdr": {"a": 2.0, "b": 4.0}}


def test_moments_of_other_widths_are_refused() -> None:
    with pytest.raises((InputError, RunError), match="1"):
        fd_score(gaussian(0, 1), moments_of(9), Context())
