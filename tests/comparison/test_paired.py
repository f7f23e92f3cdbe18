"""The paired comparison: shared noise of the reference cancels, and the test has its level."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from gate_worlds import report, row
from scipy import stats

from fdr.comparison import combinations, paired_errors
from fdr.frechet import Combination, Influence, Moments, fd_influence, frechet_distance, paired_stderr

N, M, DIM = 150, 100, 8


def influence(n: int = 5, m: int | None = 4, second: float = 0.0, seed: int = 0) -> Influence:
    rng = np.random.default_rng(seed)
    return Influence(rng.standard_normal(n), None if m is None else rng.standard_normal(m), second, 1.0)


def only(one: Influence, weight: float = 1.0) -> Combination:
    found = Combination.of([(weight, one)])
    assert found is not None
    return found


def test_influences_of_the_reference_are_subtracted_before_they_are_squared() -> None:
    a, b = influence(5, 4, seed=1), influence(7, 4, seed=2)
    assert a.reference is not None and b.reference is not None
    expected = a.samples.var() / 5 + b.samples.var() / 7 + (a.reference - b.reference).var() / 4
    assert paired_stderr(only(a), only(b)) == pytest.approx(math.sqrt(expected), rel=1e-12)
    same = dataclasses.replace(b, reference=a.reference)
    expected = a.samples.var() / 5 + b.samples.var() / 7
    assert paired_stderr(only(a), only(same)) == pytest.approx(math.sqrt(expected), rel=1e-12), "it cancels"


def test_a_reference_without_features_is_exact_and_two_references_are_no_pair() -> None:
    a, b = influence(5, None, seed=1), influence(7, None, seed=2)
    assert paired_stderr(only(a), only(b)) == pytest.approx(math.sqrt(a.samples.var() / 5 + b.samples.var() / 7))
    assert paired_stderr(only(a), only(influence(7, 4))) is None
    assert paired_stderr(only(influence(5, 4)), only(influence(7, 3))) is None


def test_the_second_order_counts_without_the_share_of_the_reference() -> None:
    zero = Influence(np.zeros(10), np.zeros(30), 2.0, 0.0)
    share = (1 / 30) ** 2 / (1 / 10 + 1 / 30) ** 2
    assert paired_stderr(only(zero), only(zero)) == pytest.approx(math.sqrt(2 * 2.0 * (1 - share)))
    exact = Influence(np.zeros(10), None, 2.0, 0.0)
    assert paired_stderr(only(exact), only(exact)) == pytest.approx(math.sqrt(2 * 2.0))


def test_a_part_of_the_images_stands_for_all() -> None:
    a, b = (Combination.of([(1.0, influence(5, 4, 1.0, seed))], 500, 400) for seed in (1, 2))
    assert a is not None and b is not None and a.reference is not None and b.reference is not None
    first = a.samples.var() / 500 + b.samples.var() / 500 + (a.reference - b.reference).var() / 400
    second = 2 * (1 - (1 / 400) ** 2 / (1 / 500 + 1 / 400) ** 2)
    assert paired_stderr(a, b) == pytest.approx(math.sqrt(max(first - second, second)))


def test_ratios_and_their_mean_are_sums_of_influences() -> None:
    rows = [
        row("fd", 8.0, reference_count=70), row("fd", 9.0, "dinov2", reference_count=70), row("is", 5.0),
        row("fdr", 4.0, details={"val_fd": 2.0}), row("fdr", 3.0, "dinov2", details={"val_fd": 3.0}),
        row("fdr_k", 3.5, None, encoders=("inception", "dinov2")),
    ]  # fmt: skip
    found = {("inception", "pool"): influence(seed=1, second=4.0), ("dinov2", "pool"): influence(seed=2, second=9.0)}
    one, two = found.values()
    numbers = combinations(report(*rows), found)
    assert set(numbers) == {"fd:inception", "fd:dinov2", "fdr:inception", "fdr:dinov2", "fdr_k"}
    assert numbers["fdr:inception"].samples == pytest.approx(one.samples / 2)
    assert numbers["fdr:inception"].second_order == pytest.approx(1.0)
    assert one.reference is not None and two.reference is not None
    assert numbers["fdr_k"].samples == pytest.approx(one.samples / 4 + two.samples / 6)
    assert numbers["fdr_k"].reference == pytest.approx(one.reference / 4 + two.reference / 6)
    assert numbers["fdr_k"].second_order == pytest.approx((2 / 4 + 3 / 6) ** 2)
    assert [(numbers[key].count, numbers[key].reference_count) for key in ("fd:inception", "fdr_k")] == [
        (50000, 70)
    ] * 2
    partly = combinations(report(*rows), {("inception", "pool"): one})
    assert set(partly) == {"fd:inception", "fdr:inception"}


def test_every_pair_of_sets_has_its_errors() -> None:
    reports = {name: report(row(value=3.0), samples=name) for name in "abc"}
    found = paired_errors(reports, {name: {("inception", "pool"): influence(seed=i)} for i, name in enumerate("abc")})
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")} and set(found["a", "b"]) == {"fd:inception"}


def test_the_spread_of_the_correction_widens_the_error_of_debiased_fds() -> None:
    influences = {name: {("inception", "pool"): influence(seed=i)} for i, name in enumerate("ab")}

    def errors(metric: str, *stderrs: float | None) -> float:
        reports = {n: report(row(metric, stderr=s), samples=n) for n, s in zip("ab", stderrs, strict=True)}
        return paired_errors(reports, influences)["a", "b"][f"{metric}:inception"]

    numbers = [combinations(report(row()), one)["fd:inception"] for one in influences.values()]
    plain, own = paired_stderr(*numbers), math.hypot(*(number.stderr for number in numbers))
    assert errors("fd_debiased", 3 * own, 4 * own) == pytest.approx(5 * plain)
    assert errors("fd_debiased", own / 9, own / 9) == pytest.approx(plain), "never narrower"
    assert errors("fd_debiased", None, own) == errors("fd", 3 * own, 4 * own) == pytest.approx(plain)


SCALES = np.arange(1, DIM + 1) ** -0.5
Draw = Callable[[np.random.Generator, int], np.ndarray]


def gauss(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, DIM)) * SCALES


def heavy(rng: np.random.Generator, count: int) -> np.ndarray:
    return gauss(rng, count) * np.sqrt(8 / rng.chisquare(10, (count, 1)))


POPULATIONS: dict[str, tuple[Draw, Draw]] = {
    "equal": (gauss, gauss),
    "shifted": (lambda rng, n: gauss(rng, n) + 0.5 * SCALES, lambda rng, n: gauss(rng, n) + 0.5 * SCALES),
    "opposite": (lambda rng, n: gauss(rng, n) + 0.5 * SCALES, lambda rng, n: gauss(rng, n) - 0.5 * SCALES),
    "heavy": (heavy, heavy),
}


def moments(features: np.ndarray) -> Moments:
    return dataclasses.replace(Moments.from_features(features), rows=features)


@pytest.mark.parametrize("kind", POPULATIONS)
def test_sets_of_equal_fd_are_told_apart_as_rarely_as_the_level_says(kind: str) -> None:
    """120 draws of two sets whose true FDs are equal, against one small reference."""
    rng, (draw_a, draw_b) = np.random.default_rng(3), POPULATIONS[kind]
    wrong, differences, errors = 0, [], []
    for _ in range(120):
        reference = moments(gauss(rng, M))
        a, b = moments(draw_a(rng, N)), moments(draw_b(rng, N))
        stderr = paired_stderr(only(fd_influence(a, reference)), only(fd_influence(b, reference)))
        assert stderr is not None
        differences.append(frechet_distance(b, reference) - frechet_distance(a, reference))
        errors.append(stderr)
        wrong += 2 * stats.norm.sf(abs(differences[-1]) / stderr) < 0.05
    assert wrong <= stats.binom.ppf(0.999, 120, 0.05)
    assert 0.8 < np.mean(errors) / np.std(differences) < 1.5


def test_pairing_finds_what_the_unpaired_error_hides() -> None:
    """Two shifts of 0.5 and 0.6 against a reference of 100: the noise of the reference is most of all noise."""
    rng = np.random.default_rng(4)
    reference = moments(gauss(rng, M))
    a, b = (moments(gauss(rng, 2000) + shift * SCALES) for shift in (0.8, 0.9))
    influences = [fd_influence(one, reference) for one in (a, b)]
    paired = paired_stderr(*map(only, influences))
    assert paired is not None
    unpaired = math.hypot(*(one.stderr for one in influences))
    difference = frechet_distance(b, reference) - frechet_distance(a, reference)
    assert difference / paired > 3 and difference / unpaired < 1.96 and paired < unpaired / 2
