"""Measure what a short command costs: processor seconds of `fdr` beside the bare import of torch.

    python benchmarks/start_up.py                  # a minute
    python benchmarks/start_up.py --repeats 9 --json out.json

Ten drawn JPEGs of 256 x 256 are measured with `random` and with `inception` (a seeded random state dict), without a
cache; `fdr show` reads the moments of 4,000 and of 1,000 samples of 2,048 dimensions, the second of which is singular.
Every command is a process of its own on one thread; the commands take turns, so that a busy machine hits all of them.
Byte code is compiled beforehand, as an installed package has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from whole_command import Way, World, fdr_command, machine, run_checked, timed

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
    script = str(Path(__file__).with_name("whole_command.py"))
    run_checked([sys.executable, script, "--prepare", "--folder", str(world.root), "--count", "10"], world)
    run_checked([sys.executable, __file__, "--moments", str(world.root)], world)
    out = ["-o", str(world.root / "fdr"), "--no-cache"]
    run_checked(fdr_command(world, "stats", world.reference, ("inception", "random"), *out), world)


def write_moments(folder: Path) -> None:
    """In a process of its own: a child inherits its parent's memory as a floor."""
    import numpy as np

    for name, count in (("full", 4000), ("singular", 1000)):
        features = np.random.default_rng(0).standard_normal((count, 2048))
        np.savez(folder / f"{name}.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))


def measure(world: World, repeats: int) -> dict[str, list[float]]:
    """Processor seconds of every command; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in commands(world)}
    for turn in range(repeats + 1):
        for name, command in commands(world).items():
            run = timed(Way("", "", "", "", command, lambda _: 0.0), world)
            seconds[name] += [run.cpu_s] if turn else []
    return seconds


def table(seconds: dict[str, Sequence[float]]) -> str:
    """Medians, ratios and limits."""
    base = statistics.median(seconds[BASE])
    lines = ["| command | CPU s | of the import of torch | limit |", "|---|---:|---:|---:|"]
    for name, values in seconds.items():
        middle = statistics.median(values)
        most, times = LIMITS.get(name, (None, None))
        limit = f"{most} s" if most else f"{times}x" if times else ""
        lines.append(f"| {name} | {middle:.2f} | {middle / base:.2f}x | {limit} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--moments", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.moments:
        write_moments(arguments.moments)
        return
    with tempfile.TemporaryDirectory() as folder:
        world = ShortWorld(Path(folder), batch_size=10, threads=1, workers=1)
        make_material(world)
        seconds = measure(world, arguments.repeats)
        facts = machine(world)
    print(f"Medians of {arguments.repeats} runs; {', '.join(f'{name} {value}' for name, value in facts.items())}.\n")
    print(table(seconds))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "cpu_s": seconds}, indent=1))


if __name__ == "__main__":
    main()
