"""Vendi score: published examples, closed forms, the definition in NumPy, and the standard error against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from vendi_score import vendi as package

from fdr.errors import InputError
from fdr.metrics import Context, Labelled, Score, load_metrics
from fdr.metrics.vendi import ORDERS, vendi_score


def draw(seed: int, count: int, dim: int = 6) -> np.ndarray:
    spectrum = np.arange(1, dim + 1) ** -0.5
    return (np.random.default_rng(seed).normal(size=(count, dim)) * spectrum + 0.4).astype(np.float32)


def scores(features: np.ndarray, names: str = ",".join(ORDERS), context: Context | None = None) -> dict[str, Score]:
    return dict(next(iter(load_metrics(names).values())).scores(features, None, context or Context()))


def by_definition(features: np.ndarray, order: float) -> float:
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    p = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    p = p[p > 1e-14]
    if order == 1:
        return float(np.exp(-(p * np.log(p)).sum()))
    return 1 / float(p.max()) if math.isinf(order) else float((p**order).sum() ** (1 / (1 - order)))


def test_the_examples_of_its_authors() -> None:
    points = np.array([0, 0, 10, 10, 20, 20], float)
    assert vendi_score(np.exp(-np.abs(points[:, None] - points))) == pytest.approx(2.9999, abs=1.1e-4)
    assert vendi_score(np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])) == pytest.approx(2.1573, abs=5e-5)


@pytest.mark.parametrize("order", ORDERS.values())
def test_equal_points_are_one_and_orthogonal_ones_are_all_different(order: float) -> None:
    assert vendi_score(np.ones((5, 5)), order) == pytest.approx(1, rel=1e-9)
    assert vendi_score(np.eye(7), order) == pytest.approx(7, rel=1e-12)
    name = next(name for name, q in ORDERS.items() if q == order)
    assert scores(np.eye(7, 30, dtype=np.float32) * 3, name)[name].value == pytest.approx(7, rel=1e-12)
    assert scores(np.repeat(np.eye(4, dtype=np.float32), 5, 0), name)[name].value == pytest.approx(4, rel=1e-12)
    assert scores(np.ones((9, 4), np.float32), name)[name].value == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("count", "dim"), [(80, 6), (12, 40), (20, 20)])
def test_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch, count: int, dim: int) -> None:
    monkeypatch.setattr("fdr.metrics.vendi.CHUNK", 7)
    features = draw(0, count, dim)
    for name, found in scores(features).items():
        assert found.value == pytest.approx(by_definition(features, ORDERS[name]), rel=1e-10), name


@pytest.mark.parametrize("order", ORDERS.values())
def test_equals_the_package_vendi_score(order: float) -> None:
    features = draw(2, 60)
    name = next(name for name, q in ORDERS.items() if q == order)
    theirs = package.score_dual(features.astype(float), q="inf" if math.isinf(order) else order)
    assert scores(features, name)[name].value == pytest.approx(theirs, rel=1e-9)


def test_the_orders_fall() -> None:
    values = [scores(draw(1, 60))[name].value for name in ("vendi:0.5", "vendi", "vendi:2", "vendi:inf")]
    assert values == sorted(values, reverse=True) and values[-1] > 1


@pytest.mark.parametrize(("count", "dim"), [(150, 6), (60, 80)])
def test_the_standard_error_is_the_spread_over_draws(count: int, dim: int) -> None:
    found = [scores(draw(seed, count, dim)) for seed in range(50)]
    for name in ORDERS:
        stated = np.sqrt(np.mean([one[name].stderr ** 2 for one in found]))  # type: ignore[operator]
        assert stated == pytest.approx(np.std([one[name].value for one in found], ddof=1), rel=0.3), name


def test_the_two_ways_to_the_eigenvalues_give_one_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that is always 0 makes N < D."""
    narrow = draw(2, 20, 6)
    wide = np.concatenate([narrow, np.zeros((20, 30), np.float32)], axis=1)
    for name in ORDERS:
        first, second = scores(narrow, name)[name], scores(wide, name)[name]
        assert first.value == pytest.approx(second.value, rel=1e-9)
        assert first.stderr == pytest.approx(second.stderr, rel=1e-6)
    assert all(one.stderr is None for one in scores(narrow, context=Context(stderr=False)).values())


def test_what_cannot_be_compared_is_refused() -> None:
    features = draw(3, 5)
    features[2] = 0
    with pytest.raises(InputError, match="vendi compares the directions of features; those of an image are all 0"):
        scores(features)
    with pytest.raises(InputError, match="needs at least 2 samples; got 1"):
        scores(features[:1])
    assert load_metrics("vendi")["vendi"].settings == {"kernel": "cosine"}


def per_class(features: np.ndarray, labels: np.ndarray, context: Context | None = None) -> Score:
    labelled = Labelled(features, labels, None, "samples.npz")
    return load_metrics("vendi:class")["vendi:class"].scores(labelled, None, context or Context())["vendi:class"]


def test_the_mean_over_classes() -> None:
    features, labels = draw(4, 60), np.arange(60) % 4 * 3
    found = per_class(features, labels)
    parts = [scores(features[labels == label], "vendi")["vendi"] for label in (0, 3, 6, 9)]
    assert found.value == pytest.approx(np.mean([part.value for part in parts]), rel=1e-12)
    errors = [part.stderr for part in parts]
    assert found.stderr == pytest.approx(np.sqrt(np.square(errors).sum()) / 4, rel=1e-12)  # type: ignore[arg-type]
    values = [part.value for part in parts]
    assert found.details == {"classes": 4, "smallest": min(values), "largest": max(values)}
    assert per_class(features, labels, Context(stderr=False)).stderr is None
    assert load_metrics("vendi:class")["vendi:class"].labels == ("samples",)


def test_a_class_of_one_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 2 samples of every class; class 7 of samples.npz has 1"):
        per_class(draw(5, 5), np.array([1, 1, 2, 2, 7]))
