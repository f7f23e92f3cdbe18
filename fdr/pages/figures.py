"""Draws with matplotlib, and gives each figure as SVG that stands in a page: its colours are those of the page's style.

matplotlib draws in stand-in colours, which are then replaced by CSS variables, so that one figure serves light and dark
pages. Equal data give equal bytes: no date, fixed identifiers, and letters stay text.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, GRID, PAPER = "#000001", "#000002", "#000003"
SERIES = tuple(f"#0000{index:02x}" for index in range(0xA1, 0xA9))
"""Stand-in colours of series; a ninth series has the colour of the first."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Shapes of series, so that colour is not the only cue."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 4)))
"""Dashes of series of lines, for the same reason."""
_CSS = {TEXT: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)"} | {
    colour: f"var(--c{number})" for number, colour in enumerate(SERIES, start=1)
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that the layout is the same on every machine
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": TEXT,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "fdr",
}
_NOTHING: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def svg_of(size: tuple[float, float], draw: Callable[[Figure], None], label: str, prefix: str) -> str:
    """The SVG of a figure of `size` inches that `draw` fills; `label` describes it, `prefix` makes its ids unique."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's own settings
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=_NOTHING)
    return _for_page(buffer.getvalue(), label, prefix)


def _for_page(svg: str, label: str, prefix: str) -> str:
    """The SVG element without prolog, metadata and size, with the page's colours and unique ids."""
    body = svg[svg.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style type=\"text/css\">.*?</style>", r"<!--.*?-->"):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', body)
    width = float(view[1].split()[2]) if view else 500.0
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view[1] if view else "0 0 500 300"}" role="img" '
        f'aria-label="{html.escape(label)}" style="max-width:{width * 4 / 3:.0f}px">'
    )
    body = opening + body[body.index(">") + 1 :]
    for colour, css in _CSS.items():
        body = body.replace(colour, css)
    body = re.sub(r' id="', f' id="{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    return re.sub(r"\s*\n\s*", "\n", body).strip()


def plain(text: str, most: int = 40) -> str:
    """Text that matplotlib reads as no formula, shortened in its middle."""
    if len(text) > most:
        text = f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"
    return text.replace("$", r"\$")


def number_decades(axis: Any, span: float) -> None:
    """Label a logarithmic axis with plain numbers; `span` is the largest value over the smallest."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 300 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
