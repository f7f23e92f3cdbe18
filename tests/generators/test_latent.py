"""iMF with its decoder: the images of diffusers, weights that are constants, what cannot be loaded."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from latent_worlds import SIDE, original_names, save_vae, tiny_imf, tiny_vae
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fdr
from fdr.errors import InputError, WeightsError
from fdr.generators import save_generator
from fdr.generators.published.presets import PRESETS, PUBLISHED_VAE
from fdr.generators.published.vae import load_decoder
from fdr.weights.diffusers import WEIGHTS
from fdr.weights.download import FetchError

MEAN = torch.tensor([0.86488, -0.27787343, 0.21616915, 0.3738409])[:, None, None]
STD = torch.tensor([4.85503674, 5.31922414, 3.93725398, 3.9870003])[:, None, None]


@pytest.fixture
def vae(tmp_path):
    return str(save_vae(tmp_path / "vae"))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, vae):
    """A published checkpoint of a tiny iMF, which `--arch imf-b` knows."""
    monkeypatch.setitem(PRESETS, "imf-b", tiny_imf)
    network, generator = tiny_imf(vae), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    save_file(original_names(network, wraps_tokens=False), tmp_path / "imf.safetensors")
    return tmp_path / "imf.safetensors"


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 0, 999])


def test_the_decoder_is_that_of_diffusers(vae):
    latents, _ = inputs()
    with torch.no_grad():
        expected = tiny_vae().decode(latents).sample
        found = load_decoder(vae, channels=4)(latents)
    assert expected.shape == (3, 3, SIDE, SIDE) and expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # torch multiplies in another order


def test_images_are_the_decoded_end_of_the_flow(checkpoint, vae):
    loaded = fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae})
    assert (loaded.noise_shape, loaded.num_classes, loaded.image_size) == ((4, 4, 4), 1000, (SIDE, SIDE))
    noise, labels = inputs()
    with torch.no_grad():
        end = noise - loaded.network.estimate(noise, 1.0, labels)
        expected = tiny_vae().decode(end * STD + MEAN).sample * 0.5 + 0.5
        torch.testing.assert_close(loaded(noise, labels), expected, rtol=1e-5, atol=1e-5)
        two = fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae, "steps": 2})
        assert not torch.allclose(two(noise, labels), expected, atol=1e-3)


def test_the_decoder_is_passed_by_the_gradient_and_is_no_parameter(checkpoint, vae):
    loaded = fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae})
    assert not any("decoder" in name for name in [*loaded.state_dict(), *dict(loaded.named_parameters())])
    loaded.train()
    assert not loaded.network.decoder.training
    loaded(*inputs()).square().mean().backward()
    assert [name for name, p in loaded.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert not any(buffer.requires_grad for buffer in loaded.buffers())
    moved = loaded.to("meta")
    assert {tensor.device.type for tensor in moved.network.decoder.buffers()} == {"meta"}


def test_a_run_folder_names_the_decoder_and_does_not_repeat_it(checkpoint, vae, tmp_path):
    loaded = fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae})
    save_generator(tmp_path / "run", loaded)
    index = json.loads((tmp_path / "run" / "generator.json").read_text())
    assert index["architecture"] == {"kind": "factory", "target": "imf-b", "arguments": {"vae": vae}}
    with safe_open(tmp_path / "run" / index["weights"]["online"], "pt") as file:
        assert set(file.keys()) == {name.removeprefix("network.") for name, _ in loaded.named_parameters()}
    with pytest.raises(InputError, match=r"asks for .*, a folder of this machine; .*: arch imf-b arch_args vae="):
        fdr.load_generator(tmp_path / "run")
    again = fdr.load_generator(tmp_path / "run", trust=True)
    assert again.digest() == loaded.digest()
    with torch.no_grad():
        assert torch.equal(again(*inputs()), loaded(*inputs()))


def test_another_decoder_is_another_generator(checkpoint, vae, tmp_path):
    """With the same path and other weights in it, no cached feature may be taken for this generator's."""
    one = fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae}).digest()
    save_vae(tmp_path / "vae", seed=1)
    assert fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae}).digest() not in (one, None)
    save_vae(tmp_path / "vae")
    assert fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae}).digest() == one


def test_older_names_of_the_attention_are_read(vae, tmp_path):
    """The published file has query, key, value and proj_attn."""
    path = tmp_path / "vae" / WEIGHTS
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = load_file(path)
    assert sum("to_out.0." in name for name in state) == 4
    for new, old in older.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    save_file(state, path)
    latents, _ = inputs()
    with torch.no_grad():
        torch.testing.assert_close(
            load_decoder(vae, 4)(latents), tiny_vae().decode(latents).sample, rtol=1e-5, atol=1e-5
        )


def _damaged(folder):
    path = folder / WEIGHTS
    state = load_file(path)
    del state["decoder.conv_out.weight"]
    save_file(state, path)


def _misshapen(folder):
    path = folder / WEIGHTS
    save_file(load_file(path) | {"decoder.conv_out.bias": torch.zeros(5)}, path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "fetch .*diffusion_pytorch_model.safetensors and save it as"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 90), "does not fit autoencoder"),
        (lambda folder: (folder / "config.json").unlink(), "There is no autoencoder .*vae="),
        (_damaged, "1 names do not agree, decoder.conv_out.weight among them"),
        (_misshapen, "does not fit autoencoder"),
    ],
)
def test_decoders_that_cannot_be_used(vae, tmp_path, spoil, sentence):
    spoil(tmp_path / "vae")
    with pytest.raises(InputError) as caught:
        load_decoder(vae, 4)
    assert re.search(sentence, str(caught.value)) and "\n" not in str(caught.value)


def test_latents_of_another_number_of_channels(tmp_path):
    with pytest.raises(InputError, match="AutoencoderKL with latents of 8 channels; the generator makes those of"):
        load_decoder(str(save_vae(tmp_path, latent_channels=8)), 4)


def test_the_published_decoder_is_looked_for_and_offline_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=f"{PUBLISHED_VAE}' were not found on this machine, and the run is offline"):
        PRESETS["imf-l"]()


@pytest.mark.parametrize(
    ("argument", "variable", "is_fetched"),
    [(None, "0", True), (True, "0", False), (None, "1", False), (False, "1", True)],
)
def test_what_keeps_from_fetching(monkeypatch, tmp_path, checkpoint, argument, variable, is_fetched):
    """The argument of load_generator, which --offline becomes, else the environment."""
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", variable)

    def fetch(repository, file, revision, progress):
        asked.append((repository, file, revision))
        raise FetchError("no luck")

    monkeypatch.setattr("fdr.weights.files.fetch_from_hub", fetch)
    with pytest.raises(WeightsError, match="no luck" if is_fetched else "the run is offline"):
        fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": "owner/name@main"}, offline=argument)
    assert asked == ([("owner/name", "config.json", "main")] if is_fetched else [])


def test_a_decoder_in_a_weights_folder(vae, tmp_path, monkeypatch):
    """Where `fdr weights` would put it, for a machine without network."""
    (tmp_path / "vae").rename(tmp_path / "owner--name")
    monkeypatch.setenv("FDR_WEIGHTS", str(tmp_path))
    assert load_decoder("owner/name", 4).digest == load_decoder(str(tmp_path / "owner--name"), 4).digest


def test_without_diffusers_one_sentence_says_what_to_install(checkpoint, vae, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"needs diffusers, .*; pip install 'diffusers>=0.36'\.$") as caught:
        fdr.load_generator(checkpoint, arch="imf-b", arch_args={"vae": vae})
    assert "\n" not in str(caught.value)
