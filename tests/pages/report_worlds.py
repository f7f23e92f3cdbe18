"""Reports and run folders for the tests of `fdr report`, made by hand: no images of a generator, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gate_worlds import report, row, write
from PIL import Image

from fdr.reports import Failure, Report, Result

HELD = ("dinov2", "clip")


def number(
    metric: str, value: float, encoder: str | None = "inception", stderr: float | None = None, **more: Any
) -> Result:
    """A number with a standard error of 2 % unless another is given."""
    return row(metric, value, encoder, stderr=0.02 * abs(value) if stderr is None else stderr, **more)


def model(name: str, scale: float, **more: Any) -> Report:
    """A report of a generator that was trained on inception: FD, debiased FD, FDr and a table of classes."""
    rows = [number("fd", 3.0 * scale), number("fd_debiased", 2.5 * scale), number("fdr", 1.5 * scale)]
    for at, encoder in enumerate(HELD, start=2):
        rows += [number("fd", 9.0 * at * scale, encoder), number("fdr", 2.0 * at * scale, encoder)]
    classes = {
        "cat": {"fd": 7.0 * scale, "stderr": 0.5, "n": 20, "reference_n": 400},
        "dog": {"fd": 4.0 * scale, "stderr": 0.1, "n": 900, "reference_n": 400},
        "eel": {"fd": None, "stderr": None, "n": 3, "reference_n": 400},
    }
    rows.append(number("fd_per_class", 5.5 * scale, details={"classes": classes}))
    return report(*rows, samples=name, run={"trained_on": ["inception"]}, **more)


def failed(sentence: str = "it ran out of memory") -> Failure:
    return Failure("kid", "inception", sentence, row("kid").signature)


def reports(folder: Path) -> list[Path]:
    """Two report files: the second model is better, and its FD of clip is much worse."""
    base, new = model("base.npz", 1.0), model("new.npz", 0.8)
    worse = tuple(r if r.key != "fd:clip" else number("fd", 60.0, "clip") for r in new.results)
    new = Report(new.samples, new.reference, worse, new.run, ("a <b>warning</b>",), failed=(failed(),))
    return [write(folder / "base.json", base), write(folder / "new.json", new)]


def run_folder(folder: Path, steps: int = 60, total: int = 60) -> Path:
    """A run with a trained and a watched encoder, a warning, two grids, reference images and an evaluation."""
    (folder / "grids").mkdir(parents=True)
    (folder / "train.json").write_text(
        json.dumps({"schema": "fdr-train/1", "fdr_version": "0", "options": {"gen": "/home/ada/g.pt2", "steps": total}})
    )
    with open(folder / "log.jsonl", "w") as log:
        for step in range(10, steps + 1, 10):
            entry = {
                "kind": "step", "step": step, "images": 64 * step, "lr": 1e-4, "loss": 1 - step / 1000,
                "fd": {"random": 90 / step, "clip": 20 + step}, "fdr": {"random": 9 / step}, "watched": ["clip"],
                "grad_norm": 1.5, "skipped": 0, "images_per_second": 30.0, "memory": 5, "seconds": {"solver": 1.0},
                "fresh": {"random": 91 / step},
            }  # fmt: skip
            log.write(json.dumps(entry) + "\n")
        log.write(json.dumps({"kind": "warning", "step": 30, "text": "watch </script> '/home/ada/x.png'"}) + "\n")
        alarm = {"fd": {"random": -0.5}, "error": {"random": 0.2}, "noise_sensitivity": {"random": 0.9}, "count": 64}
        log.write(json.dumps({"kind": "alarm", "step": 40, "regime": {"random": "full"}, **alarm}) + "\n")
        log.write(json.dumps({"kind": "evaluation", "step": 50, "count": 9, "fd": {"random": 2.0}}) + "\n")
    for name, shade in (("step-00000000", 40), ("step-00000060", 200), ("reals", 120)):
        Image.new("RGB", (96, 96), (shade, 60, 90)).save(folder / "grids" / f"{name}.png")
    (folder / "evaluations").mkdir()
    write(folder / "evaluations" / "step-00000050.json", report(number("fd", 2.0, "random"), samples="run"))
    return folder
