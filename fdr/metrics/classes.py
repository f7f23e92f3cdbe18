"""The classes of samples and reference, matched by name or by number, for metrics that look at each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import Labelled

MAX_LISTED = 5
"""Classes that a sentence names. More make it long."""


@dataclass(frozen=True)
class Classes:
    """The classes of two sets. A class has the same number on both sides."""

    names: tuple[str, ...]
    samples: np.ndarray
    """int64 [N]: the place in `names` of the class of each sample."""
    reference: np.ndarray
    """int64 [M]"""
    notes: tuple[str, ...]
    """How classes were matched, where it is not by equal names, and which classes only one side has."""

    @property
    def shared(self) -> list[int]:
        """The classes that both sides have."""
        return sorted(set(self.samples.tolist()) & set(self.reference.tolist()))


def match_classes(samples: Labelled, reference: Labelled, metric: str) -> Classes:
    """Match the classes of samples and reference.

    Two sets with names match by name, where names that are whole numbers are equal as numbers. If one side has no
    names, and the names of the other are no numbers, classes match by number: the place of a name in sorted order.
    Raises `InputError` if no class is in both sets.
    """
    keys, is_by_number = class_keys((samples, reference))
    notes = []
    if is_by_number:
        notes.append("the classes of samples and reference were matched by number, as one of the two has no names")
    found = [dict.fromkeys(side) for side in keys]
    common = [key for key in found[1] if key in found[0]]
    if not common:
        raise InputError(
            f"{metric} compares class by class, and no class of {samples.source} ({listed(found[0])}) is one of "
            f"{reference.source} ({listed(found[1])}); give both sets the same class names or numbers."
        )
    for this, other, side in ((0, 1, "samples"), (1, 0, "reference")):
        alone = [key for key in found[this] if key not in found[other]]
        if alone:
            notes.append(f"{len(alone)} classes are in the {side} only: {listed(alone)}")
    names = in_order(found[0] | found[1])
    place = {name: index for index, name in enumerate(names)}
    in_samples, in_reference = (np.array([place[key] for key in side], np.int64) for side in keys)
    return Classes(names, in_samples, in_reference, tuple(notes))


def class_keys(sides: Sequence[Labelled]) -> tuple[list[list[str]], bool]:
    """The class of each image of each set as a text that is equal for equal classes, and True if classes of sets with
    names and of others are matched by number.
    """
    named = [_named(side) for side in sides]
    if all(names is not None for names in named) or all(names is None or _are_numbers(names) for names in named):
        keys = [
            [str(label) if names is None else _key(names[label]) for label in side.labels.tolist()]
            for side, names in zip(sides, named, strict=True)
        ]
        return keys, False
    return [[str(label) for label in side.labels.tolist()] for side in sides], True


def in_order(keys: Iterable[str]) -> tuple[str, ...]:
    """The classes once each: numbers by size, then names."""
    return tuple(sorted(set(keys), key=_order))


def _named(side: Labelled) -> dict[int, str] | None:
    """The names of the classes that occur; None without names, or if a class has none."""
    names, used = side.class_names, np.unique(side.labels).tolist()
    if names is None or not all(0 <= label < len(names) for label in used):
        return None
    return {label: names[label] for label in used}


def _are_numbers(names: dict[int, str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names.values())


def _key(name: str) -> str:
    return str(int(name)) if name.isascii() and name.isdigit() else name


def _order(key: str) -> tuple[bool, int, str]:
    is_number = key.lstrip("-").isdigit()
    return not is_number, int(key) if is_number else 0, key


def listed(classes: Iterable[str]) -> str:
    """The first few classes, for a sentence."""
    names = list(classes)
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
