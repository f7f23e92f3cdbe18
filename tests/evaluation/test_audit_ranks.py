"""An audit on several ranks: they divide the images, and the main one computes."""

from __future__ import annotations

from typing import Any

import pytest
from thread_ranks import on_ranks
from worlds import TinyEncoder, images

from fdr.errors import InputError
from fdr.evaluation import AuditedSets
from fdr.features import ExtractionOptions
from fdr.images import open_images
from fdr.runtime import SOLO, Group

SAMPLES, BASELINE, REFERENCE = images(40, 1), images(40, 2), images(60, 0)


def audit(group: Group, encoder: TinyEncoder, side: int = 16) -> dict[str, Any] | None:
    sources = [open_images(one) for one in (SAMPLES, REFERENCE, BASELINE if side == 16 else images(40, 2, side))]
    options = ExtractionOptions(batch_size=4, num_workers=0, group=group, shard_size=8)
    return AuditedSets(sources[0], sources[1], [encoder], options, sources[2]).audit(top_n=2, steps=3)


def test_two_ranks_report_what_one_does_and_encode_every_image_once() -> None:
    encoders = TinyEncoder(), TinyEncoder()
    together, nothing = on_ranks(2, lambda group: audit(group, encoders[group.rank]))
    alone = audit(SOLO, TinyEncoder())
    assert nothing is None and together is not None and alone is not None
    assert sum(one.num_seen for one in encoders) == 140 and min(one.num_seen for one in encoders) > 40
    assert together["fd"] == pytest.approx(alone["fd"], rel=1e-9)
    for kind in ("fd", "control"):
        for one, other in zip(together["matchings"], alone["matchings"], strict=True):
            assert one[kind] == pytest.approx(other[kind], rel=1e-6)
    own, other = together["baseline"]["encoders"]["tiny"], alone["baseline"]["encoders"]["tiny"]
    assert own["fd"] == pytest.approx(other["fd"], rel=1e-9) and own["left"] == pytest.approx(other["left"], rel=1e-6)


def test_a_baseline_that_does_not_fit_ends_all_ranks() -> None:
    with pytest.raises(InputError, match="bring both to one size"):
        on_ranks(2, lambda group: audit(group, TinyEncoder(), side=32))
