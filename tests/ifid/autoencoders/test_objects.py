"""Objects with encode and decode become autoencoders, whatever form their outputs have."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from autoencoder_worlds import FORMS, Gaussian, Plain, seeded

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.generators import POSTERIOR, noise_of
from fdr.ifid import AutoencoderSpec, LoadedAutoencoder
from fdr.ifid.autoencoders.posterior import read_posterior
from fdr.runtime import devices as runtime

IMAGES = torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))
SIGNED = 2 * IMAGES - 1


def test_a_deterministic_module():
    network = seeded()
    model = fdr.load_autoencoder(network.train())
    assert not network.training and model.device == torch.device("cpu")
    latents = model.encode(IMAGES, range(5))
    torch.testing.assert_close(latents, network.encode(SIGNED).detach(), rtol=0, atol=0)
    torch.testing.assert_close(model.decode(latents), (network.decode(latents).detach() + 1) / 2, rtol=0, atol=0)
    assert model.latent_shape(16, 24) == (4, 4, 6) and model.latent_shape(8, 8) == (4, 2, 2)
    assert (model.spec.family, model.spec.model) == ("object", "autoencoder_worlds.Plain")
    assert (model.spec.posterior, model.spec.seed, model.is_cacheable) == ("deterministic", 0, True)
    assert not latents.requires_grad and fdr.load_autoencoder(model) is model
    model.check(16, 24)


@pytest.mark.parametrize("form", FORMS)
def test_posteriors_of_every_form_are_sampled_by_row(form):
    network = seeded(Gaussian, form)
    model = fdr.load_autoencoder(network, seed=3)
    mean, logvar = network.moments(SIGNED)
    noise = noise_of(3, [7, 8, 2, 0, 11], (4, 4, 6), purpose=POSTERIOR)
    expected = (mean + torch.exp(0.5 * logvar) * noise).detach()
    found = model.encode(IMAGES, [7, 8, 2, 0, 11])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (model.spec.posterior, model.spec.seed) == ("sample", 3)
    alone = model.encode(IMAGES[2:3], [2])
    torch.testing.assert_close(alone, found[2:3], rtol=0, atol=1e-6)
    assert not torch.allclose(model.encode(IMAGES[:1], [1]), model.encode(IMAGES[:1], [2]), atol=1e-2)
    of_mean = fdr.load_autoencoder(network, posterior="mean", seed=3)
    torch.testing.assert_close(of_mean.encode(IMAGES, range(5)), mean.detach(), rtol=0, atol=0)
    assert (of_mean.spec.posterior, of_mean.spec.seed) == ("mean", 0)
    model.check(16, 24)


class ModeOnly:
    """A distribution with methods, as some write it."""

    def __init__(self, values, **more):
        self.mode = lambda: values
        vars(self).update(more)


def test_a_distribution_with_a_mode():
    torch.testing.assert_close(read_posterior(ModeOnly(IMAGES), "it").mean, IMAGES)
    found = read_posterior(ModeOnly(IMAGES, logvar=torch.tensor([-100.0, 0.0, 2.0, 100.0])), "it").std
    torch.testing.assert_close(found, torch.tensor([-15.0, 0.0, 1.0, 10.0]).exp())
    torch.testing.assert_close(read_posterior({"mean": IMAGES, "var": IMAGES}, "it").std, IMAGES.sqrt())
    with pytest.raises(InputError, match="a ModeOnly without logvar, std or var, whose samples fdr cannot draw"):
        read_posterior(ModeOnly(IMAGES, sample=lambda: IMAGES), "it")


def test_bf16_is_autocast(monkeypatch):
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda device: True)
    network = seeded(Gaussian)
    exact = fdr.load_autoencoder(network)
    model = fdr.load_autoencoder(network, dtype="bf16")
    latents = model.encode(IMAGES, range(5))
    difference = (latents - exact.encode(IMAGES, range(5))).abs().max().item()
    assert latents.dtype == model.decode(latents).dtype == torch.float32 and 1e-5 < difference < 0.05
    assert model.spec.dtype == "bf16" and model.spec.hash != exact.spec.hash
    assert network.down.weight.dtype == torch.float32


def test_bf16_is_refused_where_it_is_slow(monkeypatch):
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda device: False)
    with pytest.raises(InputError, match="has no fast bfloat16"):
        fdr.load_autoencoder(seeded(), dtype="bf16")


def test_the_noise_of_a_posterior_has_a_stream_of_its_own():
    """The normal quantiles of the words of SFC64, seeded by the seed, purpose 3 and the number of the image."""
    words = np.random.SFC64(np.random.SeedSequence(7, spawn_key=(3, 11))).random_raw(8).astype("<u8")
    shares = ((words.view("<i4") >> 8).astype(np.float64) + 2**23 + 0.5) / 2**24
    expected = [NormalDist().inv_cdf(float(share)) for share in shares]
    found = noise_of(7, [11], (16,), purpose=POSTERIOR)
    np.testing.assert_allclose(found[0], expected, rtol=2e-6, atol=2e-7)
    assert not torch.equal(found, noise_of(7, [11], (16,)))


def test_the_hash_is_of_what_moves_numbers():
    network = seeded()
    hashes = {
        fdr.load_autoencoder(network).spec.hash,
        fdr.load_autoencoder(network, posterior="mean", seed=2).spec.hash,
    }
    assert len(hashes) == 1
    for other in (
        fdr.load_autoencoder(network, value_range=(0, 1)),
        fdr.load_autoencoder(seeded(seed=1)),
        fdr.load_autoencoder(seeded(Plain, 5)),
        fdr.load_autoencoder(seeded(Gaussian)),
        fdr.load_autoencoder(seeded(Gaussian, "torch")),
        fdr.load_autoencoder(seeded(Gaussian), seed=1),
        fdr.load_autoencoder(seeded(Gaussian), posterior="mean"),
    ):
        assert other.spec.hash not in hashes
        hashes.add(other.spec.hash)
    named = AutoencoderSpec("a", "object", "m", "none")
    assert named.hash == AutoencoderSpec("b", "object", "m", "none").hash
    assert len({AutoencoderSpec("a", "object", "m", "none", dtype=dtype).hash for dtype in ("float32", "bf16")}) == 2


class Outside:
    """No module: nothing says what its numbers depend on."""

    def __init__(self, network):
        self.network = network

    def encode(self, images):
        return self.network.encode(images)

    def decode(self, latents):
        return (self.network.decode(latents),)


def test_an_object_that_is_no_module():
    model = fdr.load_autoencoder(Outside(seeded()))
    assert not model.is_cacheable and model.spec.weights == "unknown"
    assert model.device == torch.device("cpu") and model.name == "object:Outside"
    torch.testing.assert_close(model.encode(IMAGES, range(5)), fdr.load_autoencoder(seeded()).encode(IMAGES, range(5)))
    model.check(16, 24)


def test_an_object_that_brings_its_spec():
    item = Outside(seeded())
    item.spec = AutoencoderSpec("mine", "object", "mine-v1", "abc", value_range=(0.0, 1.0))
    model = fdr.load_autoencoder(item)
    assert model.is_cacheable
    assert model.spec == item.spec
    torch.testing.assert_close(model.encode(IMAGES, range(5)), item.network.encode(IMAGES).detach())


class Tokens:
    """A representation autoencoder: [0, 1] in and out, latents [B, L, C]."""

    value_range = (0.0, 1.0)

    def encode(self, images):
        return torch.nn.functional.pixel_unshuffle(images, 8).flatten(2).transpose(1, 2)

    def decode(self, latents):
        maps = latents.transpose(1, 2).unflatten(2, (2, 3))
        return {"sample": torch.nn.functional.pixel_shuffle(maps, 8)}


def test_tokens_in_the_unit_range():
    model = fdr.load_autoencoder(Tokens())
    assert model.latent_shape(16, 24) == (6, 192) and model.spec.value_range == (0.0, 1.0)
    assert torch.equal(model.decode(model.encode(IMAGES, range(5))), IMAGES)
    model.check(16, 24)


def test_one_channel_and_overshoot():
    class Grey:
        def encode(self, images):
            return images.mean((1, 2, 3))[:, None]

        def decode(self, latents):
            return 1.2 + 0 * latents[:, :, None, None].expand(-1, 1, 4, 4)

    model = fdr.load_autoencoder(Grey())
    assert model.latent_shape(4, 4) == (1,)
    decoded = model.decode(torch.zeros(2, 1))
    assert decoded.shape == (2, 3, 4, 4) and float(decoded.max()) == pytest.approx(1.1)


class Fails(Tokens):
    def __init__(self, encode=None, decode=None):
        self._encode, self._decode = encode, decode

    def encode(self, images):
        return super().encode(images) if self._encode is None else self._encode(images)

    def decode(self, latents):
        return super().decode(latents) if self._decode is None else self._decode(latents)


def _raise(_):
    raise ValueError("no luck")


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (Fails(_raise), r"encode of object:Fails failed on a batch of shape \[2, 3, 16, 24\] \(ValueError: no luck\)"),
        (Fails(None, _raise), r"decode of object:Fails failed on a batch of shape \[2, 6, 192\]"),
        (Fails(lambda x: "text"), "encode of object:Fails returned a str; expected latents"),
        (Fails(lambda x: {"a": x}), "returned a dict of a; expected"),
        (
            Fails(lambda x: x[:1]),
            r"must make latents \[B, C, h, w\] or \[B, L, C\]; of images \[2, 3, 16, 24\] it made",
        ),
        (Fails(lambda x: x / 0), "latents that are not finite"),
        (Fails(lambda x: x + torch.randn_like(x)), "draws noise of its own.*let it return mean and logvar"),
        (Fails(None, lambda z: None), "decode of object:Fails returned a NoneType; expected images"),
        (Fails(None, lambda z: z), r"must make images \[B, 3, H, W\]; of latents \[2, 6, 192\] it made \[2, 6, 192\]"),
        (Fails(None, lambda z: torch.zeros(2, 3, 8, 8)), "decodes images of 16x24 to 8x8; give it images of a size"),
        (Fails(None, lambda z: torch.full((2, 3, 16, 24), torch.nan)), "decodes to values that are not finite"),
        (Fails(None, lambda z: torch.full((2, 3, 16, 24), 200.0)), "values from 200 to 200, 100% of them far outside"),
    ],
)
def test_models_that_are_none(item, sentence):
    with pytest.raises(InputError, match=sentence):
        fdr.load_autoencoder(item, device="cpu").check(16, 24)


def test_the_wrong_range_is_told():
    class Unit(Tokens):
        """What it reconstructs in [0, 1] it would clip in [-1, 1]."""

        def decode(self, latents):
            return {"sample": super().decode(latents)["sample"].clamp(0, 1)}

    fdr.load_autoencoder(Unit()).check(16, 24)
    with pytest.warns(FdrWarning, match=r"in the value range -1:1, and of 0 in 0:1; give value_range"):
        fdr.load_autoencoder(Unit(), value_range=(-1, 1)).check(16, 24)


def test_a_decoder_that_draws_noise_draws_the_same():
    model = fdr.load_autoencoder(Fails(None, lambda z: torch.rand(len(z), 3, 16, 24)))
    latents = model.encode(IMAGES, range(5))
    state = torch.get_rng_state()
    assert torch.equal(model.decode(latents), model.decode(latents))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (Plain, "got the class Plain; make an object of it"),
        (object(), "got a object without encode and decode"),
        (torch.nn.Linear(2, 2), "got a Linear without encode and decode"),
    ],
)
def test_objects_that_are_no_autoencoders(item, sentence):
    with pytest.raises(InputError, match=sentence):
        fdr.load_autoencoder(item)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"value_range": (1, 0)}, "black:white, such as -1:1 or 0:1; got 1:0"),
        ({"value_range": "ab"}, "two numbers"),
        ({"posterior": "mode"}, "Unknown posterior 'mode'"),
        ({"seed": -1}, "seed of an autoencoder is -1"),
        ({"dtype": "fp16"}, "Unknown dtype 'fp16'"),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(InputError, match=sentence):
        fdr.load_autoencoder(seeded(), **options)


def test_inputs_that_are_no_images():
    model = fdr.load_autoencoder(seeded())
    with pytest.raises(InputError, match=r"takes float32 images \[B, 3, H, W\] in \[0, 1\]; got torch.uint8"):
        model.encode((IMAGES * 255).byte(), range(5))
    with pytest.raises(InputError, match=r"got torch.float32 \[5, 16, 24\]"):
        model.encode(IMAGES[:, 0], range(5))
    with pytest.raises(InputError, match="given 5 images and the numbers of 4"):
        model.encode(IMAGES, range(4))


def test_what_an_encoder_returns_is_found_without_a_size():
    class Fixed(Gaussian):
        def encode(self, images):
            assert images.shape[2:] == (28, 28)
            return super().encode(images)

    assert fdr.load_autoencoder(seeded(Fixed)).spec.posterior == "sample"

    class Odd(Gaussian):
        def encode(self, images):
            assert images.shape[2:] == (20, 20)
            return super().encode(images)

    model = fdr.load_autoencoder(seeded(Odd))
    with pytest.raises(InputError, match=r"encodes no image of 64, 256, .* name the size of its images first"):
        _ = model.spec
    assert model.latent_shape(20, 20) == (4, 5, 5) and model.spec.posterior == "sample"
    assert isinstance(model, LoadedAutoencoder) and fdr.load_autoencoder.__module__ == "fdr.ifid.autoencoders.loading"
