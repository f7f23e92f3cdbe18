"""pMF, iMF and JiT a second time: numpy, float64, rotations as complex numbers, patches by loops. Of four patches."""

from __future__ import annotations

import math

import numpy as np


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


def turned_in_a_row(x, place):
    """One vector [head_dim] at a place of the sequence."""
    pairs = x[0::2] + 1j * x[1::2]
    for i in range(len(pairs)):
        pairs[i] *= np.exp(1j * place * 10000.0 ** (-2 * i / len(x)))
    return np.stack([pairs.real, pairs.imag], 1).ravel()


def attention(q, k, v, q_norm, k_norm, heads, positions, turned=turned):
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


def latent_patches(state, latents):
    rows = []
    for r in range(2):
        for c in range(2):
            values = latents[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
            rows.append(np.tensordot(state["x_embedder.proj.weight"], values, 3) + state["x_embedder.proj.bias"])
    return np.stack(rows)


def image_of(tokens, channels=3):
    image = np.zeros((channels, 4, 4))
    for number, token in enumerate(tokens):
        for at, value in enumerate(token):
            row, column, channel = at // (2 * channels), at // channels % 2, at % channels
            image[channel, 2 * (number // 2) + row, 2 * (number % 2) + column] = value
    return image


GRID = [(0, 0), (0, 1), (1, 0), (1, 1)]


def mean_flow_prefix(state, label, step, omega, interval):
    def embedded(name, value):
        inner = state[f"{name}.mlp.0.linear.weight"] @ scalar_features(value) + state[f"{name}.mlp.0.linear.bias"]
        return state[f"{name}.mlp.2.linear.weight"] @ silu(inner) + state[f"{name}.mlp.2.linear.bias"]

    return [
        state["class_tokens"] + state["y_embedder.embedding_table.embedding.weight"][label],
        state["omega_tokens"] + embedded("omega_embedder", 1 - 1 / omega),
        state["t_min_tokens"] + embedded("cfg_t_start_embedder", interval[0]),
        state["t_max_tokens"] + embedded("cfg_t_end_embedder", interval[1]),
        state["time_tokens"] + embedded("h_embedder", step),
    ]


def mean_flow_blocks(state, x, positions, turned):
    """All blocks and the final layer, on the patches."""
    for block in ("shared_blocks.0", *(f"u_heads.{i}" for i in range(8))):
        y = rms(x, state[f"{block}.norm1.weight"])
        q, k, v = (y @ state[f"{block}.attn.{name}_proj.linear.weight"].T for name in "qkv")
        norms = state[f"{block}.attn.q_norm.weight"], state[f"{block}.attn.k_norm.weight"]
        y = attention(q, k, v, *norms, 2, positions, turned)
        x = x + y @ state[f"{block}.attn.out_proj.linear.weight"].T * state[f"{block}.attn_scale"]
        y = rms(x, state[f"{block}.norm2.weight"])
        w1, w2, w3 = (state[f"{block}.mlp.w{i}.linear.weight"].T for i in (1, 2, 3))
        x = x + (silu(y @ w1) * (y @ w3)) @ w2 * state[f"{block}.mlp_scale"]
    out = rms(x[20:], state["u_final_layer.norm.weight"]) @ state["u_final_layer.linear.linear.weight"].T
    return out + state["u_final_layer.linear.linear.bias"]


def pmf_estimate(state, image, label, step):
    """The image, for omega 5 and the interval (0.1, 0.7)."""
    x = np.concatenate([*mean_flow_prefix(state, label, step, 5.0, (0.1, 0.7)), patches(state, image, bias=True)])
    return image_of(mean_flow_blocks(state, x + state["pos_embed"][0], [None] * 20 + GRID, turned))


def imf_estimate(state, latents, label, step):
    """The velocity, for omega 8 and the interval (0.4, 0.65)."""
    x = np.concatenate([*mean_flow_prefix(state, label, step, 8.0, (0.4, 0.65)), latent_patches(state, latents)])
    return image_of(mean_flow_blocks(state, x, range(24), turned_in_a_row), channels=4)


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
