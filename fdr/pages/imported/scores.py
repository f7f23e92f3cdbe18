"""Results from files of other tools, and the parts that their readers share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fdr.errors import InputError


@dataclass(frozen=True)
class Scores:
    """The result of one benchmark for one model."""

    value: float
    """The number that the tool's own summary gives."""
    count: int
    """Number of images."""
    classes: Mapping[str, Mapping[str, Any]]
    """The score of each category, with its `stderr` and number of images `n` where they are known."""
    settings: Mapping[str, str]
    """The fields of the signature that must agree between comparable numbers."""
    stderr: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def no_result(of: str, why: str, expected: str) -> InputError:
    """The error for a file that is no result of the benchmark `of`; the name of the file comes before it."""
    return InputError(f"holds no results of {of}: {why}; expected {expected}.")


def prompts_field(prompts: Iterable[str]) -> str:
    """The number of different prompts and a digest of them, which does not depend on their order."""
    found = sorted(set(prompts))
    return f"{len(found)}@{hashlib.sha256(chr(10).join(found).encode()).hexdigest()[:8]}"


def last_part(path: str) -> str:
    """The last part of a path of any system; "" if it has none."""
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def mean_stderr(values: Sequence[float]) -> float | None:
    """The standard error of the mean of independent values; None for fewer than two."""
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


def stderr_of_means(errors: Sequence[float | None]) -> float | None:
    """The standard error of the mean of independent means; None unless all have one."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None
