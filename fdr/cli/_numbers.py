"""Numbers as people type them: amounts of memory, lists of alphas."""

from __future__ import annotations

import re
from typing import Any

import click

_POWERS = ("", "K", "M", "G", "T")


class ByteSize(click.ParamType):
    """ "4GB", "24 GiB", "500MB": a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(value).upper())
        if found is None:
            self.fail(f"{value!r} is no amount of memory; expected one such as 4GB or 512MiB.", param, ctx)
        number, unit, binary = found.groups()
        return int(float(number) * (1024 if binary else 1000) ** _POWERS.index(unit))


class Alphas(click.ParamType):
    """ "0.5", "0,0.25,0.5" or "0,0.1,...,0.5"."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        try:
            if "..." not in parts:
                return tuple(float(part) for part in parts)
            first, second, dots, last = parts
            if dots == "...":
                return _progression(float(first), float(second), float(last))
        except ValueError:
            pass
        self.fail(f"{value!r} is no alpha; expected numbers such as 0.5, 0,0.25,0.5 or 0,0.1,...,0.5.", param, ctx)


def _progression(first: float, second: float, last: float) -> tuple[float, ...]:
    """All numbers from first to last in equal steps; `ValueError` where the steps do not end there."""
    steps = (last - first) / (second - first) if second != first else 0.0
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ValueError("no progression")
    return tuple(round(first + number * (second - first), 10) for number in range(round(steps) + 1))
