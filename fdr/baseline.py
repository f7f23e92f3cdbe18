"""What numbers were before: a report, or the small file of `fdr check --update-baseline`, from disk or from git."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr._version import __version__
from fdr.errors import InputError
from fdr.files import missing_path, write_atomically
from fdr.report import Report, json_text, reports_from_dict, sets_by_name
from fdr.signature import parse_signature

SCHEMA = "fdr-baseline/1"


@dataclass(frozen=True)
class BaselineValue:
    """One number of a baseline."""

    value: float
    signature: str
    stderr: float | None = None


@dataclass(frozen=True)
class Baseline:
    """Numbers by sample set and key ("fd:inception")."""

    name: str
    """Where it was read: "main.json", "main:fdr.json"."""
    sets: Mapping[str, Mapping[str, BaselineValue]]
    is_report: bool = False
    """True when the file is a whole report."""


def baseline_of(reports: Sequence[Report], name: str) -> Baseline:
    """A baseline with all numbers of some reports."""
    return Baseline(
        name,
        {
            source: {row.key: BaselineValue(row.value, row.signature, row.stderr) for row in report}
            for source, report in sets_by_name(reports).items()
        },
    )


def load_baseline(where: str) -> Baseline:
    """Read FILE, or PATH as it was at a git revision (REV:PATH, as `git show` takes it).

    Raises `InputError` when there is none, or it is neither a report nor a baseline.
    """
    path = Path(where)
    try:
        text = path.read_bytes() if path.is_file() or ":" not in where else read_at_revision(where)
        data = json.loads(text)
    except FileNotFoundError as error:
        raise InputError(f"The baseline {missing_path(path)}") from error
    except OSError as error:
        raise InputError(
            f"Cannot read baseline {where!r}: {error.strerror}; expected a report, a file of --update-baseline, or "
            "REV:PATH of one."
        ) from error
    except ValueError as error:
        raise InputError(f"Baseline {where!r} is not JSON ({error}).") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema == SCHEMA:
        return Baseline(where, _sets(data, where))
    if not str(schema).startswith("fdr-report"):
        raise InputError(
            f"Baseline {where!r} has schema {schema!r}; expected {SCHEMA!r} or a report of fdr eval --json."
        )
    found = baseline_of(reports_from_dict(data), where)
    return Baseline(where, found.sets, is_report=True)


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write the small form: sorted, one value per line, a newline at the end, so that `git diff` reads."""
    sets = {
        name: {key: {k: v for k, v in vars(row).items() if v is not None} for key, row in rows.items()}
        for name, rows in baseline.sets.items()
    }
    data = {"schema": SCHEMA, "fdr_version": __version__, "sets": sets}
    write_atomically(path, json_text(data, sort_keys=True))


def _sets(data: Mapping[str, Any], where: str) -> dict[str, dict[str, BaselineValue]]:
    try:
        return {str(name): {str(key): _value(row) for key, row in rows.items()} for name, rows in data["sets"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"Baseline {where!r} is damaged ({type(error).__name__} {error}); write it again with --update-baseline."
        ) from error


def _value(row: Mapping[str, Any]) -> BaselineValue:
    value, stderr = row["value"], row.get("stderr")
    for number in (value, *(() if stderr is None else (stderr,))):
        if type(number) not in (int, float) or not math.isfinite(number):
            raise TypeError(f"{number!r} is no finite number")
    parse_signature(row["signature"])
    return BaselineValue(float(value), row["signature"], stderr)


def read_at_revision(where: str) -> bytes:
    """The bytes of "REV:PATH" in the git repository around the working folder. Raises `InputError`.

    As in git, PATH starts at the top of the repository, or with ./ at the working folder.
    """
    revision, _, path = where.partition(":")
    if not revision or not path or revision.startswith("-"):
        raise InputError(f"Baseline {where!r} is no file and not REV:PATH, such as origin/main:fdr.json.")
    inside = _git("rev-parse", "--git-dir", where=where)
    if inside.returncode:
        raise InputError(
            f"Baseline {where!r} is no file, and no git repository is here in which revision {revision!r} could be "
            f"looked up ({_last_line(inside.stderr)})."
        )
    if _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", where=where).returncode:
        raise InputError(
            f"Baseline {where!r}: git knows no revision {revision!r} here; a shallow clone has only its own commit "
            f"(fetch-depth: 0 in CI), and another branch may need its remote's name (origin/{revision})."
        )
    shown = _git("cat-file", "blob", where, where=where)
    if shown.returncode:
        raise InputError(
            f"Baseline {where!r}: revision {revision!r} has no file {path!r} (paths start at the top of the "
            f"repository, or with ./ here): {_last_line(shown.stderr)}."
        )
    return shown.stdout


def _git(*arguments: str, where: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise InputError(
            f"Baseline {where!r} is no file, and git, which could look it up, did not start: {error.strerror}."
        ) from error


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].strip(". ") if lines else "git gave no reason"
