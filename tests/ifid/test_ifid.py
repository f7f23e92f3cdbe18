"""Interpolated FID against an account of it step by step; laws; neighbours; the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from autoencoder_worlds import Plain, seeded
from ifid_worlds import OTHERS, QUERIES, as_float, autoencoder, expected, measured, quantised, spread
from torch import Tensor
from worlds import folder, images, npz

import fdr
from fdr.reports import Report, metric_label


class TestValue:
    @pytest.mark.parametrize("mode", ["slerp", "linear", "mask"])
    @pytest.mark.parametrize("neighbours", [OTHERS, None])
    def test_it_is_what_the_steps_give(self, mode: str, neighbours: np.ndarray | None) -> None:
        network = spread(autoencoder())
        report = measured(network, neighbours=neighbours, mode=mode, top_k=4, seed=3)
        steps = expected(QUERIES, neighbours, mode, 0.5, 4, 3, network)
        assert report.run["ifid"]["neighbour_entropy"] == pytest.approx(steps.pop("entropy"), rel=1e-5)
        for metric, value in steps.items():
            assert report[metric].value == pytest.approx(value, rel=1e-5), metric

    def test_a_curve_from_the_reconstruction_on(self) -> None:
        report = measured(autoencoder(), alphas=(0.0, 0.25, 0.5))
        assert report["ifd:0"].value == report["rfd"].value
        for alpha, metric in ((0.25, "ifd:0.25"), (0.5, "ifd")):
            steps = expected(QUERIES, OTHERS, "slerp", alpha, 10, 0)
            assert report[metric].value == pytest.approx(steps["ifd"], rel=1e-5)

    @pytest.mark.parametrize("name", ["haar", "dct", "pixel-unshuffle"])
    def test_an_invertible_autoencoder_reconstructs(self, name: str) -> None:
        report = measured(name)
        assert report["rfd"].value == pytest.approx(0, abs=1e-9)
        assert report["psnr"].value > 60
        assert report["ssim"].value == pytest.approx(1)
        assert report["ifd"].value > 1e-3

    @pytest.mark.parametrize("mode", ["slerp", "linear"])
    def test_all_orthonormal_transforms_have_one_ifid(self, mode: str) -> None:
        """They keep distances and angles, so neighbours and interpolants are those of the pixels."""
        names = ("haar", "dct:16", "pixel-unshuffle:4")  # half of two bytes may be rounded either way
        found = [measured(name, mode=mode, quantize="none")["ifd"].value for name in names]
        assert found == pytest.approx([found[0]] * 3, rel=1e-5)

    def test_qualities_are_of_the_pixels_that_are_measured(self) -> None:
        report, model = measured(autoencoder()), fdr.load_autoencoder(autoencoder())
        x = as_float(QUERIES)
        y = quantised(model.decode(model.encode(x, range(40))))
        psnr = (-10 * (x - y).double().square().mean((1, 2, 3)).log10()).mean()
        assert report["psnr"].value == pytest.approx(float(psnr), rel=1e-5)

    def test_the_conventions_of_the_papers_code(self) -> None:
        plain = measured(autoencoder(), clamp=False, quantize="none")
        compat = measured(autoencoder(), clamp=False, quantize="none", compat="reference")
        assert compat["psnr"].value - plain["psnr"].value == pytest.approx(20 * math.log10(2), abs=1e-4)
        assert compat["ssim"].value > plain["ssim"].value
        assert compat["ifd"].value == plain["ifd"].value
        assert "clamp:no" in plain["psnr"].signature and "compat:reference" in compat["psnr"].signature

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 1e-1)])
    def test_half_precision_moves_little(self, dtype: str, tolerance: float) -> None:
        exact = measured(autoencoder())["ifd"].value
        half = measured(autoencoder(), latent_dtype=dtype)["ifd"]
        assert half.value == pytest.approx(exact, rel=tolerance) and f"lat:{dtype}" in half.signature


ODD = images(24, seed=5, side=28)
"""Their latents have seven rows."""


class TestMask:
    def test_of_seven_rows_three_are_the_neighbours(self) -> None:
        report = measured(autoencoder(), ODD, None, mode="mask", top_k=4)
        assert report["ifd"].value == pytest.approx(expected(ODD, None, "mask", 0.5, 4, 0)["ifd"], rel=1e-5)

    def test_the_papers_code_takes_half_whatever_alpha_is(self) -> None:
        half = measured(autoencoder(), ODD, None, mode="mask", quantize="none", clamp=False)
        with pytest.warns(fdr.errors.FdrWarning, match="alpha 0.25, 0 gives the images of alpha 0.5"):
            compat = measured(
                *(autoencoder(), ODD, None),
                mode="mask",
                alphas=(0.25, 0.0),
                quantize="none",
                clamp=False,
                compat="reference",
            )
        assert compat["ifd"].value == compat["ifd:0.25"].value == half["ifd"].value != compat["rfd"].value
        assert "mix:mask-0.5" in compat["ifd"].signature

    def test_without_compat_alpha_counts(self) -> None:
        report = measured(autoencoder(), ODD, None, mode="mask", alphas=(0.25, 0.5))
        assert report["ifd:0.25"].value != report["ifd"].value


class Bright(Plain):
    """One value of the first image is decoded to `value`."""

    value = 1.6

    def decode(self, latents: Tensor) -> Tensor:
        images = super().decode(latents).clone()
        if len(latents) > 2:  # past the check at loading
            images[0, 0, 0, 0] = 2 * self.value - 1
        return images


class TestValuesOutside:
    """A value far outside of [0, 1] is counted in a warning, and measured as it is."""

    @pytest.mark.parametrize("compat", [None, "reference"])
    @pytest.mark.parametrize("value", [1.6, -0.6, 30.0])
    def test_one_value_does_not_end_a_run(self, compat: str | None, value: float) -> None:
        model = seeded(Bright)
        model.value = value
        with pytest.warns(
            fdr.errors.FdrWarning, match=r"1 of 40 reconstructions have values below -0.5 or above 1.5 \(1 "
        ):
            report = measured(model, clamp=False, quantize="none", compat=compat, batch_size=64)
        x = as_float(QUERIES).double()
        y = ((Plain.decode(model, Plain.encode(model, 2 * x.float() - 1)) + 1) / 2).double()
        y[0, 0, 0, 0] = value
        scale = 4 if compat else 1
        psnr = (-10 * ((x - y).square().mean((1, 2, 3)) / scale).log10()).mean().detach()
        assert report["psnr"].value == pytest.approx(float(psnr), rel=1e-5)
        assert any("1 of 40 reconstructions" in text for text in report.warnings)

    def test_a_run_that_goes_on_tells_it_again(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"clamp": False, "quantize": "none", "cache": tmp_path, "batch_size": 64}
        with pytest.warns(fdr.errors.FdrWarning, match="1 of 40 reconstructions"):
            first = measured(seeded(Bright), **options)
        with pytest.warns(fdr.errors.FdrWarning, match="1 of 40 reconstructions"):
            again = measured(seeded(Bright), **options)
        assert again["psnr"].value == first["psnr"].value

    def test_clamped_values_are_not_told(self, recwarn: pytest.WarningsRecorder) -> None:
        report = measured(seeded(Bright), batch_size=64)
        assert not any("outside" in text or "above" in text for text in report.warnings)


class Points:
    """Images of one colour -> their red and green: two dimensions, decoded exactly."""

    def encode(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:, :2]

    def decode(self, latents: Tensor) -> Tensor:
        full = torch.cat([latents, torch.zeros(len(latents), 1)], 1)
        return full[:, :, None, None].expand(-1, -1, 4, 4)


CENTRES = torch.tensor([(x, y) for x in np.linspace(0.1, 0.9, 5) for y in np.linspace(0.1, 0.9, 5)]).float()


def nearness(images: Tensor) -> Tensor:
    """How near a point is to each of the 25 modes [B, 25]: what tells points between the modes."""
    points = images.mean((2, 3))[:, :2]
    return torch.exp(-torch.cdist(points, CENTRES).square() / (2 * 0.04**2))


def grid_of_modes(spread: float, count: int = 600) -> np.ndarray:
    """float32 [count, 3, 4, 4]: points about the 25 modes."""
    draws = np.random.default_rng(0)
    points = CENTRES.numpy()[np.arange(count) % 25] + draws.normal(0, spread, (count, 2))
    full = np.concatenate([points.clip(0, 1), np.full((count, 1), 0.5)], 1).astype(np.float32)
    return np.broadcast_to(full[:, :, None, None], (count, 3, 4, 4)).copy()


def test_isolated_modes_have_a_large_ifid_and_connected_ones_a_small_one() -> None:
    def of(spread: float) -> Report:
        points = torch.from_numpy(grid_of_modes(spread))
        options = fdr.ImageOptions(quantize="none")
        return fdr.interpolated_fid(
            Points(), points, None, nearness, ifid_options=fdr.IfidOptions(quantize="none"), image_options=options
        )

    isolated, connected = of(0.01), of(0.12)
    for report in (isolated, connected):
        assert report["rfd"].value == pytest.approx(0, abs=1e-9)
    assert isolated["ifd"].value > 2 * connected["ifd"].value > 0


class TestNeighbours:
    def test_an_image_is_neither_its_own_neighbour_nor_that_of_its_copies(self) -> None:
        twice = np.concatenate([QUERIES, QUERIES])
        alone = measured("haar", images=twice, neighbours=None, top_k=1)
        assert alone["nfd"].value > 1e-3  # 0 if copies counted
        overlapping = measured("haar", neighbours=np.concatenate([OTHERS, QUERIES]), top_k=1)
        assert overlapping["nfd"].value > 1e-3

    def test_of_the_same_class_only(self, tmp_path: Path) -> None:
        dark, bright = (np.clip(images(35, seed=s) // 4 + 192 * s, 0, 255).astype(np.uint8) for s in (0, 1))
        everything = np.concatenate([dark, bright])
        sets = npz(tmp_path / "n.npz", everything, arr_1=np.repeat([0, 1], 35))
        all_dark = npz(tmp_path / "q.npz", bright, arr_1=np.zeros(35, np.int64))
        free = measured("pixel-unshuffle", all_dark, sets, mode="linear", top_k=3)
        kept = measured("pixel-unshuffle", all_dark, sets, mode="linear", top_k=3, same_class=True)
        assert kept["nfd"].value > 20 * free["nfd"].value  # bright images have to take dark neighbours
        assert "by:l2-same-class" in kept["ifd"].signature
        assert kept.samples["labels_from"] == "arr_1"


class TestReport:
    def test_it_says_what_was_done(self, tmp_path: Path) -> None:
        report = measured(autoencoder(), npz(tmp_path / "q.npz", QUERIES), npz(tmp_path / "n.npz", OTHERS))
        assert [r.metric for r in report] == ["ifd", "rfd", "nfd", "psnr", "ssim"]
        assert [metric_label(r) for r in report][:3] == ["iFD", "rFD", "neighbour FD"]
        about = report.run["ifid"]
        assert about["neighbours"]["count"] == 70 and about["latent_shape"] == [4, 4, 4]
        assert 0 < about["neighbour_entropy"] <= math.log(10)
        assert report.run["autoencoder"]["posterior"] == "deterministic"
        assert Report.from_dict(report.to_dict()).results == report.results

    def test_ms_ssim_of_images_that_are_large_enough(self) -> None:
        large = images(4, side=176)
        assert "ms_ssim" in {r.metric for r in measured("pixel-unshuffle:16", large, None, top_k=2)}

    def test_the_picture(self, tmp_path: Path) -> None:
        from PIL import Image

        measured(autoencoder(), picture=tmp_path / "sheet.png", alphas=(0.25, 0.5))
        with Image.open(tmp_path / "sheet.png") as sheet:
            pixels = np.asarray(sheet)
        assert pixels.shape == (18 + 8 * 100 + 4, 5 * 100 + 4, 3)
        enlarged = QUERIES[0].repeat(6, 0).repeat(6, 1)
        np.testing.assert_array_equal(pixels[22 : 22 + 96, 4 : 4 + 96], enlarged)

    def test_bad_images_are_left_out_on_both_sides(self, tmp_path: Path) -> None:
        queries, others = folder(tmp_path / "q", QUERIES), folder(tmp_path / "n", OTHERS)
        for path in (queries / "0003.png", others / "0005.png"):
            path.write_bytes(b"no image")
        options = fdr.ImageOptions(on_bad="skip", max_bad=0.1)
        report = measured(autoencoder(), queries, others, image_options=options)
        kept = np.delete(QUERIES, 3, 0), np.delete(OTHERS, 5, 0)
        assert report["ifd"].count == 39 and len(report.samples["skipped"]) == 1
        assert report["rfd"].value == pytest.approx(expected(*kept, "slerp", 0.5, 10, 0)["rfd"], rel=1e-5)
