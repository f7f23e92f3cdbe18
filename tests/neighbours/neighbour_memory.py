"""Prints by how many bytes a search over latents in files makes this process grow, at its peak.

python neighbour_memory.py FOLDER LIMIT

Once with float32 products, once with bfloat16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from neighbour_worlds import ArrayRows
from torch import Tensor

from fdr.neighbours import SearchOptions, nearest, plan_search, sizes_of

DIM = 20_000


class FileRows:
    """float32 [N, D] in a file, 16 rows at a time."""

    dim, item_size = DIM, 4

    def __init__(self, path: Path, count: int, seed: int) -> None:
        self.path, self.num_rows, self.rows = path, count, np.arange(count)
        random = np.random.default_rng(seed)
        with open(path, "wb") as file:
            for _ in range(count):
                random.standard_normal(DIM, np.float32).tofile(file)

    def shards(self) -> list[tuple[int, int]]:
        return [(start, min(start + 16, self.num_rows)) for start in range(0, self.num_rows, 16)]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        values = np.fromfile(self.path, np.float32, (stop - start) * DIM, offset=4 * start * DIM)
        return np.arange(start, stop), torch.from_numpy(values.reshape(-1, DIM))


def status(name: str) -> int:
    """Bytes of `name` of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Search once in small, for what is loaded on the way, then measure."""
    folder, limit = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    queries, references = FileRows(folder / "queries", 150, 1), FileRows(folder / "references", 320, 2)
    small = ArrayRows(torch.randn(40, 64), 8)
    for precision in ("float32", "bfloat16"):
        nearest(small, small, SearchOptions(device="cpu", precision=precision))
        options = SearchOptions(memory=limit, device="cpu", precision=precision)
        assert plan_search(sizes_of(queries), sizes_of(references), options).num_blocks > 1
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
        nearest(queries, references, options)
        print(status("VmHWM") - before)


if __name__ == "__main__":
    main()
