"""`fdr correlate`: how well one column of a table predicts another."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._outputs import Output, write_json
from fdr.cli._render import print_table
from fdr.errors import FdrWarning, InputError

if TYPE_CHECKING:
    from fdr.comparison import Coefficient, Correlations, Points


@click.command(
    "correlate",
    cls=_options.Command,
    epilog="Example: fdr correlate vaes.csv --x ifid --y gfid --label vae --plot ifid.svg",
)
@click.argument("table", type=click.Path(path_type=Path), metavar="TABLE.csv")
@_options.option("--x COLUMN", "The column that predicts.", name="x_name", required=True)
@_options.option("--y COLUMN", "The column to be predicted.", name="y_name", required=True)
@_options.option("--label COLUMN", "The column with the names of the rows, for the plot and for messages.")
@_options.switch("--log-x", "Use the logarithm of x, for Pearson's r and in the plot.")
@_options.switch("--log-y", "Use the logarithm of y, for Pearson's r and in the plot.")
@_options.option(
    "--confidence SHARE",
    "Confidence level of the intervals.",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
)
@_options.option("--seed N", "Seed for the bootstrap.", type=click.IntRange(0), default=0)
@_options.option(
    "--plot FILE", "Save a scatter plot as .svg, .pdf or .png; this needs matplotlib.", type=Output("plot")
)
@_options.json_out
def command(
    table: Path,
    x_name: str,
    y_name: str,
    label: str | None,
    log_x: bool,
    log_y: bool,
    confidence: float,
    seed: int,
    plot: Path | None,
    json_path: Path | None,
) -> None:
    """Correlate two columns of a CSV or TSV table: Pearson, Spearman and Kendall (tau-b), with intervals.

    Rows with an empty cell, a dash or NaN in one of the two columns are left out and listed. This needs no torch.
    """
    from fdr.comparison import Scatter, check_plot, correlate, points, read_table, save_scatter

    if plot is not None:
        check_plot(plot)
    found = points(read_table(table), x_name, y_name, label)
    for name in found.repeated_labels():
        warnings.warn(f"{name!r} names several rows; rows of one thing are not independent.", FdrWarning, stacklevel=2)
    x, y = (
        _logarithms(values, name) if is_log else values
        for values, name, is_log in ((found.x, x_name, log_x), (found.y, y_name, log_y))
    )
    correlations = correlate(x, y, confidence, seed, names=(x_name, y_name))
    if plot is not None:
        save_scatter(plot, Scatter(found.x, found.y, x_name, y_name, found.labels, log_x, log_y), correlations)
    asked = {"table": str(table), "x": x_name, "y": y_name, "log_x": log_x, "log_y": log_y}
    data = {"schema": "fdr-correlation/1", **asked, "left_out": list(found.left_out), **correlations.to_dict()}
    if write_json(json_path, data):
        _print(correlations, found, _name(x_name, log_x), _name(y_name, log_y))


def _logarithms(values: tuple[float, ...], name: str) -> tuple[float, ...]:
    if values and min(values) <= 0:
        raise InputError(f"Column {name} holds {min(values):g}, which has no logarithm; drop --log-x or --log-y.")
    return tuple(map(math.log10, values))


def _name(column: str, is_log: bool) -> str:
    return f"log {column}" if is_log else column


def _print(correlations: Correlations, found: Points, x_name: str, y_name: str) -> None:
    rows = (
        ("Pearson r", correlations.pearson),
        ("Spearman rho", correlations.spearman),
        ("Kendall tau-b", correlations.kendall),
    )
    headers = ("", "value", f"{100 * correlations.confidence:g} % interval")
    print_table(headers, [(name, f"{one.value:.4f}", _interval(one)) for name, one in rows], right=headers[1:])
    click.echo(f"{x_name} and {y_name} of {correlations.count:,} rows; {_method(correlations)}")
    if found.left_out:
        names = ", ".join(found.left_out[:5]) + (", ..." if len(found.left_out) > 5 else "")
        click.echo(f"{len(found.left_out):,} left out, without a number: {names}")


def _interval(coefficient: Coefficient) -> str:
    return "none" if coefficient.low is None else f"{coefficient.low:.4f} to {coefficient.high:.4f}"


def _method(correlations: Correlations) -> str:
    if correlations.method is None:
        return "too few rows for intervals"
    if correlations.method == "jackknife":
        return "intervals by the jackknife"
    return f"intervals by the BCa bootstrap, {correlations.resamples:,} resamples, seed {correlations.seed}"
