"""pMF, iMF and JiT: sizes and names of the published checkpoints, and a second implementation in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from latent_worlds import original_names, save_vae
from safetensors.torch import save_file
from torch import nn
from transformer_oracle import imf_estimate, jit_estimate, pmf_estimate

import fdr
from fdr.errors import InputError
from fdr.generators import save_generator
from fdr.generators.published.jit import JustImageTransformer
from fdr.generators.published.mean_flow import LatentMeanFlow, PixelMeanFlow
from fdr.generators.published.presets import PRESETS
from fdr.generators.published.transformer import Sampler, Sizes

COUNTS = {
    "pmf-b-256": 118_234_240,
    "pmf-l-256": 410.32e6,
    "pmf-h-256": 955.51e6,
    "pmf-b-512": 120.30e6,
    "pmf-l-512": 412.98e6,
    "pmf-h-512": 959.05e6,
    "imf-b": 88_935_184,
    "imf-l": 409.05e6,
    "imf-xl": 610.42e6,
    "jit-b-256": 131_320_320,
    "jit-l-256": 458.88e6 + 256 * 1024,  # published without the position table
    "jit-h-256": 952.51e6 + 256 * 1280,
}
PIXELS = {"width": 16, "heads": 2, "bottleneck": 6, "patch": 2, "size": 4}
"""Four patches."""
LATENTS = {"width": 16, "heads": 2, "patch": 2, "size": 4}


def tiny_pmf(steps: int = 1) -> PixelMeanFlow:
    return PixelMeanFlow(Sizes(depth=9, **PIXELS), Sampler(5.0, (0.1, 0.7), 2.0, steps))


def tiny_imf(steps: int = 1) -> LatentMeanFlow:
    """Its decoder hands on the latents, as the autoencoder would get them."""
    return LatentMeanFlow(Sizes(depth=9, **LATENTS), Sampler(8.0, (0.4, 0.65), 2.0, steps), nn.Identity())


def tiny_jit(steps: int = 1) -> JustImageTransformer:
    return JustImageTransformer(Sizes(depth=3, **PIXELS), Sampler(3.0, (0.0, 0.9), 2.0, steps), context_start=1)


MAKERS = {tiny_pmf: pmf_estimate, tiny_imf: imf_estimate, tiny_jit: jit_estimate}


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def make(request):
    return request.param


def filled(network, seed: int = 0):
    """Every weight random, so that none hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return network.eval()


def inputs(make=tiny_pmf) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    channels = 4 if make is tiny_imf else 3
    return torch.randn(3, channels, 4, 4, generator=generator), torch.tensor([7, 0, 999])


def decoded(latents: torch.Tensor) -> torch.Tensor:
    """What comes to the decoder of iMF, with the published mean and deviation of the channels."""
    mean = torch.tensor([0.86488, -0.27787343, 0.21616915, 0.3738409])
    std = torch.tensor([4.85503674, 5.31922414, 3.93725398, 3.9870003])
    return latents * std[None, :, None, None] + mean[None, :, None, None]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return str(save_vae(tmp_path_factory.mktemp("vae")))


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "diffusers"])  # that is built from files
def test_number_of_parameters(name, vae):
    with torch.device("meta"):
        network = PRESETS[name](vae=vae) if name.startswith("imf") else PRESETS[name]()
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == COUNTS[name] if isinstance(COUNTS[name], int) else abs(found - COUNTS[name]) < 5000 + 1
    expected = (4, 32, 32) if name.startswith("imf") else (3, int(name[-3:]), int(name[-3:]))
    assert network.noise_shape == expected


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "pmf-b-256",
            {
                "class_tokens": (8, 768),
                "omega_tokens": (4, 768),
                "t_min_tokens": (2, 768),
                "time_tokens": (4, 768),
                "pos_embed": (1, 276, 768),
                "x_embedder.proj1.bias": (128,),
                "x_embedder.proj2.weight": (768, 128, 1, 1),
                "cfg_t_end_embedder.mlp.0.linear.weight": (768, 256),
                "y_embedder.embedding_table.embedding.weight": (1001, 768),
                "shared_blocks.7.attn.out_proj.linear.weight": (768, 768),
                "u_heads.7.attn.q_norm.weight": (64,),
                "u_heads.0.mlp.w2.linear.weight": (768, 2048),
                "u_heads.0.attn_scale": (768,),
                "u_final_layer.linear.linear.bias": (768,),
            },
        ),
        (
            "imf-b",
            {
                "t_max_tokens": (2, 768),
                "x_embedder.proj.weight": (768, 4, 2, 2),
                "x_embedder.proj.bias": (768,),
                "omega_embedder.mlp.2.linear.bias": (768,),
                "y_embedder.embedding_table.embedding.weight": (1001, 768),
                "shared_blocks.3.mlp.w1.linear.weight": (2048, 768),
                "u_heads.7.attn.k_norm.weight": (64,),
                "u_final_layer.norm.weight": (768,),
                "u_final_layer.linear.linear.weight": (16, 768),
            },
        ),
        (
            "jit-b-256",
            {
                "pos_embed": (1, 256, 768),
                "in_context_posemb": (1, 32, 768),
                "t_embedder.mlp.2.weight": (768, 768),
                "y_embedder.embedding_table.weight": (1001, 768),
                "x_embedder.proj1.weight": (128, 3, 16, 16),
                "blocks.11.attn.qkv.bias": (2304,),
                "blocks.0.mlp.w12.weight": (4096, 768),
                "blocks.0.adaLN_modulation.1.weight": (4608, 768),
                "final_layer.norm_final.weight": (768,),
                "final_layer.adaLN_modulation.1.bias": (1536,),
            },
        ),
    ],
)
def test_names_and_shapes_of_the_checkpoints(name, shapes, vae):
    with torch.device("meta"):
        state = (PRESETS[name](vae=vae) if name == "imf-b" else PRESETS[name]()).state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert ("x_embedder.proj1.bias" in state) == (name == "pmf-b-256")
    assert ("pos_embed" in state) == (name != "imf-b") and not any("decoder" in key for key in state)


