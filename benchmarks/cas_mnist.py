"""Class-conditional samples of MNIST for docs/cas.md: a Gaussian for each digit in the latent space of a trained VAE.

    python benchmarks/cas_mnist.py DATA OUT.npz

DATA holds `train20k.npz` (`arr_0` uint8 [N, 28, 28, 1], `arr_1` [N]) and `vae.safetensors` (fc1 784-400, fc21 and fc22
400-20, fc3 20-400, fc4 400-784). The digit --without is left out, as by a generator that dropped a class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--without", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    weights = load_file(options.data / "vae.safetensors")
    with np.load(options.data / "train20k.npz") as file:
        images, labels = torch.from_numpy(file["arr_0"]), file["arr_1"]
    latents = encoded(images.flatten(1).float() / 255, weights)
    generator = torch.Generator().manual_seed(options.seed)
    digits = [digit for digit in range(10) if digit != options.without]
    made = [decoded(drawn(latents[labels == digit], options.per_class, generator), weights) for digit in digits]
    np.savez(options.out, arr_0=np.concatenate(made), arr_1=np.repeat(digits, options.per_class))


def encoded(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The means of the posterior, [N, 20]."""
    hidden = linear(x, weights["fc1.weight"], weights["fc1.bias"]).relu()
    return linear(hidden, weights["fc21.weight"], weights["fc21.bias"])


def drawn(latents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples [count, 20] of a Gaussian with the mean and covariance of the latents."""
    factor = torch.linalg.cholesky(torch.cov(latents.T) + 1e-4 * torch.eye(latents.shape[1]))
    return latents.mean(0) + torch.randn(count, latents.shape[1], generator=generator) @ factor.T


def decoded(latents: Tensor, weights: dict[str, Tensor]) -> np.ndarray:
    """uint8 [N, 28, 28, 1]"""
    hidden = linear(latents, weights["fc3.weight"], weights["fc3.bias"]).relu()
    x = linear(hidden, weights["fc4.weight"], weights["fc4.bias"]).sigmoid()
    return (x * 255).round().byte().reshape(-1, 28, 28, 1).numpy()


if __name__ == "__main__":
    main()
