"""Precision and recall: laws, torch-fidelity and brute force as oracles, and ADM's half-precision rule by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adm_oracle import precision_recall

from fdr.errors import InputError
from fdr.metrics import METRICS, Context, Score, load_metrics
from fdr.metrics import distances as neighbours
from fdr.metrics.precision_recall import K
from fdr.runtime import Progress

EXACT = ("precision", "recall")
ADM = ("precision:adm", "recall:adm")
ALL = (*EXACT, *ADM)


def draw(seed: int, count: int, dim: int = 24, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) + shift).astype(np.float32)


def score(name: str, samples: np.ndarray, reference: np.ndarray, progress: Progress | None = None) -> Score:
    context = Context() if progress is None else Context(progress=progress)
    return load_metrics(name)[name].scores(samples, reference, context)[name]


def value(name: str, samples: np.ndarray, reference: np.ndarray) -> float:
    return score(name, samples, reference).value


def brute_force(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Precision and recall from all differences, in float64."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))

    radii = [np.sort(distances(x, x), axis=1)[:, K] for x in (samples, reference)]
    cross = distances(samples, reference)
    in_reference, in_samples = cross <= radii[1], radii[0] >= cross.T
    return float(in_reference.any(1).mean()), float(in_samples.any(1).mean())


@pytest.mark.parametrize(("count", "dim", "shift"), [(300, 24, 0.0), (257, 3, 0.3), (64, 200, 0.05)])
def test_equals_torch_fidelity_and_brute_force(count: int, dim: int, shift: float) -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    samples, reference = draw(0, count, dim), draw(1, count + 40, dim, shift)
    found = tuple(value(metric, samples, reference) for metric in EXACT)
    theirs = prc.prc_features_to_metric(
        torch.from_numpy(samples).double(), torch.from_numpy(reference).double(), prc_neighborhood=K, verbose=False
    )
    assert found == pytest.approx((theirs[prc.KEY_METRIC_PRECISION], theirs[prc.KEY_METRIC_RECALL]), abs=1e-6)
    assert found == brute_force(samples, reference)
    assert 0 < found[0] < 1 and 0 < found[1] < 1


@pytest.mark.parametrize(("scale", "dim", "overflows"), [(10, 24, False), (6, 100, False), (300, 24, True)])
def test_adm_rule_is_that_of_numpys_halves(
    scale: float, dim: int, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, whose float32 sums are exact in any order: the values are equal on every machine."""
    monkeypatch.setattr(neighbours, "ADM_BLOCK", 100)
    monkeypatch.setattr(neighbours, "ADM_ROWS", 30)
    samples, reference = np.rint(draw(2, 330, dim, 2) * scale), np.rint(draw(3, 250, dim, 2.1) * scale)
    found = tuple(value(name, samples, reference) for name in ADM)
    assert found == precision_recall(samples, reference, 100)
    assert (found == brute_force(samples, reference)) == overflows


@pytest.mark.parametrize("row", [0, 45, 99])
def test_one_value_that_overflows_makes_its_whole_block_exact_and_no_other(
    row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ADM_BLOCK", 100)
    monkeypatch.setattr(neighbours, "ADM_ROWS", 30)
    samples, reference = np.rint(draw(26, 200, 24, 2) * 10), np.rint(draw(27, 200, 24, 2.1) * 10)
    samples[100 + row] = 300  # its squared norm is above 65504
    for name, (first, second) in {"rows": (samples, reference), "columns": (reference, samples)}.items():
        blocks = list(neighbours.adm_blocks(first, second, torch.device("cpu")))
        side = 0 if name == "rows" else 1
        halves = {(b.rows.start >= 100, b.columns.start >= 100): [] for b in blocks}
        for block in blocks:
            is_half = bool(torch.equal(block.squared, block.squared.half().float()))
            halves[block.rows.start >= 100, block.columns.start >= 100].append(is_half)
        for place, found in halves.items():
            if place[side]:
                assert not all(found), f"block {place} of {name} overflows and is float32 as a whole"
            else:
                assert all(found)
    assert tuple(value(name, samples, reference) for name in ADM) == precision_recall(samples, reference, 100)


@pytest.mark.parametrize(("dim", "scale"), [(2048, 3), (24, 10), (2048, 300)])
def test_every_pair_comes_once_in_adms_rule(dim: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"ADM_BLOCK": 20, "ADM_ROWS": 9}.items():
        monkeypatch.setattr(neighbours, name, size)
    features = np.concatenate([draw(28, 31, dim) * scale] * 2).astype(np.float32)
    found = np.full((62, 62), np.nan)
    for block in neighbours.adm_blocks(features, features, torch.device("cpu")):
        assert np.isnan(found[block.rows, block.columns]).all()
        found[block.rows, block.columns] = block.squared.numpy()
    assert not np.isnan(found).any() and (found >= 0).all()
    expected = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=2000 if scale == 300 else 64)


def test_half_distances_are_rounded_and_a_block_that_overflows_is_not() -> None:
    device = torch.device("cpu")
    small, large = draw(4, 20, 64), draw(5, 20, 64) * np.float32(100)
    (block,) = neighbours.adm_blocks(small, small, device)
    assert torch.equal(block.squared, block.squared.half().float())
    (block,) = neighbours.adm_blocks(small, large, device)
    assert torch.isfinite(block.squared).all() and block.squared.max() > torch.finfo(torch.float16).max


