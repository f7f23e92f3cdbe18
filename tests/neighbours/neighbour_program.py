"""What tests/test_neighbour_state.py runs in processes of their own: a search, alone or as a rank, that may be killed.

    python neighbour_program.py OUT STATE KILL_AT METRIC

writes OUT/RANK.npz with what was found and which shards of the references were read. At the read number KILL_AT of a
shard of the references the process kills itself, as the kernel would.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from neighbour_worlds import ArrayRows, CountedRows, drawn, least_memory
from torch import Tensor

import fdr
from fdr.neighbours import SearchOptions, nearest
from fdr.runtime import propagate_failures


class MortalRows(CountedRows):
    """Ends the process at a given read."""

    kill_at = -1

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        if len(self.reads) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(start, stop)


def sets(kind: str) -> tuple[Tensor, Tensor]:
    """30 queries and 20 shards of 64 references."""
    return drawn(kind, 30, 24, 1), drawn(kind, 1280, 24, 2)


def in_three_blocks(queries: Tensor, references: Tensor) -> SearchOptions:
    """Options with which ten of the 30 queries fit into a block."""
    rows, options = (
        (ArrayRows(queries, 7), ArrayRows(references, 64)),
        SearchOptions(device="cpu", precision="bfloat16"),
    )
    one, two = (least_memory(*rows, options, count) for count in (1, 2))
    return replace(options, memory=one + 9 * (two - one))


def main() -> None:
    """Search, and leave what was found."""
    out, state, kill_at, kind = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    queries, references = sets(kind)
    rows = MortalRows(references, 64)
    rows.kill_at = kill_at
    group = fdr.join_ranks()
    with propagate_failures(group):
        asked = in_three_blocks(queries, references)
        found = nearest(ArrayRows(queries, 7), rows, asked, state=Path(state), state_key="these", group=group)
    np.savez(out / f"{group.rank}.npz", **vars(found), reads=np.array(rows.reads))
    group.leave()


if __name__ == "__main__":
    main()
