"""Models of diffusers give the latents and images that diffusers gives; files that do not fit are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fdr
from fdr.errors import InputError, WeightsError
from fdr.generators import POSTERIOR, noise_of

diffusers = pytest.importorskip("diffusers")

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIGNED = 2 * IMAGES - 1
ROWS = (5, 9)
SMALL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}


def seeded(kind: str, **config):
    torch.manual_seed(0)
    return getattr(diffusers, kind)(**config).eval()


def kl(**more):
    return seeded("AutoencoderKL", latent_channels=4, **SMALL, **more)


def saved(path: Path, model) -> Path:
    model.save_pretrained(path)
    return path


def load(name, **options):
    return fdr.load_autoencoder(name, device="cpu", **options)


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=atol)


def test_a_kl_autoencoder(tmp_path):
    network = kl()
    folder = saved(tmp_path / "vae", network)
    dist = network.encode(SIGNED).latent_dist
    close(load(folder, posterior="mean").encode(IMAGES, ROWS), dist.mean)
    model = load(folder, seed=3)
    noise = noise_of(3, ROWS, (4, 16, 16), purpose=POSTERIOR)
    latents = model.encode(IMAGES, ROWS)
    close(latents, dist.mean + dist.std * noise)
    close(model.decode(latents), (network.decode(latents).sample + 1) / 2)
    assert (model.spec.family, model.spec.model, model.spec.posterior) == ("diffusers", "AutoencoderKL", "sample")
    assert model.is_cacheable and model.spec.hash != load(folder).spec.hash
    model.check(32, 32)
    close(fdr.load_autoencoder(network, seed=3).encode(IMAGES, ROWS), latents)


def test_its_scaling_factor_is_not_applied(tmp_path):
    close(
        load(saved(tmp_path, kl(scaling_factor=0.1, shift_factor=0.3)), posterior="mean").encode(IMAGES, ROWS),
        kl().encode(SIGNED).latent_dist.mean,
    )


def test_files_of_a_whole_pipeline_and_a_weights_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "pipeline" / "vae", kl())
    one = load("pipeline")
    saved(tmp_path / "weights" / "some--model" / "vae", kl())
    other = load("some/model/vae", weights_dir="weights", offline=True)
    assert one.spec.hash == other.spec.hash and other.name == "some/model/vae"
    saved(tmp_path / "weights" / "some--model@v2", kl())
    assert load("some/model@v2", weights_dir="weights", offline=True).spec.hash == one.spec.hash
    with pytest.raises(
        WeightsError, match=r"files of autoencoder 'some/other' were not found .* offline: fetch config"
    ):
        load("some/other", weights_dir="weights", offline=True)


def test_weights_in_parts(tmp_path):
    kl().save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    close(load(tmp_path, posterior="mean").encode(IMAGES, ROWS), kl().encode(SIGNED).latent_dist.mean)


def test_names_of_older_releases_are_read(tmp_path):
    """stabilityai/sd-vae-ft-mse has query, key, value and proj_attn."""
    from safetensors.torch import load_file, save_file

    path = saved(tmp_path, kl()) / "diffusion_pytorch_model.safetensors"
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = load_file(path)
    for new, was in old.items():
        state = {name.replace(new, was): tensor for name, tensor in state.items()}
    assert any("proj_attn" in name for name in state)
    save_file(state, path)
    close(load(tmp_path, posterior="mean").encode(IMAGES, ROWS), kl().encode(SIGNED).latent_dist.mean)


def test_deterministic_outputs(tmp_path):
    tiny = seeded(
        "AutoencoderTiny",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    )
    model = load(saved(tmp_path / "tiny", tiny))
    close(model.encode(IMAGES, ROWS), tiny.encode(SIGNED).latents)
    close(model.decode(model.encode(IMAGES, ROWS)), (tiny.decode(tiny.encode(SIGNED).latents).sample + 1) / 2)
    vq = seeded("VQModel", latent_channels=4, num_vq_embeddings=16, **SMALL)
    model = load(saved(tmp_path / "vq", vq))
    close(model.encode(IMAGES, ROWS), vq.encode(SIGNED).latents)
    close(model.decode(model.encode(IMAGES, ROWS)), (vq.decode(vq.encode(SIGNED).latents).sample + 1) / 2)
    assert model.spec.posterior == "deterministic"


def has(kind: str):
    return pytest.mark.skipif(not hasattr(diffusers, kind), reason=f"this diffusers has no {kind}")


@has("AutoencoderKLFlux2")
def test_packed_latents_of_flux2(tmp_path):
    network = seeded("AutoencoderKLFlux2", latent_channels=4, batch_norm_eps=1e-4, **SMALL)
    with torch.no_grad():
        network.bn.running_mean.normal_()
        network.bn.running_var.uniform_(0.5, 2)
    model = load(saved(tmp_path, network))
    mean, std = network.bn.running_mean.view(1, -1, 1, 1), torch.sqrt(network.bn.running_var.view(1, -1, 1, 1) + 1e-4)
    plain = network.encode(SIGNED).latent_dist
    pack = diffusers.Flux2Pipeline._patchify_latents
    latents = model.encode(IMAGES, ROWS)
    assert model.latent_shape(32, 32) == (16, 8, 8)
    assert (model.spec.posterior, dict(model.spec.extra)["layout"]) == ("mean", "packed")
    close(latents, (pack(plain.mean) - mean) / std)
    unpacked = diffusers.Flux2Pipeline._unpatchify_latents(latents * std + mean)
    close(model.decode(latents), (network.decode(unpacked).sample + 1) / 2, atol=5e-6)
    sampled = load(tmp_path, posterior="sample").encode(IMAGES, ROWS)
    noise = noise_of(0, ROWS, (16, 8, 8), purpose=POSTERIOR)
    close(sampled, latents + pack(plain.std) / std * noise)
    model.check(32, 32)


VIDEO = {"base_dim": 4, "z_dim": 2, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=has(kind)) for kind in ("AutoencoderKLWan", "AutoencoderKLQwenImage")]
)
def test_video_autoencoders(tmp_path, kind):
    statistics = {"latents_mean": [0.0, 0.0], "latents_std": [1.0, 1.0]}
    network = seeded(kind, **VIDEO, **statistics)
    model = load(saved(tmp_path, network), posterior="mean")
    expected = network.encode(SIGNED[:, :, None]).latent_dist.mean
    latents = model.encode(IMAGES, ROWS)
    assert model.latent_shape(32, 32) == (2, 16, 16) == latents.shape[1:] and expected.shape[2] == 1
    assert dict(model.spec.extra)["layout"] == "time-axis"
    close(latents, expected[:, :, 0])
    close(model.decode(latents), (network.decode(expected).sample[:, :, 0] + 1) / 2)
    assert load(tmp_path).spec.posterior == "sample"
    model.check(32, 32)


@has("AutoencoderRAE")
def test_a_representation_autoencoder(tmp_path):
    network = seeded(
        "AutoencoderRAE",
        encoder_type="mae",
        encoder_hidden_size=64,
        encoder_patch_size=8,
        encoder_num_hidden_layers=1,
        encoder_input_size=32,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        noise_tau=0.8,
    )
    model = load(saved(tmp_path, network))
    latents = model.encode(IMAGES, ROWS)
    close(latents, network.encode(IMAGES).latent)
    close(model.decode(latents), network.decode(latents).sample)
    assert (model.spec.value_range, model.spec.posterior) == ((0.0, 1.0), "deterministic")
    assert model.latent_shape(32, 32) == (64, 4, 4)
    with pytest.raises(InputError, match="decodes images of 64x64 to 32x32"):
        model.check(64, 64)


def test_files_that_do_not_fit(tmp_path):
    folder = saved(tmp_path / "a", kl())
    config = json.loads((folder / "config.json").read_text())
    for change, sentence in (
        ({"latent_channels": 8}, r"does not fit autoencoder .*, an AutoencoderKL by config.json \("),
        ({"layers_per_block": 2}, r"an AutoencoderKL by config.json \(\d+ names do not agree, .* among them\)"),
        ({"_class_name": "UNet2DModel"}, "describes a UNet2DModel, which is no autoencoder of diffusers"),
        ({"_class_name": "DDPMScheduler"}, "describes a DDPMScheduler, which is no autoencoder"),
        ({"_class_name": "os"}, "describes a os, which is no autoencoder"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=sentence):
            load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is not readable JSON"):
        load(folder)


def test_a_tensor_that_no_part_of_the_model_takes_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = saved(tmp_path, kl()) / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "another.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"\(1 names do not agree, another.weight among them\)"):
        load(tmp_path)


def test_weights_of_half_precision_run_in_float32(tmp_path):
    folder = saved(tmp_path, kl().half())
    model = load(folder, posterior="mean")
    close(model.encode(IMAGES, ROWS), kl().half().float().encode(SIGNED).latent_dist.mean)


def test_the_digest_of_a_configuration_is_that_of_what_builds_the_model(tmp_path):
    folder = saved(tmp_path, kl())
    config = json.loads((folder / "config.json").read_text())
    before = load(folder).spec
    hashes = []
    for change in ({"_diffusers_version": "0.0.1", "_name_or_path": "elsewhere"}, {"scaling_factor": 0.5}):
        (folder / "config.json").write_text(json.dumps(config | change))
        hashes.append(load(folder).spec.hash)
    assert hashes[0] == before.hash != hashes[1]
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    assert digest[:16] in str(before)


def test_pickled_weights_are_not_read(tmp_path):
    saved(tmp_path, kl()).joinpath("diffusion_pytorch_model.safetensors").unlink()
    torch.save(kl().state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"fetch .*diffusion_pytorch_model.safetensors"):
        load(tmp_path, offline=True)
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model.bin' is no .safetensors file"):
        load(tmp_path, weights=tmp_path / "diffusion_pytorch_model.bin")


def test_other_weights_for_one_configuration(tmp_path):
    saved(tmp_path / "a", kl())
    torch.manual_seed(1)
    other = diffusers.AutoencoderKL(latent_channels=4, **SMALL).eval()
    shutil.copy(saved(tmp_path / "b", other) / "diffusion_pytorch_model.safetensors", tmp_path / "mine.safetensors")
    model = load(tmp_path / "a", weights=tmp_path / "mine.safetensors", posterior="mean")
    close(model.encode(IMAGES, ROWS), other.encode(SIGNED).latent_dist.mean)
    assert model.spec.hash == load(tmp_path / "b", posterior="mean").spec.hash


def test_loading_is_silent_and_leaves_torch_alone(tmp_path, capfd):
    folder = saved(tmp_path, kl())
    capfd.readouterr()
    state = torch.get_rng_state()
    load(folder)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == torch.float32


def test_without_diffusers_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    folder = saved(tmp_path, kl())
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"Autoencoder '.*' needs diffusers, .*; pip install 'diffusers>=0.36'\.$"):
        load(folder)


def test_the_packing_of_flux2_is_pixel_unshuffle():
    latents = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    blocks = latents.reshape(2, 3, 2, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 2, 3)
    assert torch.equal(F.pixel_unshuffle(latents, 2), blocks)
