"""What `fdr stats` stores beside moments: leverage curve, density, noise floor and the debiased validation FD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import DIM, TinyEncoder, images, npz

from fdr.errors import FdrWarning, InputError
from fdr.evaluation import random_rows, reference_facts, write_reference, write_reference_file
from fdr.evaluation.random_rows import RandomRows, random_keys
from fdr.evaluation.reference_facts import SPLITS, density, noise_floor, validation_fds, with_curve
from fdr.features import ExtractionOptions
from fdr.frechet import Moments, debiased_frechet_distance, frechet_distance, leverage_curve
from fdr.images import ImageOptions, open_images
from fdr.references import LAYOUTS, ConvertOptions, NoiseFloor, convert, open_statistics
from fdr.runtime import SilentProgress

ENCODER = TinyEncoder()


def normal(count: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim)) * np.arange(1, dim + 1)
    return rows.astype(np.float32)


def collected(batches: list[np.ndarray], features: np.ndarray, parts: int = 1) -> np.ndarray:
    """What is kept of features that arrive in batches of rows, dealt out to several ranks."""
    ranks = [RandomRows() for _ in range(parts)]
    for index, rows in enumerate(batches):
        ranks[index % parts].add(rows, features[rows])
    for rank in ranks[1:]:
        ranks[0].absorb(rank.state())
    return ranks[0].finish()


def test_all_features_are_kept_in_order_while_they_fit() -> None:
    features = normal(50)
    order = np.random.default_rng(1).permutation(50)
    for batches, parts in (([order], 1), (np.array_split(order, 7), 1), (np.array_split(order, 7), 3)):
        assert np.array_equal(collected(list(batches), features, parts), features)


def test_the_part_that_is_kept_depends_neither_on_batches_nor_on_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = normal(200)
    monkeypatch.setattr(random_rows, "ROWS_BYTES", 40 * 6 * 4)
    first = np.sort(np.argsort(random_keys(np.arange(200)))[:40])
    order = np.random.default_rng(1).permutation(200)
    for size, parts in ((200, 1), (1, 1), (7, 1), (7, 3), (50, 4)):
        batches = np.split(order, range(size, 200, size))
        assert np.array_equal(collected(batches, features, parts), features[first]), (size, parts)


def test_memory_stays_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_rows, "ROWS_BYTES", 40 * 6 * 4)
    kept = RandomRows()
    for start in range(0, 1000, 10):
        kept.add(np.arange(start, start + 10), normal(10))
        assert sum(map(len, kept._features)) <= 50
    assert len(kept.finish()) == 40


def test_no_two_rows_have_one_key_and_keys_are_spread_evenly() -> None:
    keys = random_keys(np.arange(20_000))
    assert len(np.unique(keys)) == 20_000
    shares = np.histogram(keys.astype(float), 10, (0, 2.0**64))[0] / 20_000
    assert abs(shares - 0.1).max() < 0.01


def test_the_curve_is_that_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normal(300)
    moments = Moments.from_features(rows)
    found = with_curve(moments, rows)
    assert found.curve is not None and found == moments
    assert np.array_equal(found.curve.array, leverage_curve(moments, rows).array)
    part = with_curve(moments, rows[:150])
    assert part.curve is not None and abs(part.curve.kappa / found.curve.kappa - 1).max() < 0.2
    still = Moments(np.ones(3), np.zeros((3, 3)), 9)
    assert with_curve(still, np.ones((9, 3), np.float32)).curve is None


def test_a_curve_that_cannot_be_computed_costs_a_warning_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise InputError("because.")

    monkeypatch.setattr(reference_facts, "leverage_curve", fails)
    moments = Moments.from_features(normal(30))
    with pytest.warns(FdrWarning, match=r"no leverage curve, so the debiased FD treats it as Gaussian: because"):
        assert with_curve(moments, normal(30)) is moments


def test_density_is_that_of_scipy() -> None:
    spatial = pytest.importorskip("scipy.spatial")
    rows = normal(60)
    distances = spatial.KDTree(rows.astype(np.float64)).query(rows.astype(np.float64), k=6)[0][:, 5]
    found = density(rows)
    assert found["density"] == pytest.approx(-np.log(distances).mean(), rel=1e-9)
    assert (found["density_k"], found["density_count"]) == (5, 60)
    assert density(3 * rows)["density"] == pytest.approx(found["density"] - np.log(3), abs=1e-6)


def test_density_is_of_a_part_of_many_and_of_nothing_where_it_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    assert density(normal(5)) == {} and density(normal(6))["density_count"] == 6
    rows = normal(40)
    assert density(np.concatenate([rows, np.repeat(rows[:1], 4, 0)]))
    assert density(np.concatenate([rows, np.repeat(rows[:1], 5, 0)])) == {}
    monkeypatch.setattr(reference_facts, "DENSITY_COUNT", 30)
    assert density(rows)["density_count"] == 30 and density(rows) == density(rows)


def test_the_noise_floor_is_the_mean_over_halves() -> None:
    rows = normal(401, dim=3)
    floor = noise_floor(rows, 7, SilentProgress(), "x")
    draws, raw, debiased = np.random.default_rng(7), [], []
    for _ in range(SPLITS):
        order = draws.permutation(401)
        a, b = (Moments.from_features(rows[order[i : i + 200]]) for i in (0, 200))
        raw.append(frechet_distance(a, b))
        debiased.append(debiased_frechet_distance(rows[order[:200]], rows[order[200:400]], stderr=False).value)
    assert floor.fd == pytest.approx(np.mean(raw), rel=1e-9)
    assert floor.fd_stderr == pytest.approx(np.std(raw, ddof=1) / 2, rel=1e-9)
    assert floor.debiased == pytest.approx(np.mean(np.array(debiased, dtype=float)), rel=1e-9)
    assert (floor.count, floor.splits, floor.seed) == (200, SPLITS, 7)
    assert floor.fd > 0 and abs(floor.debiased or 0) < floor.fd
    assert noise_floor(rows, 8, SilentProgress(), "x").fd != floor.fd


def test_halves_that_are_too_small_for_the_debiased_fd_have_the_raw_one() -> None:
    floor = noise_floor(normal(20), 0, SilentProgress(), "x")
    assert floor.debiased is None and floor.debiased_stderr is None and floor.fd > 0
    with pytest.raises(InputError, match="3 images have no halves for --noise-floor; it needs at least 4"):
        noise_floor(normal(3), 0, SilentProgress(), "x")


def test_the_validation_fd_is_debiased_where_its_features_are_at_hand() -> None:
    rows, other = normal(500), normal(400, seed=1)
    moments = with_curve(Moments.from_features(rows), rows)
    validation = Moments.from_features(other)
    plain = validation_fds(validation, moments)
    assert plain == {"val_fd": frechet_distance(validation, moments), "val_count": 400}
    found = validation_fds(replace(validation, rows=other), moments)
    expected = debiased_frechet_distance(other, moments)
    assert found == {**plain, "val_fd_debiased": expected.value, "val_fd_debiased_stderr": expected.stderr}
    few = replace(Moments.from_features(other[:50]), rows=other[:50])
    assert "val_fd_debiased" not in validation_fds(few, moments)


REAL = images(120)


@pytest.mark.parametrize("name", ["s.h5", "s.npz"])
def test_files_keep_what_was_computed(tmp_path: Path, name: str) -> None:
    written = write_reference_file(
        open_images(REAL), ENCODER, tmp_path / name, validation=open_images(images(110, seed=3)), noise_floor=True
    )
    moments = Moments.load(tmp_path / name)
    assert moments.curve is not None and moments.curve.array.shape == (2, 30) and moments.count == 120
    floor = NoiseFloor.of(moments.attributes)
    assert floor is not None and floor.count == 60 and written["encoder"]["noise_floor"]["fd"] == floor.fd
    assert {"density", "val_fd", "val_fd_debiased", "val_fd_debiased_stderr"} <= moments.attributes.keys()
    assert written["encoder"]["val_fd_debiased"] == moments.attributes["val_fd_debiased"]
    (entry,) = open_statistics(tmp_path / name).entries
    assert (entry.count, entry.dim) == (120, DIM)


def test_the_cache_changes_nothing(tmp_path: Path) -> None:
    found = []
    for name in ("cold", "warm", "none"):
        options = ExtractionOptions(None if name == "none" else tmp_path / "cache")
        write_reference(open_images(REAL), [ENCODER], tmp_path / name, options=options, noise_floor=True)
        found.append(Moments.load(tmp_path / name / "tiny.h5"))
    for moments in found[1:]:
        assert moments == found[0]
        assert moments.curve is not None and found[0].curve is not None
        assert np.array_equal(moments.curve.array, found[0].curve.array)
        assert NoiseFloor.of(moments.attributes) == NoiseFloor.of(found[0].attributes)
        assert moments.attributes["density"] == found[0].attributes["density"]


def test_without_features_there_are_moments_alone(tmp_path: Path) -> None:
    options = ExtractionOptions(tmp_path / "cache", moments_only=True)
    validation = open_images(images(110, seed=3))
    write_reference(open_images(REAL), [ENCODER], tmp_path / "s", options=options, validation=validation)
    moments = Moments.load(tmp_path / "s" / "tiny.h5")
    assert moments.curve is None and "val_fd" in moments.attributes
    assert not {"density", "val_fd_debiased", "noise_floor_fd"} & moments.attributes.keys()
    with pytest.raises(InputError, match="keeps no features, which --noise-floor needs"):
        write_reference(open_images(REAL), [ENCODER], tmp_path / "t", options=options, noise_floor=True)
    assert not (tmp_path / "t").exists()


def test_the_seed_of_the_images_is_that_of_the_halves(tmp_path: Path) -> None:
    for seed in (0, 5):
        source = open_images(npz(tmp_path / "real.npz", REAL), ImageOptions(seed=seed))
        write_reference_file(source, ENCODER, tmp_path / f"{seed}.h5", noise_floor=True)
    zero, five = (NoiseFloor.of(Moments.load(tmp_path / f"{seed}.h5").attributes) for seed in (0, 5))
    assert zero is not None and five is not None and (zero.seed, five.seed) == (0, 5) and zero.fd != five.fd


def test_layouts_of_other_tools_lose_the_curve_and_say_so(tmp_path: Path) -> None:
    source = tmp_path / "s.h5"
    write_reference_file(open_images(REAL), ENCODER, source, noise_floor=True)
    for name in LAYOUTS:
        if name in ("dgm-eval", "clean-fid-kid", "npy", "edm2"):  # features, or two encoders alone
            continue
        done = convert(source, tmp_path / f"{name}.x", ConvertOptions(name))
        curve = open_statistics(tmp_path / f"{name}.x").load("mu").curve
        if name in ("npz", "h5"):
            assert done.lost is None and curve is not None
        else:
            assert curve is None and done.lost is not None
            assert done.lost.startswith(f"{name} has no place for the leverage curve and noise floor of the source; ")
    plain = Moments.load(source)
    Moments(plain.mu, plain.sigma, plain.count).save(tmp_path / "plain.npz")
    assert convert(tmp_path / "plain.npz", tmp_path / "p.x", ConvertOptions("clean-fid")).lost is None
