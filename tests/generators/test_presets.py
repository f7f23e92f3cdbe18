"""pMF and JiT: sizes and names of the published checkpoints, and a second implementation in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fdr
from fdr.errors import InputError
from fdr.generators.jit import JustImageTransformer
from fdr.generators.pmf import PixelMeanFlow
from fdr.generators.presets import PRESETS
from fdr.generators.run_folder import save_generator

COUNTS = {
    "pmf-b-256": 118_234_240,
    "pmf-l-256": 410.32e6,
    "pmf-h-256": 955.51e6,
    "pmf-b-512": 120.30e6,
    "pmf-l-512": 412.98e6,
    "pmf-h-512": 959.05e6,
    "jit-b-256": 131_320_320,
    "jit-l-256": 458.88e6 + 256 * 1024,  # published without the position table
    "jit-h-256": 952.51e6 + 256 * 1280,
}
TINY = {"width": 16, "heads": 2, "bottleneck": 6, "patch": 2, "size": 4, "noise_scale": 2.0}
"""Of four patches."""


def tiny_pmf(steps: int = 1) -> PixelMeanFlow:
    return PixelMeanFlow(depth=9, omega=5.0, interval=(0.1, 0.7), steps=steps, **TINY)


def tiny_jit(steps: int = 1) -> JustImageTransformer:
    return JustImageTransformer(depth=3, context_start=1, omega=3.0, interval=(0.0, 0.9), steps=steps, **TINY)


@pytest.fixture(params=[tiny_pmf, tiny_jit])
def make(request):
    return request.param


def filled(network, seed: int = 0):
    """Every weight random, so that none hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return network.eval()


def inputs(seed: int = 1, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 4, 4, generator=generator), torch.tensor([7, 0, 999])[:count]


@pytest.mark.parametrize("name", PRESETS)
def test_number_of_parameters(name):
    with torch.device("meta"):
        network = PRESETS[name]()
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == COUNTS[name] if isinstance(COUNTS[name], int) else abs(found - COUNTS[name]) < 5000 + 1
    assert network.noise_shape == (3, int(name[-3:]), int(name[-3:]))


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
def test_names_and_shapes_of_the_checkpoints(name, shapes):
    with torch.device("meta"):
        state = PRESETS[name]().state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert "x_embedder.proj1.bias" in state or name.startswith("jit")


# --- The second implementation: numpy, float64, rotations as complex numbers, pixels by loops. ---


def silu(x):
    return x / (1 + np.exp(-x))


