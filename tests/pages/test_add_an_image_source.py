"""What docs/add-an-image-source.md shows works: its file and its line make a source that the command measures."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from page_worlds import Page

import fdr
import fdr.images
from fdr.cli import run
from fdr.images import registry

PAGE = Page("add-an-image-source.md")
GRAY = np.random.default_rng(1).integers(0, 256, (30, 9, 7), dtype=np.uint8)
CLASSES = np.arange(30, dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a reader who followed the page: its file counts as one of fdr/images, its line is registered."""
    monkeypatch.setattr(fdr.images, "__path__", [*fdr.images.__path__, str(tmp_path)])
    (line,) = PAGE.programs
    names = {"SourceKind": registry.SourceKind}
    exec(line, names)
    monkeypatch.setattr(registry, "PATH_KINDS", registry.PATH_KINDS + names["PATH_KINDS"])
    write_idx(tmp_path / "train-images-idx3-ubyte", GRAY)
    with PAGE.followed_in(tmp_path, monkeypatch):
        yield tmp_path
    sys.modules.pop("fdr.images.idx", None)


def write_idx(path: Path, values: np.ndarray) -> None:
    mark = 0x800 + values.ndim
    path.write_bytes(struct.pack(f">{values.ndim + 1}I", mark, *values.shape) + values.tobytes())


def pixels(source: fdr.images.ImageSource) -> np.ndarray:
    return np.stack([image.permute(1, 2, 0).numpy() for batch in source.batches(8) for image in batch.images])


def test_its_command_measures_the_file(folder, capsys):
    (command,) = PAGE.commands()
    assert run([*command, "--no-cache", "-q", "--json", "report.json"]) == 0, capsys.readouterr().err
    report = json.loads((folder / "report.json").read_text())
    assert report["samples"]["source"] == "train-images-idx3-ubyte" and report["samples"]["count"] == 20


def test_pixels_ids_labels_and_subsets(folder):
    path = folder / "train-images-idx3-ubyte"
    source = fdr.open_images(path)
    assert np.array_equal(pixels(source), np.repeat(GRAY[..., None], 3, axis=3))
    assert source.ids[29] == "image[29]" and source.labels is None
    write_idx(folder / "train-labels-idx1-ubyte", CLASSES)
    some = fdr.open_images(path, fdr.ImageOptions(count=5))
    assert np.array_equal(pixels(some), np.repeat(GRAY[some.rows, ..., None], 3, axis=3))
    assert np.array_equal(some.labels, CLASSES[some.rows]) and some.labels_from == "train-labels-idx1-ubyte"


def test_several_files_are_one_set(folder):
    for number in range(2):
        write_idx(folder / f"part{number}.idx3-ubyte", GRAY[15 * number : 15 * number + 15])
    source = fdr.open_images(str(folder / "part{0..1}.idx3-ubyte"))
    assert np.array_equal(pixels(source)[..., 0], GRAY) and source.ids[15] == "part1.idx3-ubyte: image[0]"


def test_the_digest_is_that_of_the_bytes(folder):
    path = folder / "train-images-idx3-ubyte"
    before = fdr.open_images(path).digest
    changed = GRAY.copy()
    changed[29, 8, 6] ^= 1
    write_idx(path, changed)
    assert fdr.open_images(path).digest != before


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\0\0\x08\x03", "is not a complete idx file: it is truncated or damaged"),
        (struct.pack(">4I", 0x803, 30, 9, 7) + b"x", "is truncated: it ends before the last of its 30 images"),
        (struct.pack(">4I", 0x801, 30, 9, 7), "is no IDX file of images"),
    ],
)
def test_damage_is_one_sentence(folder, data, sentence):
    (folder / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(fdr.InputError, match=sentence):
        fdr.open_images(folder / "train-images-idx3-ubyte")
