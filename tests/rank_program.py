"""What every rank of tests/test_launch.py runs: an evaluation with a tiny encoder and small shards."""

from __future__ import annotations

import json
import os
import sys

from worlds import TinyEncoder

import fdr
import fdr.extraction
from fdr.errors import InputError, PeerError
from fdr.group import Group

METRICS = ("fd", "is", "precision", "recall")


class FailingEncoder(TinyEncoder):
    """Fails on the second rank, after its first batch."""

    def forward(self, inputs, outputs):  # type: ignore[no-untyped-def]
        if os.environ.get("RANK") == "1" and self.num_seen:
            raise InputError("no luck here")
        return super().forward(inputs, outputs)


def evaluate(samples: str, reference: str, group: Group, encoder: TinyEncoder | None = None) -> dict[str, float]:
    """All metrics, by name."""
    fdr.extraction.SHARD_SIZE = 16
    report = fdr.evaluate(samples, reference, encoder or TinyEncoder(), METRICS, batch_size=8, group=group)
    return {result.metric: result.value for result in report}


if __name__ == "__main__":
    encoder = FailingEncoder() if "fail" in sys.argv else TinyEncoder()
    group = fdr.join_ranks()
    try:
        values = evaluate(sys.argv[1], sys.argv[2], group, encoder)
    except PeerError as error:
        print(json.dumps({"peer": str(error)}))
        sys.exit(error.exit_code)
    except InputError as error:
        print(json.dumps({"own": str(error)}))
        sys.exit(error.exit_code)
    print(json.dumps({"rank": group.rank, "seen": encoder.num_seen, "values": values}))
    group.leave()
