"""What foreign code raises in the middle of a run: sentences, exit code 1, and what was cached stays."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import images, npz

import fdr
from fdr.cli import run
from fdr.errors import RunError
from fdr.generators import Generator, GeneratorSource
from fdr.generators.base import GeneratorSpec
from fdr.runtime import is_out_of_memory, memory_for

SHORTAGES = [
    (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB"),
        "on the GPU (2.00 GiB ",
    ),
    (
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB). Tried to allocate 1.50 GB"),
        "on the GPU (1.50 GB ",
    ),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "on the GPU for"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "on the GPU for"),
    (RuntimeError("CUDA error: out of memory\nCompile with"), "on the GPU for"),
    (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000000 bytes."),
        "(8.0 TB ",
    ),
    (np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype(float)), "(7.28 TiB were asked for) for"),
    (MemoryError(), "memory for"),
    (MemoryError("std::bad_alloc"), "memory for"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory for"),
]


@pytest.mark.parametrize(("error", "words"), SHORTAGES)
def test_every_way_to_say_that_memory_ran_out(error: Exception, words: str) -> None:
    with pytest.raises(RunError) as caught, memory_for("the test", "lower --batch-size"):
        raise error
    assert words in str(caught.value) and "for the test; lower" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), ValueError("out of memory"), RunError("out of memory"), OSError(2, "no")]
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, memory_for("the test", "lower --batch-size"):
        raise error
    assert caught.value is error


ENCODER = """
import torch
from torch import nn

class Late(nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
    def forward(self, x):
        Late.calls += 1
        y = self.linear(x.mean((2, 3)))
        if Late.calls > 3:
            {fault}
        return y

def make():
    torch.manual_seed(0)
    return Late()
"""

FAULTS = {
    "raise ValueError('no such thing')": "a batch of 8 images (the first is arr_0[24]): ValueError: no such thing",
    "raise SystemExit(0)": "SystemExit: 0",
    "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')": "lower --batch-size",
    "raise RuntimeError('CUDA error: device-side assert triggered')": "RuntimeError: CUDA error: device-side assert",
    "y = y[:-1]": "of 8 images it made [7, 4]",
    "y = y[:, :1]": "'features' of shape [8, 1] where [8, 4] is expected",
    "y = torch.cat([y, y], 1)": "'features' of shape [8, 8] where [8, 4] is expected",
    "y = y[:, :, None]": "of 8 images it made [8, 4, 1]",
    "y = y.tolist()": "of 8 images it made list",
    "y = y.to('meta')": "NotImplementedError",
    "y = y * float('nan')": "non-finite 'features' features for 8 of 8 images of a batch (the first is arr_0[24])",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_encoder_that_fails_later_keeps_what_is_cached(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "late_encoder", raising=False)
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)
    (tmp_path / "late_encoder.py").write_text(ENCODER.format(fault=fault))
    npz(tmp_path / "a.npz", images(48, seed=1))
    command = ["stats", "a.npz", "--reps", "py:late_encoder:make", "--batch-size", "8", "-o", "out", "--cache", "cache"]
    assert run(command) == 1
    said = capsys.readouterr().err
    assert FAULTS[fault] in said and said.count("fdr: error:") == 1
    entry = next((tmp_path / "cache").glob("*/manifest.json"), None)
    assert entry is not None and len(list(entry.parent.rglob("*.h5"))) == 1


def refused(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("fdr.metrics.fd.frechet_terms", "for fd of random; use --device cpu"),
        ("fdr.frechet.moments.Moments.from_sums", "for the sums of the features"),
        ("fdr.cli._outputs.ReportFiles.write", None),
    ],
)
def test_memory_for_numbers(
    place: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        npz(tmp_path / f"{name}.npz", images(12, seed=ord(name)))
    monkeypatch.setattr(place, refused)
    command = ["eval", str(tmp_path / "a.npz"), "--ref", str(tmp_path / "b.npz"), "--reps", "random", "-q"]
    assert run(command) == 1
    assert (words or "for this command; close what else") in capsys.readouterr().err


def test_memory_for_distances_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(2, 20, 4))
    monkeypatch.setattr("fdr.frechet.distance.frechet_terms", refused)
    with pytest.raises(RunError, match="for the Fréchet distance; use device='cpu'") as caught:
        fdr.frechet_distance(*features)
    assert isinstance(caught.value.__cause__, MemoryError)
    monkeypatch.setattr("fdr.frechet.sums.Sums.add", refused)
    with pytest.raises(RunError, match="for the moments of features"):
        fdr.Moments.from_features(features[0])


class Hungry(torch.nn.Module):
    """A network that has no memory for its third batch."""

    calls = 0

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        Hungry.calls += 1
        if Hungry.calls > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return noise.sigmoid()


def test_memory_for_samples() -> None:
    source = GeneratorSource(Generator(Hungry(), GeneratorSpec((3, 8, 8)), name="hungry"), 40, batch_size=8)
    with pytest.raises(
        RunError, match=r"on the GPU \(20.00 MiB were asked for\) for images 16 to 23 of hungry"
    ) as caught:
        list(source.batches(8, 0))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_memory_for_the_neighbour_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.ifid.pairs.nearest", refused)
    with pytest.raises(RunError, match="for the neighbour search; lower"):
        fdr.interpolated_fid("haar", images(12), None, "random")


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("output", ["--json", "--csv", "--markdown"])
def test_what_was_measured_is_shown_where_a_file_cannot_be_written(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        npz(tmp_path / f"{name}.npz", images(12, seed=ord(name)))
    command = ["eval", str(tmp_path / "a.npz"), "--ref", str(tmp_path / "b.npz"), "--reps", "random", "-q"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    monkeypatch.setattr("fdr.runtime.atomic.os.replace", full)
    assert run([*command, output, str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.out == shown and "FD" in shown
    assert "out': No space left on device; free some space" in captured.err and not (tmp_path / "out").exists()


def test_a_picture_that_cannot_be_written_costs_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = fdr.interpolated_fid("haar", images(12), None, "random")
    monkeypatch.setattr("fdr.images.sheet.atomic_path", refused)
    with pytest.warns(fdr.errors.FdrWarning, match="The picture was not drawn: There is not enough memory"):
        report = fdr.interpolated_fid("haar", images(12), None, "random", picture=tmp_path / "p.png")
    assert report["ifd"].value == numbers["ifd"].value


def test_a_full_cache_ends_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third shard does not fit; the same command goes on where there is space again."""
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)
    npz(tmp_path / "a.npz", images(64))
    command = ["stats", str(tmp_path / "a.npz"), "--reps", "random", "-q", "--cache", str(tmp_path / "c"), "-o"]
    publish, count = fdr.runtime.publish, [0]

    def limited(temporary: Path, final: Path) -> None:
        count[0] += final.suffix == ".h5"
        full() if count[0] > 2 else publish(temporary, final)

    with monkeypatch.context() as context:
        context.setattr("fdr.runtime.publish", limited)
        assert run([*command, str(tmp_path / "one")]) == 1
    assert "The disk is full while writing the feature cache" in capsys.readouterr().err
    assert len(list((tmp_path / "c").rglob("*.h5"))) == 2
    assert run([*command, str(tmp_path / "two")]) == 0
