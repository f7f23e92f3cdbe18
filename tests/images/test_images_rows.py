"""Some images of a source, by row, and grids of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import folder, images, npz

from fdr.images import ImageOptions, grid_of, images_by_row, open_images, write_grid
from fdr.images.npz import DeflatedRows

ROWS = np.array([17, 3, 3, 11])


@pytest.mark.parametrize("kind", ["npz", "deflated", "folder", "list", "subset"])
def test_they_are_the_images_of_the_rows(tmp_path: Path, kind: str) -> None:
    array = images(20)
    if kind == "deflated":
        np.savez_compressed(tmp_path / "s.npz", arr_0=array)
    made = {"folder": lambda: folder(tmp_path / "s", array), "list": lambda: list(array)}
    place = made.get(kind, lambda: tmp_path / "s.npz" if kind == "deflated" else npz(tmp_path / "s.npz", array))()
    source = open_images(place, ImageOptions(count=18 if kind == "subset" else None))
    found = images_by_row(source, ROWS)
    assert sorted(found) == [3, 11, 17]
    for row in found:
        np.testing.assert_array_equal(found[row], array[row if source.rows is None else source.rows[row]])
    assert len(source) == (18 if kind == "subset" else 20)  # the source itself is as before


def test_an_iterable_is_passed_through() -> None:
    array = images(20)
    found = images_by_row(open_images(image for image in array[:1]), np.array([0]))
    np.testing.assert_array_equal(found[0], array[0])


def test_a_compressed_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "s.npz", arr_0=images(20))
    passes = []
    stream = DeflatedRows.stream
    monkeypatch.setattr(DeflatedRows, "stream", lambda self, rows: passes.append(len(rows)) or stream(self, rows))
    images_by_row(open_images(tmp_path / "s.npz"), ROWS)
    assert passes == [3]


def test_bad_images_are_left_out_where_the_source_skips_them(tmp_path: Path) -> None:
    place = folder(tmp_path / "s", images(5))
    (place / "0003.png").write_bytes(b"no image")
    source = open_images(place, ImageOptions(on_bad="skip", max_bad=1.0))
    assert sorted(images_by_row(source, np.array([1, 3, 4]))) == [1, 4]


def test_a_grid_has_its_columns_margin_and_factor(tmp_path: Path) -> None:
    array = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    assert grid_of(array).shape == (2 * 4 + 2, 3 * 6 + 4, 3)
    plain = grid_of(array, columns=5, margin=0)
    np.testing.assert_array_equal(plain, np.concatenate(list(array), axis=1))
    write_grid(array, tmp_path / "g.png", columns=5, margin=0, factor=2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "g.png")), plain.repeat(2, 0).repeat(2, 1))
