"""Thousands of damaged files: every reader gives what the file says or one sentence, in time, and nothing else.

Where a file carries checksums, what is read from a damaged one is what was in the sound one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import mutations
import numpy as np
import pytest
import torch
from processes import processor_limit

from fdr.cli._config import load_config
from fdr.errors import FdrError
from fdr.gate import load_baseline
from fdr.images import ImageOptions, open_images
from fdr.references import open_statistics
from fdr.reports import load_reports
from fdr.weights import load_archive, load_export, load_state_dict


def read_all(read: Callable[[Path], Any], path: Path, data: bytes, count: int, seed: int) -> list[tuple[str, Any]]:
    """What `read` gave for each damaged version that it did not refuse. Fails on any error that is not a sentence."""
    given, refused = [], 0
    for name, damaged in mutations.mutants(data, count, seed):
        path.write_bytes(damaged)
        with warnings.catch_warnings(), processor_limit(20, f"{path.name}, {name}"):
            warnings.simplefilter("ignore")
            try:
                given.append((name, read(path)))
            except FdrError as error:
                refused += 1
                assert str(error).strip() and "\n" not in str(error), (name, str(error))
            except Exception as error:
                raise AssertionError(f"{path.name}, {name}: {type(error).__name__}: {error}") from error
    assert refused > 0, "no damage was noticed"
    return given


def pixels(path: Path) -> tuple[np.ndarray, ...]:
    source = open_images(path, ImageOptions(max_pixels=10_000))
    return tuple(image.numpy() for batch in source.batches(4, 0) for image in batch.images)


def folder_of_one(path: Path) -> tuple[np.ndarray, ...]:
    return pixels(path.parent)


SEALED = {"stored.npz", "deflated.npz", "stored.zip", "deflated.zip", ".pt"}
"""Files of images whose bytes are all under checksums."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("sound")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "images": mutations.image_files(folder),
            "statistics": mutations.statistics_files(folder),
            "texts": mutations.text_files(),
            "weights": mutations.weight_files(folder),
        }


IMAGE_KINDS = (
    ".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff", ".ppm", "stored.npz", "deflated.npz", ".npy", ".h5", "stored.zip",
    "deflated.zip", ".tar", ".tar.gz", ".pt", ".safetensors", ".parquet",
)  # fmt: skip


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_images(kind: str, sound: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    assert set(IMAGE_KINDS) == {*sound["images"], ".parquet"}
    if kind not in sound["images"]:
        pytest.skip("needs pyarrow")
    data = sound["images"][kind]
    alone = not kind.endswith((".npz", ".npy", ".h5", ".zip", ".tar", ".gz", ".pt", ".safetensors", ".parquet"))
    path = tmp_path / f"a{kind if kind[0] == '.' else '.' + kind}"
    path.write_bytes(data)
    read = folder_of_one if alone else pixels
    expected = read(path)
    count = 20 if kind == ".h5" else 200  # a process looks at each HDF5 file first
    for name, found in read_all(read, path, data, count, seed=1):
        if kind in SEALED:
            same = len(found) == len(expected) and all(map(np.array_equal, found, expected))
            assert same, f"{kind}, {name}: other pixels in silence"


STATISTICS_KINDS = (
    "pytorch-fid.npz", "adm.npz", "fdloss.npz", "fd-evaluator.npz", "edm2.pkl", "bundle.pkl", "torch.pt",
    "torch-features.pt", "dgm.npz", "kid.npz", "x.npz", "npy.npy", "own.npz", "own.h5",
)  # fmt: skip


def statistics(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    file = open_statistics(path)
    moments = [file.load(entry) for entry in file.entries]
    return [(one.mu, one.sigma) for one in moments]


@pytest.mark.parametrize("kind", STATISTICS_KINDS)
def test_statistics(kind: str, sound: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    assert set(STATISTICS_KINDS) <= set(sound["statistics"])
    data, path = sound["statistics"][kind], tmp_path / kind
    path.write_bytes(data)
    expected = statistics(path)
    for name, found in read_all(statistics, path, data, 200, seed=2):
        if kind.endswith((".npz", ".pt")):
            known = [any(np.array_equal(a, b) for pair in expected for b in pair) for one in found for a in one]
            assert all(known), f"{kind}, {name}: other moments in silence"


@pytest.mark.parametrize("kind", ["report.json", "fdr.toml"])
def test_texts(kind: str, sound: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = sound["texts"][kind], tmp_path / kind
    reads: dict[str, tuple[Callable[[Path], Any], ...]] = {
        "report.json": (load_reports, lambda path: load_baseline(str(path))),
        "fdr.toml": (lambda path: load_config(click.Context(click.Command("fdr")), ["check", "eval"]),),
    }
    monkeypatch.chdir(tmp_path)
    for read in reads[kind]:
        read_all(read, path, data, 400, seed=3)


@pytest.mark.parametrize("kind", ["state.pt", "old.pt", "state.safetensors", "program.ts", "program.pt2"])
def test_weights(kind: str, sound: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    data, path = sound["weights"][kind], tmp_path / kind
    reads: dict[str, Callable[[Path], Any]] = {
        "program.ts": lambda path: dict(load_archive(path).state_dict()),
        "program.pt2": lambda path: dict(load_export(path).state_dict()),
    }
    read = reads.get(kind, load_state_dict)
    path.write_bytes(data)
    expected = list(read(path).values())
    for name, found in read_all(read, path, data, 60 if kind.startswith("program") else 200, seed=4):
        if kind not in ("old.pt", "state.safetensors"):  # which carry no checksums
            same = all(any(torch.equal(a, b) for b in expected) for a in found.values())
            assert same, f"{kind}, {name}: other weights in silence"
