"""Shows a verdict on GitHub: annotations, the job summary and step outputs."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from fdr.errors import RunError, as_utf8
from fdr.gate.verdict import Verdict
from fdr.gate.verdict_files import (
    error_to_markdown,
    findings_of,
    values_of,
    verdict_to_markdown,
)
from fdr.runtime import GitHubJob


def annotations_of(verdict: Verdict) -> Iterator[str]:
    """Workflow commands: an error for each check that stops the gate, a warning for each other check without a pass."""
    for finding in findings_of(verdict):
        if finding.outcome != "pass":
            level = "error" if finding.stops else "warning"
            yield annotation(level, finding.title, " ".join(finding.sentences))
    for warning in verdict.warnings:
        yield annotation("warning", "fdr check", warning)


def annotation(level: str, title: str, message: str) -> str:
    """One workflow command, escaped so that a file name cannot start another command."""
    escaped = _escape(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={escaped}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def write_job_files(verdict: Verdict, job: GitHubJob, report: Path | None) -> None:
    """Append the verdict to the job summary and the step outputs. Raises `RunError` if they cannot be written."""
    if job.summary is not None:
        _append(job.summary, verdict_to_markdown(verdict))
    if job.output is not None:
        numbers = _value_outputs(verdict)
        outputs = {"result": verdict.result, **{name: repr(value) for name, value in numbers.items()}}
        outputs["numbers"] = json.dumps(numbers)
        if report is not None:
            outputs["report"] = str(report)
        _append(job.output, "".join(_output(name, value) for name, value in outputs.items()))


def write_job_error(message: str, job: GitHubJob) -> None:
    """Append an error to the job summary and the step outputs. Raises `RunError` if they cannot be written."""
    if job.summary is not None:
        _append(job.summary, error_to_markdown(message))
    if job.output is not None:
        _append(job.output, _output("result", "error"))


def _value_outputs(verdict: Verdict) -> Mapping[str, float]:
    """Names of step outputs: `fd_inception` for fd:inception, after the name of the set if there are several."""
    values = list(values_of(verdict))
    several = len({name for name, _, _ in values}) > 1
    return {
        re.sub(r"[^a-zA-Z0-9]+", "_", f"{name} {key}" if several else key).strip("_"): value
        for name, key, value in values
    }


def _output(name: str, value: str) -> str:
    if "\n" not in value and "\r" not in value:
        return f"{name}={value}\n"
    end = f"end-{secrets.token_hex(16)}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(as_utf8(text))
    except OSError as error:
        raise RunError(f"Cannot write {str(path)!r}, which GitHub named for results: {error.strerror}.") from error
