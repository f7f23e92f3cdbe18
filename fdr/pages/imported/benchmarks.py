"""Adds the results of other tools to a report, each as a number with its file, its tool and its direction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fdr.errors import InputError, unknown
from fdr.metrics import OF_OTHER_TOOLS
from fdr.pages.imported import dpg_bench, geneval, hpsv3
from fdr.pages.imported.scores import Scores
from fdr.reports import Report, Result, imported_signature
from fdr.runtime import missing_path

MAX_BYTES = 2**30
"""A larger file is refused, because it is read as a whole."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark whose results can be read."""

    read: Callable[[str], Scores]
    tool: str
    """The repository whose script measured it."""


BENCHMARKS = {
    "geneval": Benchmark(geneval.read, "djghosh13/geneval"),
    "dpg_bench": Benchmark(dpg_bench.read, "TencentQQGYLab/ELLA"),
    "hpsv3": Benchmark(hpsv3.read, "MizzenAI/HPSv3"),
}
"""The benchmarks by name; the registry of metrics has their labels and directions."""


def add_scores(report: Report, name: str, path: Path) -> Report:
    """The report with the result that a tool wrote to `path` for the benchmark `name` ("geneval", "dpg_bench" or
    "hpsv3").

    Raises `InputError` for an unknown benchmark, for a file that is none of its results, and for a report that has one.
    """
    key = name.strip().lower().replace("-", "_")
    if key not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    if any(row.key == key for row in report):
        raise InputError(f"The report of {report.samples['source']} has {key} already; add it once.")
    return replace(report, results=(*report.results, _result(key, path)))


def add_all(sets: Mapping[str, Report], files: Mapping[str, Sequence[str]]) -> dict[str, Report]:
    """The sets with results added: for each benchmark a file for each set, in their order, or "-" for none.

    Raises `InputError` if there are more or fewer files than sets.
    """
    found = dict(sets)
    for name, paths in files.items():
        if len(paths) != len(sets):
            raise InputError(
                f"{name} has {len(paths)} {'file' if len(paths) == 1 else 'files'}, and there are {len(sets)} sample "
                f"sets ({', '.join(sets) or 'none'}); give one for each in their order, or - for a set without one."
            )
        for one, path in zip(sets, paths, strict=True):
            if path != "-":
                found[one] = add_scores(found[one], name, Path(path))
    return found


def _result(name: str, path: Path) -> Result:
    data = _bytes(path)
    benchmark = BENCHMARKS[name]
    try:
        scores = benchmark.read(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is no text, so it holds no results of {OF_OTHER_TOOLS[name].label}.") from None
    except InputError as error:
        raise InputError(f"{str(path)!r} {error}") from None
    origin = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "tool": benchmark.tool}
    return Result(
        metric=name,
        value=scores.value,
        encoder=None,
        output=None,
        count=scores.count,
        lower_is_better=OF_OTHER_TOOLS[name].lower_is_better,
        signature=imported_signature(name, benchmark.tool, scores.settings, scores.count),
        stderr=scores.stderr,
        details={**scores.details, **origin, "classes": dict(scores.classes)},
        notes=scores.notes,
    )


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{str(path)!r} is larger than {MAX_BYTES >> 20} MiB, which no result of a benchmark is.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"The file {missing_path(path)}") from error
    except OSError as error:
        raise InputError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
