"""Diffusion models of diffusers as one-step generators: the schedulers of diffusers are the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fdr
from fdr.errors import InputError
from fdr.generators import save_generator
from fdr.weights import ONLINE

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("default:.*one-step images are far from images:fdr.errors.FdrWarning"),
]
SMALL: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip
DDPM = {"clip_sample": False}


def unet(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**{**SMALL, "in_channels": 3, "out_channels": 3, **more}).eval()


def pipeline(path: Path, network: nn.Module, scheduler: Any) -> Path:
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(path)
    return path


def noise(count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [None, 700])
def test_the_image_is_what_the_scheduler_predicts(tmp_path: Path, prediction: str, timestep: int | None) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, **DDPM)
    network, x = unet(), noise()
    place = pipeline(tmp_path / "p", network, scheduler)
    given = {} if timestep is None else {"arch": "diffusers", "arch_args": {"timestep": timestep}}
    generator = fdr.load_generator(place, value_range=(-1.0, 1.0), **given)
    at = 999 if timestep is None else timestep
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        expected = scheduler.step(network(x, at).sample, at, x).pred_original_sample
        found = generator.network(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert generator.noise_shape == (3, 8, 8) and generator.num_classes is None


def test_a_flow_model_takes_one_step_of_euler(tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    network, x = unet(), noise()
    generator = fdr.load_generator(pipeline(tmp_path / "p", network, scheduler))
    scheduler.set_timesteps(1)
    with torch.no_grad():
        at = scheduler.timesteps[0]
        expected = scheduler.step(network(x, at).sample, at, x).prev_sample
        torch.testing.assert_close(generator.network(x), expected, rtol=1e-5, atol=1e-5)


def test_classes_are_labels(tmp_path: Path) -> None:
    network = unet(num_class_embeds=5)
    generator = fdr.load_generator(pipeline(tmp_path / "p", network, diffusers.DDIMScheduler(prediction_type="sample")))
    x, labels = noise(), torch.tensor([1, 4])
    with torch.no_grad():
        torch.testing.assert_close(generator.network(x, labels), network(x, 999, labels).sample)
        assert not torch.equal(generator.network(x, labels), generator.network(x, labels.flip(0)))
    assert generator.num_classes == 5


def latent_pipeline(path: Path) -> tuple[Path, nn.Module, nn.Module]:
    """A DiT that predicts means and variances of latents, and the autoencoder of the latents."""
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_embeds_ada_norm=6, norm_num_groups=4,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    ).eval()  # fmt: skip
    diffusers.DiTPipeline(dit, vae, diffusers.DDIMScheduler(prediction_type="v_prediction", **DDPM)).save_pretrained(
        path
    )
    return path, dit, vae


def test_latents_are_decoded_as_in_the_pipeline(tmp_path: Path) -> None:
    place, dit, vae = latent_pipeline(tmp_path / "dit")
    generator = fdr.load_generator(place)
    x, labels = noise(channels=4), torch.tensor([0, 5])
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", **DDPM)
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        made = dit(x, timestep=torch.tensor([999, 999]), class_labels=labels).sample[:, :4]
        latents = scheduler.step(made, 999, x).pred_original_sample
        expected = vae.decode(latents / 0.5).sample
        torch.testing.assert_close(generator.network(x, labels), expected, rtol=1e-4, atol=1e-4)
    assert generator.num_classes == 6 and generator.noise_shape == (4, 8, 8)
    trained = [name for name, value in generator.named_parameters() if value.requires_grad]
    assert trained and all("decoder" not in name for name in trained)


def test_images_outside_of_the_range_are_a_warning(tmp_path: Path) -> None:
    place = pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="epsilon"))
    with pytest.warns(fdr.errors.FdrWarning, match="outside of its value range -1:1: its one-step images"):
        fdr.load_generator(place)


def test_a_run_folder_makes_the_network_again(tmp_path: Path) -> None:
    generator = fdr.load_generator(pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="sample")))
    with torch.no_grad():
        next(generator.parameters()).add_(0.1)
    save_generator(tmp_path / "run", generator, {ONLINE: generator.state_dict()})
    again = fdr.load_generator(tmp_path / "run")
    torch.testing.assert_close(again(noise()), generator(noise()))
    assert again.digest() == generator.digest()


def test_the_image_has_a_gradient(tmp_path: Path) -> None:
    generator = fdr.load_generator(pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="sample")))
    generator(noise()).mean().backward()
    assert all(p.grad is not None for p in generator.parameters() if p.requires_grad)


def changed(path: Path, **settings: Any) -> Path:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**data, **settings}.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("file", "settings", "sentence"),
    [
        ("model_index.json", {"scheduler": None}, "made of a unet or transformer and a scheduler"),
        ("model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]}, "no known step from pure noise"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "known are epsilon"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "epsilon", "rescale_betas_zero_snr": True},
            "give an earlier one",
        ),
        ("unet/config.json", {"_class_name": "AutoencoderKL"}, "does not fit|is no"),
    ],
)
def test_what_cannot_be_one_step_is_one_sentence(
    tmp_path: Path, file: str, settings: dict[str, Any], sentence: str
) -> None:
    place = pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="sample"))
    changed(place / file, **settings)
    with pytest.raises(fdr.FdrError, match=sentence):
        fdr.load_generator(place)


@pytest.mark.parametrize(("timestep", "sentence"), [(1000, "has 0 to 999"), (-1, "has 0 to 999")])
def test_a_timestep_that_does_not_exist(tmp_path: Path, timestep: int, sentence: str) -> None:
    place = pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="sample"))
    with pytest.raises(InputError, match=sentence):
        fdr.load_generator(place, arch="diffusers", arch_args={"timestep": timestep})


@pytest.mark.parametrize("given", [{"width": 3}, {"timestep": "late"}, {"vae": 5}, {"timestep": True}])
def test_other_arguments_are_one_sentence(tmp_path: Path, given: dict[str, Any]) -> None:
    place = pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="sample"))
    with pytest.raises(InputError, match="takes timestep=N and vae="):
        fdr.load_generator(place, arch="diffusers", arch_args=given)


def test_a_repository_that_is_not_here_is_a_diffusion_model() -> None:
    with pytest.raises(fdr.WeightsError, match="There is no file or folder 'nobody/nothing'"):
        fdr.load_generator("nobody/nothing", arch="diffusers", offline=True)


def test_a_model_of_texts_is_refused(tmp_path: Path) -> None:
    place = pipeline(tmp_path / "p", unet(), diffusers.DDIMScheduler(prediction_type="sample"))
    torch.manual_seed(0)
    diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
    ).save_pretrained(place / "unet")  # fmt: skip
    with pytest.raises(InputError, match="needs encoder_hidden_states beside noise"):
        fdr.load_generator(place)


def test_latents_without_an_autoencoder(tmp_path: Path) -> None:
    place = pipeline(
        tmp_path / "p", unet(in_channels=4, out_channels=4), diffusers.DDIMScheduler(prediction_type="sample")
    )
    with pytest.raises(InputError, match="latents of 4 channels"):
        fdr.load_generator(place)
