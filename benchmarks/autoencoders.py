"""Three small autoencoders of CIFAR-10, trained here, for `fdr ifid`: what reconstructs best need not interpolate best.

    python benchmarks/autoencoders.py --data FOLDER --out FOLDER [--steps 1500] [--only plain] [--json out.json]

The data folder holds `train10k.npz` and `test5k.npz` (arr_0 uint8 [N, 32, 32, 3]). The networks are the same but for
their latents:

    kl       16 x 4 x 4, a Gaussian posterior with a weak prior
    strong   16 x 4 x 4, the same with a prior twenty times as strong
    plain    64 x 4 x 4, deterministic and free

Every 100 steps are kept, so the same command continues a run that was stopped. Each ends as OUT/NAME.safetensors:

    fdr.load_autoencoder("benchmarks.autoencoders:kl", weights="OUT/kl.safetensors")

in the folder that holds `benchmarks`. Reported are CPU seconds, and PSNR of the 5,000 test images, reconstructed from
the posterior's mean and from a sample of it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

import fdr
from fdr.runtime import atomic_path, write_atomically

KEPT_EVERY = 100
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
PRIORS = {"kl": 5e-4, "strong": 1e-2, "plain": 0.0}
"""Weight of the mean KL divergence of one latent value beside the mean squared error of one pixel in [-1, 1]."""


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Autoencoder(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] -> latents [B, channels, 4, 4], and back."""

    def __init__(self, channels: int, is_variational: bool, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        self.is_variational = is_variational
        down: list[nn.Module] = []
        up: list[nn.Module] = [nn.Conv2d(channels, widths[-1], 3, padding=1)]
        for before, after in zip((3, *widths), widths, strict=False):
            down += [nn.Conv2d(before, after, 4, 2, 1), Block(after)]
        for before, after in zip(widths[::-1], widths[-2::-1], strict=False):
            up += [Block(before), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        last = [nn.SiLU(), nn.Conv2d(widths[-1], channels * (1 + is_variational), 3, padding=1)]
        self.encoder = nn.Sequential(*down, *last)
        self.decoder = nn.Sequential(*up, Block(widths[0]), nn.ConvTranspose2d(widths[0], 3, 4, 2, 1))

    def encode(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        made: Tensor = self.encoder(images)
        if not self.is_variational:
            return made
        mean, logvar = made.chunk(2, dim=1)
        return {"mean": mean, "logvar": logvar}

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


def kl() -> Autoencoder:
    return Autoencoder(16, is_variational=True)


def strong() -> Autoencoder:
    return Autoencoder(16, is_variational=True)


def plain() -> Autoencoder:
    return Autoencoder(64, is_variational=False)


FACTORIES: dict[str, Callable[[], Autoencoder]] = {"kl": kl, "strong": strong, "plain": plain}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--only", choices=list(FACTORIES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, test = (images_of(options.data / name) for name in ("train10k.npz", "test5k.npz"))
    found = {}
    for name in FACTORIES if options.only is None else (options.only,):
        path = options.out / f"{name}.safetensors"
        seconds = train_one(name, train, options.steps, path)
        found[name] = {"cpu_seconds": round(seconds)} | reconstruction(name, path, test)
        print(name, json.dumps(found[name]), flush=True)
    harness.write_json(options.json, results=found)


def images_of(path: Path) -> Tensor:
    """float32 [N, 3, 32, 32] in [0, 1]."""
    array = np.load(path, allow_pickle=False)["arr_0"]
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def train_one(name: str, images: Tensor, steps: int, path: Path) -> float:
    """Train to `steps` from wherever an earlier run was stopped; CPU seconds of all runs."""
    torch.manual_seed(0)
    network = FACTORIES[name]()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    state_path = path.with_suffix(".state.pt")
    begun, spent = resume(network, optimizer, state_path)
    started = time.process_time()
    for step in range(begun, steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        draw = torch.Generator().manual_seed(step)  # by the step, so that a resumed run sees the batches of a whole one
        batch = 2 * images[torch.randint(len(images), (BATCH_SIZE,), generator=draw)] - 1
        batch = batch.flip(3) if step % 2 else batch
        total, mse = loss_of(network, batch, PRIORS[name], draw)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == steps:
            seconds = spent + time.process_time() - started
            keep(network, optimizer, step + 1, seconds, state_path)
            print(f"{name} step {step + 1}: mse {mse.item():.4f}, {seconds:.0f} s", flush=True)
    write_atomically(path, save({key: value.contiguous() for key, value in network.state_dict().items()}))
    return spent + time.process_time() - started


def loss_of(network: Autoencoder, batch: Tensor, prior: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean squared error, with the weighted KL divergence of the posterior from a standard normal; and the former."""
    encoded = network.encode(batch)
    if isinstance(encoded, Tensor):
        mse = F.mse_loss(network.decode(encoded), batch)
        return mse, mse
    mean, logvar = encoded["mean"], encoded["logvar"]
    latents = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=draw)
    mse = F.mse_loss(network.decode(latents), batch)
    return mse + prior * 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(), mse


def keep(network: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float, path: Path) -> None:
    state: dict[str, Any] = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic_path(path) as temporary:
        torch.save(state | {"step": step, "seconds": seconds}, temporary)


def resume(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def reconstruction(name: str, path: Path, images: Tensor) -> dict[str, float]:
    """Mean PSNR of the images, decoded from the mean of the posterior and, where there is one, from a sample."""
    found = {}
    for posterior in ("mean", "sample") if FACTORIES[name]().is_variational else ("mean",):
        model = fdr.load_autoencoder(f"benchmarks.autoencoders:{name}", weights=path, posterior=posterior, device="cpu")
        errors = []
        for start in range(0, len(images), 250):
            batch = images[start : start + 250]
            decoded = model.decode(model.encode(batch, range(start, start + len(batch)))).clamp(0, 1)
            errors.append((decoded - batch).double().square().mean((1, 2, 3)))
        found[f"psnr_{posterior}"] = round(float(-10 * torch.cat(errors).log10().mean()), 2)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))  # where `benchmarks.autoencoders` is found
    main()
