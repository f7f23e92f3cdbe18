"""What goes in comes out: features, order, bad rows, moments; and what must never be mixed is not."""

from __future__ import annotations

import json
from pathlib import Path

import cache_worlds
import numpy as np
import pytest
from cache_worlds import (
    BAD_ROWS,
    KEY,
    NUM_ROWS,
    SHARD_SIZE,
    WIDTHS,
    fill,
    good_rows,
    open_cache,
    read,
    same,
    truth,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fdr.errors import RunError
from fdr.features import BadRow, FeatureCache
from fdr.features.cache.entry import CacheKey


def test_read_returns_the_bits_that_were_written(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    assert cache.missing() == cache.ranges == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 37)]
    fill(cache)
    for one in (cache, open_cache(tmp_path)):
        assert one.is_complete and one.missing() == []
        assert one.rows_done == NUM_ROWS and one.count == NUM_ROWS - len(BAD_ROWS)
        assert same(read(one), truth())
        assert {x.dtype for x in read(one).values()} == {np.dtype(np.float32)}


@settings(deadline=None, derandomize=True, max_examples=25)
@given(bad=st.sets(st.integers(0, NUM_ROWS - 1), max_size=NUM_ROWS))
def test_whatever_images_are_bad_every_shard_gives_its_rows(
    tmp_path_factory: pytest.TempPathFactory, bad: set[int]
) -> None:
    failed = tuple(sorted(bad))
    cache = fill(open_cache(tmp_path_factory.mktemp("shards")), failed)
    for start, stop in cache.ranges:
        assert same(read(cache, start, stop), truth(start, stop, failed))


def test_a_shard_gives_rows_ids_features_and_bad_rows(tmp_path: Path) -> None:
    cache = fill(open_cache(tmp_path))
    for one in (cache, open_cache(tmp_path)):
        assert one.has(8, 16) and not one.has(8, 15)
        shard = one.read_shard(8, 16, ["pool"])
        assert shard.rows.dtype == np.int64 and shard.rows.tolist() == [8, 11, 12, 13, 14, 15]
        assert shard.ids == [f"class/{row}.png" for row in shard.rows]
        assert same(shard.features, {"pool": truth(8, 16)["pool"]})
        assert shard.bad == (BadRow(9, "class/9.png", "truncated"), BadRow(10, "class/10.png", "truncated"))


def test_bad_rows_are_reported_alike_by_cold_resumed_and_warm_runs(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    write(cache, 0, 8)
    resumed = fill(open_cache(tmp_path))
    assert resumed.bad == open_cache(tmp_path).bad == [(row, f"class/{row}.png", "truncated") for row in BAD_ROWS]


@pytest.mark.parametrize("name", ["", "größe/ü.png", "日本.png", "a" * 300, "not-utf8-\udcff.png", "tab\tnew\nline"])
def test_any_file_name_is_an_id(tmp_path: Path, name: str) -> None:
    cache = open_cache(tmp_path, key=CacheKey("d", "s", ("x",)), num_rows=2, widths={"x": 1})
    cache.write_shard(0, 2, [0], [name], {"x": np.zeros((1, 1), np.float32)}, [(1, name, name)])
    again = open_cache(tmp_path, key=CacheKey("d", "s", ("x",)), num_rows=2, widths={"x": 1})
    assert again.read_shard(0, 2).ids == [name] and again.bad == [(1, name, name)]
    (cache.folder / "manifest.json").unlink()
    with pytest.warns(match="rebuilt from 1 good shards of 1"):
        assert open_cache(tmp_path, key=CacheKey("d", "s", ("x",)), num_rows=2, widths=None).bad == [(1, name, name)]


def test_widths_may_come_from_the_first_shard(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, widths=None)
    assert cache.widths == {}
    write(cache, 0, 8)
    assert cache.widths == open_cache(tmp_path, widths=None).widths == WIDTHS
    assert same(read(fill(open_cache(tmp_path, widths=None))), truth())


def test_an_entry_keeps_the_shard_size_it_was_made_with(tmp_path: Path) -> None:
    write(open_cache(tmp_path), 0, 8)
    resumed = open_cache(tmp_path, shard_size=16)
    assert resumed.shard_size == SHARD_SIZE
    assert same(read(fill(resumed)), truth())


# Never stale


@pytest.mark.parametrize(
    "key",
    [
        CacheKey("e" * 64, KEY.spec_hash, KEY.outputs, KEY.label),
        CacheKey(KEY.data_digest, "5bec0123456789ac", KEY.outputs, KEY.label),
        CacheKey(KEY.data_digest, KEY.spec_hash, ("pool", "spatial"), KEY.label),
    ],
    ids=["other-data", "other-encoder", "other-outputs"],
)
def test_another_key_is_another_entry(tmp_path: Path, key: CacheKey) -> None:
    fill(open_cache(tmp_path))
    assert key.directory != KEY.directory
    assert FeatureCache.open(tmp_path, key, num_rows=NUM_ROWS).rows_done == 0


def test_the_folder_name_is_readable_and_does_not_depend_on_the_order_of_outputs() -> None:
    assert KEY.directory.startswith("fid-inception-2015-5bec0123-dddddddd-")
    assert KEY.directory == CacheKey(KEY.data_digest, KEY.spec_hash, ("logits", "pool"), KEY.label).directory
    assert CacheKey("../..", "/etc", ("x",), "../../Ünder").directory.startswith("nder-etc--")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_rows": 38}, "number of images 37 where 38 is expected"),
        ({"widths": {"pool": 25, "logits": 5}}, r"feature widths .*24.* where .*25.* is expected"),
    ],
)
def test_an_entry_of_other_shape_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    fill(open_cache(tmp_path))
    with pytest.raises(RunError, match=said):
        open_cache(tmp_path, **change)


