"""What lag correction costs and what it gains: a step of a GAN with and without it, and a small run that moves fast.

    python benchmarks/lag_correction.py --data FOLDER      # the cost of a step, a minute; FOLDER has `weights`
    python benchmarks/lag_correction.py --toy              # the gain, two minutes of processor time

Cost: the DCGAN of faces under SqueezeNet, `--batch-size` images, in seconds of the processor (set OMP_NUM_THREADS=1).
Plain steps, and steps that are corrected every time and every second time, alternate on copies of the same generator.
The means are over `--steps` steps of each. The seconds that populations and solver take are subtracted for the ratio of
the networks alone.

Gain: the toy `mlp` of `loss_worlds.py`, 300 steps. Every learning rate and every population is shown, so that nothing
is tuned: FD / tr S_p of 40,000 fresh samples, mean and standard error over the seeds. Runs with lag correction take
`LAG_SHARE` of the steps, as their steps cost more. `fd_loss_populations.py` has the comparison with tuned windows.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loss_worlds
import torch
from gan_networks import LATENT, dcgan
from post_training import Recipe, trained_copy
from squeezenet import SqueezeNetEncoder
from torch import Tensor, nn

import fdr
from fdr.training.previous import PreviousWeights

LAG_SHARE = 0.68
"""Steps of a run with lag correction, relative to the others: what a step of SqueezeNet's networks costs, inverted."""
RATES = (1e-3, 2e-3, 4e-3)
SEEDS = (11, 12, 13)
TOY = {
    "raw 0.5": fdr.EmaPopulation(0.5),
    "raw 0.8": fdr.EmaPopulation(0.8),
    "raw 0.9": fdr.EmaPopulation(0.9),
    "debiased 0.5": fdr.EmaPopulation(0.5, "debiased"),
    "debiased 0.8": fdr.EmaPopulation(0.8, "debiased"),
    "lag 0.95": fdr.EmaPopulation(0.95, lag_correction=True),
    "lag 0.98": fdr.EmaPopulation(0.98, lag_correction=True),
}


class Training:
    """Steps of a copy of `generator`; a corrected one makes the batch under the weights of the one before, too."""

    def __init__(self, generator: nn.Module, encoder: nn.Module, reference: fdr.Moments, options: argparse.Namespace):
        self.generator = copy.deepcopy(generator).train()
        self.every: int = options.every
        population = fdr.EmaPopulation(0.95, lag_correction=self.every)
        self.loss = fdr.FDLoss({"e": encoder}, {"e": reference}, population, fdr.LossOptions(options.solver))
        self.optimizer = torch.optim.AdamW(self.generator.parameters(), lr=1e-4)
        self.previous = PreviousWeights(self.generator)
        self.seconds: list[float] = []
        self.solving = in_solver(self.loss)
        self.networks: list[float] = []

    def fill(self, noise: Tensor) -> None:
        with torch.no_grad():
            self.loss.fill(self.generator(part) for part in noise.split(32))

    def step(self, noise: Tensor) -> None:
        """One step, timed."""
        began, old = time.process_time(), None
        corrects = self.every > 0 and len(self.seconds) % self.every == 0
        if corrects and self.previous:
            with torch.no_grad(), self.previous.in_place():
                old = self.generator(noise)
        out = self.loss(self.generator(noise), previous=old)
        self.optimizer.zero_grad()
        out.total.backward()
        if corrects:
            self.previous.remember()
        self.optimizer.step()
        self.seconds.append(time.process_time() - began)
        self.networks.append(self.seconds[-1] - self.solving[0])
        del out, self.solving[:]


def in_solver(loss: fdr.FDLoss) -> list[float]:
    """A list to which every step adds the seconds of the processor that its population and solver took."""
    seconds: list[float] = []
    evaluate = loss._terms.evaluate

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        found = evaluate(*arguments)
        seconds.append(time.process_time() - began)
        return found

    loss._terms.evaluate = timed  # type: ignore[method-assign]
    return seconds


def cost(options: argparse.Namespace) -> None:
    """Alternate plain and corrected steps, and print their mean times and the ratios."""
    torch.manual_seed(0)
    generator = loss_worlds.Images(dcgan(options.data / "weights" / "dcgan_faces64.safetensors"), 0, False)
    encoder = SqueezeNetEncoder(options.data / "weights" / "squeezenet1_1.safetensors", options.side)
    with torch.no_grad():
        parts = (torch.randn(32, LATENT) for _ in range(options.reference // 32))
        reference = fdr.Moments.from_features(torch.cat([encoder(generator(part)) for part in parts]))
    sides = []
    for every in (0, 1, 2):
        given = argparse.Namespace(**{**vars(options), "every": every})
        sides.append(Training(generator, encoder, reference, given))
        sides[-1].fill(torch.randn(options.reference, LATENT, generator=torch.Generator().manual_seed(1)))
    for _ in range(options.steps + 2):  # two steps warm up
        noise = torch.randn(options.batch_size, LATENT)
        for side in sides:
            side.step(noise)
    print(f"batch of {options.batch_size}, images of {options.side} px, solver {options.solver}")
    plain = sides[0]
    for side, name in zip(sides, ("plain", "corrected", "every second"), strict=True):
        whole, networks = (statistics.mean(seconds[2:]) for seconds in (side.seconds, side.networks))
        ratios = [
            statistics.mean(a[2:]) / statistics.mean(b[2:])
            for a, b in zip((side.seconds, side.networks), (plain.seconds, plain.networks), strict=True)
        ]
        print(
            f"{name:>13}: {whole:.3f} s, in the networks {networks:.3f} s; {ratios[0]:.2f} and {ratios[1]:.2f} of plain"
        )


def toy(_: argparse.Namespace) -> None:
    """Train the toy with every population at every rate."""
    course = loss_worlds.mlp(0.4, 200_000, 40_000)
    print("FD / tr S_p x 1000 at learning rates of", *(f"{rate:g}" for rate in RATES), flush=True)
    for name, population in TOY.items():
        steps = round(300 * (LAG_SHARE if population.lag_correction else 1))
        print(f"{name:>13}", *(shown(course, population, steps, rate) for rate in RATES), flush=True)


def shown(course: Any, population: fdr.EmaPopulation, steps: int, lr: float) -> str:
    """Mean and standard error of the outcome over the seeds."""
    found = []
    for seed in SEEDS:
        recipe = Recipe(steps, 24, lr, seed=seed, solver="exact")
        trained, _ = trained_copy(course.world, [course.trained], population, recipe, 0)
        found.append(1000 * course.judge(trained, 0)[course.trained])
    return f"{statistics.mean(found):6.1f} ± {statistics.stdev(found) / len(SEEDS) ** 0.5:4.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="train the toy instead")
    parser.add_argument("--data", type=Path, help="the folder with `weights`")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--side", type=int, default=224, help="pixels of SqueezeNet's input")
    parser.add_argument("--solver", default="exact", choices=("exact", "fast"))
    parser.add_argument("--steps", type=int, default=8, help="of each side")
    parser.add_argument("--reference", type=int, default=1024, help="images of the reference and of the fill")
    options = parser.parse_args()
    act: Callable[[argparse.Namespace], None] = toy if options.toy else cost
    if act is cost and options.data is None:
        parser.error("give --data FOLDER, or --toy")
    act(options)


if __name__ == "__main__":
    main()