def rms(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def scalar_features(value):
    angles = [value * math.exp(-math.log(10000) * i / 128) for i in range(128)]
    return np.array([*map(math.cos, angles), *map(math.sin, angles)])


def turned(x, position):
    """One vector [head_dim] at (row, column), or at None."""
    pairs = x[0::2] + 1j * x[1::2]
    half = len(pairs) // 2
    if position is not None:
        for i in range(half):
            frequency = 10000.0 ** (-2 * i / (len(x) / 2))
            pairs[i] *= np.exp(1j * position[0] * frequency)
            pairs[half + i] *= np.exp(1j * position[1] * frequency)
    return np.stack([pairs.real, pairs.imag], 1).ravel()


def attention(q, k, v, q_norm, k_norm, heads, positions):
    """[N, dim] each -> [N, dim]."""
    out = np.zeros_like(v)
    size = v.shape[1] // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        a = np.stack([turned(rms(x, q_norm), p) for x, p in zip(q[:, part], positions, strict=True)])
        b = np.stack([turned(rms(x, k_norm), p) for x, p in zip(k[:, part], positions, strict=True)])
        weights = np.exp(a @ b.T / math.sqrt(size))
        out[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
    return out


def patches(state, image, bias):
    rows = []
    for r in range(2):
        for c in range(2):
            pixels = image[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
            narrow = np.tensordot(state["x_embedder.proj1.weight"], pixels, 3)
            narrow = narrow + (state["x_embedder.proj1.bias"] if bias else 0)
            rows.append(state["x_embedder.proj2.weight"][:, :, 0, 0] @ narrow + state["x_embedder.proj2.bias"])
    return np.stack(rows)


def image_of(tokens):
    image = np.zeros((3, 4, 4))
    for number, token in enumerate(tokens):
        for at, value in enumerate(token):
            row, column, channel = at // 6, at // 3 % 2, at % 3
            image[channel, 2 * (number // 2) + row, 2 * (number % 2) + column] = value
    return image


GRID = [(0, 0), (0, 1), (1, 0), (1, 1)]


def pmf_estimate(state, image, label, step):
    def embedded(name, value):
        inner = state[f"{name}.mlp.0.linear.weight"] @ scalar_features(value) + state[f"{name}.mlp.0.linear.bias"]
        return state[f"{name}.mlp.2.linear.weight"] @ silu(inner) + state[f"{name}.mlp.2.linear.bias"]

    x = np.concatenate(
        [
            state["class_tokens"] + state["y_embedder.embedding_table.embedding.weight"][label],
            state["omega_tokens"] + embedded("omega_embedder", 1 - 1 / 5.0),
            state["t_min_tokens"] + embedded("cfg_t_start_embedder", 0.1),
            state["t_max_tokens"] + embedded("cfg_t_end_embedder", 0.7),
            state["time_tokens"] + embedded("h_embedder", step),
            patches(state, image, bias=True),
        ]
    )
    x = x + state["pos_embed"][0]
    for block in ("shared_blocks.0", *(f"u_heads.{i}" for i in range(8))):
        y = rms(x, state[f"{block}.norm1.weight"])
        q, k, v = (y @ state[f"{block}.attn.{name}_proj.linear.weight"].T for name in "qkv")
        norms = state[f"{block}.attn.q_norm.weight"], state[f"{block}.attn.k_norm.weight"]
        y = attention(q, k, v, *norms, 2, [None] * 20 + GRID)
        x = x + y @ state[f"{block}.attn.out_proj.linear.weight"].T * state[f"{block}.attn_scale"]
        y = rms(x, state[f"{block}.norm2.weight"])
        w1, w2, w3 = (state[f"{block}.mlp.w{i}.linear.weight"].T for i in (1, 2, 3))
        x = x + (silu(y @ w1) * (y @ w3)) @ w2 * state[f"{block}.mlp_scale"]
    out = rms(x[20:], state["u_final_layer.norm.weight"]) @ state["u_final_layer.linear.linear.weight"].T
    return image_of(out + state["u_final_layer.linear.linear.bias"])


def jit_estimate(state, image, label, time):
    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    y = state["y_embedder.embedding_table.weight"][label]
    c = silu(linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", scalar_features(1 - time)))) + y)
    x, positions = patches(state, image, bias=False) + state["pos_embed"][0], GRID
    for index in range(3):
        block = f"blocks.{index}"
        if index == 1:
            x, positions = np.concatenate([y + state["in_context_posemb"][0], x]), [None] * 32 + GRID
        shift, scale, gate, shift2, scale2, gate2 = np.split(linear(f"{block}.adaLN_modulation.1", c), 6)
        q, k, v = np.split(
            linear(f"{block}.attn.qkv", rms(x, state[f"{block}.norm1.weight"]) * (1 + scale) + shift), 3, axis=1
        )
        norms = state[f"{block}.attn.q_norm.weight"], state[f"{block}.attn.k_norm.weight"]
        x = x + gate * linear(f"{block}.attn.proj", attention(q, k, v, *norms, 2, positions))
        a, b = np.split(
            linear(f"{block}.mlp.w12", rms(x, state[f"{block}.norm2.weight"]) * (1 + scale2) + shift2), 2, axis=1
        )
        x = x + gate2 * linear(f"{block}.mlp.w3", silu(a) * b)
    shift, scale = np.split(linear("final_layer.adaLN_modulation.1", c), 2)
    x = rms(x[32:], state["final_layer.norm_final.weight"]) * (1 + scale) + shift
    return image_of(linear("final_layer.linear", x))


def in_numpy(network) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("time", [1.0, 0.3])
def test_the_network_is_that_of_the_second_implementation(make, time):
    network = filled(make())
    state, (z, labels) = in_numpy(network), inputs()
    oracle = pmf_estimate if make is tiny_pmf else jit_estimate
    with torch.no_grad():
        found = network.estimate(z, time, labels)
    expected = np.stack([oracle(state, x, y, time) for x, y in zip(z.double().numpy(), labels.tolist(), strict=True)])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert np.abs(expected).max() > 0.5


def test_one_step_is_the_estimate_of_scaled_noise(make):
    network = filled(make())
    z, labels = inputs()
    with torch.no_grad():
        torch.testing.assert_close(network(z, labels), network.estimate(2 * z, 1.0, labels), rtol=1e-5, atol=1e-5)


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
    network(*inputs()).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_original_names_of_pmf(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "pmf-b-256", tiny_pmf)
    network = filled(tiny_pmf())
    with torch.no_grad():
        network.u_final_layer.linear.linear.weight *= 0.1  # images within their range
    state = {}
    for name, tensor in network.state_dict().items():
        name = name.replace(".linear.w", "._flax_linear.w").replace(".linear.b", "._flax_linear.b")
        name = name.replace(".embedding.weight", "._flax_embedding.weight")
        state[f"net.{name}"] = (tensor[None] if name.endswith("_tokens") else tensor).clone()
    state |= {"net.v_heads.0.norm1.weight": torch.ones(16), "net.v_final_layer.norm.weight": torch.ones(16)}
    state["net.rope_freqs"] = torch.ones(3)
    assert {
        "net.u_heads.0.attn.q_proj._flax_linear.weight",
        "net.u_final_layer.linear._flax_linear.bias",
    } <= state.keys()
    save_file(state, tmp_path / "a.safetensors")
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
