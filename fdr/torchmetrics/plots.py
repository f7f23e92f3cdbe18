"""Draws the values of the metrics, now or over time, with the better side marked. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fdr.errors import InputError
from fdr.metrics import metric_info

WIDTH, HEIGHT = 3.6, 3.0
"""Inches of a panel."""


def draw(values: Sequence[Any], ax: Any, encoders: Sequence[str]) -> tuple[Any, Any]:
    """One panel for each metric, with a line for each of the `encoders` over the `values`; returns figure and axes.

    A value is the FD of the first encoder, or a dict of numbers by the keys of reports. `ax` is None for a new figure,
    one axes, or a sequence of axes. Raises `InputError` for another number of axes, and without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("Plots need the package matplotlib, which is not installed: pip install 'fdr-eval[plot]'.")
    steps = [dict(value) if isinstance(value, Mapping) else {f"fd:{encoders[0]}": value} for value in values]
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        panels.setdefault(_split(name, encoders)[0], []).append(name)
    figure, axes = _axes(ax, len(panels))
    for axis, (metric, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            line = [float(step[name]) if name in step else math.nan for step in steps]
            axis.plot(range(len(line)), line, marker="o", label=_split(name, encoders)[1])
        _finish(axis, metric, len(steps), len(names))
    return figure, axes[0] if len(axes) == 1 else axes


def _split(key: str, encoders: Sequence[str]) -> tuple[str, str]:
    """Metric and encoder of the key of a number; names of both may hold colons. A mean has no encoder."""
    found = max((name for name in encoders if key.endswith(f":{name}")), key=len, default="")
    return key.removesuffix(f":{found}"), found


def _axes(ax: Any, count: int) -> tuple[Any, list[Any]]:
    """The figure, if it is new, and `count` axes."""
    import matplotlib.pyplot as plt

    if ax is None:
        figure, grid = plt.subplots(1, count, figsize=(WIDTH * count, HEIGHT), squeeze=False, layout="constrained")
        return figure, list(grid.flat)
    axes = list(ax) if isinstance(ax, Sequence) or hasattr(ax, "flat") else [ax]
    if len(axes) != count:
        raise InputError(f"{count} axes are needed, one for each metric; got {len(axes)}.")
    return None, axes


def _finish(axis: Any, metric: str, num_steps: int, num_lines: int) -> None:
    """Label the panel: the direction, the best possible value where there is one, and the steps."""
    from matplotlib.ticker import MaxNLocator

    info = metric_info(metric)
    assert info is not None
    best = info.low if info.lower_is_better else info.high
    axis.set_ylabel(f"{info.label} ({'lower' if info.lower_is_better else 'higher'} is better)")
    if math.isfinite(best):
        axis.axhline(best, linestyle="--", color="0.4", linewidth=1)
        place, side = ("bottom", 2) if info.lower_is_better else ("top", -2)
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": place}
        axis.annotate("best", (1, best), (-4, side), color="0.4", **where)
    axis.grid(True, alpha=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("step")
    axis.get_xaxis().set_visible(num_steps > 1)
    if num_lines > 1:
        axis.legend()
