"""The worked recipes of docs/training.md, at a size for two cores: each is fdr train, as a user calls it.

    python benchmarks/recipes.py --data FOLDER --out RUNS                       # all
    python benchmarks/recipes.py --data FOLDER --out RUNS --recipes diffusers

- `dcgan`: the weights of a DCGAN of faces are perturbed by 20 %; it is trained back towards images of the original.
- `cdcgan`: the same for a class-conditional GAN of eyes, with `--conditional`.
- `flow`: a diffusers UNet is trained as a rectified flow on procedural images for a while, and `fdr train` makes its
  one Euler step a generator.

FOLDER/weights holds the weights that `recipe_networks.py` names. Prints, for each recipe, the debiased FD before and
after under the trained and the held-out encoders. Runs that are there already go on or stay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from gan_networks import load_weights_of
from loss_worlds import perturbed
from recipe_networks import Eyes, Faces
from safetensors.torch import save_file
from torch import nn

import fdr.images.procedural

HERE = Path(__file__).parent
SIDE, DRAWN, FLOW_STEPS = 16, 4096, 400
GAN_RATE, FLOW_RATE = 2e-5, 1e-4
"""At three to five times these the generator moves faster than its population forgets, and gets worse."""
SIZE = 0.2
"""The size of the perturbation, relative to the root mean square of each weight tensor."""
REAL, JUDGED = 4000, 2600
ENCODERS = ("py:recipe_networks:squeezenet", "py:recipe_networks:held_out")


def fdr_command(*arguments: Any, cwd: Path) -> None:
    """Run fdr in the folder; it finds `recipe_networks` there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    print("fdr", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "fdr", *map(str, arguments)], check=True, cwd=cwd, env=environment)


def gan(network: nn.Module, weights: Path, folder: Path, arch: str, extra: Sequence[str], steps: int) -> None:
    """Perturb a GAN, and train it back towards images of the original."""
    load_weights_of(network.main, weights)  # type: ignore[arg-type]
    save_file(network.state_dict(), folder / "original.safetensors")
    save_file(perturbed(network, SIZE, 1).state_dict(), folder / "start.safetensors")
    named = ["--arch", f"recipe_networks:{arch}"]
    if not (folder / "real.h5").exists():
        fdr_command(
            "sample", "--gen", "original.safetensors", *named, "-n", REAL, "--seed", 7, "-o", "real.npz", cwd=folder
        )
        labels = ["--labels"] if extra else []
        fdr_command("stats", "real.npz", "--reps", ",".join(ENCODERS), *labels, "-o", "real", cwd=folder)
    train(folder, ["--gen", "start.safetensors", *named, "--ref", "real"], ENCODERS, extra, steps, GAN_RATE)
    for name, generator in (("before", ["start.safetensors", *named]), ("after", ["run", "--ema", "none"])):
        measure(folder, name, generator, "real", ENCODERS, bool(extra))


def train(
    folder: Path, start: Sequence[str], encoders: Sequence[str], extra: Sequence[str], steps: int, lr: float
) -> None:
    options = ["--steps", steps, "--batch-size", 64, "--fill", 2000, "--population", "ema:0.9:debiased", "--lr", lr]
    options += ["--ema-kimg", "1", "--log-every", 10, "--grid-every", steps, "--alarm-every", 0]
    trained, held_out = encoders
    fdr_command(
        "train",
        *start,
        "--reps",
        trained,
        "--monitor",
        held_out,
        *options,
        *extra,
        "--dry-run",
        "-o",
        "run",
        cwd=folder,
    )
    fdr_command("train", *start, "--reps", trained, "--monitor", held_out, *options, *extra, "-o", "run", cwd=folder)


def measure(
    folder: Path, name: str, generator: Sequence[str], reference: str, encoders: Sequence[str], has_labels: bool
) -> None:
    metrics = "fd,fd_debiased" + (",fd_conditional" if has_labels else "")
    fdr_command(
        "eval", "--gen", *generator, "--reps", ",".join(encoders), "--ref", reference, "--metrics", metrics,
        "--num-images", JUDGED, "--seed", 5, "--no-stderr", "--trust", "--json", f"{name}.json", cwd=folder,
    )  # fmt: skip


def flow(folder: Path, steps: int) -> None:
    """Train a UNet as a rectified flow, save it as a pipeline, and make its one step a generator."""
    import diffusers

    if not (folder / "flow").exists():
        images = np.stack([fdr.images.procedural.draw(0, index, SIDE) for index in range(DRAWN)])
        np.savez(folder / "real.npz", arr_0=images)
        network = _fitted_flow(diffusers, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
        pipeline = diffusers.DDPMPipeline(network, diffusers.FlowMatchEulerDiscreteScheduler())
        pipeline.save_pretrained(folder / "flow")
    encoders = ("random", "random:1")
    train(folder, ["--gen", "flow", "--ref", "real.npz"], encoders, [], steps, FLOW_RATE)
    for name, generator in (("before", ["flow"]), ("after", ["run", "--ema", "none"])):
        measure(folder, name, generator, "real.npz", encoders, has_labels=False)


def _fitted_flow(diffusers: Any, images: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=SIDE, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(FLOW_STEPS):
        clean = images[torch.randint(len(images), (64,))]
        noise, sigma = torch.randn_like(clean), torch.rand(64, 1, 1, 1)
        predicted = network((1 - sigma) * clean + sigma * noise, 1000 * sigma[:, 0, 0, 0]).sample
        loss = (predicted - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"flow {step}: {float(loss.detach()):.3f}", flush=True)
    return network.eval()


def rows_of(recipe: str, folder: Path) -> list[list[str]]:
    """A row for each number of a recipe: before and after."""
    before, after = (
        {(r["metric"], r["encoder"]): r["value"] for r in json.loads((folder / f"{name}.json").read_text())["results"]}
        for name in ("before", "after")
    )
    return [
        [recipe, metric, str(encoder).rpartition(":")[2], f"{before[metric, encoder]:.4g}", f"{value:.4g}"]
        for (metric, encoder), value in after.items()
        if encoder is not None
    ]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", default="dcgan,cdcgan,flow")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    weights = (options.data / "weights").absolute()
    os.environ["FDR_RECIPE_WEIGHTS"] = str(weights)
    print(harness.machine_line(), end="\n\n")
    rows = []
    for recipe in options.recipes.split(","):
        folder = options.out / recipe
        folder.mkdir(parents=True, exist_ok=True)
        if recipe == "dcgan":
            gan(Faces(), weights / "dcgan_faces64.safetensors", folder, "Faces", [], options.steps)
        elif recipe == "cdcgan":
            extra = ["--conditional", "2"]
            gan(Eyes(), weights / "cdcgan_eyes128_f16.safetensors", folder, "Eyes", extra, options.steps)
        else:
            flow(folder, options.steps)
        rows += rows_of(recipe, folder)
    print(harness.table(("recipe", "metric", "encoder", "before", "after"), rows))
    harness.write_json(options.json, steps=options.steps, rows=rows)


if __name__ == "__main__":
    main()
