"""CMMD: closed forms, the definition in NumPy, and the standard error against repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import TinyEncoder, images, npz

from fdr.errors import InputError
from fdr.evaluation import evaluate
from fdr.metrics import Context, Score, load_metrics

METRIC = load_metrics("cmmd")["cmmd"]


def unit(seed: int, count: int, dim: int = 12, shift: float = 0.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dim)) + shift
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def score(samples: np.ndarray, reference: np.ndarray) -> Score:
    return METRIC.scores(samples, reference, Context())["cmmd"]


@pytest.mark.parametrize(("other", "value"), [(1, 19.900), (0, 0.0), (-1, 39.603)])
def test_closed_forms_of_two_points(other: int, value: float) -> None:
    """The same, orthogonal and opposite embeddings: 1000 (2 − 2 exp(−|x − y|² / 200))."""
    x = np.tile(np.float32([1, 0]), (6, 1))
    y = np.tile(np.float32({1: [0, 1], 0: [1, 0], -1: [-1, 0]}[other]), (5, 1))
    found = score(x, y)
    assert found.value == pytest.approx(value, abs=5e-4)
    assert found.value == pytest.approx(2000 * (1 - np.exp(-float(((x[0] - y[0]) ** 2).sum()) / 200)), rel=1e-6)
    assert found.stderr == pytest.approx(0, abs=5e-3), "that of rounding to float32"


def test_is_the_biased_mmd_of_the_definition() -> None:
    x, y = unit(0, 70), unit(1, 50, shift=0.3)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None].astype(float) - b[None]) ** 2).sum(-1) / 200)

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    found = score(x, y)
    assert found.value == pytest.approx(1000 * (xx.mean() + yy.mean() - 2 * xy.mean()), rel=1e-6)
    within = (xx.sum() - 70) / (70 * 69) + (yy.sum() - 50) / (50 * 49)
    assert found.details == {"unbiased": pytest.approx(1000 * (within - 2 * xy.mean()), rel=1e-5)}
    assert score(y, x).value == pytest.approx(found.value, rel=1e-7)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_standard_error_is_the_spread_over_draws(shift: float) -> None:
    found = [score(unit(2 * i, 60, shift=shift), unit(2 * i + 1, 80)) for i in range(500, 620)]
    stated = np.sqrt(np.mean([one.stderr**2 for one in found]))  # type: ignore[operator]
    assert 0.8 < stated / np.std([one.value for one in found], ddof=1) < 1.3


def test_the_value_of_equal_distributions_is_what_the_images_add_by_their_number() -> None:
    """1000 (1 − E k) (1/N + 1/M), the same for every encoder whose embeddings are as far apart."""
    values = [score(unit(2 * i, 60), unit(2 * i + 1, 80)).value for i in range(700, 780)]
    assert np.mean(values) == pytest.approx(1000 * (1 - np.exp(-2 / 200)) * (1 / 60 + 1 / 80), rel=0.05)


def test_embeddings_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"of length 1; those of the reference images have lengths from .*clip:cmmd"):
        score(unit(0, 8), 2 * unit(1, 8))
    with pytest.raises(InputError, match="needs at least 4 samples; got 3"):
        METRIC.scores(unit(0, 3), unit(1, 8), Context(names=("cmmd",)))


def test_an_encoder_without_such_embeddings_is_refused(tmp_path) -> None:
    npz(tmp_path / "s.npz", images(8))
    with pytest.raises(InputError, match=r"needs the output 'embedding-l2', which tiny does not.* such as clip:cmmd"):
        evaluate(tmp_path / "s.npz", tmp_path / "s.npz", TinyEncoder(), "cmmd")
    assert METRIC.settings == {"kernel": "rbf10"}
