"""Where the checks of an autoencoder begin and end, and what its hash is made of."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoder_worlds import Gaussian, Plain, ScriptedGaussian, seeded
from test_loading_autoencoders import exported, scripted

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.ifid import check_named_by_file
from fdr.ifid.autoencoders.posterior import read_posterior

IMAGES = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(0))


class Fixed:
    """Encodes to the images themselves, in [0, 1], and decodes by a function of them."""

    value_range = (0.0, 1.0)

    def __init__(self, decode: Any = None) -> None:
        self._decode = decode

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents if self._decode is None else self._decode(latents)


def with_share(latents: torch.Tensor, share: float, value: float) -> torch.Tensor:
    """This share of all values is `value`."""
    flat = latents.flatten().clone()
    flat[: round(share * len(flat))] = value
    return flat.reshape(latents.shape)


@pytest.mark.parametrize(
    ("share", "value", "is_refused"),
    [
        (0.04, 9.0, False),
        (0.06, 9.0, True),
        (1.0, 1.49, False),
        (1.0, 1.51, True),
        (0.06, -0.51, True),
        (1, -0.49, False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*reconstructs with a mean squared error")
def test_values_far_outside_are_refused_beyond_five_percent(share: float, value: float, is_refused: bool) -> None:
    """Far means further out than half of the range."""
    model = fdr.load_autoencoder(Fixed(lambda z: with_share(z, share, value)), device="cpu")
    if not is_refused:
        model.check(20, 20)
        return
    with pytest.raises(InputError, match="far outside of its value range 0:1; give value_range"):
        model.check(20, 20)


@pytest.mark.parametrize(("factor", "is_warned"), [(3.9, False), (4.1, True)])
def test_the_other_range_is_suggested_if_it_is_four_times_better(factor: float, is_warned: bool) -> None:
    """In [0, 1] the error is 0.01; in [-1, 1], whose latents reach below 0, it is a `factor` of that."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        if float(latents.min()) < -0.5:  # asked for -1:1, whose errors are halved when they become [0, 1]
            return latents + 2 * (0.01 / factor) ** 0.5
        return latents + 0.1

    model = fdr.load_autoencoder(Fixed(decode), device="cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.check(32, 32)
    assert [w.category for w in caught] == [FdrWarning] * is_warned
    if is_warned:
        assert "of 0.01 in the value range 0:1, and of 0.0024 in -1:1" in str(caught[0].message)


@pytest.mark.parametrize(("error", "is_warned"), [(0.0028, False), (0.0032, True)])
def test_a_small_error_is_never_suspicious(error: float, is_warned: bool) -> None:
    """0.003 is 25 dB."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return latents + (0 if float(latents.min()) < -0.5 else error**0.5)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fdr.load_autoencoder(Fixed(decode), device="cpu").check(32, 32)
    assert len(caught) == is_warned


@pytest.mark.parametrize(("noise", "is_refused"), [(0.0003, False), (0.01, True)])
def test_noise_of_an_encoder_is_refused_if_it_is_more_than_rounding(noise: float, is_refused: bool) -> None:
    class Noisy(Fixed):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images + noise * torch.randn_like(images)

    model = fdr.load_autoencoder(Noisy(), device="cpu")
    if not is_refused:
        model.check(32, 32)
        return
    with pytest.raises(InputError, match="draws noise of its own"):
        model.check(32, 32)


def test_memory_that_runs_out_is_not_taken_for_a_fault_of_the_model() -> None:
    def fails(latents: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        fdr.load_autoencoder(Fixed(fails), device="cpu").decode(IMAGES)


def test_a_spec_of_samples_has_their_seed_and_one_of_means_has_none() -> None:
    network = seeded(Gaussian)
    specs = {kind: fdr.load_autoencoder(network, posterior=kind, seed=6).spec for kind in ("sample", "mean")}
    assert {kind: (spec.posterior, spec.seed) for kind, spec in specs.items()} == {
        "sample": ("sample", 6),
        "mean": ("mean", 0),
    }


def test_training_mode_is_no_part_of_the_hash() -> None:
    assert fdr.load_autoencoder(seeded().train()).spec.hash == fdr.load_autoencoder(seeded().eval()).spec.hash


def test_plain_attributes_are_part_of_the_hash() -> None:
    hashes = set()
    for value in (1, 2, 1.5, "a", None, (1, 2), True):
        network = seeded()
        network.setting = value
        hashes.add(fdr.load_autoencoder(network).spec.hash)
    network = seeded()
    network.down.setting = 1
    hashes.add(fdr.load_autoencoder(network).spec.hash)
    hashes.add(fdr.load_autoencoder(seeded()).spec.hash)
    assert len(hashes) == 9


def test_tf32_is_part_of_the_hash_and_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("fdr.runtime.set_tf32", asked.append)
    exact, fast = (fdr.load_autoencoder(seeded(), tf32=tf32) for tf32 in (False, True))
    assert asked == [False, True] and exact.spec.hash != fast.spec.hash
    assert fast.spec.extra == (("tf32", "allowed"),) and exact.spec.extra == ()


def test_arguments_of_a_factory_are_part_of_the_hash() -> None:
    torch.manual_seed(0)
    hashes = {
        fdr.load_autoencoder("autoencoder_worlds:build", arguments=given, device="cpu").spec.extra
        for given in ({}, {"width": 4}, {"width": 5})
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("changed", ["encoder", "decoder"])
def test_both_programs_of_a_pair_are_part_of_its_hash(tmp_path: Path, changed: str) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        exported(tmp_path / f"{name}.encoder.pt2", tmp_path / f"{name}.decoder.pt2", seeded(Gaussian, seed=seed))
    before = fdr.load_autoencoder(tmp_path / "a.encoder.pt2", device="cpu").spec.weights
    (tmp_path / f"b.{changed}.pt2").replace(tmp_path / f"a.{changed}.pt2")
    assert fdr.load_autoencoder(tmp_path / "a.encoder.pt2", device="cpu").spec.weights != before


def test_an_option_precedes_the_file_and_the_file_precedes_the_attribute(tmp_path: Path) -> None:
    path = scripted(tmp_path / "a.pt", seeded(ScriptedGaussian))
    ranges = [fdr.load_autoencoder(path, device="cpu").value_range]
    (tmp_path / "a.pt.json").write_text(json.dumps({"value_range": [0, 255], "posterior": None}))
    ranges.append(fdr.load_autoencoder(path, device="cpu").value_range)
    ranges.append(fdr.load_autoencoder(path, device="cpu", value_range=(-1, 1)).value_range)
    assert ranges == [(0, 1), (0, 255), (-1, 1)]


@pytest.mark.parametrize("key", ["latent_dist", "latents", "latent"])
@pytest.mark.parametrize("is_dict", [True, False])
def test_latents_within_an_output_are_found(key: str, is_dict: bool) -> None:
    inner = {"mean": IMAGES, "logvar": torch.zeros_like(IMAGES)}
    output = {key: inner} if is_dict else type("Output", (), {key: inner})()
    found = read_posterior(output, "it")
    assert torch.equal(found.mean, IMAGES) and found.std is not None and bool((found.std == 1).all())


def test_a_deviation_precedes_a_variance() -> None:
    two = torch.full_like(IMAGES, 2)
    for given, value in (({"std": two}, 2), ({"stddev": two}, 2), ({"var": two}, 2**0.5), ({"logvar": two}, torch.e)):
        found = read_posterior({"mean": IMAGES, **given}, "it").std
        assert found is not None
        torch.testing.assert_close(found, torch.full_like(IMAGES, value))
    both = read_posterior({"mean": IMAGES, "std": two, "var": two}, "it").std
    assert both is not None and torch.equal(both, two)


def test_an_object_stays_on_its_own_device() -> None:
    class Elsewhere(Fixed):
        device = torch.device("meta")

    assert fdr.load_autoencoder(Elsewhere()).device == torch.device("meta")
    assert fdr.load_autoencoder(Elsewhere(), device="cpu").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "is_allowed"), [("dct:64", True), ("dct:65", False), ("haar:6", True), ("haar:7", False)]
)
def test_the_largest_blocks(name: str, is_allowed: bool) -> None:
    if is_allowed:
        assert fdr.load_autoencoder(name, device="cpu").latent_shape(64, 64) == (3 * 64 * 64, 1, 1)
        return
    with pytest.raises(InputError, match="is a whole number from 1 to"):
        fdr.load_autoencoder(name, device="cpu")


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "vae.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 9\n")
    with pytest.raises(InputError, match="LFS"):
        fdr.load_autoencoder(path, device="cpu")


def test_a_file_may_name_data_but_no_code(tmp_path: Path) -> None:
    """As in a configuration that came with someone's data."""
    (tmp_path / "vae.pt").write_bytes(b"anything")
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "config.json").write_text("{}")
    for name in ("haar", "dct:8", "owner/name", str(tmp_path / "diffusers")):
        check_named_by_file(name, "fdr.toml")
    for name in ("my_model:build", "py:my_model:build", str(tmp_path / "vae.pt"), str(tmp_path)):
        with pytest.raises(InputError, match=r"fdr\.toml"):
            check_named_by_file(name, "fdr.toml")


def test_a_loaded_autoencoder_is_returned_as_it_is() -> None:
    network = seeded(Plain)
    loaded = fdr.load_autoencoder(network)
    assert fdr.load_autoencoder(loaded, posterior="mean", seed=9, value_range=(0, 1)) is loaded
    assert repr(loaded) == "LoadedAutoencoder('object:Plain', device='cpu')"
