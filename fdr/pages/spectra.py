"""The charts of the eigenvalues of covariances, of sample sets and their references, by encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fdr.pages.charts import Chart
from fdr.pages.figures import DASHES, SERIES, TEXT, number_decades, plain, svg_of
from fdr.reports import Report, Result, format_number
from fdr.runtime import is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Where the curve of samples lies below that of the reference, they vary too little in directions of that rank."
)
Points = tuple[Sequence[int], Sequence[float]]
"""Ranks from 1, and the eigenvalues there."""


@dataclass(frozen=True)
class _Line:
    name: str
    points: Points
    style: Mapping[str, Any]


def spectra_charts(sets: Mapping[str, Report]) -> Iterator[Chart]:
    """One chart for each encoder of which a report has eigenvalues (`fdr eval --spectra`)."""
    for number, (of, lines) in enumerate(_lines(sets).items()):
        title = f"Eigenvalues of the covariance, {of}"
        words = "; ".join(f"{line.name} {_words(line.points)}" for line in lines)
        yield Chart(title, _drawn(lines, f"{title}. {words}.", f"eigen{number}"), CAPTION)


def _lines(sets: Mapping[str, Report]) -> dict[str, list[_Line]]:
    """By encoder and output, the lines of the references and of the sample sets."""
    found: dict[str, list[_Line]] = {}
    for index, (name, report) in enumerate(sets.items()):
        style = {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[index % len(DASHES)]}
        for row in report:
            samples, reference = (_points(row, side) for side in ("samples", "reference"))
            if samples is not None and reference is not None:
                lines = found.setdefault(_place(row), [])
                _add_reference(lines, reference, name)
                lines.append(_Line(name, samples, style))
    return found


def _add_reference(lines: list[_Line], points: Points, name: str) -> None:
    """Add the line of a reference, once for all sets that were measured against it."""
    known = [line for line in lines if line.style["color"] == TEXT]
    if all(line.points != points for line in known):
        style = {"color": TEXT, "linewidth": 3.5, "alpha": 0.35, "linestyle": DASHES[len(known) % len(DASHES)]}
        lines.append(_Line(f"reference of {name}" if known else "reference", points, style))


def _drawn(lines: Sequence[_Line], label: str, prefix: str) -> str:
    values = [value for line in lines for value in line.points[1]]
    ranks = [rank for line in lines for rank in line.points[0]]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(*line.points, label=plain(line.name), **line.style)
        axes.set(xscale="log", yscale="log", xlabel="rank of the eigenvalue", ylabel="eigenvalue")
        number_decades(axes.xaxis, max(ranks))
        number_decades(axes.yaxis, max(values) / min(values))
        axes.legend(loc="lower left")

    return svg_of((6.2, 3.6), draw, label, prefix)


def _words(points: Points) -> str:
    ranks, values = points
    return f"from {format_number(values[0], 3)} at rank 1 to {format_number(values[-1], 3)} at rank {ranks[-1]:,}"


def _place(row: Result) -> str:
    return f"{row.encoder}" if row.metric == "fd" else f"{row.encoder} ({row.output})"


def _points(row: Result, side: str) -> Points | None:
    """The points of one side; None where there are none, or something else."""
    spectra = row.details.get("spectra")
    found = spectra.get(side) if isinstance(spectra, Mapping) else None
    ranks, values = (found.get("rank"), found.get("eigenvalue")) if isinstance(found, Mapping) else (None, None)
    if not isinstance(ranks, list) or not isinstance(values, list) or not len(ranks) == len(values) > 0:
        return None
    is_sound = all(is_number(value) and value > 0 for value in (*ranks, *values))
    return (ranks, values) if is_sound and ranks == sorted(set(ranks)) else None
