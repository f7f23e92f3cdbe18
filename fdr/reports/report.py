"""Reports: the numbers of a sample set with what is needed to compare them, as JSON, CSV and Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fdr._version import __version__
from fdr.errors import InputError, as_utf8, unknown
from fdr.metrics import mean_of, metric_info, peer_name
from fdr.reports.checks import check_report
from fdr.reports.embedded import json_of
from fdr.reports.schema import result_key
from fdr.reports.texts import (
    format_value,
    maybe_write,
    report_to_html,
    reports_to_csv,
    reports_to_markdown,
    reports_to_pandas,
)
from fdr.runtime import as_path, decode_json, missing_path, quoted

SCHEMA = "fdr-report/1"
SCHEMA_MANY = "fdr-reports/1"


@dataclass(frozen=True)
class Result:
    """One number with everything that is needed to compare it. `value` is in full precision; only tables round it."""

    metric: str
    """A name in the registry of `fdr.metrics`, such as "fd" or "is:adm"; "ifd:0.25" is "ifd" at another alpha."""
    value: float
    encoder: str | None
    """The name of the encoder; None for a mean over several encoders and for a number without encoder."""
    output: str | None
    count: int
    """Number of images that were measured; skipped images are not counted."""
    lower_is_better: bool
    signature: str
    stderr: float | None = None
    """Standard error of the value; for the Inception Score the standard deviation over its splits."""
    reference_count: int | None = None
    k: int | None = None
    encoders: tuple[str, ...] | None = None
    interval: tuple[float, float] | None = None
    """The range that a rounded published constant leaves open, for FDr and FDr^k."""
    spec_hash: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the number (`mean_term`, `trace_term`, `route`, `val_fd`, ...)."""
    notes: tuple[str, ...] = ()
    """What a reader of the number must know, such as "500 samples for 2048 dimensions: FD is biased upward"."""

    def __post_init__(self) -> None:
        _make_utf8(self)

    @property
    def key(self) -> str:
        """The name of this number within its report."""
        return result_key(self.metric, self.encoder)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        return f"{self.key} {format_value(self)}"

    def __repr__(self) -> str:
        return f"<Result {self}, {self.count} images>"


@dataclass(frozen=True)
class Failure:
    """A number that could not be computed although others could."""

    metric: str
    encoder: str | None
    sentence: str
    """Why, and what to do."""
    signature: str
    """The signature that the number would have."""

    def __post_init__(self) -> None:
        _make_utf8(self)

    @property
    def key(self) -> str:
        """The name of the number within its report."""
        return result_key(self.metric, self.encoder)

    @property
    def lower_is_better(self) -> bool:
        info = metric_info(self.metric)
        return info is None or info.lower_is_better


