"""Programs and factories become autoencoders, with the bits of the modules they were made of."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from autoencoder_worlds import Gaussian, Plain, ScriptedGaussian, seeded
from safetensors.torch import save_file

import fdr
from fdr.errors import InputError, WeightsError
from fdr.generators import POSTERIOR, noise_of

IMAGES = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
ROWS = range(3)


def scripted(path: Path, network: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(path))
    return path


class Half(torch.nn.Module):
    """One method as a module, for torch.export."""

    def __init__(self, network, name):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, values):
        return getattr(self.network, self.name)(values)


def exported(encoder: Path, decoder: Path, network: torch.nn.Module, name: str = "encode") -> None:
    free = {i: torch.export.Dim.AUTO for i in (0, 2, 3)}
    for path, method, shape in ((encoder, name, (2, 3, 16, 32)), (decoder, "decode", (2, 4, 4, 8))):
        program = torch.export.export(Half(network, method), (torch.zeros(shape),), dynamic_shapes=(free,))
        torch.export.save(program, path)


def same(model, network) -> None:
    """The numbers of the object itself."""
    expected = fdr.load_autoencoder(network, seed=model.spec.seed)
    latents = model.encode(IMAGES, ROWS)
    torch.testing.assert_close(latents, expected.encode(IMAGES, ROWS), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.decode(latents), expected.decode(latents), rtol=0, atol=1e-6)
    model.check(16, 24)


def test_a_torchscript_module_with_two_methods(tmp_path):
    network = seeded(ScriptedGaussian)
    model = fdr.load_autoencoder(scripted(tmp_path / "a.pt", network), device="cpu", seed=2)
    same(model, network)
    assert (model.spec.family, model.spec.posterior, model.spec.seed) == ("torchscript", "sample", 2)
    assert model.spec.value_range == (0.0, 1.0) and model.is_cacheable and len(model.spec.weights) == 64
    (tmp_path / "a.pt.json").write_text(json.dumps({"value_range": [-1, 1], "posterior": "mean"}))
    said = fdr.load_autoencoder(tmp_path / "a.pt", device="cpu")
    assert (said.spec.posterior, said.spec.value_range) == ("mean", (-1.0, 1.0))
    asked = fdr.load_autoencoder(tmp_path / "a.pt", device="cpu", posterior="sample", value_range=(0, 1))
    assert (asked.spec.posterior, asked.spec.value_range) == ("sample", (0.0, 1.0))


@pytest.mark.parametrize("place", ["folder", "encoder", "decoder"])
def test_a_pair_of_exports(tmp_path, place):
    network = seeded(Gaussian)
    stem = "" if place == "folder" else "small."
    exported(tmp_path / f"{stem}encoder.pt2", tmp_path / f"{stem}decoder.pt2", network)
    name = tmp_path if place == "folder" else tmp_path / f"small.{place}.pt2"
    model = fdr.load_autoencoder(name, device="cpu", seed=4)
    same(model, network)
    assert (model.spec.family, model.spec.model, model.spec.posterior) == ("export", f"{stem}encoder.pt2", "sample")
    hashes = {model.spec.hash}
    exported(tmp_path / f"{stem}encoder.pt2", tmp_path / f"{stem}decoder.pt2", seeded(Gaussian, seed=1))
    hashes.add(fdr.load_autoencoder(name, device="cpu", seed=4).spec.hash)
    (tmp_path / f"{stem}encoder.pt2.json").write_text('{"value_range": [0, 1]}')
    hashes.add(fdr.load_autoencoder(name, device="cpu", seed=4).spec.hash)
    assert len(hashes) == 3


@pytest.mark.parametrize("prefix", ["", "py:"])
def test_a_factory_with_weights_and_arguments(tmp_path, prefix):
    network = seeded(Gaussian, "dict", 6)
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    model = fdr.load_autoencoder(
        f"{prefix}autoencoder_worlds:build",
        weights=tmp_path / "a.safetensors",
        arguments={"width": 6},
        device="cpu",
    )
    noise = noise_of(0, ROWS, (6, 4, 6), purpose=POSTERIOR)
    mean, logvar = network.moments(2 * IMAGES - 1)
    torch.testing.assert_close(model.encode(IMAGES, ROWS), (mean + torch.exp(logvar / 2) * noise).detach())
    same(model, network)
    assert (model.spec.family, model.spec.model, model.is_cacheable) == ("factory", "autoencoder_worlds:build", True)
    assert model.spec.extra == (("arguments", '{"width": 6}'),)


def test_the_hash_of_a_factory_is_of_its_weights(tmp_path):
    hashes = set()
    for seed in (0, 1):
        torch.save({"state_dict": seeded(Gaussian, seed=seed).state_dict()}, tmp_path / "a.pt")
        loaded = fdr.load_autoencoder("autoencoder_worlds:build", weights=tmp_path / "a.pt", device="cpu")
        hashes.add(loaded.spec.hash)
    assert len(hashes) == 2


def test_a_factory_of_an_object():
    model = fdr.load_autoencoder("autoencoder_worlds:make_codec", device="cpu")
    assert not model.is_cacheable
    with pytest.raises(InputError, match=r"is a Halving, no nn.Module; it cannot be given weights"):
        fdr.load_autoencoder("autoencoder_worlds:make_codec", weights="a.safetensors")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("autoencoder_worlds:broken", {}, r"called with no arguments raised RuntimeError: no luck; check arguments"),
        ("autoencoder_worlds:build", {"arguments": {"depth": 3}}, r"called with depth=3 raised TypeError"),
        ("autoencoder_worlds:biuld", {}, "Unknown factory of module autoencoder_worlds 'biuld'; did you mean 'build'"),
        ("autoencoder_worlds:no_model", {}, "its factory made a int without encode and decode"),
        ("autoencoder_worlds:already", {}, "its factory made a LoadedAutoencoder; let it return the model itself"),
        ("no_such_module:build", {}, "importing 'no_such_module' failed"),
        ("autoencoder_worlds:build", {"weights": "none.pt"}, "there is no weight file 'none.pt'; check weights"),
        ("haar", {"weights": "a.pt"}, "'haar' brings its own weights; drop 'a.pt'"),
        ("haar", {"arguments": {"a": 1}}, "made by no factory; drop its arguments"),
        ("hear", {}, "There is no autoencoder 'hear'; expected pixel-unshuffle, dct, haar, a repository of the hub"),
        ("models/vae.pt", {}, "There is no autoencoder 'models/vae.pt'"),
    ],
)
def test_names_and_options_that_load_nothing(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        fdr.load_autoencoder(name, device="cpu", **options)


def test_weights_that_do_not_fit(tmp_path):
    save_file(seeded(Plain, 5).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit the architecture of .*check autoencoder and arguments"):
        fdr.load_autoencoder("autoencoder_worlds:build", weights=tmp_path / "a.safetensors")


def test_files_that_are_none(tmp_path):
    save_file(seeded().state_dict(), tmp_path / "a.safetensors")
    exported(tmp_path / "net.encoder.pt2", tmp_path / "other.decoder.pt2", seeded(Gaussian))
    (tmp_path / "empty").mkdir()
    for name, sentence in (
        ("a.safetensors", "is no program; weights alone need the code of their model"),
        ("net.encoder.pt2", r"There is no '.*net.decoder.pt2', without which"),
        ("net.pt2", r"There is no autoencoder"),
        ("empty", r"holds no autoencoder; expected config.json of a diffusers model, or encoder.pt2 and decoder.pt2"),
    ):
        with pytest.raises(InputError, match=sentence):
            fdr.load_autoencoder(tmp_path / name, device="cpu")
    (tmp_path / "net.pt2").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is one program, and an autoencoder has two; expected NAME.encoder.pt2"):
        fdr.load_autoencoder(tmp_path / "net.pt2", device="cpu")
    with pytest.raises(InputError, match=r"has no method encode and no decode; mark both with torch.jit.export"):
        fdr.load_autoencoder(scripted(tmp_path / "linear.pt", torch.nn.Linear(2, 2)), device="cpu")


def test_a_sidecar_that_makes_no_sense(tmp_path):
    path = scripted(tmp_path / "a.pt", seeded(ScriptedGaussian))
    for said, sentence in (
        ({"posterior": "mode"}, r"Unknown posterior in '.*a.pt.json': 'mode'"),
        ({"range": [0, 1]}, "did you mean 'value_range'"),
        ({"value_range": 3}, "two numbers"),
    ):
        (tmp_path / "a.pt.json").write_text(json.dumps(said))
        with pytest.raises(InputError, match=sentence):
            fdr.load_autoencoder(path, device="cpu")
    (tmp_path / "a.pt.json").unlink()
    with pytest.raises(InputError, match="runs in the precision it was saved in; drop dtype"):
        fdr.load_autoencoder(path, device="cpu", dtype="bf16")
