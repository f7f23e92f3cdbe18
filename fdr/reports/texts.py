"""Reports as texts: CSV, Markdown, HTML and data frames, with numbers as people write them."""

from __future__ import annotations

import csv
import html
import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError
from fdr.metrics import mean_of, metric_info
from fdr.runtime import as_path, write_atomically

if TYPE_CHECKING:
    from fdr.reports.report import Report, Result

_CSV_COLUMNS = (
    "samples", "metric", "encoder", "output", "value", "stderr", "interval_low", "interval_high", "count",
    "reference", "reference_count", "lower_is_better", "spec_hash", "signature",
)  # fmt: skip


def reports_to_csv(reports: Sequence[Report], path: str | os.PathLike[str] | None = None) -> str:
    """CSV (RFC 4180) with one line for each result of each sample set, in full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for report in reports:
        for result in report:
            writer.writerow(["" if cell is None else cell for cell in _values(report, result)])
    return maybe_write(buffer.getvalue(), path)


def reports_to_markdown(reports: Sequence[Report], path: str | os.PathLike[str] | None = None) -> str:
    """A Markdown table with one row for each result of each sample set, followed by notes and warnings."""
    lines = ["| samples | metric | encoder | value | n | signature |", "|---|---|---|---:|---:|---|"]
    for report in reports:
        for r in report:
            encoder = r.encoder or ", ".join(r.encoders or ())
            cells = (
                report.samples["source"],
                metric_label(r),
                encoder,
                format_value(r),
                str(r.count),
                f"`{r.signature}`",
            )
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    notes = dict.fromkeys(note for report in reports for r in report for note in r.notes)
    notes.update(dict.fromkeys(text for report in reports for text in report.warnings))
    notes.update(
        dict.fromkeys(
            f"{f.key} of {report.samples['source']} failed: {f.sentence}" for report in reports for f in report.failed
        )
    )
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return maybe_write("\n".join(lines) + "\n", path)


def metric_label(result: Result) -> str:
    """The metric as people write it: FID for Inception, FD for other encoders, FDr^6, IS."""
    info = metric_info(result.metric)
    if info is None:
        return result.metric
    if mean_of(result.metric) is not None:
        return info.label.replace("^k", f"^{result.k}")
    label = info.inception_label if info.inception_label and is_inception(result.encoder) else info.label
    return f"{label} ({result.metric[4:]})" if result.metric.startswith("ifd:") else label


def is_inception(encoder: str | None) -> bool:
    """True for the encoders whose FD may be called FID."""
    return encoder is not None and encoder.split(":")[0] == "inception"


def format_value(result: Result) -> str:
    """The value with 5 significant digits, followed by its standard error and its interval if it has them."""
    text = format_number(result.value)
    if result.stderr is not None:
        text += f" ± {format_stderr(result.stderr)}"
    if result.interval is not None:
        text += f" [{format_number(result.interval[0])}, {format_number(result.interval[1])}]"
    return text


def format_number(value: float, digits: int = 5) -> str:
    """A number with so many significant digits, without an exponent if that is readable."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e7:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.{digits - 1}e}"


def format_stderr(value: float) -> str:
    """A standard error with 2 significant digits: it is not known better than that."""
    return format_number(value, 2)


def report_to_html(report: Report) -> str:
    """The numbers of a report as an HTML table without scripts or styles, which notebooks show."""
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in _cells(result)) + "</tr>" for result in report
    ]
    rows += [
        f"<tr><td>{html.escape(failure.metric)}</td><td>{html.escape(failure.encoder or '')}</td>"
        f'<td colspan="2">{html.escape(failure.sentence)}</td></tr>'
        for failure in report.failed
    ]
    heads = "".join(f"<th>{head}</th>" for head in ("metric", "encoder", "value", "n"))
    notes = dict.fromkeys([*(note for result in report for note in result.notes), *report.warnings])
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        f"<table><caption>{html.escape(str(report.samples['source']))}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<ul>{listed}</ul>" if listed else "")
    )


def _cells(result: Result) -> tuple[str, str, str, int]:
    arrow = "\u2193" if result.lower_is_better else "\u2191"
    encoder = result.encoder or ", ".join(result.encoders or ())
    return f"{metric_label(result)} {arrow}", encoder, format_value(result), result.count


def reports_to_pandas(reports: Sequence[Report]) -> Any:
    """A pandas DataFrame with a row for each result, in full precision; the columns are those of the CSV.

    Raises `InputError` if pandas is not installed.
    """
    return data_frame([_values(report, result) for report in reports for result in report], _CSV_COLUMNS)


def data_frame(rows: Sequence[Any], columns: Sequence[str]) -> Any:
    """A pandas DataFrame of rows or dicts. Raises `InputError` if pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise InputError("to_pandas needs pandas: pip install pandas.") from error
    return pandas.DataFrame(list(rows), columns=list(columns))


def _values(report: Report, r: Result) -> tuple[Any, ...]:
    """What a line of the CSV holds, None where there is nothing."""
    low, high = r.interval or (None, None)
    reference = report.reference["name"] if report.reference else None
    return (
        report.samples["source"], r.metric, r.encoder or "+".join(r.encoders or ()), r.output, r.value, r.stderr, low,
        high, r.count, reference, r.reference_count, r.lower_is_better, r.spec_hash, r.signature,
    )  # fmt: skip


def maybe_write(text: str, path: str | os.PathLike[str] | None) -> str:
    """The text, which is also written to `path` if that is given."""
    if path is not None:
        write_atomically(as_path(path, "the report"), text)
    return text
