"""Files of running sums: the sums for moments over some shards of an entry, with the list of these shards.

Each process has one file and replaces it once a minute; a resumed run adds up the files of all earlier runs. A file is
exact for the shards that it lists, so a killed run loses what it added since the last save, and nothing counts twice.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fdr import runtime
from fdr.features.cache.shards import BadRow
from fdr.frechet import Sums
from fdr.runtime import DAMAGE

SCHEMA = "fdr-sums/1"
_NAME = re.compile(r"sums-[A-Za-z0-9_.-]+\.fdr")

Span = tuple[int, int]


@dataclass
class RunningSums:
    """The sums of some outputs over some shards of one cache entry."""

    sums: dict[str, Sums]
    """The sums of each output."""
    spans: set[Span] = field(default_factory=set)
    bad: list[BadRow] = field(default_factory=list)

    def absorb(self, other: RunningSums) -> None:
        """Add sums over other shards."""
        assert not self.spans & other.spans
        for output, sums in self.sums.items():
            sums.absorb(other.sums[output].state())
        self.spans |= other.spans
        self.bad += other.bad

    def save(self, path: Path, replaced: Iterable[Path] = ()) -> None:
        """Write `path` atomically, then remove the files in `replaced`, whose sums it contains."""
        header = {"schema": SCHEMA, "spans": sorted(self.spans), "bad": [list(row) for row in self.bad]}
        arrays = {"header": np.array(json.dumps(header))}
        for output, sums in self.sums.items():
            arrays |= {f"{output}/{index}": array for index, array in enumerate(sums.state())}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        try:
            with runtime.stage_bytes(path, buffer.getvalue()) as temporary:
                runtime.publish(temporary, path)
            for old in set(replaced) - {path}:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise runtime.cache_write_error(error, path.parent, len(buffer.getvalue())) from error

    @classmethod
    def load(cls, path: Path, outputs: Iterable[str]) -> RunningSums | None:
        """Read what `save` wrote. None if the file is damaged or lacks an output; its shards are computed again."""
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                states = {
                    output: [file[f"{output}/{i}"] for i in range(4) if f"{output}/{i}" in file] for output in outputs
                }
            if header["schema"] != SCHEMA or not all(states.values()):
                return None
            spans = {(int(start), int(stop)) for start, stop in header["spans"]}
            bad = [BadRow(*row) for row in header["bad"]]
            found = cls({output: Sums(None) for output in states}, spans, bad)
            for output, state in states.items():
                found.sums[output].absorb(state)
        except DAMAGE:
            return None
        return found


def own_path(folder: Path) -> Path:
    """The path of the file of this process."""
    return folder / f"sums-{runtime.owner()}.fdr"


def sums_files(folder: Path) -> list[Path]:
    """The files of all processes."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def resume(folder: Path, outputs: Iterable[str]) -> tuple[RunningSums, list[Path]]:
    """The sums of earlier processes, and the files that they come from.

    Two files may overlap: a process was killed after it wrote one and before it removed those it replaces, or two runs
    worked at the same time. Larger files come first, and a file that shares a shard with them is ignored.
    """
    wanted = tuple(outputs)
    paths = sums_files(folder) if folder.is_dir() else []
    loaded = [(found, path) for path in paths if (found := RunningSums.load(path, wanted)) is not None]
    total = RunningSums({output: Sums(None) for output in wanted})
    for found, _ in sorted(loaded, key=lambda item: -len(item[0].spans)):
        if not found.spans & total.spans:
            total.absorb(found)
    return total, paths
