"""Resampling is Pillow's fixed-point arithmetic, horizontal pass first, in every Pillow version."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_worlds import encoded, photo, read_all, write_files
from PIL import Image
from PIL.Image import Resampling
from torchvision.transforms.functional import center_crop as center_square

from fdr.images import ImageOptions, open_images
from fdr.images.resize import adm_crop, center_crop, lanczos_crop, resize, squash


def bicubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def one_axis(pixels: np.ndarray, out: int, kernel, support: float) -> np.ndarray:
    """Resample axis 0: weights normalised in float64, then 22-bit integers; sums rounded to 8 bits."""
    size = len(pixels)
    if size == out:
        return pixels
    scale = max(size / out, 1.0)
    rows = []
    for i in range(out):
        center = (i + 0.5) * (size / out)
        low = max(int(center - support * scale + 0.5), 0)
        high = min(int(center + support * scale + 0.5), size)
        weights = np.array([kernel((x - center + 0.5) / scale) for x in range(low, high)])
        weights /= sum(weights.tolist())
        fixed = np.trunc(weights * (1 << 22) + np.where(weights < 0, -0.5, 0.5)).astype(np.int64)
        total = np.tensordot(fixed, pixels[low:high].astype(np.int64), axes=1)
        rows.append(np.clip((total + (1 << 21)) >> 22, 0, 255).astype(np.uint8))
    return np.stack(rows)


def emulated(pixels: np.ndarray, width: int, height: int, kernel, support: float) -> np.ndarray:
    across = one_axis(pixels.transpose(1, 0, 2), width, kernel, support).transpose(1, 0, 2)
    return one_axis(across, height, kernel, support)


def emulated_adm(pixels: np.ndarray, size: int) -> np.ndarray:
    while min(pixels.shape[:2]) >= 2 * size:
        pixels = emulated(pixels, pixels.shape[1] // 2, pixels.shape[0] // 2, box, 0.5)
    scale = size / min(pixels.shape[:2])
    pixels = emulated(pixels, round(pixels.shape[1] * scale), round(pixels.shape[0] * scale), bicubic, 2.0)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


sides = st.integers(1, 90)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(height=sides, width=sides, out_height=sides, out_width=sides, noise=st.booleans())
def test_resize_is_the_fixed_point_arithmetic_of_pillow(height, width, out_height, out_width, noise):
    pixels = photo(0, height, width)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    for resample, kernel, support in ((Resampling.BICUBIC, bicubic, 2.0), (Resampling.BOX, box, 0.5)):
        found = np.array(resize(Image.fromarray(pixels), (out_width, out_height), resample))
        assert np.array_equal(found, emulated(pixels, out_width, out_height, kernel, support))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(height=st.integers(3, 150), width=st.integers(3, 150), size=st.integers(1, 40))
def test_adm_crop_is_the_emulated_one_bit_for_bit(height, width, size):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = np.array(adm_crop(Image.fromarray(pixels), size))
    assert found.shape == (size, size, 3)
    assert np.array_equal(found, emulated_adm(pixels, size))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(height=st.integers(3, 120), width=st.integers(3, 120), size=st.integers(1, 40))
def test_center_crop_is_the_middle_of_the_whole_resized_image(height, width, size):
    pixels = photo(2, height, width)
    short = min(height, width)
    wide, high = int(size * width / short), int(size * height / short)
    whole = emulated(pixels, wide, high, bicubic, 2.0)
    top, left = round((high - size) / 2), round((wide - size) / 2)
    found = np.array(center_crop(Image.fromarray(pixels), size))
    assert np.array_equal(found, whole[top : top + size, left : left + size])


def lanczos(x):
    return np.sinc(x) * np.sinc(x / 3) if -3 < x < 3 else 0.0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(height=st.integers(3, 120), width=st.integers(3, 120), size=st.integers(1, 40))
def test_lanczos_crop_is_the_resized_middle_of_the_image(height, width, size):
    pixels = photo(2, height, width)
    short = min(height, width)
    top, left = round((height - short) / 2), round((width - short) / 2)
    square = np.ascontiguousarray(pixels[top : top + short, left : left + short])
    found = np.array(lanczos_crop(Image.fromarray(pixels), size))
    assert np.abs(found.astype(int) - emulated(square, size, size, lanczos, 3.0)).max() <= 1
    assert np.array_equal(square, np.array(center_square(Image.fromarray(pixels), short)))


def test_an_image_of_the_final_size_is_left_alone():
    pixels = photo(3, 24, 24)
    for function in (adm_crop, center_crop, lanczos_crop, squash):
        assert np.array_equal(np.array(function(Image.fromarray(pixels), 24)), pixels)


@pytest.mark.parametrize("crop", ["none", "center", "lanczos", "adm"])
def test_options_crop_files_and_arrays_alike(tmp_path, crop):
    arrays = [photo(0, 40, 61), photo(1, 90, 33), photo(2, 9, 17)]
    write_files(tmp_path, {f"{i}.png": encoded(array) for i, array in enumerate(arrays)})
    options = ImageOptions(crop=crop, size=16)
    found = read_all(open_images(tmp_path, options))
    function = {"none": squash, "center": center_crop, "lanczos": lanczos_crop, "adm": adm_crop}[crop]
    for image, array in zip(found, arrays, strict=True):
        assert image.shape == (16, 16, 3)
        assert np.array_equal(image, np.array(function(Image.fromarray(array), 16)))
    for image, array in zip(read_all(open_images(arrays, options)), found, strict=True):
        assert np.array_equal(image, array)
    policy = open_images(tmp_path, options).policy
    assert policy["crop"] == f"{'squash' if crop == 'none' else crop}-16"
    assert policy["pillow"] and "pillow" not in open_images(tmp_path).policy


def test_the_kernels_of_the_emulation_sum_to_one():
    for shift in np.linspace(0, 1, 7, endpoint=False):
        assert math.isclose(sum(bicubic(k - shift) for k in range(-3, 4)), 1, abs_tol=1e-12)
