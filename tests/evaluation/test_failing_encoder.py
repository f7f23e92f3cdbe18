"""An encoder that fails in the middle of a pass costs its own numbers and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from thread_ranks import on_ranks
from torch import Tensor
from worlds import TinyEncoder, images, npz

from fdr.cli import run
from fdr.encoders import EncoderOptions
from fdr.errors import RunError
from fdr.evaluation import Evaluator, evaluate
from fdr.features import ExtractionOptions
from fdr.images import ImageOptions
from fdr.runtime import Group

SAMPLES, REAL = images(40, seed=1), images(30, seed=2)

pytestmark = pytest.mark.filterwarnings("default:.*could not be computed:fdr.errors.FdrWarning")


class Failing(TinyEncoder):
    """An encoder that fails after so many images, with an error or with values that are not finite."""

    def __init__(self, after: int, kind: str = "error", name: str = "failing") -> None:
        super().__init__(name, weights="seed:00")
        self.after, self.kind = after, kind

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        found = super().forward(inputs, outputs)
        if self.num_seen <= self.after:
            return found
        if self.kind == "error":
            raise ValueError("no luck")
        if self.kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {name: torch.full_like(values, torch.nan) for name, values in found.items()}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("error", "Encoder 'failing' failed on a batch of 8 images (the first is arr_0[16]): ValueError: no luck"),
        ("memory", "There is not enough memory on the GPU for encoder 'failing' on a batch of 8 images"),
        ("nan", "failing gave non-finite 'features' features for 8 of 8 images"),
    ],
)
def test_the_other_encoders_keep_their_numbers(kind: str, sentence: str, tmp_path: Path) -> None:
    samples = npz(tmp_path / "s.npz", SAMPLES)
    alone = evaluate(samples, npz(tmp_path / "r.npz", REAL), TinyEncoder(), "fd,is", batch_size=8)
    failing = Failing(len(REAL) + 16, kind)
    report = evaluate(samples, tmp_path / "r.npz", [TinyEncoder(), failing], "fd,is", batch_size=8)
    assert {r.key: r.value for r in report} == {r.key: r.value for r in alone}
    assert {r.key: r.signature for r in report} == {r.key: r.signature for r in alone}
    assert [one.key for one in report.failed] == ["fd:failing", "is:failing"]
    assert all(one.sentence.startswith(sentence) for one in report.failed)
    assert report.samples["count"] == 40 and report.reference is not None and report.reference["count"] == 30


def test_means_over_the_encoders_fail_with_it(tmp_path: Path) -> None:
    (samples, real) = (npz(tmp_path / f"{name}.npz", array) for name, array in (("s", SAMPLES), ("r", REAL)))
    report = evaluate(samples, real, [TinyEncoder(), Failing(35)], "mind", batch_size=8)
    assert [r.key for r in report] == ["mind:tiny"]
    assert [one.key for one in report.failed] == ["mind:failing", "mind_k"]
    assert report.failed[1].sentence == "It is computed from mind:failing, which failed."


def test_one_that_fails_on_the_reference_costs_no_more(tmp_path: Path) -> None:
    (samples, real) = (npz(tmp_path / f"{name}.npz", array) for name, array in (("s", SAMPLES), ("r", REAL)))
    tiny = TinyEncoder()
    report = evaluate(samples, real, [Failing(10), tiny], "fd", batch_size=8)
    assert [r.key for r in report] == ["fd:tiny"] and [one.key for one in report.failed] == ["fd:failing"]
    assert report["fd"].value == evaluate(samples, real, TinyEncoder(), "fd", batch_size=8)["fd"].value


def test_what_was_cached_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)
    (samples, real) = (npz(tmp_path / f"{name}.npz", array) for name, array in (("s", SAMPLES), ("r", REAL)))
    tiny = TinyEncoder()
    evaluate(samples, real, [tiny, Failing(len(REAL) + 32)], "fd", batch_size=8, cache=tmp_path / "cache")
    assert tiny.num_seen == len(REAL) + 32 + 8 + 8, "the batch that failed, and that again"


def test_the_first_error_stands_where_every_encoder_fails(tmp_path: Path) -> None:
    samples = npz(tmp_path / "s.npz", SAMPLES)
    with pytest.raises(RunError, match="Encoder 'one' failed on a batch of 8 images"):
        evaluate(samples, REAL, [Failing(9, name="one"), Failing(20, name="two")], "fd", batch_size=8)


def test_images_that_can_be_read_only_once_end_with_the_error(tmp_path: Path) -> None:
    def stream() -> Iterator[np.ndarray]:
        yield from SAMPLES

    real = npz(tmp_path / "r.npz", REAL)
    with pytest.raises(RunError, match="Encoder 'failing' failed"):
        evaluate(stream(), real, [TinyEncoder(), Failing(len(REAL) + 9)], "fd", batch_size=8)


def test_sums_alone_end_with_the_error(tmp_path: Path) -> None:
    """--moments-only resumes sums of all encoders together, so the same command goes on with all of them."""
    evaluator = Evaluator(
        [TinyEncoder(), Failing(len(REAL) + 9)],
        npz(tmp_path / "r.npz", REAL),
        "fd",
        image_options=ImageOptions(),
        encoder_options=EncoderOptions(),
        extraction_options=ExtractionOptions(tmp_path / "cache", 8, moments_only=True),
        stderr=False,
    )
    with pytest.raises(RunError, match="Encoder 'failing' failed"):
        evaluator.evaluate(npz(tmp_path / "s.npz", SAMPLES))


def test_ranks_end_together(tmp_path: Path) -> None:
    samples, real = npz(tmp_path / "s.npz", SAMPLES), npz(tmp_path / "r.npz", REAL)

    def failure(group: Group) -> str:
        with pytest.raises(RunError) as caught:
            evaluate(samples, real, [TinyEncoder(), Failing(9)], "fd", batch_size=8, group=group)
        return str(caught.value)

    assert any("Encoder 'failing' failed" in text for text in on_ranks(2, failure))


def test_the_command_prints_the_others_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (samples, real) = (npz(tmp_path / f"{name}.npz", array) for name, array in (("s", SAMPLES), ("r", REAL)))
    monkeypatch.setattr("fdr.encoders.load_encoders", lambda *_: [TinyEncoder(), Failing(35)])
    monkeypatch.setattr("fdr.evaluation.evaluator.load_encoders", lambda *_: [TinyEncoder(), Failing(35)])
    code = run(["eval", str(samples), "--ref", str(real), "--reps", "random", "--no-cache", "--batch-size", "8", "-q"])
    shown = capsys.readouterr()
    assert code == 1 and "tiny" in shown.out and "Encoder 'failing' failed on a batch" in shown.err