@dataclass(frozen=True)
class Report:
    """All results of one sample set. `report["fd", "inception"].value` is one number."""

    samples: Mapping[str, Any]
    """`source`, `count`, `digest`, `skipped` (list of {id, reason}), `policy`, and if there are any `left_out` (number
    of files by kind that are no images) and `labels_from`."""
    reference: Mapping[str, Any] | None
    """`name`, `source`, `digest`, and `is_default` if the user named none; None if no metric needed a reference."""
    results: tuple[Result, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    """`device`, `dtype`, `seed`, `versions`."""
    warnings: tuple[str, ...] = ()
    fdr_version: str = __version__
    failed: tuple[Failure, ...] = ()
    """The numbers that were asked for and could not be computed."""
    training_set: Mapping[str, Any] | None = None
    """`name`, `source` and `digest` of the images that the model was trained on; None if no metric needed them."""

    def __post_init__(self) -> None:
        _make_utf8(self)

    def __getitem__(self, key: str | tuple[str, str]) -> Result:
        """The result of a metric; if several encoders have it, name one. Raises `InputError` with near matches, and for
        a number that could not be computed."""
        metric, encoder = (key, None) if isinstance(key, str) else key
        found = [r for r in self.results if r.metric == metric and encoder in (None, r.encoder)]
        if len(found) == 1:
            return found[0]
        for failure in self.failed if not found else ():
            if failure.metric == metric and encoder in (None, failure.encoder):
                raise InputError(f"{failure.key} could not be computed: {failure.sentence}")
        if not found:
            wanted = metric if encoder is None else f"{metric}, {encoder}"
            there = {r.metric if r.encoder is None else f"{r.metric}, {r.encoder}" for r in self}
            raise unknown("result", wanted, there, peers=lambda _: peer_name(metric))
        names = ", ".join(str(r.encoder) for r in found)
        raise InputError(f"{metric!r} was measured with several encoders ({names}); name one: report[{metric!r}, ...].")

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """The stable JSON form (schema fdr-report/1)."""
        return {
            "schema": SCHEMA,
            "fdr_version": self.fdr_version,
            "samples": dict(self.samples),
            "reference": None if self.reference is None else dict(self.reference),
            "run": dict(self.run),
            "warnings": list(self.warnings),
            "results": [_result_to_dict(result) for result in self.results],
            **({"failed": [asdict(failure) for failure in self.failed]} if self.failed else {}),
            **({} if self.training_set is None else {"training_set": dict(self.training_set)}),
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The JSON text, which is also written to `path` if that is given."""
        return _write_json(self.to_dict(), path)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` gave. Raises `InputError` for data that are damaged or contradict themselves."""
        return _report_from_dict(data, "it")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Report:
        """Read what `to_json` wrote. Raises `InputError` if the file is missing or is no sound report."""
        return _report_from_dict(_read_json(path), repr(os.fspath(path)))

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each result, in full precision."""
        return reports_to_pandas([self])

    def _repr_html_(self) -> str:
        return report_to_html(self)

    def __str__(self) -> str:
        return f"{self.samples['source']}: " + ", ".join(map(str, self.results))

    def __repr__(self) -> str:
        return f"<Report {self}>"

    def __float__(self) -> float:
        """The value of the only result. Raises `InputError` for several."""
        if len(self.results) != 1:
            names = ", ".join(result.key for result in self.results)
            raise InputError(f"The report holds {len(self.results)} numbers ({names}); name one: float(report[...]).")
        return float(self.results[0])

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """One line for each result, in full precision."""
        return reports_to_csv([self], path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """A Markdown table with rounded values and the signature of every result."""
        return reports_to_markdown([self], path)


def _make_utf8(record: Report | Result | Failure) -> None:
    """Make all texts of a record valid UTF-8, because names of files may be anything."""
    for item in fields(record):
        object.__setattr__(record, item.name, utf8_data(getattr(record, item.name)))


def _report_from_dict(data: Any, where: str) -> Report:
    """A report from decoded JSON; `where` names the file in errors."""
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if schema == SCHEMA_MANY:
        raise InputError("This file holds several reports; read it with fdr.reports.load_reports.")
    if schema != SCHEMA:
        place = "" if where == "it" else f" in {where}"
        raise InputError(
            f"Not a report: schema is {quoted(schema)}{place}, expected {SCHEMA!r}{_of_another_version(schema)}."
        )
    try:
        check_report(data, where)
        return Report(
            samples=data["samples"],
            reference=data.get("reference"),
            results=tuple(_result_from_dict(row) for row in data["results"]),
            run=data.get("run") or {},
            warnings=tuple(data.get("warnings") or ()),
            fdr_version=data["fdr_version"],
            failed=tuple(Failure(*(row.get(f.name) for f in fields(Failure))) for row in data.get("failed") or ()),
            training_set=data.get("training_set"),
        )
    except RecursionError as error:
        raise InputError(f"Damaged report: it is nested too deeply; write {where} again with --json.") from error


def _of_another_version(schema: Any) -> str:
    is_other = isinstance(schema, str) and schema.startswith(("fdr-report/", "fdr-reports/"))
    return "; another version of fdr wrote it, so measure again with this one" if is_other else ""


def reports_to_json(reports: Sequence[Report], path: str | os.PathLike[str] | None = None) -> str:
    """The JSON of one report, or of several as {"schema": "fdr-reports/1", "reports": [...]}."""
    if len(reports) == 1:
        return reports[0].to_json(path)
    return _write_json({"schema": SCHEMA_MANY, "reports": [report.to_dict() for report in reports]}, path)


def load_reports(path: str | os.PathLike[str]) -> list[Report]:
    """Read the reports of a JSON file that `fdr eval --json` wrote, or of a page of `fdr report`."""
    return reports_from_dict(_read_json(path), repr(os.fspath(path)))


def reports_from_dict(data: Any, where: str = "it") -> list[Report]:
    """The reports in decoded JSON; `where` names the file in errors. Raises `InputError` for anything else."""
    if isinstance(data, Mapping) and data.get("schema") == SCHEMA_MANY:
        entries = data.get("reports")
        if not isinstance(entries, list) or not entries:
            raise InputError(f"Damaged report: schema {SCHEMA_MANY!r} without a list of reports; write it again.")
        return [_report_from_dict(entry, where) for entry in entries]
    return [_report_from_dict(data, where)]


def sets_by_name(reports: Sequence[Report]) -> dict[str, Report]:
    """Reports by the name of their samples; if a name repeats, the second is "samples.npz (2)"."""
    return dict(zip(unique_names([str(report.samples["source"]) for report in reports]), reports, strict=True))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, numbered where they repeat: "a", "a (2)", "a (3)"."""
    found: list[str] = []
    for name in names:
        other, number = name, 2
        while other in found:
            other, number = f"{name} ({number})", number + 1
        found.append(other)
    return found


_RESULT_FIELDS = tuple(f.name for f in fields(Result))


def _result_to_dict(result: Result) -> dict[str, Any]:
    row = asdict(result)
    row["details"] = dict(result.details)
    if mean_of(result.metric) is None:
        del row["k"], row["encoders"]
    if result.interval is None:
        del row["interval"]
    return row


def _result_from_dict(row: Mapping[str, Any]) -> Result:
    known = {key: value for key, value in row.items() if key in _RESULT_FIELDS and value is not None}
    known |= {key: tuple(known[key]) for key in ("encoders", "interval", "notes") if key in known}
    known |= {key: row.get(key) for key in ("encoder", "output")}
    return Result(**known)


def _write_json(data: Mapping[str, Any], path: str | os.PathLike[str] | None) -> str:
    try:
        text = json_text(data, allow_nan=False)
    except ValueError as error:
        raise InputError("A report value is not finite; JSON reports hold finite numbers only.") from error
    return maybe_write(text, path)


def json_text(data: Any, **options: bool) -> str:
    """JSON text with valid UTF-8 and a newline at the end; `options` are those of `json.dumps`."""
    return json.dumps(utf8_data(data), indent=2, ensure_ascii=False, **options) + "\n"  # type: ignore[arg-type]


def utf8_data(data: Any) -> Any:
    """The data with valid UTF-8 in all texts, also inside of dicts, lists and tuples."""
    if isinstance(data, str):
        return as_utf8(data)
    if isinstance(data, Mapping):
        return {utf8_data(key): utf8_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return (list if isinstance(data, list) else tuple)(map(utf8_data, data))
    return data


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return decode_json(json_of(as_path(path, "the report").read_bytes()))
    except FileNotFoundError as error:
        raise InputError(f"The report {missing_path(Path(path))}") from error
    except OSError as error:
        raise InputError(f"Cannot read report {os.fspath(path)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{os.fspath(path)!r} is not JSON ({error}); expected a report written by --json.") from error
