"""Transforms without weights: orthonormal, undone by decoding, and those of scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

import fdr
from fdr.errors import InputError
from fdr.ifid import AutoencoderSpec, LoadedAutoencoder

NAMES = ("haar", "dct", "pixel-unshuffle", "haar:2", "dct:8", "dct:1", "pixel-unshuffle:4", "haar:6")


def images(count: int = 3, height: int = 64, width: int = 192) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def load(name: str) -> LoadedAutoencoder:
    return fdr.load_autoencoder(name, device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_decoding_undoes_encoding(name):
    model, given = load(name), images()
    latents = model.encode(given, range(3))
    assert latents.shape[1:] == model.latent_shape(64, 192) and latents.dtype == torch.float32
    assert float((model.decode(latents) - given).abs().max()) < 2e-6
    model.check(192, 64)


@pytest.mark.parametrize("name", NAMES)
def test_latents_have_the_distances_of_images(name):
    """Orthonormal: every inner product of two images in [-1, 1] is that of their latents."""
    given = images()
    latents = load(name).encode(given, range(3)).flatten(1).double()
    assert latents.shape == (3, 3 * 64 * 192)
    pixels = (2 * given.double() - 1).flatten(1)
    torch.testing.assert_close(latents @ latents.T, pixels @ pixels.T, rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("block", [16, 8])
def test_the_cosine_transform_is_scipys(block):
    given = images()
    latents = load(f"dct:{block}").encode(given, range(3)).numpy()
    pixels = 2 * given.double().numpy() - 1
    blocks = pixels.reshape(3, 3, 64 // block, block, 192 // block, block)
    expected = dctn(blocks, axes=(3, 5), norm="ortho").transpose(0, 1, 3, 5, 2, 4)
    np.testing.assert_allclose(latents, expected.reshape(latents.shape), atol=2e-6)


def test_the_haar_transform_is_one_of_averages_and_differences():
    """One level in numpy, applied again to the averages."""
    given = images(2)
    latents = load("haar").encode(given, range(2)).numpy()
    assert latents.shape == (2, 768, 4, 12)
    averages = 2 * given.double().numpy() - 1
    details = []
    for level in range(4):
        a, b = averages[:, :, ::2, ::2], averages[:, :, ::2, 1::2]
        c, d = averages[:, :, 1::2, ::2], averages[:, :, 1::2, 1::2]
        averages = (a + b + c + d) / 2
        bands = np.concatenate([(a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2], axis=1)
        side = 2 ** (3 - level)
        n, channels, height, width = bands.shape
        cut = bands.reshape(n, channels, height // side, side, width // side, side).transpose(0, 1, 3, 5, 2, 4)
        details.append(cut.reshape(n, -1, height // side, width // side))
    expected = np.concatenate([averages, *reversed(details)], axis=1)
    np.testing.assert_allclose(latents, expected, atol=5e-6)


@pytest.mark.parametrize("name", ["haar", "dct"])
def test_a_flat_image_is_one_coefficient_a_block(name):
    latents = load(name).encode(torch.full((1, 3, 32, 32), 1.0), [0])
    assert torch.allclose(latents.flatten(2).abs().sum(1), torch.full((1, 4), 3 * 16.0), atol=1e-4)
    first = (0, 256, 512) if name == "dct" else (0, 1, 2)
    assert torch.allclose(latents[:, first], torch.full((1, 3, 2, 2), 16.0), atol=1e-5)


def test_pixel_unshuffle_keeps_every_pixel():
    given = images(1)
    latents = load("pixel-unshuffle:4").encode(given, [0])
    assert latents[0, 1 * 16 + 2 * 4 + 3, 5, 7] == 2 * given[0, 1, 5 * 4 + 2, 7 * 4 + 3] - 1


def test_its_spec_says_all():
    model = load("dct")
    assert model.spec == AutoencoderSpec("dct", "weight-free", "dct:16", "none", (-1.0, 1.0), "deterministic", 0)
    assert model.is_cacheable and model.spec.hash == load("dct:16").spec.hash != load("dct:8").spec.hash


@pytest.mark.parametrize("name", ["haar", "dct", "pixel-unshuffle"])
def test_sizes_that_cannot_be_cut(name):
    with pytest.raises(InputError, match=r"^Images of 250x256 px cannot be cut into blocks of 16x16; resize or crop"):
        load(name).encode(images(1, 250, 256), [0])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("haar:7", "'haar:7': the number of levels is a whole number from 1 to 6, as in haar:4; got '7'"),
        ("dct:0", "side of a block is a whole number from 1 to 64"),
        ("dct:", "as in dct:16; got ''"),
        ("pixel-unshuffle:a", "got 'a'"),
    ],
)
def test_numbers_that_make_no_transform(name, sentence):
    with pytest.raises(InputError, match=sentence):
        load(name)


def test_a_transform_has_no_posterior():
    with pytest.raises(InputError, match="deterministic encoder, whose posterior cannot be sampled"):
        _ = fdr.load_autoencoder("haar", posterior="sample").spec
    assert fdr.load_autoencoder("haar", posterior="mean", seed=3).spec.seed == 0
