"""MIND and the sliced W₂: laws, the definitions in NumPy, closed forms, and standard errors against repeated draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metrics.peer_definitions import mind_by_definition
from worlds import TinyEncoder, images, npz

from fdr.errors import InputError
from fdr.evaluation import evaluate
from fdr.frechet import Moments
from fdr.metrics import Context, Score, load_metrics, mean_score, mind_score
from fdr.metrics import sliced as module
from fdr.reports import Report


def draw(seed: int, count: int, dim: int = 8, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) * scale + shift).astype(np.float32)


def score(name: str, samples: np.ndarray, reference: np.ndarray, context: Context | None = None) -> Score:
    return load_metrics(name)[name].scores(samples, reference, context or Context())[name]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 directions, a few at a time."""
    monkeypatch.setattr(module, "DIRECTIONS", 40)
    monkeypatch.setattr(module, "PROJECTIONS", 500)


@pytest.mark.parametrize("counts", [(60, 60), (60, 47), (31, 60)])
def test_mind_is_that_of_its_definition(few: None, counts: tuple[int, int]) -> None:
    x, y = draw(0, counts[0], shift=5), draw(1, counts[1], shift=5.2)
    found = score("mind", x, y)
    assert found.value == pytest.approx(mind_by_definition(x, y, 40), rel=1e-5)
    assert found.details["images"] == min(counts) and found.details["directions"] == 40
    assert [f"{min(counts)} of {max(counts)} images" in note for note in found.notes] == [True] * (
        counts[0] != counts[1]
    )


def test_mind_of_other_directions_and_another_seed(few: None) -> None:
    x, y = draw(0, 60, shift=5), draw(1, 47, shift=5.2)
    found = mind_score(x, y, Context(), directions=25, seed=7)
    assert found.value == pytest.approx(mind_by_definition(x, y, 25, 7), rel=1e-5)
    assert found.value != score("mind", x, y).value and found.details["directions"] == 25


def test_mind_of_the_same_images_is_zero_and_it_is_symmetric(few: None) -> None:
    x, y = draw(2, 50), draw(3, 50, shift=1)
    assert score("mind", x, x).value == 0
    assert score("mind", x, y).value == pytest.approx(score("mind", y, x).value, rel=1e-6)
    assert score("mind", x + 3, y + 3).value == pytest.approx(score("mind", x, y).value, rel=1e-5)


def test_mind_of_isotropic_gaussians_is_three_times_their_fd() -> None:
    x, y = draw(4, 4000, 32), draw(5, 4000, 32, shift=0.5, scale=1.5)
    fd = 32 * (0.5**2 + 0.5**2)
    assert score("mind", x, y).value == pytest.approx(3 * fd, rel=0.02)


def test_the_floor_of_equal_distributions() -> None:
    """N(0, I_64), n = 5000: 0.245, as docs/metrics.md says."""
    values = [score("mind", draw(2 * i, 2500, 64), draw(2 * i + 1, 2500, 64)).value for i in range(2)]
    assert np.mean(values) == pytest.approx(2 * 0.245, rel=0.1), "it falls as 1/n"


