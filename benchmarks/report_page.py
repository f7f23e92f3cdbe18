"""How long the page of `fdr report` takes, how large it is, and how fast a browser opens it.

    python benchmarks/report_page.py [--images 50000] [--models 4] [--encoders 3] [--dim 256] [--folder FOLDER]

Draws a reference and the sample sets of some models from a seed (32 x 32 pixels; the second model copies a few
reference images), and measures them with encoders that are one seeded matrix each, because the page does not depend on
the encoder. `fdr eval --spectra` writes the reports, with an empty cache and then from it, and `fdr explain` the
explanations (`--closest` for the first two models). `fdr report` then makes the page, with images and reference images,
and headless Chromium opens it, where Chromium and playwright are installed. With --folder, what is there already is not
made again. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

METRICS = "fd,fd_debiased,fd_inf,prd_f8"
OPENINGS = 5
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Projection(torch.nn.Module):
    """32 x 32 pixels times a seeded matrix."""

    def __init__(self, seed: int, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3072, dim, generator=torch.Generator().manual_seed(seed)) / 3072)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu((images.flatten(1) - 0.5) @ self.weight * 100)


def draw(seed: int, count: int, blur: int = 0, noise: float = 4.0) -> np.ndarray:
    """uint8 [count, 32, 32, 3]: coarse colours, and noise; a larger `blur` has coarser colours."""
    generator = np.random.default_rng(seed)
    cells = 8 >> blur
    coarse = generator.integers(0, 256, (count, cells, cells, 3), dtype=np.uint8)
    whole = coarse.repeat(32 // cells, 1).repeat(32 // cells, 2).astype(np.float32)
    whole += generator.normal(0, noise, whole.shape).astype(np.float32)
    return whole.clip(0, 255).astype(np.uint8)


def make_sets(folder: str, count: int, models: int) -> None:
    """In a process of its own, whose memory is then no floor of that of the commands."""
    reference = draw(0, count)
    np.savez(Path(folder) / "real.npz", arr_0=reference)
    for model in range(models):
        images = draw(model + 1, count, blur=model % 2, noise=4.0 + 3 * model)
        if model == 1:
            images[: count // 1000] = reference[: count // 1000] ^ 1
        np.savez(Path(folder) / f"model-{model + 1}.npz", arr_0=images)


class World:
    """The files of one run of this benchmark, and its commands."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.models = [f"model-{number + 1}" for number in range(options.models)]
        names = [f"encoder_{number + 1}" for number in range(options.encoders)]
        lines = [f"{name} = functools.partial(Projection, {seed}, {options.dim})" for seed, name in enumerate(names)]
        (folder / "page_encoders.py").write_text(
            "import functools\nfrom report_page import Projection\n" + "\n".join(lines) + "\n"
        )
        self.encoders = ",".join(f"py:page_encoders:{name}" for name in names)
        self.environment = harness.environment_with(options.threads) | {"FDR_CACHE": str(folder / "cache")}
        self.environment["PYTHONPATH"] += f":{folder}:{Path(__file__).parent}"

    def fdr(self, *arguments: object) -> harness.Process:
        code = f"import os, sys; os.chdir({str(self.folder)!r}); from fdr.cli import run; sys.exit(run(sys.argv[1:]))"
        return harness.run([sys.executable, "-c", code, *map(str, arguments)], self.environment)

    def evaluate(self) -> harness.Process:
        samples = [f"{model}.npz" for model in self.models]
        measured = ["--ref", "real.npz", "--reps", self.encoders, "--metrics", METRICS, "--spectra"]
        return self.fdr("eval", *samples, *measured, "--batch-size", 256, "--json", "out.json", "-q")

    def explain(self, model: str) -> harness.Process:
        closest = ["--closest", 12] if model in self.models[:2] else []
        measured = ["--ref", "real.npz", "--reps", self.encoders, "--show", 12, "--batch-size", 256, *closest]
        return self.fdr("explain", f"{model}.npz", *measured, "--json", f"explained-{model}.json", "-q")

    def report(self) -> harness.Process:
        explained = [f"explained-{model}.json" for model in self.models]
        images = [part for model in self.models for part in ("--images", f"{model}.npz")]
        return self.fdr("report", "out.json", *explained, *images, "--reference-images", "real.npz", "-o", "page.html")


def opened(page: Path) -> dict[str, float] | None:
    """Milliseconds until a headless browser has loaded the page, and until it has painted; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if CHROMIUM is None:
        return None
    times: dict[str, list[float]] = {"load": [], "paint": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(OPENINGS):
            view = browser.new_page(viewport={"width": 1200, "height": 900})
            view.goto(page.as_uri())
            while not view.evaluate("performance.getEntriesByName('first-contentful-paint').length"):
                view.wait_for_timeout(20)
            times["load"].append(view.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            times["paint"].append(view.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            view.close()
        browser.close()
    return {name: statistics.median(values) for name, values in times.items()}


def measure(world: World) -> dict[str, Any]:
    """Seconds of every command, the size of the page in MB, and the milliseconds of the browser."""
    if not (world.folder / "real.npz").is_file():
        sets = {"count": world.options.images, "models": world.options.models}
        harness.in_child(__file__, "make_sets", folder=str(world.folder), **sets)
    found: dict[str, Any] = {}
    if not (world.folder / "out.json").is_file():
        found["fdr eval, empty cache"] = _seconds(world.evaluate())
    found["fdr eval, warm cache"] = _seconds(world.evaluate())
    for model in world.models:
        found[f"fdr explain {model}, warm cache"] = _seconds(world.explain(model))
    found["fdr report"] = _seconds(world.report())
    page = world.folder / "page.html"
    first = page.read_bytes()
    world.report()
    found["equal bytes"] = page.read_bytes() == first
    found["MB"] = len(first) / 1e6
    found["browser"] = opened(page)
    return found


def _seconds(process: harness.Process) -> dict[str, float]:
    return {"wall_s": process.wall_s, "cpu_s": process.cpu_s, "peak_mib": process.largest_mib}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=50_000, help="images of every set")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--encoders", type=int, default=3)
    parser.add_argument("--dim", type=int, default=256, help="features of every encoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the files here, and go on from those that are here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(World(folder, options))
    print(harness.machine_line("matplotlib", "jinja2", threads=options.threads) + "\n")
    commands = {name: value for name, value in found.items() if isinstance(value, dict) and "cpu_s" in value}
    rows = [(name, f"{v['wall_s']:.1f}", f"{v['cpu_s']:.1f}", f"{v['peak_mib']:.0f}") for name, v in commands.items()]
    print(harness.table(("command", "wall s", "CPU s", "peak MiB"), rows))
    print(f"\nThe page has {found['MB']:.2f} MB; equal bytes when made again: {found['equal bytes']}.")
    if found["browser"] is not None:
        load, paint = found["browser"]["load"], found["browser"]["paint"]
        print(f"Chromium has loaded it after {load:.0f} ms, and painted first after {paint:.0f} ms.")
    harness.write_json(options.json, **found)


if __name__ == "__main__":
    main()
