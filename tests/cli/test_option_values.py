"""What options may be, how they go together, and faults that were planted and that nothing noticed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from option_recorder import Recorder
from worlds import folder, images, npz

from fdr.cli._computing import Computing
from fdr.errors import InputError
from fdr.runtime import PlainProgress, SilentProgress


def test_the_seed_of_ifid_is_that_of_neighbours_and_of_posteriors(fdr_command, recorded: Recorder) -> None:
    fdr_command("ifid", "--vae", "haar", "--images", "a.npz", "--seed", 5)
    assert (recorded.at("ifid.seed"), recorded.at("autoencoder.seed"), recorded.at("images.seed")) == (5, 5, 5)


def test_the_papers_conventions_give_way_to_what_is_typed(fdr_command, recorded: Recorder) -> None:
    base = ["ifid", "--vae", "haar", "--images", "a.npz", "--compat", "reference"]
    fdr_command(*base, "--size", 8)
    assert (recorded["reps"], recorded.at("images.crop")) == ("inception:pytorch-fid", "center-bilinear")
    assert (recorded.at("ifid.clamp"), recorded.at("ifid.quantize")) == (False, "none")
    fdr_command(*base, "--size", 8, "--crop", "adm", "--reps", "random")
    assert (recorded["reps"], recorded.at("images.crop")) == ("random", "adm")
    fdr_command(*base)
    assert recorded.at("images.crop") == "none"


def test_validation_images_are_all_measured(fdr_command, recorded: Recorder) -> None:
    fdr_command("stats", "a.npz", "-o", "out.h5", "--val", "other.npz", "--count", 5, "--seed", 2, "--size", 8)
    measured, validation = recorded.at("written.source.options"), recorded.at("written.validation.options")
    assert (measured.count, measured.seed, measured.size) == (5, 2, 8)
    assert (validation.count, validation.seed, validation.size) == (None, 0, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("ifid --vae haar --images a.npz --alpha 0,0.2,...,0.5", "is no alpha"),
        ("ifid --vae haar --images a.npz --alpha 0.5,0.4,...,0.6", "is no alpha"),
        ("ifid --vae haar --images a.npz --memory much", "is no amount of memory"),
        ("eval a.npz --cache c --no-cache", "--cache and --no-cache exclude each other"),
        ("eval a.npz --moments-only --no-cache", "--moments-only keeps its sums in the cache"),
        ("eval a.npz --weights random", "is not NAME=FILE"),
        ("sample --gen g.pt2 -o s.npz --noise-shape wide", "is no shape of noise"),
        ("sample --gen g.pt2 -o s.npz --arch a:b --arch-args 3=4", "is not KEY=VALUE"),
        ("eval a.npz --protocol adm --metrics fd", "leave out --metrics"),
        ("eval a.npz --protocol adm --reps inception", "leave out --reps"),
        ("correlate z.csv --x a --y b --log-x", "holds 0, which has no logarithm"),
        ("train --gen g.pt2 -o run --resume other", "leave out -o"),
        ("train --gen g.pt2", "Give --gen PATH and -o RUN"),
        ("stats a.npz -o out.pt", "is written as *.npz or *.h5"),
        ("stats a.npz -o out.npz --format h5", "goes with another name"),
    ],
)
def test_what_an_option_cannot_be_is_one_sentence(
    fdr_command, recorded: Recorder, tmp_path: Path, arguments: str, sentence: str
) -> None:
    (tmp_path / "z.csv").write_text("a,b\n0,1\n1,2\n2,3\n")
    got = fdr_command(*arguments.split())
    assert got.code == 2 and sentence in got.err and "Traceback" not in got.err, got.err


@pytest.mark.parametrize(("text", "number"), [("4GiB", 4 << 30), ("2 kB", 2000), ("3MiB", 3 << 20), ("5T", 5 * 10**12)])
def test_amounts_of_memory(fdr_command, recorded: Recorder, text: str, number: int) -> None:
    fdr_command("ifid", "--vae", "haar", "--images", "a.npz", "--memory", text)
    assert recorded.at("ifid.memory") == number


def test_three_folders_are_three_sets(fdr_command, recorded: Recorder, tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        folder(tmp_path / name, images(3))
    assert "Two folders and no --ref" in fdr_command("eval", "x", "y").err
    assert "the library was called" in fdr_command("eval", "x", "y", "z").err


def test_the_default_reference_is_announced_where_a_metric_needs_one(fdr_command, recorded: Recorder) -> None:
    note = "the reference is imagenet256"
    assert note in fdr_command("eval", "a.npz", "--metrics", "is,fd").err
    assert recorded.at("evaluator.is_default_reference") is True
    for more in (["--metrics", "is"], ["--quiet"], ["--ref", "imagenet256"]):
        assert note not in fdr_command("eval", "a.npz", *more).err
    assert recorded.at("evaluator.is_default_reference") is False


def test_a_quiet_dry_run_names_no_file_of_defaults(fdr_command, recorded: Recorder, tmp_path: Path) -> None:
    (tmp_path / "fdr.toml").write_text('[eval]\nreps = "random"\n')
    assert "--reps from" in fdr_command("eval", "a.npz", "--dry-run").err
    assert "--reps from" not in fdr_command("eval", "a.npz", "--dry-run", "-q").err


class TestRanks:
    """One of two ranks on a machine without GPUs."""

    @staticmethod
    def setup_of(rank: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
            monkeypatch.setenv(name, str(value))
        group = contextlib.nullcontext(SimpleNamespace(rank=rank, size=2))
        monkeypatch.setattr("fdr.cli._computing.ranks", lambda gpus: group)
        with Computing(**{"device": "cpu", "gpus": 2, **options}).on_ranks(PlainProgress()) as setup:
            return setup

    def test_the_first_prints_and_both_share_the_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fdr.runtime.share_processors", lambda _: 7)
        first, second = (self.setup_of(rank, monkeypatch) for rank in (0, 1))
        assert (first.is_main, second.is_main) == (True, False)
        assert isinstance(first.extraction_options.progress, PlainProgress)
        assert isinstance(second.extraction_options.progress, SilentProgress)
        assert isinstance(second.encoder_options.progress, SilentProgress)
        assert [setup.extraction_options.num_workers for setup in (first, second)] == [7, 7]
        assert self.setup_of(1, monkeypatch, num_workers=3).extraction_options.num_workers == 3

    def test_gpus_are_not_replaced_by_the_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        monkeypatch.setattr("fdr.runtime.share_processors", lambda _: 1)
        with pytest.raises(InputError, match="2 ranks need as many GPUs"):
            self.setup_of(0, monkeypatch, device="auto")
        assert self.setup_of(0, monkeypatch, device="auto", gpus=None).encoder_options.device == "cpu"


def test_files_that_are_named_are_not_missing(fdr_command, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", images(12))
    dry = ["eval", "a.npz", "--ref", "a.npz", "--reps", "mae,dinov2", "--offline", "--dry-run", "--weights-dir", "w"]
    got = fdr_command(*dry)
    assert got.code == 2 and "2 files are not on this machine" in got.out
    assert got.out.splitlines()[-1] == "Fetch with: fdr weights fetch mae,dinov2 --weights-dir w"
    assert "1 file is not on this machine" in fdr_command(*dry, "--weights", "mae=mae.pt").out


def test_a_file_called_like_a_reference_is_that_file(fdr_command, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", images(12))
    folder(tmp_path / "imagenet256", images(12))
    got = fdr_command("eval", "a.npz", "--ref", "imagenet256", "--reps", "mae,dinov2", "--offline", "--dry-run")
    assert "2 files are not on this machine" in got.out and "references fetch" not in got.out
