"""PSNR, SSIM and MS-SSIM: laws, closed forms, scikit-image, pytorch-msssim and the definition in SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytorch_msssim
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import correlate
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fdr.errors import InputError
from fdr.images import procedural
from fdr.metrics import MIN_MS_SSIM_SIDE, half_range, ms_ssim, num_outside, psnr, ssim
from fdr.metrics.image_quality import K1, K2, PSNR_CAP, SCALE_WEIGHTS, WINDOW_SIDE

SCORES = {"psnr": (psnr, PSNR_CAP), "ssim": (ssim, 1.0), "ms-ssim": (ms_ssim, 1.0)}
scores = pytest.mark.parametrize(("score", "best"), SCORES.values(), ids=list(SCORES))


def drawn(count: int, height: int = 176, width: int = 192) -> Tensor:
    """Drawn pictures, float32 [count, 3, height, width]."""
    images = torch.from_numpy(procedural.draw_set(3, count)).permute(0, 3, 1, 2) / 255
    return torch.nn.functional.interpolate(images, (height, width), mode="bilinear")


def noisy(images: Tensor, level: float, seed: int = 0) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + level * noise).clamp(0, 1)


# --- laws ----------------------------------------------------------------------------------------------------------


@scores
def test_an_image_is_its_own_best_reconstruction(score, best):
    images = drawn(3)
    found = score(images, images)
    assert found.dtype == torch.float64 and found.shape == (3,)
    np.testing.assert_allclose(found, best, rtol=1e-13)


@scores
def test_the_order_of_the_two_does_not_matter(score, best):
    x = drawn(3)
    y = noisy(x, 0.1)
    np.testing.assert_allclose(score(x, y), score(y, x), rtol=1e-13)


@scores
def test_more_noise_is_worse(score, best):
    x = drawn(2)
    values = torch.stack([score(x, noisy(x, level)) for level in (0, 0.01, 0.03, 0.1, 0.3)])
    assert (values.diff(dim=0) < 0).all()


@scores
def test_every_image_is_scored_alone(score, best):
    x = drawn(4)
    y = noisy(x, 0.05)
    whole = score(x, y)
    np.testing.assert_allclose(torch.cat([score(x[i : i + 1], y[i : i + 1]) for i in range(4)]), whole, rtol=1e-13)
    assert score(x[:0], y[:0]).shape == (0,)


@scores
def test_channels_and_axes_are_exchangeable(score, best):
    x = drawn(2)
    y = noisy(x, 0.05)
    turned = score(x.flip(1).transpose(2, 3), y.flip(1).transpose(2, 3))
    np.testing.assert_allclose(turned, score(x, y), rtol=1e-12)


@given(st.floats(1e-4, 1.0))
def test_a_constant_offset_has_a_known_psnr(offset):
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    assert psnr(x, x + offset).item() == pytest.approx(-20 * math.log10(offset), abs=1e-9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_two_flat_images_have_a_known_ssim(level, other):
    """Nothing but the luminance factor is left."""
    x = torch.full((1, 3, 16, 16), level, dtype=torch.float64)
    y = torch.full_like(x, other)
    c1 = 0.01**2
    assert ssim(x, y).item() == pytest.approx((2 * level * other + c1) / (level**2 + other**2 + c1), abs=1e-9)


def test_contrast_has_a_known_ssim():
    """y = a x around one mean: luminance 1 and (2 a s + c2) / ((1 + a²) s + c2); of a = -1 it is negative."""
    pattern = torch.tensor([-0.1, 0.1], dtype=torch.float64).repeat(88)
    deviation = (pattern[:, None] * pattern[None, :]).expand(1, 3, 176, 176) * 10  # ±0.1 in a chessboard
    found = [ssim(0.5 + deviation, 0.5 + a * deviation).item() for a in (1.0, 0.5, -1.0)]
    mean, power = _windowed_chessboard()
    for a, value in zip((1.0, 0.5, -1.0), found, strict=True):
        variance = 0.01 * (power - mean**2)
        means = 0.5 + 0.1 * mean, 0.5 + 0.1 * a * mean
        light = (2 * means[0] * means[1] + K1**2) / (means[0] ** 2 + means[1] ** 2 + K1**2)
        assert value == pytest.approx(light * (2 * a * variance + K2**2) / ((1 + a * a) * variance + K2**2), abs=1e-6)
    assert found[0] == pytest.approx(1) and found[2] < -0.8


def _windowed_chessboard() -> tuple[float, float]:
    """Weighted mean and mean square of ±1 in a chessboard under the window."""
    weights = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    weights /= weights.sum()
    alternating = float((weights * (-1.0) ** np.arange(11)).sum())
    return alternating**2, 1.0


def test_the_psnr_of_nearly_equal_images_stays_finite():
    x = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    assert psnr(x, x + 1e-9).item() == PSNR_CAP == 100
    assert psnr(x, x + 1.1e-5).item() == pytest.approx(99.17, abs=0.01)


def test_anticorrelated_images_have_no_ms_ssim():
    x = noisy(torch.full((1, 3, 176, 176), 0.5), 0.2)
    assert ssim(x, 1 - x).item() < 0
    assert ms_ssim(x, 1 - x).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_is_scored_in_float64(dtype):
    x, y = drawn(1).to(dtype), noisy(drawn(1), 0.1).to(dtype)
    for score, _ in SCORES.values():
        assert score(x, y).item() == score(x.double(), y.double()).item()


# --- independent implementations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(11, 11), (12, 47), (64, 64), (176, 192)])
def test_psnr_and_ssim_agree_with_scikit_image(size):
    """Its mean is over the windows that lie wholly inside, as here."""
    x = drawn(3, *size)
    y = noisy(x, 0.1)
    for index in range(3):
        one, other = (batch[index].permute(1, 2, 0).double().numpy() for batch in (x, y))
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = structural_similarity(one, other, data_range=1.0, channel_axis=-1, **settings)
        assert ssim(x, y)[index].item() == pytest.approx(expected, abs=1e-13)
        expected = peak_signal_noise_ratio(one, other, data_range=1.0)
        assert psnr(x, y)[index].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [(176, 176), (256, 192)])
def test_ms_ssim_agrees_with_pytorch_msssim(size):
    """Where all halves are whole. Its exponents are rounded to float32, and its own window too."""
    x = drawn(3, *size).double()
    y = noisy(x.float(), 0.2).double()
    weights = torch.exp(-((torch.arange(11).double() - 5) ** 2) / 4.5)
    window = (weights / weights.sum()).repeat(3, 1, 1, 1)
    expected = pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False, win=window)
    np.testing.assert_allclose(ms_ssim(x, y), expected, rtol=0, atol=1e-7)
    own = pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False)
    np.testing.assert_allclose(ms_ssim(x, y), own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(161, 163), (176, 192), (177, 201)])
def test_ms_ssim_agrees_with_the_definition(size):
    x = drawn(1, *size)
    y = noisy(x, 0.2)
    expected = np.mean([_ms_ssim_of_channel(*(b[0, c].double().numpy() for b in (x, y))) for c in range(3)])
    assert ms_ssim(x, y).item() == pytest.approx(expected, abs=1e-12)


def _ms_ssim_of_channel(x: np.ndarray, y: np.ndarray) -> float:
    """The authors' steps, one window in two dimensions, halved by a filter that mirrors at the border."""
    grid = np.arange(WINDOW_SIDE) - WINDOW_SIDE // 2
    window = np.exp(-(grid[:, None] ** 2 + grid[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    product = 1.0
    for index, weight in enumerate(SCALE_WEIGHTS):
        mean_x, mean_y, xx, yy, xy = (convolve2d(one, window, mode="valid") for one in (x, y, x * x, y * y, x * y))
        structure = (2 * (xy - mean_x * mean_y) + 0.03**2) / (xx - mean_x**2 + yy - mean_y**2 + 0.03**2)
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        is_last = index == len(SCALE_WEIGHTS) - 1
        product *= np.mean(structure * luminance if is_last else structure) ** weight
        x, y = (correlate(one, np.full((2, 2), 0.25), mode="reflect", origin=-1)[::2, ::2] for one in (x, y))
    return product


# --- the reference code of iFID ------------------------------------------------------------------------------------


def test_half_range_is_what_the_reference_code_scores():
    x = drawn(2)
    y = noisy(x, 0.1)
    squeezed, others = half_range(x.double()), half_range(y.double())
    assert squeezed.min() >= 0.5 and squeezed.max() <= 1
    np.testing.assert_allclose(psnr(squeezed, others) - psnr(x, y), 20 * math.log10(2), atol=1e-12)
    assert (ssim(squeezed, others) > ssim(x, y)).all()
    assert (ms_ssim(squeezed, others) > ms_ssim(x, y)).all()


# --- values outside of [0, 1] --------------------------------------------------------------------------------------


@scores
def test_values_may_leave_the_range_by_a_half(score, best):
    x = drawn(1, 161, 161)
    for low, high, is_taken in ((-0.5, 1.5, True), (-0.51, 1.0, False), (0.0, 1.51, False)):
        y = x.clone()
        y[0, 0, 0, 0], y[0, 1, 0, 0] = low, high
        for pair in ((x, y), (y, x)):
            assert torch.isfinite(score(*pair, any_range=True)).all()
            if is_taken:
                assert score(*pair).item() == score(*pair, any_range=True).item()
            else:
                with pytest.raises(InputError, match=r"takes images in \[0, 1\]"):
                    score(*pair)


def test_any_range_scores_values_as_they_are():
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    assert psnr(x, x + 2, any_range=True).item() == pytest.approx(-20 * math.log10(2), abs=1e-12)
    with pytest.raises(InputError, match="values from nan"):
        psnr(x, x * math.nan, any_range=True)


def test_values_far_outside_are_counted_for_each_image():
    images = torch.tensor([[-0.5, 1.5, 0.3], [-0.51, 1.51, 9.0], [0.0, 1.0, -7.0]]).reshape(3, 3, 1, 1)
    assert num_outside(images).tolist() == [0, 3, 1]


def test_a_negative_coarsest_scale_counts_as_zero():
    """Equal chessboards of 8 px over opposite gradients: at the coarsest of the five scales the squares are gone."""
    axis = torch.linspace(0, 2 * math.pi, 192)
    gradient = 0.1 * torch.sin(axis)[None, :] * torch.cos(axis)[:, None]
    place = torch.arange(192) // 8
    details = (0.2 * (1 - 2 * ((place[:, None] + place[None, :]) % 2))).expand(3, 192, 192)
    x, y = ((0.5 + details + sign * gradient)[None].double() for sign in (1, -1))
    halved = [[torch.nn.functional.avg_pool2d(one, 2**scale) for one in (x, y)] for scale in range(5)]
    assert all(ssim(*pair).item() > 0.1 for pair in halved[:4]) and ssim(*halved[4]).item() < -0.1
    assert ms_ssim(x, y).item() == 0


# --- refusals ------------------------------------------------------------------------------------------------------


@scores
@pytest.mark.parametrize(
    ("images", "others", "words"),
    [
        (torch.zeros(2, 3, 200, 200), torch.zeros(1, 3, 200, 200), "one shape"),
        (torch.zeros(3, 200, 200), torch.zeros(3, 200, 200), r"float batches.*\[3, 200, 200\]"),
        (torch.zeros(1, 1, 200, 200), torch.zeros(1, 1, 200, 200), "float batches"),
        (torch.zeros(1, 3, 200, 200, dtype=torch.uint8),) * 2 + ("float batches.*uint8",),
        (np.zeros((1, 3, 200, 200)),) * 2 + ("got ndarray",),
        (torch.full((1, 3, 200, 200), 255.0),) * 2 + ("from 255 to 255: scale them",),
        (torch.full((1, 3, 200, 200), -1.0),) * 2 + (r"map \[-1, 1\] by",),
        (torch.full((1, 3, 200, 200), math.nan),) * 2 + ("values from nan",),
    ],
)
def test_what_is_no_pair_of_images_is_refused(score, best, images, others, words):
    with pytest.raises(InputError, match=words):
        score(images, others)


def test_images_that_hold_no_window_are_refused():
    with pytest.raises(InputError, match="at least 11 px; got 20 x 10"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))
    with pytest.raises(InputError, match="at least 161 px; got 160 x 300"):
        ms_ssim(torch.zeros(1, 3, 300, 160), torch.zeros(1, 3, 300, 160))
    assert MIN_MS_SSIM_SIDE == 161 and ms_ssim(torch.zeros(1, 3, 161, 161), torch.zeros(1, 3, 161, 161)).item() == 1