def in_numpy(network) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("time", [1.0, 0.3])
def test_the_network_is_that_of_the_second_implementation(make, time):
    network = filled(make())
    state, (z, labels) = in_numpy(network), inputs(make)
    with torch.no_grad():
        found = network.estimate(z, time, labels)
    expected = np.stack(
        [MAKERS[make](state, x, y, time) for x, y in zip(z.double().numpy(), labels.tolist(), strict=True)]
    )
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("make", [tiny_pmf, tiny_jit])
def test_one_step_is_the_estimate_of_scaled_noise(make):
    network = filled(make())
    z, labels = inputs()
    with torch.no_grad():
        torch.testing.assert_close(network(z, labels), network.estimate(2 * z, 1.0, labels), rtol=1e-5, atol=1e-5)


def test_one_step_of_imf_goes_down_the_velocity():
    network = filled(tiny_imf())
    z, labels = inputs(tiny_imf)
    with torch.no_grad():
        expected = decoded(2 * z - network.estimate(2 * z, 1.0, labels))
        torch.testing.assert_close(network(z, labels), expected, rtol=1e-5, atol=1e-5)


def test_several_steps_of_imf(monkeypatch):
    """A velocity of a z multiplies by 1 - h a in every step."""
    network = tiny_imf(steps=4)
    monkeypatch.setattr(network, "estimate", lambda z, step, labels: 0.6 * z if step == 0.25 else None)
    z, labels = inputs(tiny_imf)
    torch.testing.assert_close(network(z, labels), decoded(2 * z * (1 - 0.25 * 0.6) ** 4))


def test_several_steps_of_pmf(monkeypatch):
    """For x = a z every step multiplies: by 1 - h (1 - a) / max(t, 0.05)."""
    network = tiny_pmf(steps=4)
    monkeypatch.setattr(network, "estimate", lambda z, step, labels: 0.25 * z if step == 0.25 else None)
    z, labels = inputs()
    factor = math.prod(1 - 0.25 * 0.75 / t for t in (1, 0.75, 0.5, 0.25))
    torch.testing.assert_close(network(z, labels), 2 * z * factor)


def test_several_steps_of_jit(monkeypatch):
    """Heun's method with the guided velocity, by hand for an estimate that is linear in z and knows the class."""
    network = tiny_jit(steps=2)
    monkeypatch.setattr(network, "estimate", lambda z, t, labels: (0.5 if int(labels[0]) < 1000 else 0.2) * z)
    z, labels = inputs()

    def velocity(value, t):
        guided, free = 0.5 * value / t, 0.8 * value / t
        return free + 3.0 * (guided - free) if t < 0.9 else guided

    at_half = 2.0 - 0.5 * velocity(2.0, 1.0)
    value = 2.0 - 0.5 * (velocity(2.0, 1.0) + velocity(at_half, 0.5)) / 2
    value -= 0.5 * velocity(value, 0.5)
    torch.testing.assert_close(network(z, labels), value * z)


def test_every_weight_gets_a_gradient(make):
    network = filled(make())
    network(*inputs(make)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_original_names_of_pmf(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "pmf-b-256", tiny_pmf)
    network = filled(tiny_pmf())
    with torch.no_grad():
        network.u_final_layer.linear.linear.weight *= 0.1  # images within their range
    save_file(original_names(network, wraps_tokens=True), tmp_path / "a.safetensors")
    loaded = fdr.load_generator(tmp_path / "a.safetensors", arch="pmf-b-256")
    assert (loaded.num_classes, loaded.spec.value_range) == (1000, (-1.0, 1.0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs()), network(*inputs()) / 2 + 0.5)
    save_generator(tmp_path / "run", loaded)
    assert fdr.load_generator(tmp_path / "run").digest() == loaded.digest()


def test_names_and_steps_that_there_are_not(tmp_path, make):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="did you mean 'pmf-b-256'"):
        fdr.load_generator(tmp_path / "a.safetensors", arch="pmf-b-265")
    with pytest.raises(InputError, match="at least 1 step; got steps=0"):
        make(steps=0)
