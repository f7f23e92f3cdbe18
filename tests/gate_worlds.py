"""Reports for the tests of the gate and of comparisons, made by hand: no images, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdr.reports import Report, Result, parse_signature, reports_to_json

FIELDS = {
    "s": "3f2cb1ab", "w": "aaaaaaaa", "rs": "tf1-bilinear-299", "out": "pool", "dt": "float32", "q": "u8", "n": "50000",
    "ref": "imagenet256:04e0a81f", "v": "0.1.0",
}  # fmt: skip


def signature(metric: str, encoder: str = "inception", **changed: str) -> str:
    """A signature as fdr writes it; `changed` fields differ from `FIELDS`."""
    return "|".join([metric, f"enc:{encoder}", *(f"{key}:{value}" for key, value in (FIELDS | changed).items())])


def row(metric: str = "fd", value: float = 3.0, encoder: str | None = "inception", **more: Any) -> Result:
    """One number; `fields` of its signature may be changed."""
    fields = more.pop("fields", {})
    more.setdefault("lower_is_better", not metric.startswith("is"))
    text = signature(metric, encoder or "inception@3f2cb1ab+dinov2@12345678", **fields)
    count = int(fields.get("n", FIELDS["n"]))
    return Result(metric=metric, value=value, encoder=encoder, output="pool", count=count, signature=text, **more)


def report(*rows: Result, samples: str = "samples.npz", **more: Any) -> Report:
    """A report of one sample set, of the images, the reference and the version that its first signature names."""
    rows = rows or (row(),)
    stated = parse_signature(rows[0].signature)
    name, _, digest = str(stated.value("ref")).rpartition(":")
    return Report(
        {"source": samples, "count": rows[0].count, "digest": None, "skipped": []} | more.pop("facts", {}),
        {"name": name, "source": "x", "digest": digest * 8},
        rows,
        **{"fdr_version": str(stated.value("v"))} | more,
    )


def write(path: Path, reports: Report | Sequence[Report]) -> Path:
    """As `fdr eval --json` writes."""
    reports_to_json([reports] if isinstance(reports, Report) else reports, path)
    return path
