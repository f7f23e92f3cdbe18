"""Finds the files of a panel by a pattern, or in a table: which model, and which training seed, each one is of."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdr.comparison.tables import read_table
from fdr.errors import InputError

TRAIN = "{train}"
"""The part of a pattern that differs between training seeds, and only there."""
COLUMNS = ("model", "train", "file")
PanelFiles = dict[str, dict[str, list[str]]]
"""Files by model and training seed."""


def files_of_models(models: Sequence[str]) -> PanelFiles:
    """The files of "NAME=PATTERN" for each model.

    Raises `InputError` for another form, for a name that is there twice, and for a file of two models.
    """
    found: PanelFiles = {}
    for text in models:
        name, separator, pattern = text.partition("=")
        if not separator or not name.strip() or not pattern.strip():
            raise InputError(f"--model {text!r} is not NAME=PATTERN, such as base='runs/base/seed*/*.json'.")
        if name.strip() in found:
            raise InputError(f"--model names {name.strip()!r} twice; give each model one pattern.")
        found[name.strip()] = matched(pattern.strip())
    return _checked(found)


def matched(pattern: str) -> dict[str, list[str]]:
    """The files that match, by training seed: the text at {train}, or without that the folder of the file.

    Raises `InputError` if none matches.
    """
    pattern = str(Path(pattern).expanduser())
    paths = sorted(glob.glob(pattern.replace(TRAIN, "*"), recursive=True))
    if not paths:
        raise InputError(f"No file matches {pattern!r}; quote the pattern, so that the shell leaves it as it is.")
    found: dict[str, list[str]] = {}
    expression = re.compile(_expression(pattern))
    for path in paths:
        if TRAIN not in pattern:
            found.setdefault(str(Path(path).parent), []).append(path)
            continue
        match = expression.fullmatch(path)
        if match is not None:  # where {train} is there twice, both must agree
            found.setdefault(match["train"], []).append(path)
    if not found:
        raise InputError(f"No file matches {pattern!r} with the same text at every {TRAIN}.")
    return found


def _expression(pattern: str) -> str:
    """A pattern of `glob` as a regular expression, in which the group "train" is what {train} stands for."""
    parts, has_train = [], False
    for token in re.split(r"(\{train\}|\*\*/|\*|\?|\[[^]]+\])", pattern):
        if token == TRAIN:
            parts.append("(?P=train)" if has_train else "(?P<train>[^/]+?)")
            has_train = True
        elif token.startswith("[") and token.endswith("]"):
            parts.append(token.replace("[!", "[^"))
        else:
            parts.append({"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token)))
    return "".join(parts)


def files_of_table(path: Path) -> PanelFiles:
    """The files in a CSV or TSV table with the columns model, train and file; paths are relative to the table.

    Raises `InputError` for a table without these columns, and for an empty cell.
    """
    table = read_table(path)
    found: PanelFiles = {}
    for line, *cells in zip(table.lines, *(table.column(name) for name in COLUMNS), strict=True):
        if not all(cells):
            raise InputError(f"{path}, line {line}: every row needs a {', a '.join(COLUMNS)}; fill the empty cell.")
        model, train, file = cells
        found.setdefault(model, {}).setdefault(train, []).append(str(path.parent / Path(file).expanduser()))
    return _checked(found)


def _checked(found: PanelFiles) -> PanelFiles:
    owners: dict[Path, str] = {}
    for model, runs in found.items():
        for train, files in runs.items():
            for file in files:
                place, owner = Path(file).resolve(), f"{model}, {train}"
                if place in owners:
                    raise InputError(f"{file!r} is of {owners[place]} and of {owner}; each file is of one run.")
                owners[place] = owner
    return found


def flat(files: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """All files, in order."""
    return [file for runs in files.values() for found in runs.values() for file in found]
