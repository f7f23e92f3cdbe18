"""What every rank of tests/test_launch.py runs: a measurement with a tiny encoder and small shards."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from autoencoder_worlds import Plain, seeded
from worlds import TinyEncoder

import fdr
import fdr.features.extraction
import fdr.ifid.latents
from fdr.errors import FdrError, InputError, PeerError
from fdr.evaluation import AuditedSets
from fdr.features import ExtractionOptions
from fdr.images import open_images
from fdr.runtime import Group

METRICS = ("fd", "is", "precision", "recall")


class FailingEncoder(TinyEncoder):
    """Fails on the second rank, after its first batch."""

    def forward(self, inputs, outputs):  # type: ignore[no-untyped-def]
        if os.environ.get("RANK") == "1" and self.num_seen:
            raise InputError("no luck here")
        return super().forward(inputs, outputs)


def evaluate(samples: str, reference: str, group: Group, encoder: TinyEncoder | None = None) -> dict[str, float]:
    """All metrics, by name."""
    fdr.features.extraction.SHARD_SIZE = 16
    report = fdr.evaluate(samples, reference, encoder or TinyEncoder(), METRICS, batch_size=8, group=group)
    return {result.metric: result.value for result in report}


def interpolate(samples: str, neighbours: str, group: Group) -> dict[str, float]:
    """All numbers of an interpolated FID, by name."""
    fdr.features.extraction.SHARD_SIZE = fdr.ifid.latents.SHARD_SIZE = 16
    report = fdr.interpolated_fid(seeded(Plain), samples, neighbours, TinyEncoder(), batch_size=8, group=group)
    return {result.metric: result.value for result in report}


def audit(samples: str, reference: str, group: Group, encoder: TinyEncoder) -> dict[str, Any] | None:
    """The report of an audit of classes; None on ranks other than 0."""
    options = ExtractionOptions(batch_size=8, group=group, shard_size=16)
    sets = AuditedSets(open_images(samples), open_images(reference), [encoder], options)
    return sets.audit(top_n=2, steps=3)


def answer(encoder: TinyEncoder) -> tuple[dict[str, Any], int]:
    """What this rank has to say, and its exit code."""
    group = fdr.join_ranks()
    try:
        values = evaluate(sys.argv[2], sys.argv[3], group, encoder)
        seen = encoder.num_seen
        interpolated = interpolate(sys.argv[2], sys.argv[3], group) if "ifid" in sys.argv else {}
        audited = audit(sys.argv[2], sys.argv[3], group, encoder) if "audit" in sys.argv else None
    except PeerError as error:
        return {"peer": str(error)}, error.exit_code
    except FdrError as error:
        return {"own": str(error)}, error.exit_code
    group.leave()
    again = encoder.num_seen - seen
    return {
        "rank": group.rank, "seen": seen, "values": values, "ifid": interpolated, "audit": audited, "again": again
    }, 0  # fmt: skip


if __name__ == "__main__":
    told, code = answer(FailingEncoder() if "fail" in sys.argv else TinyEncoder())
    Path(sys.argv[1], f"{os.environ['RANK']}.json").write_text(json.dumps(told))
    sys.exit(code)
