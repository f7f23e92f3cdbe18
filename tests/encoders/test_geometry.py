"""Resize, crop and scale equal torchvision's on Pillow images, transformers' Pillow processors', and CMMD's crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms as vision
from PIL import Image

from fdr.encoders.preprocessing import Preprocessing
from fdr.encoders.resize import BYTE_RESIZES
from fdr.errors import InputError

pytestmark = pytest.mark.usefixtures("pillow_before_13")

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)
SIZES = [(40, 40), (61, 40), (40, 67), (224, 224), (33, 300), (251, 117)]
KERNELS = {
    "pil-bicubic": vision.InterpolationMode.BICUBIC,
    "pil-bilinear": vision.InterpolationMode.BILINEAR,
    "pil-lanczos": vision.InterpolationMode.LANCZOS,
    "pil-nearest": vision.InterpolationMode.NEAREST,
}


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_images(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def by_torchvision(array: np.ndarray, *steps) -> torch.Tensor:
    transform = vision.Compose([*steps, vision.ToTensor(), vision.Normalize(MEAN, STD)])
    return transform(Image.fromarray(array))[None]


@pytest.mark.parametrize("kernel", BYTE_RESIZES)
@pytest.mark.parametrize("size", SIZES)
def test_a_squash_equals_torchvisions_bit_for_bit(kernel, size):
    array = picture(*size)
    expected = by_torchvision(array, vision.Resize((56, 56), KERNELS[kernel]))
    assert torch.equal(Preprocessing(kernel, 56, MEAN, STD)(as_images(array)), expected)


@pytest.mark.parametrize(("short", "size"), [(32, 32), (37, 32), (40, 30), (64, 57)])
@pytest.mark.parametrize("shape", SIZES)
def test_short_side_and_crop_equal_torchvisions_bit_for_bit(short, size, shape):
    array = picture(*shape)
    expected = by_torchvision(array, vision.Resize(short, vision.InterpolationMode.BICUBIC), vision.CenterCrop(size))
    found = Preprocessing(f"pil-bicubic+short{short}-crop", size, MEAN, STD)(as_images(array))
    assert torch.equal(found, expected)


def test_transformers_cuts_half_pixels_down():
    array = picture(40, 43)  # an offset of 1.5: torchvision cuts at 2, transformers at 1
    rounded, floored = (
        Preprocessing(f"pil-nearest+short-crop{how}", 40, (0.0,) * 3, (1.0,) * 3)(as_images(array))
        for how in ("", "-floor")
    )
    assert torch.equal(rounded, as_images(array[:, 2:42]))
    assert torch.equal(floored, as_images(array[:, 1:41]))


@pytest.mark.parametrize("shape", SIZES)
def test_the_square_crop_is_cmmds(shape):
    array = picture(*shape)
    height, width = shape
    side = min(shape)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(array).crop((left, top, left + side, top + side))
    expected = by_torchvision(np.asarray(square.resize((48, 48), Image.Resampling.BICUBIC)))
    assert torch.equal(Preprocessing("pil-bicubic+square-crop", 48, MEAN, STD)(as_images(array)), expected)


def test_rows_are_independent_and_layouts_do_not_matter():
    images = torch.cat([as_images(picture(50, 70)), as_images(picture(50, 70)).flip(3)])
    transform = Preprocessing("pil-bicubic+short-crop", 32, MEAN, STD)
    together = transform(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(together, torch.cat([transform(image[None]) for image in images]))


def test_floats_are_rounded_to_bytes_first():
    images = torch.tensor([-0.2, 0.4999 / 255, 1.5001 / 255, 1.3])[None, None, None].expand(1, 3, 4, 4)
    found = Preprocessing("pil-nearest", 4, (0.0,) * 3, (1.0,) * 3)(images)
    assert torch.equal(found[0, 0, 0] * 255, torch.tensor([0.0, 0.0, 2.0, 255.0]))


def test_without_a_resize_images_are_only_scaled():
    images = torch.rand(2, 3, 5, 7)
    expected = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(Preprocessing("none", 0, MEAN, STD)(images), expected)
    assert not Preprocessing("none", 0, MEAN, STD).runs_on_host
    assert Preprocessing("pil-bicubic", 8, MEAN, STD).runs_on_host


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bicubic", "Unknown resize 'bicubic'; known: none, tf1-bilinear"),
        ("pil-bicubic+middle", "Unknown resize"),
        ("bicubic-antialias+short-crop", "which goes with pil-bicubic"),
        ("pil-bicubic+short20-crop", "leaves no 32 px to crop"),
    ],
)
def test_other_names_are_one_sentence(name, sentence):
    with pytest.raises(InputError, match=sentence):
        Preprocessing(name, 32, MEAN, STD)


def test_a_gradient_through_pillow_is_refused():
    with pytest.raises(InputError, match=r"pil-bicubic runs in Pillow and has no gradient"):
        Preprocessing("pil-bicubic", 8, MEAN, STD)(torch.rand(1, 3, 9, 9, requires_grad=True))
