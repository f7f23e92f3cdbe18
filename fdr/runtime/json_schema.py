"""JSON from anywhere: decoded strictly, and checked field by field, with one sentence for each field that is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a value has to be, as a test and in words."""

    holds: Callable[[Any], bool]
    words: str
    is_required: bool = True

    @property
    def or_nothing(self) -> Kind:
        """The same, or null, or no such field."""
        return Kind(lambda value: value is None or self.holds(value), f"{self.words} or null", False)


def is_number(value: Any) -> bool:
    """True for a finite int or float; True and False are none."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def is_count(value: Any) -> bool:
    """True for a whole number of 1 or more."""
    return type(value) is int and 0 < value < 2**63


def are_texts(value: Any) -> bool:
    """True for a list of texts."""
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


TEXT = Kind(lambda value: isinstance(value, str) and bool(value), "a text")
TEXTS = Kind(are_texts, "a list of texts")
TABLE = Kind(lambda value: isinstance(value, Mapping), "an object")
TABLES = Kind(
    lambda value: isinstance(value, list) and all(isinstance(row, Mapping) for row in value), "a list of objects"
)
NUMBER = Kind(is_number, "a finite number")
COUNT = Kind(is_count, "a whole number of 1 or more")


def field_problems(where: str, data: Mapping[str, Any], fields: Mapping[str, Kind]) -> Iterator[str]:
    """One sentence for each field of `data` that is missing or is not of its kind; other fields are not looked at."""
    for name, kind in fields.items():
        if name not in data and kind.is_required:
            yield f"{where} has no {name}, which is {kind.words}"
        elif name in data and not kind.holds(data[name]):
            yield f"{name} of {where} is {quoted(data[name])}, where {kind.words} is expected"


def quoted(value: Any) -> str:
    """A value as errors quote it, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def decode_json(text: bytes) -> Any:
    """JSON as it is defined: one meaning, finite numbers. Raises `ValueError` for everything else.

    Python's own decoder takes NaN, and the last of two values of one name.
    """
    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice in one object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
