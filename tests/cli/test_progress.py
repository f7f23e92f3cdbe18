"""How far a long command is: per batch, with rate and time left, in 80 columns; what was done before counts once."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from generator_worlds import generator
from worlds import TinyEncoder, folder, images, npz

import fdr
from fdr.errors import InputError
from fdr.features import Extraction, ExtractionOptions
from fdr.generators import GeneratorSource, sample_set, write_samples
from fdr.runtime import SOLO, PlainProgress, RichProgress, SilentProgress, as_progress, human_seconds
from fdr.runtime.bars import shortened

LONG = "a_very_long_name_of_a_folder_with_samples_of_the_newest_run.npz: inception, dinov2, clip, siglip"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_every_30_s_with_rate_and_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().task("a.npz: random", 1000) as task:
        task.resume(400)
        for _ in range(10):
            clock[0] += 7.0
            task.advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "a.npz: random: 500/1000 images, 2.9/s, 2 min 55 s left",  # 100 new ones in 35 s; 500 are left
        "a.npz: random: 600/1000 images, 2.9/s, 2 min 20 s left",
    ]


def test_what_was_done_before_has_no_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().task("a.npz: random", 1000) as task:
        clock[0] += 25.0
        task.resume(1000)
    assert capsys.readouterr().err == "a.npz: random: 1000/1000 images\n"


def test_the_clock_begins_after_what_was_done_before(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().task("a.npz: random", 30) as task:
        clock[0] += 25.0
        task.resume(10)
        clock[0] += 2.0
        task.advance(20)
    assert capsys.readouterr().err == "a.npz: random: 30/30 images, 10.0/s\n"


def test_bytes_are_written_as_bytes(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().task("fetching inception", 95e6, unit="B") as task:
        task.resume(5e6)
        clock[0] += 30.0
        task.advance(30e6)
        task.advance(60e6)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "fetching inception: 35.0 MB/95.0 MB, 1.0 MB/s, 1 min 0 s left"
    assert last == "fetching inception: 95.0 MB/95.0 MB, 3.0 MB/s"


@pytest.mark.parametrize("total", [50_000, 128_116_700, None])
def test_lines_fit_80_columns(total: int | None, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().task(LONG, total) as task:
        clock[0] += 3000.0
        task.advance(12_345)
    line = capsys.readouterr().err.rstrip("\n")
    assert len(line) < 80 and line.startswith("a_very") and "siglip: 12345" in line


@pytest.mark.parametrize("columns", [80, 60])
def test_bars_fit_the_terminal(
    columns: int, clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with RichProgress().task(LONG, 50_000) as task:
        clock[0] += 100.0
        task.advance(12_345)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).replace("\r", "\n")
    assert max(map(len, shown.splitlines())) <= columns
    assert "12345/50000 images, 123.5/s, 5 min 5 s left" in shown


@pytest.mark.parametrize(("width", "text"), [(20, "abcdefghijklmnop"), (13, "abcde...lmnop"), (3, "abcde...mnop")])
def test_titles_are_cut_in_the_middle(width: int, text: str) -> None:
    assert shortened("abcdefghijklmnop", width) == text


class Recorded:
    """A `Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.new: list[float] = []
        self.old: list[float] = []

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "images") -> Iterator[Recorded]:
        yield self

    def advance(self, amount: float = 1) -> None:
        self.new += [amount] if amount else []

    def resume(self, amount: float) -> None:
        self.old += [amount] if amount else []


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.runtime.progress.EXCHANGE_INTERVAL", 0.0)
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)


def test_a_pass_moves_with_every_batch(every_batch: None, tmp_path: Path) -> None:
    """A killed run leaves two of three shards; the next one finds those 32 images and computes 8."""
    samples = fdr.open_images(npz(tmp_path / "a.npz", images(40)))

    def of(progress: Recorded) -> Extraction:
        return Extraction(samples, [TinyEncoder()], None, ExtractionOptions(tmp_path / "c", 4, 0, progress))

    first, second, third = Recorded(), Recorded(), Recorded()
    blocks = iter(of(first))
    next(blocks)
    assert (first.new, first.old) == ([4, 4, 4, 4], [])
    next(blocks)
    del blocks
    list(of(second))
    assert (second.new, second.old) == ([4, 4], [16, 16])
    list(of(third))
    assert (third.new, third.old) == ([], [16, 16, 8])


@pytest.mark.parametrize("kind", ["npz", "folder", "zip", "tar"])
def test_the_reading_of_large_files_is_shown(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of every file counts once, also where threads read them."""
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        npz(path, images(9))
    else:
        folder(tmp_path / "a", images(9))
    if kind in ("zip", "tar"):
        path = Path(shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "a"))
    path = tmp_path / "a" if kind == "folder" else path
    size = sum(file.stat().st_size for file in (path.iterdir() if kind == "folder" else [path]))
    silent, shown = Recorded(), Recorded()
    fdr.open_images(path).find_digest(SOLO, silent)
    source = fdr.open_images(path)
    monkeypatch.setattr("fdr.images.digests.SHOWN_BYTES", 1)
    assert source.find_digest(SOLO, shown) == fdr.open_images(path).digest
    assert sum(shown.new) == size and not silent.new


def test_a_command_shows_it(
    every_batch: None, fdr_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdr.runtime.bars.PLAIN_INTERVAL", 0.0)
    npz(tmp_path / "a.npz", images(40, side=32))
    command = ["stats", "a.npz", "--reps", "random", "--batch-size", 8, "-o"]
    lines = fdr_command(*command, "out").err.splitlines()
    shown = [line for line in lines if line.startswith("a.npz: random: ")]
    assert len(shown) >= 5 and re.search(r": 8/40 images, [\d.]+/s, \d+ s left$", "\n".join(shown), re.MULTILINE)
    assert fdr_command(*command, "again", "-q").err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.9, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90_061, "25 h 1 min")],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


CALLS: dict[str, Callable[[Path, Any], object]] = {
    "evaluate": lambda path, shown: fdr.evaluate(path, path, TinyEncoder(), progress=shown),
    "explain": lambda path, shown: fdr.explain(path, path, TinyEncoder(), ends=1, progress=shown),
    "extract": lambda path, shown: [*fdr.extract(path, TinyEncoder(), progress=shown)],
    "interpolated_fid": lambda path, shown: fdr.interpolated_fid(
        "haar", path, encoders=[TinyEncoder()], ifid_options=fdr.IfidOptions(top_k=2), progress=shown
    ),
    "measure_reconstructions": lambda path, shown: fdr.measure_reconstructions(
        path, path, TinyEncoder(), progress=shown
    ),
    "fill": lambda path, shown: fdr.FDLoss(
        TinyEncoder(), fdr.Moments.from_features(np.eye(12)), population=fdr.EmaPopulation()
    ).fill(torch.rand(20, 3, 16, 16), progress=shown),
    "write_samples": lambda path, shown: write_samples(
        sample_set(GeneratorSource(generator(), 6, seed=0), path.with_name("made.npz")), progress=shown
    ),
}
"""Calls of the library that take long, by name."""


@pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_shows_it_only_if_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "a.npz", images(24))
    for silent in (None, False):
        CALLS[name](path, silent)
        assert capsys.readouterr().err == ""
        (tmp_path / "made.npz").unlink(missing_ok=True)
    CALLS[name](path, True)
    assert re.search(r": \d+(/\d+)? images", capsys.readouterr().err)


def test_true_is_bars_on_a_terminal_and_in_a_notebook_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(as_progress(True), PlainProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(as_progress(True), RichProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    for found, kind in ((object(), RichProgress), (None, PlainProgress)):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        assert type(as_progress(True)) is kind


def test_an_object_of_ones_own_shows_it_as_well() -> None:
    mine = Recorded()
    assert as_progress(mine) is mine


@pytest.mark.parametrize("wrong", ["bar", 1, object()])
def test_anything_else_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected True for bars on stderr"):
        fdr.evaluate(npz(tmp_path / "a.npz", images(4)), encoders=TinyEncoder(), progress=wrong)


def test_a_reference_that_is_fetched_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def resolve(file: Any, options: Any, *_: Any) -> Any:
        asked.append(options.progress)
        raise InputError("that is all")

    monkeypatch.setattr("fdr.references.find.resolve", resolve)
    for shown in (True, None):
        with pytest.raises(InputError, match="that is all"):
            fdr.load_reference("imagenet256", "inception", progress=shown)
    assert [type(one) for one in asked] == [PlainProgress, SilentProgress]


@pytest.mark.parametrize("module", ["fdr.evaluation.evaluator", "fdr.ifid.setup"])
def test_files_that_a_call_fetches_are_shown_as_well(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the options of the encoders are given, unless these show their files themselves."""
    asked: list[Any] = []

    def load(encoders: Any, options: fdr.EncoderOptions, *_: Any) -> Any:
        asked.append(options.progress)
        raise InputError("that is all")

    monkeypatch.setattr(f"{module}.load_encoders", load)
    path, mine, own = npz(tmp_path / "a.npz", images(4)), Recorded(), Recorded()
    for options in (None, fdr.EncoderOptions(device="cpu"), fdr.EncoderOptions(progress=own)):
        with pytest.raises(InputError, match="that is all"):
            if module == "fdr.ifid.setup":
                fdr.measure_reconstructions(path, path, "random", encoder_options=options, progress=mine)
            else:
                fdr.evaluate(path, path, "random", encoder_options=options, progress=mine)
    assert asked == [mine, mine, own]
