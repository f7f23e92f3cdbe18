"""The charts of a training run: FD, FDr, loss, gradient norm and whatever else its log holds, over its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    "grad_norm": "Gradient norm before clipping",
    "lr": "Learning rate",
    "images_per_second": "Images per second",
}
"""Titles of the known quantities of a log, in the order of the page; others follow under their own names."""
_LAST = ("lr", "images_per_second")
_EVALUATED = {"fd": "fd", "fdr": "fdr", "fd_debiased": "fd_debiased"}


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
    evaluated = dict(_evaluated(run, curve.name))
    values = [value for points in curve.points.values() for _, value in points]
    values += [value for points in evaluated.values() for _, value, _ in points]
    is_log = bool(values) and min(values) > 0 and max(values) > 1.5 * min(values)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        encoders = list(dict.fromkeys([*curve.points, *evaluated]))
        for index, encoder in enumerate(encoders):
            _line(axes, index, encoder, thinned(curve.points.get(encoder, ())), encoder in run.watched)
            _marks(axes, index, encoder, evaluated.get(encoder, []))
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
    more = 0.22 * ((len(curve.points) + len(evaluated) + 1) // 2) if "" not in curve.points else 0
    svg = svg_of((6.2, 2.7 + more), draw, f"{title}: {'; '.join(ends)}.", prefix)
    return Chart(title, svg, "; ".join(ends) + ".")


def _line(axes: Axes, index: int, encoder: str, points: Sequence[tuple[int, float]], is_watched: bool) -> None:
    if not points:
        return
    dashes: Any = DASHES[1 + index % (len(DASHES) - 1)] if is_watched else "-"
    label = None if not encoder else f"{plain(encoder, 34)} ({'watched' if is_watched else 'trained on'})"
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=SERIES[index % len(SERIES)], linestyle=dashes, label=label)


def _marks(axes: Axes, index: int, encoder: str, points: Sequence[tuple[int, float, float | None]]) -> None:
    """The values of evaluations, with twice their standard error."""
    if not points:
        return
    steps, values, errors = zip(*points, strict=True)
    style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
    axes.errorbar(steps, values, yerr=[2 * (error or 0.0) for error in errors], linestyle="none", markersize=6,
                  markeredgecolor=PAPER, label=f"{plain(encoder, 34)} (evaluation)", **style)  # fmt: skip


def _evaluated(run: RunHistory, name: str) -> Iterator[tuple[str, list[tuple[int, float, float | None]]]]:
    """By encoder, the (step, value, standard error) of the evaluations of a quantity."""
    found: dict[str, list[tuple[int, float, float | None]]] = {}
    for step, report in run.evaluations.items():
        for row in report:
            if row.metric == _EVALUATED.get(name) and row.encoder is not None:
                found.setdefault(row.encoder, []).append((step, row.value, row.stderr))
    yield from found.items()


def _image_axis(axes: Axes, run: RunHistory) -> None:
    """An axis on top with the images that entered steps."""
    steps = [entry for entry in run.steps if entry.get("images") and entry["step"]]
    if not steps:
        return
    rate = steps[-1]["images"] / steps[-1]["step"]
    top = axes.secondary_xaxis("top", functions=(lambda step: step * rate, lambda images: images / rate))
    top.set_xlabel("images")
    top.spines["top"].set_visible(False)
