"""Density, coverage, realism and prdc's precision and recall: closed forms, and prdc's definitions in NumPy."""

from __future__ import annotations

import math

import numpy as np
import prdc
import pytest

from fdr.errors import InputError
from fdr.metrics import METRICS, Context, Score, load_metrics

OPEN = ("precision:prdc", "recall:prdc", "density", "coverage")
ALL = ("precision", "recall", *OPEN, "realism")


def draw(seed: int, count: int, dim: int = 24, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) + shift).astype(np.float32)


def scores(names: tuple[str, ...], samples: np.ndarray, reference: np.ndarray, **more: int) -> dict[str, Score]:
    return dict(next(iter(load_metrics(names).values())).scores(samples, reference, Context(**more)))


def values(names: tuple[str, ...], samples: np.ndarray, reference: np.ndarray, **more: int) -> tuple[float, ...]:
    found = scores(names, samples, reference, **more)
    return tuple(found[name].value for name in names)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))


def prdc_in_numpy(real: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage by the formulas of Naeem et al. 2020, with open balls."""
    real_radii, fake_radii = (np.sort(distances(x, x), axis=1)[:, k] for x in (real, fake))
    cross = distances(real, fake)
    in_real, in_fake = cross < real_radii[:, None], cross < fake_radii
    covered = cross.min(1) < real_radii
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, covered.mean()


def realism_in_numpy(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    radii = np.sort(distances(real, real), axis=1)[:, 3]
    kept = radii < np.median(radii)
    return (radii[kept, None] / distances(real, fake)[kept]).max(0)


@pytest.mark.parametrize(("count", "dim", "shift"), [(300, 24, 0.0), (257, 3, 0.3), (64, 200, 0.05), (60, 512, 0.0)])
def test_equals_prdc(count: int, dim: int, shift: float) -> None:
    samples, reference = draw(0, count, dim), draw(1, count + 40, dim, shift)
    samples[5:12] = reference[:7]  # copies lie on no border of an open ball
    assert values(OPEN, samples, reference) == prdc_in_numpy(reference, samples)


def test_equals_the_package_prdc() -> None:
    samples, reference = draw(4, 200), draw(5, 240, shift=0.1)
    theirs = prdc.compute_prdc(real_features=reference, fake_features=samples, nearest_k=5)
    assert values(OPEN, samples, reference) == tuple(
        theirs[name] for name in ("precision", "recall", "density", "coverage")
    )


@pytest.mark.parametrize(("count", "dim", "shift"), [(200, 24, 0.0), (97, 3, 0.3), (80, 300, 0.05)])
def test_realism_equals_its_definition(count: int, dim: int, shift: float) -> None:
    samples, reference = draw(2, count, dim), draw(3, count + 41, dim, shift)
    expected = realism_in_numpy(reference, samples)
    found = scores(("realism",), samples, reference)["realism"]
    assert found.value == pytest.approx(expected.mean(), rel=1e-12)
    assert found.details == {"k": 3, "median": pytest.approx(np.median(expected), rel=1e-12), "copies": 0}
    assert found.stderr == pytest.approx(expected.std(ddof=1) / count**0.5, rel=1e-9)


def test_integers_on_the_border_are_inside_closed_balls_and_outside_open_ones() -> None:
    line = np.arange(20, dtype=np.float32)[:, None]
    shifted = line + 3  # the radius is 2 for k = 3 in the middle, and 3 for k = 5
    far = line + 22
    far[0] = 20 + 1  # 2 from the last point, whose radius is 3
    closed = values(("precision",), far, line)[0]
    assert closed == 1 / 20
    cross = distances(line, shifted)
    radii = np.sort(distances(line, line), axis=1)[:, 5]
    assert values(("coverage", "density"), shifted, line) == (
        (cross.min(1) < radii).mean(),
        (cross < radii[:, None]).sum(0).mean() / 5,
    )


def test_all_together_are_each_alone_and_memory_changes_nothing() -> None:
    samples, reference = draw(4, 300, 16), draw(5, 270, 16, 0.2)
    together = scores(ALL, samples, reference)
    assert {name: score.value for name, score in together.items()} == {
        name: values((name,), samples, reference)[0] for name in ALL
    }
    small = scores(ALL, samples, reference, memory=13 << 20)
    assert small == together


def test_coverage_and_density_of_one_distribution_have_the_expected_values() -> None:
    """E coverage = 1 - prod (N - i) / (M + N - i), and E density = 1 (Naeem et al. 2020, lemmas 1 and 2)."""
    count, k = 400, 5
    expected = 1 - math.prod((count - i) / (2 * count - i) for i in range(1, k + 1))
    assert expected == pytest.approx(0.9688, abs=2e-3)
    found = np.array(
        [values(("density", "coverage"), draw(2 * i, count, 6), draw(2 * i + 1, count, 6)) for i in range(20)]
    )
    for mean, spread, value in zip(found.mean(0), found.std(0, ddof=1), (1.0, expected), strict=True):
        assert abs(mean - value) < 4 * spread / 20**0.5


def test_standard_errors_are_the_spread_of_samples_against_one_reference() -> None:
    names = ("precision", "density", "coverage", "realism")
    reference = draw(6, 200, 4)
    drawn = [scores(names, draw(100 + i, 200, 4, 0.4), reference) for i in range(60)]
    for name in names:
        spread = np.std([one[name].value for one in drawn], ddof=1)
        stated = np.mean([one[name].stderr for one in drawn])
        assert 0.65 < stated / spread < 1.5, name


def test_standard_error_of_recall_is_the_spread_of_references_against_one_set_of_samples() -> None:
    samples = draw(7, 200, 4, 0.4)
    drawn = [scores(("recall",), samples, draw(200 + i, 200, 4))["recall"] for i in range(60)]
    assert 0.7 < np.mean([one.stderr for one in drawn]) / np.std([one.value for one in drawn], ddof=1) < 1.4


def test_laws() -> None:
    features = draw(8, 90)
    assert values(("density", "coverage"), features + 50, features) == (0, 0)
    narrow, wide = draw(9, 150, 4) * np.float32(0.05), draw(10, 150, 4)
    dense, covered, real = values(("density", "coverage", "realism"), narrow, wide)
    assert dense > 1.1 and covered < 0.3 and real > 1
    order = np.random.default_rng(0).permutation(90)
    other = draw(11, 80)
    assert values(ALL, features[order], other[::-1].copy()) == pytest.approx(values(ALL, features, other), rel=1e-12)


def test_copies_of_the_reference_have_a_bounded_realism_and_are_counted() -> None:
    samples, reference = draw(12, 50, 8), draw(13, 60, 8)
    samples[:4] = reference[np.argsort(np.sort(distances(reference, reference), axis=1)[:, 3])[:4]]
    found = scores(("realism",), samples, reference)["realism"]
    assert found.details["copies"] == 4 and math.isfinite(found.value) and found.value > 1000
    assert found.details["median"] < 2
    assert found.notes[0].startswith("50 samples and 60 reference images")
    assert found.notes[1].startswith("4 samples have the features of a reference image")


def test_unequal_numbers_are_noted_except_for_density() -> None:
    found = scores(ALL, draw(14, 30), draw(15, 40))
    assert not found["density"].notes
    for name in ALL:
        assert name == "density" or found[name].notes[0].startswith(f"30 samples and 40 reference images: {name} moves")


def test_names_ranges_and_constants() -> None:
    metrics = load_metrics(ALL)
    assert len(set(map(id, metrics.values()))) == 1
    ks = {name: metrics[name].settings_of(name) for name in ALL}
    assert ks == {name: {"k": "5" if name in OPEN else "3"} for name in ALL}
    assert not any(METRICS[name].lower_is_better for name in ALL)
    assert [METRICS[name].high for name in ALL] == [1, 1, 1, 1, math.inf, 1, math.inf]


def test_bad_input_gives_one_sentence() -> None:
    with pytest.raises(InputError, match="coverage needs more than 5 samples, for a 5th neighbour; got 5: give it"):
        scores(("coverage",), draw(0, 5), draw(1, 9))
    with pytest.raises(InputError, match="All 9 reference images have the same features, so density has no distances"):
        scores(("density",), draw(0, 9), np.ones((9, 24), np.float32))
    with pytest.raises(InputError, match="realism needs balls of different size"):
        scores(("realism",), draw(0, 9, 1), np.repeat(draw(1, 3, 1), 4, axis=0))
    with pytest.raises(InputError, match="do not fit a memory of 1 MiB; allow at least"):
        scores(("density",), draw(0, 9), draw(1, 9), memory=1 << 20)
    bad = draw(0, 9)
    bad[3, 3] = np.nan
    with pytest.raises(InputError, match="hold NaN or infinity"):
        scores(("density",), bad, draw(1, 9))
