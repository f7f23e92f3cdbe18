"""Reads tables (CSV or TSV), and takes pairs of numbers from two of their columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fdr.errors import InputError, unknown

DELIMITERS = (",", "\t", ";")
TAB_SUFFIXES = (".tsv", ".tab")
BLANK = frozenset({"", "-", "–", "—", "na", "n/a", "nan", "none", "null"})
"""Cells that count as empty, in lower case."""


@dataclass(frozen=True)
class Table:
    """A header and rows with the same number of cells; all cells are text without surrounding spaces."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """The line number in the file at which each row ends."""

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of the column `name`. Raises `InputError` unless exactly one column has this name."""
        found = self.header.count(name)
        if found == 0:
            raise unknown("column", name, set(self.header) - {""}, f"The table is {self.path}.")
        if found > 1:
            raise InputError(f"{str(self.path)!r} has {found} columns called {name!r}; rename all but one.")
        index = self.header.index(name)
        return tuple(row[index] for row in self.rows)


@dataclass(frozen=True)
class Points:
    """Pairs of numbers, one for each row that has both."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...]
    """The label of each row; empty if there is no column of labels."""
    left_out: tuple[str, ...]
    """Rows that lack a number: their labels, or "line 7"."""

    def repeated_labels(self) -> list[str]:
        """Labels that more than one row has."""
        return sorted(label for label in set(self.labels) if self.labels.count(label) > 1)


def read_table(path: Path) -> Table:
    """Read the table in `path`. The first line is the header; suffix or header decide between tab, comma and semicolon.

    Empty lines are skipped. Raises `InputError` for a file that is missing, no text, empty, or uneven.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [
                (reader.line_num, tuple(cell.strip() for cell in row)) for row in reader if any(map(str.strip, row))
            ]
    except OSError as error:
        raise InputError(f"Cannot read table {str(path)!r}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{str(path)!r} is no CSV or TSV table in UTF-8: {error}.") from error
    if not rows:
        raise InputError(f"Table {str(path)!r} is empty; expected a header line and rows.")
    (_, header), *body = rows
    for line, row in body:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} cells, where the header has {len(header)}.")
    return Table(path, header, tuple(row for _, row in body), tuple(line for line, _ in body))


def _delimiter(path: Path, header: str) -> str:
    return "\t" if path.suffix.lower() in TAB_SUFFIXES else max(DELIMITERS, key=header.count)


def points(table: Table, x: str, y: str, label: str | None = None) -> Points:
    """Take the rows that have numbers in both columns. A cell that is empty, a dash or NaN leaves its row out.

    Raises `InputError` for an unknown column, for x and y the same, and for a cell of any other text or infinite.
    """
    if x == y:
        raise InputError(f"Two columns correlate; both are {x!r}.")
    names = table.column(label) if label is not None else tuple(f"line {line}" for line in table.lines)
    pairs = list(zip(_numbers(table, x), _numbers(table, y), names, strict=True))
    kept = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    return Points(
        tuple(pair[0] for pair in kept if pair[0] is not None),
        tuple(pair[1] for pair in kept if pair[1] is not None),
        tuple(pair[2] for pair in kept) if label is not None else (),
        tuple(pair[2] for pair in pairs if pair[0] is None or pair[1] is None),
    )


def _numbers(table: Table, name: str) -> Iterator[float | None]:
    """One number per row; None for an empty cell."""
    for line, cell in zip(table.lines, table.column(name), strict=True):
        if cell.lower() in BLANK:
            yield None
            continue
        try:
            number = float(cell)
        except ValueError:
            number = math.inf
        if not math.isfinite(number):
            raise InputError(
                f"{table.path}, line {line}: {name} is {cell!r}, not a finite number; empty the cell to leave the row "
                "out."
            )
        yield number