def test_a_folder_that_was_copied_under_another_key_is_refused(tmp_path: Path) -> None:
    folder = fill(open_cache(tmp_path)).folder
    other = CacheKey(KEY.data_digest, "0" * 16, KEY.outputs, KEY.label)
    folder.rename(tmp_path / other.directory)
    with pytest.raises(RunError, match="holds other features: encoder spec hash 5bec0123456789ab where 0000"):
        open_cache(tmp_path, key=other)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.cache.manifest.SCHEMA", "fdr-features/2")
    path = fill(open_cache(tmp_path)).folder / "manifest.json"
    monkeypatch.undo()
    assert json.loads(path.read_text())["schema"] == "fdr-features/2"
    with pytest.raises(RunError, match=r"has format fdr-features/2, and this version of fdr reads fdr-features/1"):
        open_cache(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"span": (0, 9)}, "rows 0 to 9 are not a shard"),
        ({"rows": [1, 2]}, "need as many ids"),
        ({"rows": [2, 1, 3, 4, 5, 6, 7]}, "ascending"),
        ({"bad": []}, "good and bad rows together are not exactly rows 0 to 8"),
        ({"features": {"pool": np.zeros((7, 24), np.float32)}}, "outputs"),
        ({"features": {"pool": np.zeros((7, 24)), "logits": np.zeros((7, 5), np.float32)}}, "float64"),
        ({"features": {"pool": np.zeros((7, 23), np.float32), "logits": np.zeros((7, 5), np.float32)}}, r"\(7, 24\)"),
    ],
)
def test_a_shard_that_is_not_exactly_its_rows_is_refused(tmp_path: Path, change: dict, said: str) -> None:
    rows = good_rows(0, 8)
    given = {"span": (0, 8), "rows": rows, "features": truth(0, 8), "bad": [(0, "0.png", "truncated")], **change}
    cache = open_cache(tmp_path)
    with pytest.raises(ValueError, match=said):
        cache.write_shard(*given["span"], given["rows"], ["x"] * 7, given["features"], given["bad"])
    assert cache.rows_done == 0


def test_reading_what_is_not_extracted_yet_is_refused(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    write(cache, 0, 8)
    assert same(read(cache, 0, 8), truth(0, 8))
    with pytest.raises(RunError, match="Rows 8 to 15 are not in the feature cache"):
        read(cache)


def test_two_handles_see_each_others_shards(tmp_path: Path) -> None:
    one, two = open_cache(tmp_path), open_cache(tmp_path)
    write(one, 0, 8)
    write(two, 8, 16)
    assert one.has(8, 16) and one.missing() == two.missing() == [(16, 24), (24, 32), (32, 37)]
    write(one, 8, 16, shift=1)  # published already: the first stays
    assert same(read(open_cache(tmp_path), 8, 16), truth(8, 16))


# Moments beside the features


def moments_of(x: np.ndarray):  # the result type is imported late: torch may not be there yet
    from fdr.frechet import Moments

    return Moments.from_features(x)


def test_stored_moments_come_back_while_the_features_are_the_same(tmp_path: Path) -> None:
    cache = fill(open_cache(tmp_path))
    assert cache.load_moments("pool") is None
    moments = moments_of(truth()["pool"])
    assert cache.save_moments("pool", moments)
    loaded = open_cache(tmp_path).load_moments("pool")
    assert loaded is not None and loaded.count == moments.count
    assert np.array_equal(loaded.mu, moments.mu) and np.array_equal(loaded.sigma, moments.sigma)
    assert cache.load_moments("logits") is None


def test_moments_of_other_features_are_never_loaded(tmp_path: Path) -> None:
    cache = fill(open_cache(tmp_path))
    cache.save_moments("pool", moments_of(truth()["pool"]))
    next(cache.folder.glob("shard-000000008*")).unlink()
    with pytest.warns(match="the file is missing"):
        changed = open_cache(tmp_path)
    assert changed.load_moments("pool") is None
    with pytest.raises(ValueError, match="incomplete"):
        changed.save_moments("pool", moments_of(truth()["pool"]))
    write(changed, 8, 16, shift=1)
    assert changed.is_complete and changed.load_moments("pool") is None
    write_again = moments_of(read(changed)["pool"])
    assert changed.save_moments("pool", write_again)
    assert len(list(cache.folder.glob("moments-*"))) == 1


def test_damaged_moments_are_computed_again(tmp_path: Path) -> None:
    cache = fill(open_cache(tmp_path))
    cache.save_moments("pool", moments_of(truth()["pool"]))
    path = next(cache.folder.glob("moments-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cache.load_moments("pool") is None
    assert cache_worlds.open_cache(tmp_path).load_moments("pool") is None
