"""Each resize equals its owner's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fdr.encoders.resize import (
    BYTE_RESIZES,
    HOST_RESIZES,
    RESIZES,
    bicubic_antialias,
    pil_bicubic_float,
    pil_bytes,
    tf1_bilinear,
)

sides = st.integers(1, 90)


def noise(height: int, width: int, count: int = 1) -> Tensor:
    """uint8-valued float32 [count, 3, height, width]"""
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, 3, height, width), generator=random).float()


@settings(deadline=None, derandomize=True, max_examples=25)
@given(sides, sides, st.integers(1, 70))
def test_tf1_bilinear_equals_its_definition(height: int, width: int, size: int) -> None:
    """Two taps at floor(target * in / out) and the next, per axis, in float64."""

    def matrix(length: int) -> np.ndarray:
        weights = np.zeros((size, length))
        for target in range(size):
            source = float(np.float32(target) * np.float32(length / size))
            first, rest = int(source), source - int(source)
            weights[target, first] += 1 - rest
            weights[target, min(first + 1, length - 1)] += rest
        return weights

    images = noise(height, width)
    expected = matrix(height) @ images.double().numpy() @ matrix(width).T
    np.testing.assert_allclose(tf1_bilinear(images, size), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (256, 256), (299, 299), (375, 500)])
def test_tf1_bilinear_equals_torch_fidelity_bit_for_bit(height: int, width: int) -> None:
    peer = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = noise(height, width, 2)
    expected = peer.interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    assert torch.equal(tf1_bilinear(images, 299), expected)


def test_tf1_bilinear_of_a_ramp_is_the_clamped_ramp_without_half_pixel_shift() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    expected = (torch.arange(16.0) / 2).clamp_max(7)
    assert torch.equal(tf1_bilinear(ramp, 16)[0, 0, 0], expected)


def test_tf1_bilinear_is_differentiable() -> None:
    images = torch.rand((1, 3, 4, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: tf1_bilinear(x, 7), (images.requires_grad_(),))


def test_torch_bilinear_equals_pytorch_fids_interpolation() -> None:
    images = noise(40, 60) / 255
    expected = torch.nn.functional.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
    assert torch.equal(RESIZES["torch-bilinear"](images, 299), expected)


def test_bicubic_antialias_leaves_images_of_the_size_alone() -> None:
    images = noise(32, 32)
    assert bicubic_antialias(images, 32) is images
    assert bicubic_antialias(images, 16).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (120, 48), (256, 256), (375, 500), (600, 310)])
def test_pil_bicubic_float_equals_clean_fid(height: int, width: int) -> None:
    peer = pytest.importorskip("cleanfid.resize")
    images = noise(height, width)
    expected = peer.build_resizer("clean")(images[0].permute(1, 2, 0).numpy().astype(np.uint8))
    found = pil_bicubic_float(images, 299)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # on the 0..255 scale


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (400, 310)])
def test_pil_bicubic_float_depends_on_the_order_of_its_passes_by_rounding_only(height: int, width: int) -> None:
    images = noise(height, width)
    columns_first = np.stack(
        [Image.fromarray(channel).resize((width, 299), 3).resize((299, 299), 3) for channel in images[0].numpy()]
    ).clip(0, 255)
    np.testing.assert_allclose(pil_bicubic_float(images, 299)[0], columns_first, rtol=0, atol=1e-4)


def test_pil_bicubic_float_is_neither_rounded_nor_out_of_range() -> None:
    resized = pil_bicubic_float(noise(20, 30), 50)
    assert resized.min() == 0 and resized.max() == 255
    assert (resized != resized.round()).any()


@pytest.mark.parametrize("name", sorted(RESIZES))
def test_rows_do_not_depend_on_their_batch(name: str) -> None:
    images = noise(50, 70, 3)
    together = RESIZES[name](images, 64)
    assert torch.equal(together, torch.cat([RESIZES[name](image[None], 64) for image in images]))
    assert together.shape == (3, 3, 64, 64) and together.dtype == torch.float32


def test_host_resizes_are_resizes() -> None:
    assert {*RESIZES, *BYTE_RESIZES} > HOST_RESIZES > set(BYTE_RESIZES)


@pytest.mark.parametrize(("height", "width", "size"), [(900, 300, 224), (400, 50, 300), (375, 500, 256), (32, 32, 224)])
def test_bytes_are_resampled_rows_first_in_every_pillow(height: int, width: int, size: int) -> None:
    """By hand in two calls; one call of Pillow 13 takes some of these the other way round."""
    array = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wide = Image.fromarray(array).resize((size, height), Image.Resampling.BICUBIC)
    expected = np.asarray(wide.resize((size, size), Image.Resampling.BICUBIC))
    images = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    found = pil_bytes(images, (size, size), "pil-bicubic")
    assert torch.equal((found[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(expected.copy()))
