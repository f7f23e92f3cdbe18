"""The `random` encoder: the same numbers everywhere, and distances that move with what was done to the images."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fdr.encoders import EncoderOptions, find_row
from fdr.encoders.random_net import RandomEncoder, load, uniform
from fdr.errors import InputError
from fdr.frechet import frechet_distance
from fdr.images import procedural

GOLDEN_STREAM = [float.fromhex(x) for x in ("0x1.3836e97a68cbcp-2", "0x1.9c15182fa20a4p-2", "-0x1.ce56eab045410p-3")]
GOLDEN_FEATURES = [0.09878968, 0.33136287, 0.17965567, 0.00614092, 0.21187475, 0.27059269]


@cache
def encoder(name: str = "random") -> RandomEncoder:
    return load(name, EncoderOptions(device="cpu"))


def ramp(height: int = 48, width: int = 80) -> Tensor:
    """One fixed image made of integers only."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(x * 3) % 256, (y * 5) % 256, (x * y) % 256])[None].float() / 255


def features(images: np.ndarray) -> Tensor:
    """uint8 or float [N, H, W, 3] on 0..255 -> [N, 256]"""
    pixels = np.clip(images, 0, 255).round().astype(np.float32) / 255
    return encoder()(torch.from_numpy(pixels).permute(0, 3, 1, 2))["features"]


def test_number_stream_is_the_golden_one_and_positions_are_independent() -> None:
    np.testing.assert_array_equal(uniform(0, 0, 3), GOLDEN_STREAM)
    np.testing.assert_array_equal(uniform(7, 10, 5), uniform(7, 0, 15)[10:])


def test_number_stream_is_uniform_and_differs_by_seed() -> None:
    a, b = uniform(1, 0, 20000), uniform(2, 0, 20000)
    assert a.min() >= -1 and a.max() < 1
    assert abs(a.mean()) < 0.02 and abs(a.var() - 1 / 3) < 0.01
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03 and abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.03


def test_features_are_the_golden_ones() -> None:
    found = encoder()(ramp())["features"][0, [0, 1, 16, 40, 100, 255]]
    np.testing.assert_allclose(found, GOLDEN_FEATURES, rtol=1e-5)


def test_spec_names_the_seed() -> None:
    row = find_row("random")
    assert row is not None
    assert encoder().spec.dim == row.width == encoder()(ramp())["features"].shape[1]
    assert encoder().spec.weights == "seed:0" and encoder("random:7").spec.weights == "seed:7"
    assert encoder("random:0").spec.hash == encoder().spec.hash != encoder("random:7").spec.hash


def test_another_seed_is_another_network() -> None:
    first, second = encoder()(ramp())["features"], encoder("random:7")(ramp())["features"]
    assert (first - second).norm() > 0.1 * first.norm()


@settings(deadline=None, derandomize=True, max_examples=6)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 4))
def test_features_take_any_size_and_do_not_depend_on_the_batch(height: int, width: int, count: int) -> None:
    images = torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(count))
    together = encoder()(images)["features"]
    alone = torch.cat([encoder()(image[None])["features"] for image in images])
    assert together.shape == (count, 256)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_flat_images_have_finite_features_and_gradients() -> None:
    images = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    found = encoder()(images)["features"]
    found.sum().backward()
    assert found.isfinite().all() and images.grad is not None and images.grad.isfinite().all()


def test_distance_rises_with_blur_and_with_noise() -> None:
    reference, images = procedural.draw_set(0, 120), procedural.draw_set(1, 120)
    noise = np.random.RandomState(0).normal(0, 1, images.shape)
    moments = features(reference)

    def blurred(times: int) -> np.ndarray:
        x = images.astype(np.float64)
        for _ in range(times):
            for axis in (1, 2):
                x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
        return x

    blur = [frechet_distance(moments, features(blurred(times))) for times in (0, 1, 3, 8)]
    noisy = [frechet_distance(moments, features(images + sigma * noise)) for sigma in (0, 12, 32)]
    assert blur == sorted(blur) and blur[-1] > 3 * blur[0]
    assert noisy == sorted(noisy) and noisy[-1] > 3 * noisy[0]


def test_distance_rises_when_modes_are_dropped() -> None:
    moments = features(procedural.draw_set(0, 240))
    whole, half = (frechet_distance(moments, features(procedural.draw_set(1, 240, modes=m))) for m in (8, 4))
    assert half > 3 * whole


@pytest.mark.parametrize("name", ["random:x", "random:-1", "random:1.5", f"random:{2**63}"])
def test_bad_seed_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="has no valid seed; expected random:SEED"):
        load(name, EncoderOptions(device="cpu"))


def test_weight_file_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="takes no weight file"):
        load("random", EncoderOptions(device="cpu", weights=tmp_path / "w.pth"))


def test_other_dtypes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.runtime.has_fast_bf16", lambda device: True)
    with pytest.raises(InputError, match="runs in float32 only"):
        load("random", EncoderOptions(device="cpu", dtype="bf16"))
