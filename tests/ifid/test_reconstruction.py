"""Reconstructions beside their originals: scores by NumPy, pairs by name, and the standard error over draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from autoencoder_worlds import Gaussian, seeded
from PIL import Image
from worlds import TinyEncoder, images, npz

import fdr
from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.ifid.reconstruction import stderr_over_pairs
from fdr.images import noisy

ORIGINALS = images(30, side=12)
MADE = noisy(ORIGINALS, seed=1)


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -10 * np.log10(((x / 255.0 - y / 255.0) ** 2).mean((1, 2, 3)))


def features(array: np.ndarray) -> Moments:
    return Moments.from_features(fdr.extract(array, TinyEncoder()))


def test_scores_and_distances_are_those_of_the_images() -> None:
    found = fdr.measure_reconstructions(ORIGINALS, MADE, TinyEncoder())
    expected = psnr(ORIGINALS, MADE)
    np.testing.assert_allclose(found.qualities["psnr"], expected, rtol=1e-6)
    result = found.report["psnr"]
    assert result.value == pytest.approx(expected.mean(), rel=1e-6)
    assert result.stderr == pytest.approx(expected.std(ddof=1) / 30**0.5, rel=1e-5)
    distance = fdr.frechet_distance(features(MADE), features(ORIGINALS))
    assert found.report["rfd"].value == pytest.approx(distance, rel=1e-5)
    assert found.report["rfd"].details["noise"] == "pairs"


def test_the_worst_come_first() -> None:
    made = MADE.copy()
    made[[3, 7]] = 255 - ORIGINALS[[3, 7]]
    made[9] = ORIGINALS[9]
    found = fdr.measure_reconstructions(ORIGINALS, made, TinyEncoder())
    order = found.worst(30, by="psnr")
    assert set(order[:2].tolist()) == {3, 7} and order[-1] == 9
    assert found.worst(2).tolist() == np.argsort(found.qualities["ssim"])[:2].tolist()


def test_files_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    own, made = tmp_path / "own", tmp_path / "made"
    order = np.random.default_rng(0).permutation(30)
    for place in (own, made):
        place.mkdir()
    for index in range(30):
        Image.fromarray(ORIGINALS[index]).save(own / f"x{index:02d}.png")
        # "x1.bmp" sorts otherwise than "x01.png", so that rows of one side are not those of the other
        Image.fromarray(MADE[index]).save(made / f"x{index:02d}.{'png' if order[index] % 2 else 'bmp'}")
    found = fdr.measure_reconstructions(own, made, TinyEncoder())
    by_name = dict(zip((name.partition(".")[0] for name in found.ids), found.qualities["psnr"], strict=True))
    for index, value in enumerate(psnr(ORIGINALS, MADE)):
        assert by_name[f"x{index:02d}"] == pytest.approx(value, rel=1e-6)


def test_another_order_is_another_set_of_scores_in_the_cache(tmp_path: Path) -> None:
    """A zip of the same files under other names has the same content, but other pairs."""
    own, cache = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    for index in range(8):
        Image.fromarray(ORIGINALS[index]).save(own / f"{index}.png")
    values = []
    for names in (range(8), [1, 0, *range(2, 8)]):
        made = tmp_path / f"made{names[0]}"
        made.mkdir()
        for name, index in zip(names, range(8), strict=True):
            Image.fromarray(MADE[index]).save(made / f"{name}.png")
        found = fdr.measure_reconstructions(own, made, TinyEncoder(), cache=cache)
        values.append(dict(zip(found.ids, found.qualities["psnr"].tolist(), strict=True)))
    assert values[0]["0.png"] != values[1]["0.png"] and values[0]["5.png"] == values[1]["5.png"]


def test_an_autoencoder_reconstructs_as_for_an_interpolated_fid(tmp_path: Path) -> None:
    own = npz(tmp_path / "own.npz", images(40, seed=1))
    network = seeded(Gaussian)
    found = fdr.measure_reconstructions(own, encoders=TinyEncoder(), autoencoder=network)
    report = fdr.interpolated_fid(network, own, encoders=TinyEncoder())
    for metric in ("rfd", "psnr", "ssim"):
        assert found.report[metric].value == pytest.approx(report[metric].value, rel=1e-9)
        assert found.report[metric].signature == report[metric].signature


def test_either_reconstructions_or_an_autoencoder() -> None:
    for made, autoencoder in ((None, None), (MADE, "haar")):
        with pytest.raises(InputError, match="either the reconstructions or an autoencoder"):
            fdr.measure_reconstructions(ORIGINALS, made, TinyEncoder(), autoencoder=autoencoder)


def test_the_standard_error_of_pairs_is_the_spread_over_draws() -> None:
    random = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(60):
        x = random.normal(size=(400, 4)) * [2, 1, 1, 0.5]
        y = 0.8 * x + 0.3 + 0.1 * random.normal(size=x.shape)
        own, made = (replace(Moments.from_features(rows), rows=rows) for rows in (x, y))
        values.append(fdr.frechet_distance(made, own))
        errors.append(stderr_over_pairs(made, own, np.arange(400), None))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.3)
