"""The charts of a training run: FD, FDr, loss, gradient norm and whatever else its log holds, over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fdr.pages.charts import Chart
from fdr.pages.figures import DASHES, MARKERS, PAPER, SERIES, number_decades, plain, svg_of
from fdr.pages.run_folder import Curve, RunHistory
from fdr.reports import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 400
"""Points of a curve that the page keeps. Raising it makes larger pages."""
TITLES = {
    "fd": "FD in the loss",
    "fdr": "FDr in the loss",
    "fd_debiased": "FD in the loss, without its bias",
    "loss": "Loss",
    "noise_sensitivity": "Sensitivity to noise, at fixed labels",
    "label_sensitivity": "Sensitivity to labels, at fixed noise",
    "grad_norm": "Gradient norm before clipping",
    "lr": "Learning rate",
    "images_per_second": "Images per second",
}
"""Titles of the known quantities of a log, in the order of the page; others follow under their own names."""
_LAST = ("lr", "images_per_second")


def training_charts(run: RunHistory, prefix: str) -> tuple[list[Chart], list[Chart]]:
    """A chart for every quantity of the log, the known ones first; and those of speed and learning rate apart."""
    curves = {curve.name: curve for curve in run.curves()}
    names = [*(name for name in TITLES if name in curves), *(name for name in curves if name not in TITLES)]
    charts = {name: _chart(run, curves[name], f"{prefix}-{number}") for number, name in enumerate(names)}
    main = [chart for name, chart in charts.items() if name not in _LAST]
    return main, [chart for name, chart in charts.items() if name in _LAST]


def thinned(points: Sequence[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most `most` evenly spaced points and the last one."""
    stride = -(-len(points) // most) or 1
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _chart(run: RunHistory, curve: Curve, prefix: str) -> Chart:
    title = TITLES.get(curve.name, curve.name.replace("_", " "))
    marks = {"evaluation": run.measured(curve.name), "fresh images": run.fresh() if curve.name == "fd" else {}}
    values = [value for points in curve.points.values() for _, value in points]
    is_log = min(values) > 0 and max(values) > 1.5 * min(values)
    encoders = list(dict.fromkeys([*curve.points, *(encoder for found in marks.values() for encoder in found)]))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, encoder in enumerate(encoders):
            _line(axes, index, encoder, thinned(curve.points.get(encoder, ())), encoder in run.watched)
            for kind, found in marks.items():
                _marks(axes, index, f"{plain(encoder, 34)} ({kind})", found.get(encoder, []), kind == "evaluation")
        if is_log:
            axes.set_yscale("log")
            number_decades(axes.yaxis, max(values) / min(values))
        axes.set_xlabel("step")
        _image_axis(axes, run)
        if encoders != [""]:
            figure.legend(loc="outside upper left", ncols=2)

    ends = [
        f"{encoder or title} from {format_number(points[0][1], 4)} at step {points[0][0]} to "
        f"{format_number(points[-1][1], 4)} at step {points[-1][0]}"
        for encoder, points in curve.points.items()
    ]
    num_marks = sum(map(len, marks.values()))
    more = 0.22 * ((len(encoders) + num_marks + 1) // 2) if encoders != [""] else 0
    svg = svg_of((6.2, 2.7 + more), draw, f"{title}: {'; '.join(ends)}.", prefix)
    explained = " Marks are single measurements, with twice their standard error." if num_marks else ""
    return Chart(title, svg, f"{'; '.join(ends)}.{explained}")


def _line(axes: Axes, index: int, encoder: str, points: Sequence[tuple[int, float]], is_watched: bool) -> None:
    if not points:
        return
    dashes: Any = DASHES[1 + index % (len(DASHES) - 1)] if is_watched else "-"
    label = None if not encoder else f"{plain(encoder, 34)} ({'watched' if is_watched else 'trained on'})"
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=SERIES[index % len(SERIES)], linestyle=dashes, label=label)


def _marks(
    axes: Axes, index: int, label: str, points: Sequence[tuple[int, float, float | None]], is_filled: bool
) -> None:
    """Single measurements, with twice their standard error."""
    if not points:
        return
    steps, values, errors = zip(*points, strict=True)
    style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
    style |= {"markeredgecolor": PAPER} if is_filled else {"markerfacecolor": PAPER}
    around = [2 * (error or 0.0) for error in errors]
    axes.errorbar(steps, values, yerr=around, linestyle="none", markersize=5.5, linewidth=1, label=label, **style)


def _image_axis(axes: Axes, run: RunHistory) -> None:
    """An axis on top with the images that entered steps."""
    steps = [entry for entry in run.steps if entry.get("images") and entry["step"]]
    if not steps:
        return
    rate = steps[-1]["images"] / steps[-1]["step"]
    top = axes.secondary_xaxis("top", functions=(lambda step: step * rate, lambda images: images / rate))
    top.set_xlabel("images")
    top.spines["top"].set_visible(False)
