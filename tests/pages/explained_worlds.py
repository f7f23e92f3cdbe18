"""Explanations as `fdr explain --json` writes them, made by hand, and the images that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gate_worlds import report
from report_worlds import number
from worlds import images, npz

import fdr
from fdr.reports import Report

COUNT = 30


def sets(folder: Path) -> tuple[Path, Path]:
    """`samples.npz` and `real.npz`."""
    return npz(folder / "samples.npz", images(COUNT, seed=1)), npz(folder / "real.npz", images(20))


def measured(folder: Path) -> Report:
    """A report of `samples.npz` against `real.npz`, with their digests."""
    own, real = (fdr.open_images(path) for path in sets(folder))
    facts = {"count": COUNT, "digest": own.digest, "policy": own.policy}
    fields = {"n": str(COUNT), "ref": f"real.npz:{str(real.digest)[:8]}"}
    found = report(number("fd", 2.0, "random", fields=fields), samples="samples.npz", facts=facts)
    return Report(
        found.samples, {"name": "real.npz", "source": "real.npz", "digest": real.digest, "count": 20}, found.results
    )


def explanation(of: Report, **changed: Any) -> dict[str, Any]:
    """An explanation with 12 of its images at each end, of which the first have a nearest reference image."""
    order = [
        {"rank": rank, "id": f"arr_0[{row}]", "row": row, "class": f"c{row % 3}", "influence": 0.5 - rank / 20}
        for rank, row in enumerate(np.random.default_rng(0).permutation(COUNT).tolist(), start=1)
    ]
    for at, image in enumerate(order[:4]):
        image |= {"nearest": f"arr_0[{at}]", "distance": 0.25 + at}
    one = {
        "encoder": "random", "output": "features", "fd": 2.0, "stderr": 0.1, "n": COUNT,
        "worst": {"n": 1, "share": 0.125, "fd_without": 1.5}, "notes": ["a note"],
        "classes": [{"name": "c0", "count": 10, "influence": 0.75, "reference_count": None, "fd_debiased": None},
                    {"name": "c1", "count": 20, "influence": -0.75, "reference_count": 400, "fd_debiased": 3.5}],
        "closest": {"median_distance": 2.0, "images": [
            {"id": "arr_0[7]", "row": 7, "influence": -0.25, "nearest": "arr_0[3]", "distance": 0.01},
            {"id": "arr_0[8]", "row": 8, "influence": 0.125, "nearest": "arr_0[4]", "distance": 5.0},
        ]},
        "images": order,
    }  # fmt: skip
    return {"schema": "fdr-explain/1", "report": of.to_dict(), "encoders": [one | changed]}


def write_explanation(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(json.dumps(data))
    return path