@pytest.mark.parametrize("metric", ALL)
def test_a_set_covers_itself_and_nothing_far_away(metric: str) -> None:
    features = draw(6, 90)
    assert value(metric, features, features) == 1
    assert value(metric, features, features + 40) == 0


def test_the_roles_are_not_symmetric_and_swap_with_the_arguments() -> None:
    narrow, wide = draw(7, 200, 4) * np.float32(0.1), draw(8, 200, 4)
    assert value("precision", narrow, wide) > 0.9 > 0.3 > value("recall", narrow, wide)
    assert value("precision", narrow, wide) == value("recall", wide, narrow)


@pytest.mark.parametrize("metric", EXACT)
def test_rotation_shift_and_order_change_nothing(metric: str) -> None:
    samples, reference = draw(9, 150, 8), draw(10, 170, 8, 0.3)
    before = value(metric, samples, reference)
    rotation = np.linalg.qr(np.random.default_rng(11).normal(size=(8, 8)))[0]
    turned = [(x.astype(np.float64) @ rotation + 3).astype(np.float32) for x in (samples, reference)]
    assert value(metric, *turned) == pytest.approx(before, abs=1 / 150)  # float32 features round at the border
    order = np.random.default_rng(12).permutation(150)
    assert value(metric, samples[order], reference[::-1].copy()) == before


@pytest.mark.parametrize("metric", EXACT)
def test_duplicates_are_at_distance_zero(metric: str) -> None:
    """Ten copies of each feature: all radii are 0, and only the same features again are inside."""
    features = np.repeat(draw(13, 30, 2048) * 3, 10, axis=0)
    assert value(metric, features, features[::-1].copy()) == 1
    assert value(metric, features, features * np.float32(1.001)) == 0


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_rows_within_a_block_of_adm_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, reference = draw(16, 130, 12), draw(17, 140, 12, 0.2)
    expected = [value(metric, samples, reference) for metric in ADM]
    monkeypatch.setattr(neighbours, "ADM_ROWS", size)
    assert [value(metric, samples, reference) for metric in ADM] == expected


def test_half_precision_moves_the_values_a_little() -> None:
    samples, reference = draw(18, 600, 256), draw(19, 600, 256, 0.05)
    for exact, half in zip(EXACT, ADM, strict=True):
        gap = abs(value(exact, samples, reference) - value(half, samples, reference))
        assert gap < 0.05


def test_names_and_constants_of_the_definition() -> None:
    metrics = load_metrics(ALL)
    assert all(metrics[name].settings_of(name) == {"k": "3"} for name in EXACT)
    assert all(metrics[name].settings_of(name) == {"k": "3", "d": "f16"} for name in ADM)
    assert not any(METRICS[name].lower_is_better for name in ALL)
    assert all(metric.needs_reference for metric in metrics.values())


@pytest.mark.parametrize("names", [EXACT, ADM])
def test_both_from_one_computation_are_each_alone(names: tuple[str, str]) -> None:
    samples, reference = draw(24, 130, 12), draw(25, 110, 12, 0.2)
    metrics = load_metrics(names)
    assert metrics[names[0]] is metrics[names[1]]
    together = metrics[names[0]].scores(samples, reference, Context())
    assert {name: found.value for name, found in together.items()} == {
        name: value(name, samples, reference) for name in names
    }


def test_unequal_numbers_are_noted_where_they_are_not_the_definition() -> None:
    samples, reference = draw(20, 30), draw(21, 40)
    (note,) = score("precision", samples, reference).notes
    assert note.startswith("30 samples and 40 reference images: precision moves")
    assert score("recall", reference, samples).notes[0].startswith("40 samples and 30 reference images: recall moves")
    assert not score("precision", samples, reference[:30]).notes
    assert not score("precision:adm", samples, reference).notes


def test_progress_is_told_of_every_distance() -> None:
    told: list[float] = []

    class Counting:
        def task(self, title: str, total: float | None, unit: str = "images") -> Counting:
            self.total, self.unit = total, unit
            return self

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def advance(self, amount: float = 1) -> None:
            told.append(amount)

    progress = Counting()
    score("recall", draw(22, 30), draw(23, 40), progress)
    assert sum(told) == progress.total == 30 * 30 + 30 * 40


@pytest.mark.parametrize("metric", ALL)
def test_too_few_or_unfitting_features_are_refused(metric: str) -> None:
    with pytest.raises(InputError, match=rf"{metric} needs more than 3 samples, for a 3rd neighbour; got 3"):
        score(metric, draw(0, 3), draw(1, 9))
    with pytest.raises(InputError, match="needs more than 3 reference images"):
        score(metric, draw(0, 9), draw(1, 3))
    with pytest.raises(InputError, match="features of width 24, the reference of width 5"):
        score(metric, draw(0, 9), draw(1, 9, 5))


@pytest.mark.parametrize("name", ALL)
def test_the_standard_error_is_binomial_over_the_points(name: str) -> None:
    samples, reference = draw(40, 90), draw(41, 70, shift=0.2)
    found = score(name, samples, reference)
    count = 90 if name.startswith("precision") else 70
    assert found.stderr == pytest.approx(np.sqrt(found.value * (1 - found.value) / count), rel=1e-12)
    assert found.value not in (0, 1)
