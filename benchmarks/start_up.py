"""Measure what a short command costs: processor seconds of `fdr` beside the bare import of torch.

    python benchmarks/start_up.py                  # a minute
    python benchmarks/start_up.py --repeats 9 --json out.json

Ten drawn JPEGs of 256 x 256 are measured with `random` and with `inception` (a seeded random state dict), without a
cache; `fdr show` reads the moments of 4,000 and of 1,000 samples of 2,048 dimensions, the second of which is singular.
Every command is a process of its own on one thread; the commands take turns, so that a busy machine hits all of them.
Byte code is compiled beforehand, as an installed package has it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import harness
from whole_command import World, fdr_command

BASE = "import torch"
LIMITS = {
    "fdr --help": (0.15, None),
    "fdr show, 2048-d": (1.0, None),
    "fdr show, 2048-d, singular": (1.0, None),
    "fdr eval, random, 10 images": (None, 1.2),
    "fdr eval, inception, 10 images": (None, 2.0),
}
"""Command -> the most processor seconds that it may take, and the most times the import of torch."""


class ShortWorld(World):
    """Compiled byte code is kept beside the material."""

    def environment(self) -> dict[str, str]:
        """For every command."""
        environment = super().environment() | {"PYTHONPYCACHEPREFIX": str(self.root / "pyc")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return environment


def commands(world: World) -> dict[str, list[str]]:
    """The bare import, and every command with a limit."""
    fdr = [sys.executable, "-m", "fdr"]
    found = {
        BASE: [sys.executable, "-c", "import torch"],
        "fdr --help": [*fdr, "--help"],
        "fdr show, 2048-d": [*fdr, "show", str(world.root / "full.npz")],
        "fdr show, 2048-d, singular": [*fdr, "show", str(world.root / "singular.npz")],
    }
    for encoder in ("random", "inception"):
        options = ["--no-cache", "--ref", str(world.root / "fdr"), "--json", "-"]
        command = fdr_command(world, "eval", world.samples("folder"), (encoder,), *options)
        found[f"fdr eval, {encoder}, 10 images"] = command
    return found


def make_material(world: World) -> None:
    """Ten images and others as their reference, the weights, and two sets of moments."""
    script = Path(__file__).with_name("whole_command.py")
    harness.in_child(script, "prepare", environment=world.environment(), root=str(world.root), count=10, photos=None)
    harness.in_child(__file__, "write_moments", folder=str(world.root))
    out = ["-o", str(world.root / "fdr"), "--no-cache"]
    harness.run(fdr_command(world, "stats", world.reference, ("inception", "random"), *out), world.environment())


def write_moments(folder: str) -> None:
    """In a process of its own, so that this one stays small."""
    import numpy as np

    for name, count in (("full", 4000), ("singular", 1000)):
        features = np.random.default_rng(0).standard_normal((count, 2048))
        np.savez(Path(folder) / f"{name}.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))


def measure(world: World, repeats: int) -> dict[str, list[float]]:
    """Processor seconds of every command; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in commands(world)}
    for turn in range(repeats + 1):
        for name, command in commands(world).items():
            done = harness.run(command, world.environment())
            seconds[name] += [done.cpu_s] if turn else []
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Medians, ratios and limits."""
    base = statistics.median(seconds[BASE])
    rows = []
    for name, values in seconds.items():
        middle = statistics.median(values)
        most, times = LIMITS.get(name, (None, None))
        limit = f"{most} s" if most else f"{times}x" if times else ""
        rows.append([name, f"{middle:.2f}", f"{middle / base:.2f}x", limit])
    return harness.table(("command", "CPU s", "of the import of torch", "limit"), rows)


def main() -> None:
    """Parse, prepare, measure, print."""
    options = harness.parser(__doc__, repeats=5).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = ShortWorld(Path(folder), batch_size=10, threads=1, workers=1)
        make_material(world)
        seconds = measure(world, options.repeats)
    print(f"Medians of {options.repeats} runs; {harness.machine_line(threads=1)}.\n")
    print(table(seconds))
    harness.write_json(options.json, cpu_s=seconds)


if __name__ == "__main__":
    main()
