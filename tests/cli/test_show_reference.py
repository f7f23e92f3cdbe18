"""Effective rank and participation ratio of a reference; how `fdr show` prints its curve and noise floor."""

from __future__ import annotations

import importlib
import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from fdr.frechet import LeverageCurve, Moments
from fdr.references import geometry
from fdr.references.geometry import effective_rank, participation_ratio, spectrum
from fdr.references.noise_floor import NoiseFloor


def moments(values: list[float], count: int | None = 99) -> Moments:
    """Moments with those eigenvalues, in a basis that is rotated."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values), len(values))))
    return Moments(np.ones(len(values)), basis @ np.diag(values) @ basis.T, count)


@pytest.mark.parametrize(("values", "rank", "ratio"), [
    ([2.0, 2.0, 2.0, 2.0], 4.0, 4.0),
    ([5.0, 0.0, 0.0], 1.0, 1.0),
    ([0.0, 0.0, 0.0], 0.0, 0.0),
    ([3.0, 1.0], 4 / 3**0.75, 16 / 10),  # exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 4 / 3^(3/4)
    ([8.0, 4.0, 2.0, 1.0], None, 225 / 85),
])  # fmt: skip
def test_closed_forms(values: list[float], rank: float | None, ratio: float) -> None:
    sigma = moments(values).sigma
    assert participation_ratio(sigma) == pytest.approx(ratio, rel=1e-12)
    if rank is not None:
        assert effective_rank(np.array(values)) == pytest.approx(rank, rel=1e-12)


def test_the_effective_rank_agrees_with_scipy_and_lies_between_participation_ratio_and_dimension() -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        values = np.random.default_rng(seed).exponential(size=12)
        found = effective_rank(values)
        assert found == pytest.approx(np.exp(stats.entropy(values)), rel=1e-12)
        assert participation_ratio(moments(values.tolist()).sigma) <= found <= 12


def test_scale_and_rotation_change_neither() -> None:
    values = np.array([4.0, 2.0, 1.0])
    for scale in (1e-200, 3.0, 1e100):
        assert effective_rank(scale * values) == pytest.approx(effective_rank(values), rel=1e-12)
    assert effective_rank(spectrum(moments([4.0, 2.0, 1.0]))) == pytest.approx(effective_rank(values), rel=1e-12)


def test_the_spectrum_of_few_features_comes_from_the_features() -> None:
    few = Moments.from_features(np.random.default_rng(1).normal(size=(5, 9)))
    assert few.factor is not None
    assert spectrum(few)[1:] == pytest.approx(np.linalg.eigvalsh(few.sigma)[-4:], rel=1e-9)
    assert len(spectrum(few)) == 5


@pytest.mark.parametrize(("last", "rank"), [(1e-3, 3), (0.0, 2), (1e-15, None), (-1e-15, None), (-1e-3, None)])
def test_the_rank_is_taken_from_the_spectrum_where_it_leaves_no_doubt(last: float, rank: int | None) -> None:
    found = Moments(np.ones(3), np.diag([4.0, 2.0, 0.0]), 99)
    object.__setattr__(found, "sigma", np.diag([4.0, 2.0, last]))
    spectrum(found)
    assert found.derived == ({} if rank is None else {"rank": rank})


FLOOR = NoiseFloor(0.5, 0.01, 40, 4, 7, -0.002, 0.003)


def shown(fdr_command, path: Path, *more: str) -> dict[str, object]:
    got = fdr_command("show", path, "--json", "-", *more)
    assert got.code == 0, got.err
    return json.loads(got.out)


@pytest.mark.parametrize("name", ["s.npz", "s.h5"])
def test_show_prints_what_tells_how_far_to_trust_fd(fdr_command, tmp_path: Path, name: str) -> None:
    curve = LeverageCurve(np.array([1.0, 2.0, 3.0]), np.array([1.5, 1.2, 1.1]))
    replace(moments([3.0, 1.0]), curve=curve).save(tmp_path / name, FLOOR.attributes)
    facts = shown(fdr_command, tmp_path / name)
    assert facts["effective rank"] == pytest.approx(4 / 3**0.75)
    assert (facts["participation ratio"], facts["leverage curve"]) == (pytest.approx(1.6), "3 points")
    assert facts["count"] == 99 and facts["noise floor"]["fd"] == 0.5
    assert not [key for key in facts if key.startswith("noise_floor")]
    text = fdr_command("show", tmp_path / name).out
    assert "effective rank" in text and "debiased_stderr  0.003" in text
    moments([3.0, 1.0]).save(tmp_path / name)
    plain = shown(fdr_command, tmp_path / name)
    assert plain["leverage curve"] == "none" and "noise floor" not in plain


def test_wide_moments_get_their_eigenvalues_on_request_only(fdr_command, tmp_path: Path, monkeypatch) -> None:
    moments([3.0, 1.0]).save(tmp_path / "s.npz")
    monkeypatch.setattr(importlib.import_module("fdr.references.describe"), "LARGEST_DIM", 1)
    assert "effective rank" not in shown(fdr_command, tmp_path / "s.npz")
    assert shown(fdr_command, tmp_path / "s.npz", "--spectrum")["effective rank"] == pytest.approx(4 / 3**0.75)
    assert geometry.LARGEST_DIM >= 2048


def test_a_noise_floor_is_read_back_as_it_was_stored() -> None:
    assert NoiseFloor.of(FLOOR.attributes) == FLOOR
    small = replace(FLOOR, debiased=None, debiased_stderr=None)
    assert NoiseFloor.of(small.attributes) == small and len(small.attributes) == len(astuple(FLOOR)) - 2
    assert str(FLOOR) == "FD 0.5 ± 0.01, debiased -0.002 ± 0.003 between random halves of 40 images (4 splits)"
    assert str(small) == "FD 0.5 ± 0.01 between random halves of 40 images (4 splits)"
    for name in ("fd", "fd_stderr", "count", "splits", "seed"):
        missing = {key: value for key, value in FLOOR.attributes.items() if key != f"noise_floor_{name}"}
        assert NoiseFloor.of(missing) is None
        assert NoiseFloor.of({**FLOOR.attributes, f"noise_floor_{name}": "x"}) is None
    assert NoiseFloor.of({}) is None


def test_altered_numbers_of_a_noise_floor_are_refused(fdr_command, tmp_path: Path) -> None:
    for name, value in FLOOR.attributes.items():
        moments([3.0, 1.0]).save(tmp_path / "s.h5", {**FLOOR.attributes, name: f"{value}"})
        got = fdr_command("show", tmp_path / "s.h5")
        assert got.code == 2 and f"attribute '{name}' that is no number" in got.err
