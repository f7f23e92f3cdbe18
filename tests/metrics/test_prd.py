"""PRD: the paper's toy histograms exactly, its identities, and k-means that finds clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdr.errors import InputError
from fdr.metrics import Context, Score, load_metrics
from fdr.metrics.kmeans import cells_of, fit_centres
from fdr.metrics.prd import NUM_ANGLES, max_f, prd_curve

NAMES = ("prd_f8", "prd_f1_8")
MIDDLE = NUM_ANGLES // 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clusterings instead of ten, by fewer steps."""
    monkeypatch.setattr("fdr.metrics.prd.NUM_RUNS", 3)
    monkeypatch.setattr("fdr.metrics.kmeans.NUM_STEPS", 10)


def histograms(*shares: list[float]) -> list[np.ndarray]:
    return [np.array(share) for share in shares]


def summary(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    curve = prd_curve(reference, samples)
    return max_f(curve, 8), max_f(curve, 1 / 8)


def scores(samples: np.ndarray, reference: np.ndarray, **more: bool) -> dict[str, Score]:
    return dict(next(iter(load_metrics(NAMES).values())).scores(samples, reference, Context(**more)))


@pytest.mark.parametrize(
    ("samples", "reference", "precision", "recall", "f8", "f1_8"),
    [
        ([0.5, 0.5], [1, 0], 0.5, 0.5, 0.9848, 0.5039),
        ([1, 0], [0.5, 0.5], 0.5, 0.5, 0.5039, 0.9848),
        ([0.5, 0.5, 0], [0, 0.5, 0.5], 0.5, 0.5, None, None),
        ([1, 0], [0, 1], 0, 0, 0, 0),
        ([0.3, 0.7], [0.3, 0.7], 1, 1, 1, 1),
    ],
)
def test_toys_of_the_paper(
    samples: list[float], reference: list[float], precision: float, recall: float, f8: float | None, f1_8: float | None
) -> None:
    q, p = histograms(samples, reference)
    curve = prd_curve(p, q)
    assert curve[:, MIDDLE] == pytest.approx([precision, recall], abs=1e-9)
    if f8 is not None:
        assert summary(q, p) == pytest.approx((f8, f1_8), abs=5e-5)


@pytest.mark.parametrize(
    ("precision", "recall", "beta", "expected"),
    [
        (1, 0.5, 1, 2 / 3),
        (1, 0.5, 2, 5 / 9),
        (1, 0.5, 0.5, 5 / 6),
        (0.5, 1, 2, 5 / 6),
        (0.5, 1, 0.5, 5 / 9),
        (0, 1, 1, 0),
    ],
)
def test_cells_of_f_beta(precision: float, recall: float, beta: float, expected: float) -> None:
    assert max_f(np.array([[precision], [recall]]), beta) == pytest.approx(expected, abs=1e-9)


def test_identities() -> None:
    draws = np.random.default_rng(0)
    p, q = (draws.dirichlet(np.ones(20)) for _ in range(2))
    curve, total_variation = prd_curve(p, q), 0.5 * np.abs(p - q).sum()
    assert curve[:, MIDDLE] == pytest.approx([1 - total_variation] * 2, abs=1e-9)
    assert max_f(curve, 1) >= 1 - total_variation - 1e-9
    swapped = prd_curve(q, p)
    np.testing.assert_allclose(swapped[::-1, ::-1], curve, atol=1e-9)
    assert summary(q, p) == pytest.approx(summary(p, q)[::-1], abs=1e-9)


def test_k_means_finds_clusters_far_from_the_origin_and_repeats_itself() -> None:
    draws = np.random.default_rng(1)
    true = np.repeat(np.arange(6), 50)
    features = (100 + draws.normal(size=(6, 8))[true] * 10 + draws.normal(size=(300, 8)) * 0.1).astype(np.float32)
    centres = fit_centres(features, 6, 3, torch.device("cpu"))
    cells = cells_of(features, centres)
    assert len(set(zip(true, cells, strict=True))) == 6 == len(set(cells))
    np.testing.assert_allclose(centres[cells[0]], features[:50].mean(0), atol=0.05)
    assert torch.equal(centres, fit_centres(features, 6, 3, torch.device("cpu")))
    assert not torch.equal(centres, fit_centres(features, 6, 4, torch.device("cpu")))


def modes(seed: int, shares: list[float], count: int = 400) -> np.ndarray:
    """Well-separated modes with these shares."""
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(shares), 6)) * 30
    return (centres[draws.choice(len(shares), count, p=shares)] + draws.normal(size=(count, 6))).astype(np.float32)


def test_dropped_modes_cost_recall_and_invented_ones_precision() -> None:
    half, full = [0.5, 0.5, 0, 0], [0.25] * 4
    dropped, invented = scores(modes(2, half), modes(3, full)), scores(modes(4, full), modes(5, half))
    assert dropped["prd_f8"].value < 0.62 < 0.85 < dropped["prd_f1_8"].value
    assert invented["prd_f1_8"].value < 0.62 < 0.85 < invented["prd_f8"].value
    same = scores(modes(6, full), modes(7, full))
    assert min(one.value for one in same.values()) > 0.85
    curve = same["prd_f8"].details["curve"]
    assert len(curve["precision"]) == len(curve["recall"]) == 41 and curve["precision"][-1] == 1
    assert same["prd_f8"].details["std_over_runs"] > 0


def test_standard_error_is_the_spread_of_draws() -> None:
    drawn = [scores(modes(2 * i, [0.5, 0.3, 0.2], 150), modes(2 * i + 1, [0.3, 0.3, 0.4], 150)) for i in range(6)]
    for name in NAMES:
        ratio = np.mean([one[name].stderr for one in drawn]) / np.std([one[name].value for one in drawn], ddof=1)
        assert 0.4 < ratio < 2.5
    assert scores(modes(0, [1.0]), modes(1, [1.0]), stderr=False)["prd_f8"].stderr is None


def test_bad_input_gives_one_sentence() -> None:
    with pytest.raises(InputError, match=r"as many samples as reference images.*got 30 and 40: choose as many with"):
        scores(modes(0, [1.0], 30), modes(1, [1.0], 40))
    with pytest.raises(InputError, match="has 20 cells and needs at least as many samples; got 9"):
        scores(modes(0, [1.0], 9), modes(1, [1.0], 9))
    assert load_metrics("prd_f8")["prd_f8"].settings == {"k": "20", "r": "10", "seed": "2018"}
