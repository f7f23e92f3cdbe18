"""The charts of sample sets: numbers by encoder, FD against the number of images, and precision against recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fdr.pages.figures import DASHES, GRID, MARKERS, PAPER, SERIES, TEXT, number_decades, plain, svg_of
from fdr.pages.table import Entry, NumberRow, NumberTable, bounds
from fdr.reports import Report, Result, format_number, metric_label
from fdr.runtime import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BY_ENCODER = (("fdr_debiased", "fdr"), ("fd_debiased", "fd"))
"""The metrics of the dot plots: the first one of each pair that has a value above 0 in the reports."""
_GROUP_ORDER = ("held out", "", "trained on")


@dataclass(frozen=True)
class Chart:
    """One chart of the page."""

    title: str
    svg: str
    caption: str


def charts_of(table: NumberTable) -> list[Chart]:
    """All charts that the reports have data for."""
    return [*_dot_plots(table), *_against_n(table.sets), *_precision_recall(table.sets)]


# ------------------------------------------------------------------------------------------------------- dot plots


def _dot_plots(table: NumberTable) -> Iterator[Chart]:
    for metrics in _BY_ENCODER:
        found = ([row for row in table.rows if row.key.startswith(f"{metric}:")] for metric in metrics)
        rows = next((rows for rows in found if any(_is_drawn(entry) for row in rows for entry in row.entries)), None)
        if rows is not None:
            rows = sorted(rows, key=lambda row: _GROUP_ORDER.index(row.group))
            yield _dot_plot(table, rows, is_ratio=metrics[0].startswith("fdr"))


def _dot_plot(table: NumberTable, rows: Sequence[NumberRow], is_ratio: bool) -> Chart:
    name = next((row.label for row in rows if not row.label.startswith("FID")), rows[0].label)
    step = max(0.42, 0.2 * len(table.names))
    height = 1.0 + step * len(rows) + 0.22 * len(table.names)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            _dots(axes, place, row, table)
        _label_rows(axes, rows)
        _logarithmic(axes, rows, table.confidence, around=1.0 if is_ratio else None)
        if is_ratio:
            axes.axvline(1, color=TEXT, linewidth=1, linestyle=(0, (3, 2)))
            axes.text(1, -0.62, " validation set", fontsize=8, va="center")
        axes.set_xlabel(f"{plain(name)}, logarithmic; lower is better")
        if len(table.names) > 1:
            figure.legend(loc="outside upper left", ncols=2 if len(table.names) < 5 else 3, handletextpad=0.2)

    alt = f"{name} by encoder. " + " ".join(_row_words(row, table) for row in rows)
    caption = f"Bars: {100 * table.confidence:g} % intervals." + (
        " At 1.0 the samples are as far from the reference as held-out real images are." if is_ratio else ""
    )
    svg = svg_of((6.2, height), draw, alt, "dots-ratio" if is_ratio else "dots")
    return Chart(f"{name} by encoder", svg, caption + _hidden(rows, table))


def _dots(axes: Axes, place: int, row: NumberRow, table: NumberTable) -> None:
    """One mark per set with its interval; the marks of a row stand one below the other."""
    several = len(table.names)
    for index, entry in enumerate(row.entries):
        y = place + (index - (several - 1) / 2) * 0.62 / several
        style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
        label = plain(table.names[index]) if place == 0 else None
        value = _value(entry)
        if value is None or value <= 0:
            axes.plot([], [], linestyle="none", markersize=6.5, label=label, **style)
            continue
        limits = bounds(entry.result, table.confidence) if entry is not None and entry.result is not None else None
        if limits is not None:
            axes.plot([max(limits[0], value * 1e-3), limits[1]], [y, y], color=style["color"], linewidth=2)
        axes.plot([value], [y], linestyle="none", markersize=6.5, markeredgecolor=PAPER, markeredgewidth=0.8,
                  label=label, **style)  # fmt: skip


def _label_rows(axes: Axes, rows: Sequence[NumberRow]) -> None:
    names = [plain(row.encoder, 26) + (f"\n{row.group}" if row.group else "") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.8)
    for place in range(1, len(rows)):
        if rows[place].group != rows[place - 1].group:
            axes.axhline(place - 0.5, color=TEXT, linewidth=0.8)


def _logarithmic(axes: Axes, rows: Sequence[NumberRow], confidence: float, around: float | None) -> None:
    """A logarithmic axis around the values and `around`; an interval that reaches to 0 is cut at a tenth of the least
    value."""
    values = [value for row in rows for entry in row.entries if (value := _value(entry)) is not None and value > 0]
    ends = [
        end
        for row in rows
        for entry in row.entries
        if entry is not None and entry.result is not None and (found := bounds(entry.result, confidence))
        for end in found
    ]
    axes.set_xscale("log")
    if values:
        low = max(min([*values, *(end for end in ends if end > 0)]), min(values) / 10)
        high = max([*values, *ends])
        if around is not None:
            low, high = min(low, 0.9 * around), max(high, 1.1 * around)
        axes.set_xlim(low / 1.15, high * 1.15)
        number_decades(axes.xaxis, high / low)


def _value(entry: Entry | None) -> float | None:
    return None if entry is None or entry.result is None else entry.result.value


def _is_drawn(entry: Entry | None) -> bool:
    """True for a value that a logarithmic axis can show."""
    value = _value(entry)
    return value is not None and value > 0


def _row_words(row: NumberRow, table: NumberTable) -> str:
    values = [(name, _value(entry)) for name, entry in zip(table.names, row.entries, strict=True)]
    found = ", ".join(f"{name} {format_number(value, 4)}" for name, value in values if value is not None)
    return f"{row.encoder}{f' ({row.group})' if row.group else ''}: {found or 'none'}."


def _hidden(rows: Sequence[NumberRow], table: NumberTable) -> str:
    """A sentence about the values that a logarithmic axis cannot show."""
    hidden = [
        f"{row.encoder} of {name} ({format_number(value, 3)})"
        for row in rows
        for name, entry in zip(table.names, row.entries, strict=True)
        if (value := _value(entry)) is not None and value <= 0
    ]
    return f" At or below 0, and so not on this axis: {', '.join(hidden)}." if hidden else ""


# -------------------------------------------------------------------------------------------- FD against N, and PRD


def _series(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}


def _against_n(sets: Mapping[str, Report]) -> Iterator[Chart]:
    """One chart for each extrapolated metric and encoder."""
    found: dict[str, dict[str, tuple[int, Result, Result | None]]] = {}
    for index, (name, report) in enumerate(sets.items()):
        debiased = {row.encoder: row for row in report if row.metric == "fd_debiased"}
        for row in report:
            if row.metric.endswith("_inf") and _has_curve(row.details):
                other = debiased.get(row.encoder) if row.metric.startswith("fd") else None
                found.setdefault(row.key, {})[name] = (index, row, other)
    for number, curves in enumerate(found.values()):
        yield _extrapolated(curves, f"n{number}")


def _extrapolated(curves: Mapping[str, tuple[int, Result, Result | None]], prefix: str) -> Chart:
    """The values at each size, the fitted line and its end at 1/N = 0, and the debiased value as a dashed line."""
    first = next(iter(curves.values()))[1]
    label, of = metric_label(first), f", {first.encoder}" if first.encoder else ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, (index, row, debiased) in curves.items():
            _extrapolate(axes, name, row, _series(index))
            if debiased is not None:
                axes.axhline(debiased.value, color=SERIES[index % len(SERIES)], linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel("1 / number of images")
        axes.set_ylabel(plain(label.replace("_inf", "")))
        axes.legend()

    values = ", ".join(f"{name} {format_number(row.value, 4)}" for name, (_, row, _) in curves.items())
    caption = f"Open marks at 1/N = 0 are {label}, the value for infinitely many images, with its standard error."
    if any(debiased is not None for _, _, debiased in curves.values()):
        caption += " Dashed lines are the debiased FD of all images."
    title = f"{label.replace('_inf', '')} against the number of images{of}"
    return Chart(title, svg_of((6.2, 3.4), draw, f"{label}{of}: {values}.", prefix), caption)


def _extrapolate(axes: Axes, name: str, row: Result, style: dict[str, Any]) -> None:
    sizes, curve = row.details["sizes"], row.details["curve"]
    inverse = [1 / size for size in sizes]
    axes.plot(inverse, curve[: len(sizes)], linestyle="none", markersize=4.5, label=plain(name), **style)
    if is_number(row.details.get("slope")):
        end = row.value + row.details["slope"] * max(inverse)
        axes.plot([0, max(inverse)], [row.value, end], color=style["color"], linewidth=1.2)
    axes.errorbar([0], [row.value], yerr=row.stderr, markersize=8, markerfacecolor=PAPER, **style)


def _has_curve(details: Mapping[str, Any]) -> bool:
    """True for the details of an extrapolation with one value for each size."""
    sizes, curve = details.get("sizes"), details.get("curve")
    if not isinstance(sizes, list) or not isinstance(curve, list) or not 0 < len(sizes) <= len(curve):
        return False
    return all(is_number(size) and size > 0 for size in sizes) and all(map(is_number, curve))


def _precision_recall(sets: Mapping[str, Report]) -> Iterator[Chart]:
    """One chart of PRD curves for each encoder."""
    found: dict[str, dict[str, tuple[int, Sequence[float], Sequence[float]]]] = {}
    for index, (name, report) in enumerate(sets.items()):
        for row in report:
            curve = row.details.get("curve")
            if row.metric.startswith("prd_") and isinstance(curve, Mapping) and _is_curve(curve):
                found.setdefault(row.encoder or "", {})[name] = (index, curve["recall"], curve["precision"])
    for number, (encoder, curves) in enumerate(found.items()):

        def draw(figure: Figure, curves: Mapping = curves) -> None:
            axes = figure.add_subplot()
            for name, (index, recall, precision) in curves.items():
                line = {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[index % len(DASHES)]}
                axes.plot(recall, precision, label=plain(name), **line)
            axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
            axes.axline((1, 0), (1, 1), color=GRID, linewidth=0.8)
            axes.legend(loc="lower left")

        yield Chart(
            f"Precision against recall (PRD), {encoder}",
            svg_of((4.6, 3.8), draw, f"PRD curves of {', '.join(curves)} with {encoder}.", f"prd{number}"),
            "The closer a curve comes to the upper right corner, the better.",
        )


def _is_curve(curve: Mapping[str, Any]) -> bool:
    recall, precision = curve.get("recall"), curve.get("precision")
    if not isinstance(recall, list) or not isinstance(precision, list):
        return False
    return len(recall) == len(precision) > 0 and all(map(is_number, [*recall, *precision]))