@pytest.mark.parametrize("counts", [(12, 12), (12, 8), (9, 24), (7, 5)])
def test_sw2_of_sets_of_any_size_is_that_of_repeated_points(few: None, counts: tuple[int, int]) -> None:
    x, y = draw(6, counts[0]), draw(7, counts[1], shift=0.5)
    size = int(np.lcm(*counts))
    repeated = [np.repeat(side, size // len(side), axis=0) for side in (x, y)]
    expected = np.sqrt(mind_by_definition(*repeated, 40) / (3 * 8))  # type: ignore[misc]
    assert score("sw2", x, y).value == pytest.approx(expected, rel=1e-5)


def test_equal_sets_have_one_sliced_distance(few: None) -> None:
    x, y = draw(8, 50), draw(9, 50, shift=1)
    mind, sw2 = score("mind", x, y), score("sw2", x, y)
    assert sw2.value == pytest.approx(np.sqrt(mind.value / 24), rel=1e-12)
    assert sw2.stderr == pytest.approx(mind.stderr / 24 / (2 * sw2.value), rel=1e-9)  # type: ignore[operator]
    ratio = sw2.details["direction_stderr"] / mind.details["direction_stderr"]
    assert ratio == pytest.approx(1 / 24 / (2 * sw2.value), rel=1e-9)
    assert score("sw2", x, x).value == 0 and score("sw2", x, x).stderr is None


@pytest.mark.parametrize(("name", "counts"), [("mind", (80, 80)), ("sw2", (80, 60)), ("sw_approx", (80, 60))])
def test_the_standard_error_is_the_spread_over_draws(few: None, name: str, counts: tuple[int, int]) -> None:
    found = []
    for i in range(300, 420):
        x, y = draw(2 * i, counts[0], shift=0.6), draw(2 * i + 1, counts[1], scale=1.3)
        if name == "sw_approx":
            moments = [moments_with(side) for side in (x, y)]
            found.append(load_metrics(name)[name].scores(*moments, Context())[name])
        else:
            found.append(score(name, x, y))
    stated = np.sqrt(np.mean([one.stderr**2 for one in found]))  # type: ignore[operator]
    assert stated == pytest.approx(np.std([one.value for one in found], ddof=1), rel=0.25)


def moments_with(rows: np.ndarray) -> Moments:
    plain = Moments.from_features(rows)
    return Moments(plain.mu, plain.sigma, plain.count, rows=rows)


def test_the_standard_error_of_equal_distributions_is_rather_too_large(few: None) -> None:
    found = [score("mind", draw(2 * i, 60), draw(2 * i + 1, 60)) for i in range(500, 580)]
    stated = np.sqrt(np.mean([one.stderr**2 for one in found]))  # type: ignore[operator]
    assert 1.0 < stated / np.std([one.value for one in found], ddof=1) < 2.5


def test_no_standard_error_where_none_is_wanted(few: None) -> None:
    x, y = draw(10, 20), draw(11, 20)
    for name in ("mind", "sw2"):
        assert score(name, x, y, Context(stderr=False)).stderr is None
        assert score(name, x, y, Context(stderr=False)).value == score(name, x, y).value


def test_the_directions_move_the_value_by_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(12, 40), draw(13, 40, shift=1.0)
    monkeypatch.setattr(module, "DIRECTIONS", 50)
    found = []
    for seed in range(60):
        monkeypatch.setattr(module, "SEED", seed)
        found.append(score("mind", x, y, Context(stderr=False)))
    stated = np.sqrt(np.mean([one.details["direction_stderr"] ** 2 for one in found]))
    assert stated == pytest.approx(np.std([one.value for one in found], ddof=1), rel=0.25)


def test_sw_approx_is_that_of_its_formula() -> None:
    x, y = draw(14, 30, shift=0.3), draw(15, 40, scale=2)
    means = ((x.mean(0, dtype=float) - y.mean(0, dtype=float)) ** 2).sum() / 8
    deviations = [np.sqrt(((side - side.mean(0, dtype=float)) ** 2).sum(1).mean() / 8) for side in (x, y)]
    metric = load_metrics("sw_approx")["sw_approx"]
    value = np.sqrt(means + (deviations[0] - deviations[1]) ** 2)
    found = metric.scores(Moments.from_features(x), Moments.from_features(y), Context())["sw_approx"]
    assert found.value == pytest.approx(value, rel=1e-6) and found.stderr is None
    exact = metric.scores(moments_with(x), Moments.from_features(y), Context())["sw_approx"]
    both = metric.scores(moments_with(x), moments_with(y), Context())["sw_approx"]
    assert 0 < exact.stderr < both.stderr, "a reference without features counts as exact"  # type: ignore[operator]


def test_one_image_is_too_few() -> None:
    for name in ("mind", "sw2"):
        with pytest.raises(InputError, match=f"{name} needs at least 2 images of either side; got 1"):
            score(name, draw(0, 1), draw(1, 5))


def test_the_mean_over_encoders(few: None, tmp_path: Path) -> None:
    npz(tmp_path / "s.npz", images(12, seed=1)), npz(tmp_path / "r.npz", images(12))
    encoders = [TinyEncoder("a"), TinyEncoder("b")]
    report = evaluate(tmp_path / "s.npz", tmp_path / "r.npz", encoders, "mind_k")
    assert [row.key for row in report] == ["mind:a", "mind:b", "mind_k"]
    parts, mean = [report["mind", name] for name in "ab"], report["mind_k"]
    assert mean.value == pytest.approx(np.mean([part.value for part in parts]), rel=1e-12)
    assert mean.stderr == pytest.approx(np.mean([part.stderr for part in parts]), rel=1e-12)
    assert mean.k == 2 and mean.encoders == ("a", "b")
    assert "|directions:1000|seed:2020|" in mean.signature and mean.signature.startswith("mind_k:2|")
    assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_the_mean_of_standard_errors_needs_all_of_them() -> None:
    assert mean_score({"a": Score(1.0, 0.2), "b": Score(2.0)}).stderr is None
    assert mean_score({"a": Score(1.0, 0.2), "b": Score(2.0, 0.4)}).stderr == pytest.approx(0.3)
