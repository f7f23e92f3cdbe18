"""Reads how a training run went from its folder: the log, the evaluations and the sample grids. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.errors import InputError
from fdr.reports import Report, load_reports
from fdr.runtime import decode_json, is_number

OPTIONS_NAME = "train.json"
LOG_NAME = "log.jsonl"
GRIDS, EVALUATIONS = "grids", "evaluations"
REALS_NAME = "reals.png"
PAGE_NAME = "report.html"
_STEP = re.compile(r"step-(\d+)\.(?:json|png)")
_NO_CURVES = frozenset({"kind", "step", "images", "watched", "seconds", "memory", "skipped", "count", "text"})
"""Entries of a logged step that are no curves."""
_OF_ALARMS = frozenset({"noise_sensitivity", "label_sensitivity"})
"""Entries of an alarm that are curves."""


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run, by encoder; a quantity without encoder has the name ""."""

    name: str
    """Its name in the log, such as "fd" or "grad_norm"."""
    points: Mapping[str, tuple[tuple[int, float], ...]]
    """(step, value) by encoder."""


@dataclass(frozen=True)
class RunHistory:
    """What a run folder tells without its weights."""

    name: str
    """The name of the folder."""
    options: Mapping[str, Any]
    """The options that the run was started with; empty if they cannot be read."""
    entries: tuple[Mapping[str, Any], ...]
    """The lines of log.jsonl."""
    evaluations: Mapping[int, Report]
    """The reports of evaluations, by step."""
    grids: Mapping[int, Path]
    """The pictures of sample grids, by step."""
    reals: Path | None
    """The picture of reference images."""

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """The logged steps."""
        return [entry for entry in self.entries if entry["kind"] == "step"]

    @property
    def watched(self) -> tuple[str, ...]:
        """The encoders that are not trained on."""
        return tuple(self.steps[-1].get("watched") or ()) if self.steps else ()

    @property
    def total_steps(self) -> int | None:
        """How many steps the run is to have."""
        total = self.options.get("steps")
        return total if isinstance(total, int) else None

    @property
    def is_going_on(self) -> bool:
        """True while steps are left to do."""
        last = max((entry["step"] for entry in self.entries), default=0)
        return self.total_steps is not None and last < self.total_steps

    @property
    def remarks(self) -> list[tuple[int, str, str]]:
        """(step, kind, sentence) of all warnings and skipped steps."""
        return [(entry["step"], entry["kind"], str(entry["text"])) for entry in self.entries if "text" in entry]

    def measured(self, metric: str) -> dict[str, list[tuple[int, float, float | None]]]:
        """By encoder, the (step, value, standard error) of a metric in the evaluations."""
        found: dict[str, list[tuple[int, float, float | None]]] = {}
        for step, report in self.evaluations.items():
            for row in report:
                if row.metric == metric and row.encoder is not None:
                    found.setdefault(row.encoder, []).append((step, row.value, row.stderr))
        return found

    def fresh(self) -> dict[str, list[tuple[int, float, float | None]]]:
        """By encoder, the (step, debiased FD, its error) of fresh images that the alarms measured."""
        found: dict[str, list[tuple[int, float, float | None]]] = {}
        for entry in self.entries:
            if entry["kind"] == "alarm" and isinstance(entry.get("fd"), Mapping):
                errors = entry.get("error") if isinstance(entry.get("error"), Mapping) else {}
                for encoder, value in entry["fd"].items():
                    error = (errors or {}).get(encoder)
                    if is_number(value):
                        found.setdefault(encoder, []).append(
                            (entry["step"], value, error if is_number(error) else None)
                        )
        return found

    def last_evaluation(self) -> dict[str, Report]:
        """The report of the last evaluation, by a name with its step; empty if there is none."""
        return {f"{self.name} at step {step}": report for step, report in [*self.evaluations.items()][-1:]}

    def curves(self) -> list[Curve]:
        """Every number of the logged steps and the sensitivities of the alarms over the steps, in the order of the log.

        Values that are missing are left out."""
        found: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for entry in self.entries:
            for name, encoder, value in _numbers(entry):
                found.setdefault(name, {}).setdefault(encoder, []).append((entry["step"], value))
        return [Curve(name, {key: tuple(rows) for key, rows in by.items()}) for name, by in found.items()]


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    is_alarm = entry["kind"] == "alarm"
    for name, value in entry.items() if is_alarm or entry["kind"] == "step" else ():
        rows = value if isinstance(value, Mapping) else {"": value}
        is_curve = name in _OF_ALARMS if is_alarm else name not in _NO_CURVES
        for encoder, number in rows.items() if is_curve else ():
            if is_number(number):
                yield name, encoder, float(number)


def is_run_folder(path: Path) -> bool:
    """True for a folder in which `fdr train` has started a run."""
    return (path / OPTIONS_NAME).is_file()


def read_run(folder: Path) -> RunHistory:
    """The history of a run. Raises `InputError` if it is no run folder, or its log or an evaluation is damaged."""
    if not is_run_folder(folder):
        raise InputError(f"{str(folder)!r} is no run of fdr train: it has no {OPTIONS_NAME}.")
    reals = folder / GRIDS / REALS_NAME
    return RunHistory(
        folder.resolve().name,
        _options(folder / OPTIONS_NAME),
        tuple(_entries(folder / LOG_NAME)),
        {step: load_reports(path)[0] for step, path in _by_step(folder / EVALUATIONS, "json")},
        dict(_by_step(folder / GRIDS, "png")),
        reals if reals.is_file() else None,
    )


def _options(path: Path) -> Mapping[str, Any]:
    try:
        options = decode_json(path.read_bytes()).get("options")
        return options if isinstance(options, Mapping) else {}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); expected the options of a run of fdr train.") from error


def _entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a log; a last line that is still being written is left out."""
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    except OSError as error:
        raise InputError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = decode_json(line)
            if not isinstance(entry["step"], int) or not isinstance(entry["kind"], str):
                raise ValueError("no step or kind")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                return
            raise InputError(f"Line {number} of {str(path)!r} is damaged; expected an entry of a log.") from error
        yield entry


def _by_step(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    found = ((_STEP.fullmatch(path.name), path) for path in folder.glob(f"step-*.{suffix}"))
    return sorted((int(match[1]), path) for match, path in found if match is not None)
