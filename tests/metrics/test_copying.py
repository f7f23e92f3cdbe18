"""AuthPct and C_T: copies are found, independent samples pass, and both equal their definitions in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from fdr.errors import InputError
from fdr.metrics import Context, Score, load_metrics
from fdr.metrics.copying import NUM_CELLS, mann_whitney_z


def draw(seed: int, count: int, dim: int = 8, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) * scale).astype(np.float32)


def score(name: str, samples: np.ndarray, reference: np.ndarray | None, training: np.ndarray) -> Score:
    return load_metrics(name)[name].scores(samples, reference, Context(training=training))[name]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))


@pytest.mark.parametrize(("dim", "scale"), [(3, 1.0), (8, 0.7), (200, 1.0)])
def test_authpct_is_its_definition(dim: int, scale: float) -> None:
    samples, training = draw(0, 150, dim, scale), draw(1, 180, dim)
    cross, own = distances(samples, training), distances(training, training)
    np.fill_diagonal(own, np.inf)
    is_authentic = own.min(1)[cross.argmin(1)] < cross.min(1)
    found = score("authpct", samples, None, training)
    assert found.value == 100 * is_authentic.mean()
    share = is_authentic.mean()
    assert found.stderr == pytest.approx(100 * np.sqrt(share * (1 - share) / 150))


def test_copies_are_not_authentic_and_are_counted() -> None:
    training = draw(2, 200)
    found = score("authpct", training[:90] + np.float32(1e-3), None, training)
    assert found.value == 0 and found.details == {"copies": 0}
    assert score("authpct", training[:90].copy(), None, training).details == {"copies": 90}
    far = score("authpct", draw(3, 90, 8, 30.0), None, training)
    assert far.value > 95


def test_independent_samples_in_many_dimensions_are_mostly_authentic() -> None:
    """It is not 50 % in high dimension: 92 % for N(0, I_1000) with 10,000 images, and here as well above it."""
    assert score("authpct", draw(4, 300, 300), None, draw(5, 300, 300)).value > 75


@pytest.mark.parametrize("ties", [False, True])
def test_z_is_that_of_scipys_u(ties: bool) -> None:
    draws = np.random.default_rng(6)
    a, b = draws.random(40), draws.random(55) + 0.1
    if ties:
        a, b = a.round(1), b.round(1)
    u, n, m = mannwhitneyu(a, b).statistic, len(a), len(b)
    assert mann_whitney_z(a, b) == pytest.approx((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12), rel=1e-12)


def test_ct_of_one_distribution_has_mean_zero_and_its_standard_error() -> None:
    training = draw(7, 200)
    drawn = [score("ct", draw(10 + 2 * i, 150), draw(11 + 2 * i, 150), training) for i in range(16)]
    values = np.array([one.value for one in drawn])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / 4
    assert 0.5 < np.mean([one.stderr for one in drawn]) / values.std(ddof=1) < 2


def test_ct_is_far_below_zero_for_copies_and_above_for_far_samples() -> None:
    training, test = draw(8, 300, 100), draw(9, 200, 100)
    copies = training[:200] + draw(10, 200, 100, 0.1)
    found = score("ct", copies, test, training)
    assert found.value < -5 and found.value < -3 * found.stderr
    assert len(found.details["cells"]) + found.details["skipped_cells"] == NUM_CELLS
    assert score("ct", draw(11, 200, 100, 2.0), test, training).value > 5


def test_one_cell_of_ct_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.metrics.copying.NUM_CELLS", 1)
    training, samples, test = draw(12, 80), draw(13, 60, 8, 1.1), draw(14, 70)
    expected = mann_whitney_z(distances(samples, training).min(1), distances(test, training).min(1))
    assert score("ct", samples, test, training).value == pytest.approx(expected, abs=1e-9)


def test_bad_input_gives_one_sentence() -> None:
    training = draw(15, 100)
    with pytest.raises(InputError, match="90 of 90 reference images are training images, so ct cannot tell"):
        score("ct", draw(16, 90), training[:90].copy(), training)
    with pytest.raises(InputError, match="No cell has 20 samples and a reference image"):
        score("ct", draw(17, 12), draw(18, 90), training)
    with pytest.raises(InputError, match="training set of width 5"):
        score("authpct", draw(19, 12), None, draw(20, 30, 5))
    with pytest.raises(InputError, match="All 30 training images have the same features"):
        score("authpct", draw(19, 12), None, np.ones((30, 8), np.float32))
