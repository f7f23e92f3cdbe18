"""Reads limits ("fd:inception=3.0") and tolerances ("1%", "fd=1%", "fd:random=0.05") from text.

A name is a metric ("fdr_k", "is:adm") or a metric and its encoder ("fd:inception", "fd:inception:clean",
"is:adm:inception"). Metrics and encoders may both contain colons, so a name is never split: it is looked up among the
numbers that there are, and two readings are an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from fdr.errors import InputError, unknown
from fdr.metrics import metric_info, peer_name


class Row(Protocol):
    """A number that has been measured or will be."""

    @property
    def key(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def encoder(self) -> str | None: ...
    @property
    def lower_is_better(self) -> bool: ...
    @property
    def signature(self) -> str: ...


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Limit:
    """An absolute limit for one number."""

    name: str
    bound: float
    side: Literal["max", "min"]

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound):
            raise InputError(f"The limit of {self.name!r} is {self.bound}; expected a finite number.")

    @property
    def flag(self) -> str:
        """The limit as written on the command line."""
        return f"--{self.side} {self.name}={self.bound:g}"


@dataclass(frozen=True)
class Tolerance:
    """How much worse than its baseline a number may become."""

    name: str | None
    """The numbers that it applies to; None means all."""
    amount: float
    is_relative: bool

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount >= 0):
            raise InputError(f"A tolerance is {self.amount}; expected a finite number of 0 or more.")

    def allowance(self, baseline: float) -> float:
        """The tolerance in units of the metric."""
        return self.amount * abs(baseline) if self.is_relative else self.amount

    def __str__(self) -> str:
        return f"{100 * self.amount:g} %" if self.is_relative else f"{self.amount:g}"


def parse_limit(text: str, side: Literal["max", "min"]) -> Limit:
    """A limit from "NAME=NUMBER". Raises `InputError` for anything else."""
    name, separator, number = text.rpartition("=")
    bound = _number(number)
    if not separator or not name.strip() or bound is None:
        raise InputError(f"--{side} {text!r} is not NAME=NUMBER; write for example --{side} fd:inception=3.0.")
    return Limit(name.strip(), bound, side)


def parse_tolerance(text: str) -> Tolerance:
    """A tolerance from "1%", "NAME=1%" or "NAME=0.05". Raises `InputError` for anything else."""
    name, separator, number = text.rpartition("=")
    is_relative = number.strip().endswith("%")
    amount = _number(number.strip().removesuffix("%"))
    if amount is None or amount < 0 or (separator and not name.strip()):
        raise InputError(f"--tolerance {text!r} is not AMOUNT% or NAME=AMOUNT[%] with an amount of 0 or more.")
    if not separator and not is_relative:
        raise InputError(
            f"--tolerance {text!r} is absolute, and metrics differ in scale: name the metric (fd:inception={text}), or "
            f"give a percentage ({text}%)."
        )
    return Tolerance(name.strip() or None, amount / 100 if is_relative else amount, is_relative)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def is_named(rows: Sequence[Row], name: str) -> bool:
    """True if `name` matches at least one of the rows."""
    return bool(_meant(rows, name))


def _meant(rows: Sequence[R], name: str) -> list[R]:
    """The rows of that full name or metric, in any case where none is spelt so."""
    exact = [row for row in rows if name in (row.key, row.metric)]
    return exact or [row for row in rows if name.lower() in (row.key.lower(), row.metric.lower())]


def named(rows: Sequence[R], name: str) -> list[R]:
    """The rows that `name` matches: the row with that full name, or all rows of that metric.

    Raises `InputError` if no row matches (with near matches), or if the name is ambiguous.
    """
    found = _meant(rows, name)
    if not found:
        keys = {row.key for row in rows}
        raise unknown("number", name, keys, "These are the numbers of this report.", peers=_meaning)
    if len({row.metric for row in found}) > 1:
        readings = ", ".join(f"{row.metric} of {row.encoder}" for row in found)
        raise InputError(f"{name!r} may mean {readings}; rename the encoder.")
    return found


def _meaning(name: str) -> str | None:
    """Explain a name from another tool, with or without an encoder after it ("kid:inception")."""
    return peer_name(name) or peer_name(name.partition(":")[0])


def find_limited(rows: Sequence[R], limit: Limit) -> R:
    """The one row that a limit applies to. Raises `InputError` if there are several, or if it bounds the good side."""
    found = named(rows, limit.name)
    if len(found) > 1:
        names = ", ".join(row.key for row in found)
        raise InputError(f"{limit.flag} may mean {names}; name one, scales differ between encoders.")
    row = found[0]
    if row.lower_is_better != (limit.side == "max"):
        other, direction = ("max", "lower") if row.lower_is_better else ("min", "higher")
        raise InputError(
            f"{limit.flag} bounds {row.key} on its good side ({direction} is better); write --{other} "
            f"{limit.name}={limit.bound:g}."
        )
    info = metric_info(row.metric)
    if info is not None and not info.low <= limit.bound <= info.high:
        consequence = "always" if limit.side == "min" and limit.bound < info.low else "never"
        raise InputError(f"{limit.flag} would {consequence} hold: {info.label} is {info.values}; give another limit.")
    return row


def check_tolerance(row: Row, tolerance: Tolerance, before: float) -> None:
    """Raise `InputError` for a tolerance that every possible number would meet."""
    info, allowance = metric_info(row.metric), tolerance.allowance(before)
    if info is None or row.lower_is_better or not allowance or before - allowance > info.low:
        return
    if before > info.low:
        raise InputError(
            f"A tolerance of {tolerance} lets {row.key} fall from {before:g} to {before - allowance:g}, and "
            f"{info.label} is {info.values}, so it would always pass; give a smaller tolerance."
        )


def tolerance_for(row: Row, tolerances: Sequence[Tolerance], default: Tolerance) -> Tolerance:
    """The most specific tolerance: first by full name, then by metric, then for all. Of equals the last one wins."""
    for name in (row.key, row.metric, None):
        for tolerance in reversed(tolerances):
            if (tolerance.name or "").lower() == (name or "").lower():
                return tolerance
    return default
