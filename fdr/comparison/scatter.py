"""Draws a scatter plot of two columns with their correlation, for a paper: SVG, PDF or PNG. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.comparison.coefficients import Coefficient, Correlations
from fdr.errors import FdrWarning, InputError
from fdr.runtime import atomic_path, check_writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

SUFFIXES = (".svg", ".pdf", ".png")
MAX_LABELS = 60
"""A plot with more points gets no labels, because they would hide the points."""
PLACEMENT_STEPS = 500
"""Number of steps in which labels push each other apart. More steps take longer and help crowded plots."""
ROUNDS = 3
"""How often each label is placed again. More rounds take longer and help crowded plots."""
PLACES = tuple(
    (reach * x, reach * y)
    for reach in (4.0, 9.0)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8))
)
"""Where a label may stand, in points from its own point; of equally good places it takes the first."""
POINT_RADIUS = 2.5
"""Distance from the centre of a point, in typographic points, that labels keep."""
MANY = 200
"""Above this number, points are drawn small and without an outline."""
INCHES, DPI = (4.8, 4.4), 200
POINT, LINE, TEXT = "#1f5a92", "#b5482a", "#404040"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so the plot looks the same on every machine
    "font.size": 8,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "fdr",
}
METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
    ".png": {},
}
"""Metadata of the file by suffix. Dates are left out, so that the same table always gives the same bytes."""


@dataclass(frozen=True)
class Scatter:
    """The data of a plot: two columns with the values of the table, their names, and a label for each point."""

    x: Sequence[float]
    y: Sequence[float]
    x_name: str
    y_name: str
    labels: Sequence[str] = ()
    log_x: bool = False
    log_y: bool = False


def check_plot(path: Path) -> None:
    """Raise an error if `save_scatter` would: unknown suffix, matplotlib not installed, or folder not writable."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"A plot is saved as {', '.join(SUFFIXES)}; got {str(path)!r}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("A plot needs matplotlib, which is not installed: pip install matplotlib.")
    check_writable(path)


def save_scatter(path: Path, scatter: Scatter, correlations: Correlations) -> None:
    """Draw the points with their labels, the least-squares line, and the coefficients as the title; save it to `path`.

    On a logarithmic axis the line is fitted to the logarithms. Raises the errors of `check_plot`.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    suffix = path.suffix.lower()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's own settings
        matplotlib.rcParams.update(STYLE)
        figure = Figure(INCHES, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)  # needed to measure the size of labels
        axes = figure.add_subplot()
        _draw(axes, scatter)
        axes.set_title("\n".join(_title(correlations, scatter)), loc="left", fontsize=8, color=TEXT, linespacing=1.4)
        figure.draw_without_rendering()
        _name_points(axes, scatter)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=METADATA[suffix])


def _draw(axes: Axes, scatter: Scatter) -> None:
    size, edge = (24, 0.6) if len(scatter.x) <= MANY else (5, 0)
    axes.scatter(scatter.x, scatter.y, s=size, color=POINT, edgecolor="white", linewidth=edge, zorder=3)
    axes.plot(*_fit(scatter), color=LINE, linewidth=1.2, zorder=2 if size > 5 else 4)
    if scatter.log_x:
        axes.set_xscale("log")
        _number_decades(axes.xaxis)
    if scatter.log_y:
        axes.set_yscale("log")
        _number_decades(axes.yaxis)
    axes.margins(0.09)
    axes.set_xlabel(_plain(scatter.x_name))
    axes.set_ylabel(_plain(scatter.y_name))
    axes.tick_params(color=TEXT, labelcolor=TEXT)


def _number_decades(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain(text: str) -> str:
    """Escape dollar signs, which matplotlib would read as the start of a formula."""
    return text.replace("$", r"\$")


def _fit(scatter: Scatter) -> tuple[np.ndarray, np.ndarray]:
    """50 points (x, y) on the least-squares line of y on x, from the smallest to the largest x."""
    x, y = (
        np.log10(values) if is_log else np.asarray(values, dtype=np.float64)
        for values, is_log in ((scatter.x, scatter.log_x), (scatter.y, scatter.log_y))
    )
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    ends = np.linspace(x.min(), x.max(), 50)
    line = y.mean() + slope * (ends - x.mean())
    return 10**ends if scatter.log_x else ends, 10**line if scatter.log_y else line


def _title(correlations: Correlations, scatter: Scatter) -> Iterator[str]:
    logs = [name for name, is_log in (("x", scatter.log_x), ("y", scatter.log_y)) if is_log]
    of = f" of log {' and log '.join(logs)}" if logs else ""
    count = f"n = {correlations.count:,}{_interval_note(correlations)}"
    yield f"Pearson r{of} = {_with_interval(correlations.pearson)}     {count}"
    spearman, kendall = _with_interval(correlations.spearman), _with_interval(correlations.kendall)
    yield f"Spearman ρ = {spearman}     Kendall τ = {kendall}"


def _interval_note(correlations: Correlations) -> str:
    return "" if correlations.method is None else f", {100 * correlations.confidence:g} % intervals"


def _with_interval(coefficient: Coefficient) -> str:
    interval = "" if coefficient.low is None else f" [{coefficient.low:.2f}, {coefficient.high:.2f}]"
    return f"{coefficient.value:.2f}{interval}".replace("-", "−")


def _name_points(axes: Axes, scatter: Scatter) -> None:
    """Write each label beside its point, at the place where it hides least; the first round knows no later labels."""
    if len(scatter.labels) > MAX_LABELS:
        warnings.warn(
            f"{len(scatter.labels)} labels are too many for one plot (at most {MAX_LABELS}); it has none.",
            FdrWarning,
            stacklevel=3,
        )
        return
    line = axes.transData.transform(np.column_stack(_fit(scatter)))
    points = axes.transData.transform(np.column_stack([scatter.x, scatter.y]))
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "fontsize": 7,
        "color": TEXT,
        "zorder": 4,
        "annotation_clip": False,
    }
    boxes: dict[Annotation, Bbox] = {}
    notes = [
        axes.annotate(_plain(label), (x, y), (0, 0), **style)
        for label, x, y in zip(scatter.labels, scatter.x, scatter.y, strict=False)
    ]
    for _ in range(ROUNDS):
        for note in notes:
            boxes.pop(note, None)
            costs = [_cost(_place(note, place), axes, boxes, points, line) for place in PLACES]
            boxes[note] = _place(note, PLACES[int(np.argmin(costs))])


def _place(note: Annotation, place: tuple[float, float]) -> Bbox:
    """Move a label to a place, given in points from its own point, and return the pixels that it covers."""
    x, y = place
    note.set_position(place)
    note.set(
        horizontalalignment="left" if x > 0 else "right" if x < 0 else "center",
        verticalalignment="bottom" if y > 0 else "top" if y < 0 else "center",
    )
    return note.get_window_extent()


def _cost(box: Bbox, axes: Axes, boxes: Mapping[Annotation, Bbox], points: np.ndarray, line: np.ndarray) -> float:
    """How much a label hides there: the frame weighs most, then other labels and points, then the line."""
    frame = axes.get_window_extent()
    is_outside = box.x0 < frame.x0 or box.y0 < frame.y0 or box.x1 > frame.x1 or box.y1 > frame.y1
    hidden = box.count_overlaps(list(boxes.values())) + box.padded(POINT_RADIUS * DPI / 72).count_contains(points)
    return float(1000 * is_outside + 10 * hidden + box.count_contains(line))
