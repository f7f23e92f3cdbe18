"""Reads a baseline, the numbers of an earlier run: a report or a file that `fdr check` wrote, from disk or git."""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fdr._version import __version__
from fdr.comparison import images_digest
from fdr.errors import InputError
from fdr.metrics import mean_of
from fdr.reports import (
    RESULT,
    Report,
    impossible,
    json_text,
    parse_signature,
    reports_from_dict,
    result_key,
    sets_by_name,
)
from fdr.runtime import (
    HEAD_BYTES,
    TABLE,
    Kind,
    decode_json,
    field_problems,
    missing_path,
    quoted,
    stand_in_of,
    write_atomically,
)

SCHEMA = "fdr-baseline/1"


@dataclass(frozen=True)
class BaselineValue:
    """One number of a baseline."""

    value: float
    signature: str
    stderr: float | None = None
    samples_digest: str | None = None
    """Digest of the images, if the baseline is a whole report."""


@dataclass(frozen=True)
class Baseline:
    """The numbers of an earlier run, by sample set and key ("fd:inception")."""

    name: str
    """Where the baseline was read: "main.json", "main:fdr.json"."""
    sets: Mapping[str, Mapping[str, BaselineValue]]
    is_report: bool = False
    """True if the file is a whole report."""


def baseline_of(reports: Sequence[Report], name: str) -> Baseline:
    """Make a baseline of all numbers of the reports."""
    return Baseline(
        name,
        {
            source: {
                row.key: BaselineValue(row.value, row.signature, row.stderr, images_digest(report)) for row in report
            }
            for source, report in sets_by_name(reports).items()
        },
    )


def load_baseline(where: str) -> Baseline:
    """Read FILE, or PATH as it was at a git revision (REV:PATH, as `git show` takes it).

    Raises `InputError` if the file does not exist, or is neither a report nor a baseline.
    """
    path = Path(where)
    try:
        text = path.read_bytes() if path.is_file() or ":" not in where else read_at_revision(where)
        data = decode_json(text)
    except FileNotFoundError as error:
        raise InputError(f"The baseline {missing_path(path)}") from error
    except OSError as error:
        raise InputError(
            f"Cannot read baseline {where!r}: {error.strerror}; expected a report, a file of --update-baseline, or "
            "REV:PATH of one."
        ) from error
    except ValueError as error:
        stand_in = None if text.lstrip().startswith((b"{", b"[")) else stand_in_of(text[:HEAD_BYTES])
        raise InputError(f"Baseline {where!r} {stand_in or f'is not JSON ({error})'}.") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema == SCHEMA:
        return Baseline(where, _sets(data, where))
    if not str(schema).startswith("fdr-report"):
        other = "another version of fdr wrote it: " if str(schema).startswith("fdr-baseline/") else ""
        raise InputError(
            f"Baseline {where!r} has schema {quoted(schema)}; {other}expected {SCHEMA!r} or a report of fdr eval "
            "--json. Write it again with --update-baseline --force."
        )
    found = baseline_of(reports_from_dict(data, repr(where)), where)
    return Baseline(where, found.sets, is_report=True)


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write the baseline file: sorted and one value per line, so that `git diff` is easy to read."""
    sets = {name: {key: _row(value) for key, value in rows.items()} for name, rows in baseline.sets.items()}
    data = {"schema": SCHEMA, "fdr_version": __version__, "sets": sets}
    write_atomically(path, json_text(data, sort_keys=True))


def _row(value: BaselineValue) -> dict[str, Any]:
    stderr = {} if value.stderr is None else {"stderr": value.stderr}
    return {"value": value.value, "signature": value.signature, **stderr}


def _sets(data: Mapping[str, Any], where: str) -> dict[str, dict[str, BaselineValue]]:
    problem = next(_problems(data), None)
    if problem is not None:
        raise InputError(f"Baseline {where!r} is damaged: {problem}; write it again with --update-baseline --force.")
    return {
        name: {
            key: BaselineValue(float(row["value"]), row["signature"], row.get("stderr")) for key, row in rows.items()
        }
        for name, rows in data["sets"].items()
    }


_FILLED = Kind(lambda value: isinstance(value, Mapping) and bool(value), "an object with at least one entry")
_FIELDS = {name: RESULT[name] for name in ("value", "signature", "stderr")}


def _problems(data: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a baseline, as half a sentence each; each part is read only if those before are sound."""
    yield from field_problems("the file", data, {"sets": _FILLED})
    for name, rows in data["sets"].items():
        yield from field_problems("sets", data["sets"], {name: _FILLED})
        for key, row in rows.items():
            where = f"{key} of {name}"
            yield from field_problems(name, rows, {key: TABLE})
            yield from field_problems(where, row, _FIELDS)
            signature = parse_signature(row["signature"])
            signed = result_key(signature.metric, None if mean_of(signature.metric) else signature.value("enc"))
            if signed != key:
                yield f"{where} has the signature of {signed}"
            problem = impossible(signature.metric, row["value"])
            if problem is not None:
                yield f"{where} {problem}"


def read_at_revision(where: str) -> bytes:
    """The bytes of "REV:PATH" in the git repository around the working folder. Raises `InputError`.

    As in git, PATH starts at the top of the repository, or with ./ at the working folder.
    """
    revision, _, path = where.partition(":")
    if not revision or not path or revision.startswith("-") or path.startswith("//"):
        raise InputError(f"Baseline {where!r} is no file and not REV:PATH, such as origin/main:fdr.json.")
    inside = _git("rev-parse", "--git-dir", where=where)
    if b"dubious ownership" in inside.stderr:
        raise InputError(
            f"Baseline {where!r}: git does not read this repository, because another user owns it; run "
            f"{_last_line(inside.stderr)}."
        )
    if inside.returncode:
        raise InputError(
            f"Baseline {where!r} is no file, and no git repository is here in which revision {revision!r} could be "
            f"looked up ({_last_line(inside.stderr)})."
        )
    if _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", where=where).returncode:
        is_branch = re.fullmatch(r"[\w.-]+", revision) and revision != "HEAD"
        remote = f", and another branch may need its remote's name (origin/{revision})" if is_branch else ""
        raise InputError(
            f"Baseline {where!r}: git knows no revision {revision!r} here; a shallow clone has only its own commit "
            f"(fetch-depth: 0 in CI){remote}."
        )
    content = _git("cat-file", "blob", where, where=where)
    if content.returncode:
        raise InputError(
            f"Baseline {where!r}: revision {revision!r} has no file {path!r} (paths start at the top of the "
            f"repository, or with ./ here){_near(revision, path, where)}"
        )
    return content.stdout


def _near(revision: str, path: str, where: str) -> str:
    """Files of a revision that may be meant: the same name in another folder, or a similar name."""
    listed = _git("ls-tree", "-r", "-z", "--name-only", "--full-tree", revision, where=where)
    names = listed.stdout.decode(errors="replace").split("\0")[:-1]
    same = [name for name in names if PurePosixPath(name).name == PurePosixPath(path).name and name != path]
    found = same[:3] or difflib.get_close_matches(path, names, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else "."


def _git(*arguments: str, where: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise InputError(
            f"Baseline {where!r} is no file, and git, which could look it up, did not start: {error.strerror}."
        ) from error


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].strip(". \t") if lines else "git gave no reason"
