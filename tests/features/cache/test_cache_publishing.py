"""Publishing: one process at a time, on the disk before anyone sees it, and never with shards of another entry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_worlds import KEY, NUM_ROWS, WIDTHS, damaged, features_of, fill, open_cache, read, same, truth, write
from processes import PATIENCE

from fdr import runtime
from fdr.errors import FdrWarning, InputError, RunError
from fdr.features import CacheStore, FeatureCache, RunningSums
from fdr.features.cache import manifest
from fdr.features.cache.shards import CacheKey, EntryHeader
from fdr.frechet import Moments, Sums


def is_locked(folder: Path) -> bool:
    try:
        with runtime.folder_lock(folder, timeout=0.01):
            return False
    except RunError:
        return True


def test_nothing_is_published_without_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[tuple[str, bool]] = []
    real = runtime.publish

    def publish(temporary: Path, final: Path) -> None:
        published.append((final.name.partition("-")[0], is_locked(final.parent)))
        real(temporary, final)

    monkeypatch.setattr(runtime, "publish", publish)
    monkeypatch.setattr(manifest, "publish", publish)
    cache = open_cache(tmp_path)
    write(cache, 0, 8)
    assert published == [("manifest.json", True), ("shard", True), ("manifest.json", True)]
    assert not is_locked(cache.folder)


def test_a_handle_waits_while_another_one_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write the same shard: the second one finds that of the first, and leaves it as it is."""
    one, two = open_cache(tmp_path), open_cache(tmp_path)
    is_inside, may_go_on = threading.Event(), threading.Event()
    real = runtime.publish

    def publish(temporary: Path, final: Path) -> None:
        is_inside.set()
        assert may_go_on.wait(PATIENCE)
        real(temporary, final)

    monkeypatch.setattr(runtime, "publish", publish)
    first = threading.Thread(target=write, args=(one, 0, 8))
    second = threading.Thread(target=write, args=(two, 0, 8), kwargs={"shift": 1})
    first.start()
    assert is_inside.wait(PATIENCE)
    second.start()
    second.join(0.2)
    assert second.is_alive() and not list(one.folder.glob("shard-*"))
    may_go_on.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert len(list(one.folder.glob("shard-*"))) == 1
    assert same(read(open_cache(tmp_path), 0, 8), truth(0, 8))


def saved_sums(folder: Path) -> None:
    sums = Sums(None)
    sums.add(np.ones((3, 2), np.float32))
    RunningSums({"pool": sums}).save(folder / "sums-a.fdr")


WRITERS: dict[str, Callable[[Path], object]] = {
    "shard and manifest": lambda folder: write(open_cache(folder), 0, 8),
    "moments": lambda folder: fill(open_cache(folder)).save_moments("pool", Moments(np.zeros(2), np.eye(2), 9)),
    "running sums": saved_sums,
    "file": lambda folder: runtime.write_atomically(folder / "a.json", "text"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_content_is_on_the_disk_before_its_name_and_the_name_before_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    events: list[tuple[str, int]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        events.append(("sync", os.fstat(fd).st_ino))
        real_fsync(fd)

    def rename(source: Path, target: Path) -> None:
        events.append(("rename", os.stat(source).st_ino))
        events.append(("folder", os.stat(os.path.dirname(target)).st_ino))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    WRITERS[kind](tmp_path)
    renames = [at for at, (what, _) in enumerate(events) if what == "rename"]
    assert len(renames) >= (2 if kind == "shard and manifest" else 1)
    for at in renames:
        assert ("sync", events[at][1]) in events[:at], "the content of a file was not synced"
        assert events[at + 2] == ("sync", events[at + 1][1]), "the folder was not synced"


def test_a_shard_that_is_published_while_an_entry_is_opened_stays_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the folder and the lock."""
    real = runtime.folder_lock

    def locked(folder: Path, *more: float) -> object:
        monkeypatch.setattr(runtime, "folder_lock", real)
        write(open_cache(tmp_path), 0, 8)
        return real(folder, *more)

    monkeypatch.setattr(runtime, "folder_lock", locked)
    cache = open_cache(tmp_path)
    listed = json.loads((cache.folder / "manifest.json").read_text())["shards"]
    assert [shard["start"] for shard in listed] == [0] and cache.rows_done == 8


def test_a_repaired_shard_in_which_other_images_decoded_is_not_mixed_in(tmp_path: Path) -> None:
    reader = fill(open_cache(tmp_path))
    path = next(reader.folder.glob("shard-000000008-*"))
    path.write_bytes(bytes(path.stat().st_size))
    repairing = open_cache(tmp_path)
    with pytest.warns(FdrWarning, match="damaged"):
        assert damaged(repairing) == [(8, 16)]
    write(repairing, 8, 16, bad=(9,))
    with pytest.warns(FdrWarning), pytest.raises(RunError, match=r"Rows 8 to 15 .* are damaged"):
        reader.read_shard(8, 16)
    assert open_cache(tmp_path).read_shard(8, 16).rows.tolist() == [8, 10, 11, 12, 13, 14, 15]


def test_a_shard_of_other_widths_is_refused_when_it_is_written(tmp_path: Path) -> None:
    one, two = open_cache(tmp_path, widths=None), open_cache(tmp_path, widths=None)
    write(one, 0, 8)
    rows = np.arange(8, 16)
    features = {name: np.zeros((8, width + 1), np.float32) for name, width in WIDTHS.items()}
    with pytest.raises(RunError, match="holds other features: feature widths"):
        two.write_shard(8, 16, rows, [str(row) for row in rows], features)
    assert open_cache(tmp_path).missing()[0] == (8, 16)


# What identifies an entry


def test_the_digest_of_an_entry_is_that_of_its_shards_in_the_order_of_rows(tmp_path: Path) -> None:
    forward, backward = fill(open_cache(tmp_path / "a")), open_cache(tmp_path / "b")
    for start, stop in reversed(backward.ranges):
        write(backward, start, stop)
    files = sorted(forward.folder.glob("shard-*.h5"))
    expected = hashlib.sha256("\n".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files).encode())
    for cache in (forward, backward, open_cache(tmp_path / "b")):
        assert cache.digest == expected.hexdigest()


def test_the_name_of_a_folder_is_that_of_its_key() -> None:
    fields = ["fdr-features/1", KEY.data_digest, KEY.spec_hash, ["logits", "pool"]]
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    assert KEY.directory == f"fid-inception-2015-5bec0123-dddddddd-{digest[:16]}"


@pytest.mark.parametrize(
    "change",
    [{"data_digest": "d" * 63 + "e"}, {"spec_hash": "5bec0123456789ac"}, {"outputs": ("pool",)}, {"label": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_a_key_changes_the_folder_to_its_last_letter(change: dict[str, object]) -> None:
    assert replace(KEY, **change).directory != KEY.directory  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": replace(KEY, data_digest="d" * 63 + "e")}, "data digest"),
        ({"key": replace(KEY, spec_hash="5bec0123456789ac")}, "encoder spec hash"),
        ({"key": replace(KEY, outputs=("pool",)), "widths": {"pool": 24}}, "outputs"),
        ({"num_rows": NUM_ROWS + 1}, "number of images"),
        ({"widths": {**WIDTHS, "pool": 25}}, "feature widths"),
        ({"key": replace(KEY, label="other")}, None),
        ({"shard_size": 16}, None),
        ({"attributes": {"encoder": "other"}}, None),
        ({"widths": {}}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_two_headers_differ_in_what_decides_the_features(change: dict[str, object], said: str | None) -> None:
    header = EntryHeader(KEY, NUM_ROWS, 8, WIDTHS, {"encoder": "inception"})
    found = header.difference(replace(header, **change))  # type: ignore[arg-type]
    assert found is None if said is None else found is not None and found.startswith(said)


def test_shards_of_another_entry_are_never_taken_in(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    other = fill(open_cache(tmp_path, key=CacheKey("e" * 64, KEY.spec_hash, KEY.outputs)))
    longer = open_cache(tmp_path / "longer", shard_size=16)
    write(longer, 16, 32)
    for folder in (other.folder, longer.folder):
        for path in folder.glob("shard-*"):
            shutil.copy(path, cache.folder)
    assert open_cache(tmp_path).missing() == cache.ranges


def test_moments_that_an_earlier_release_derived_otherwise_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(open_cache(tmp_path))
    x = features_of(np.arange(30), "logits")
    cache.save_moments("logits", Moments(x.mean(axis=0), np.cov(x.T), 30))
    assert cache.load_moments("logits") is not None
    monkeypatch.setattr("fdr.features.cache.derived.MOMENTS_VERSION", 2)
    assert cache.load_moments("logits") is None


# Removing


def two_alike(root: Path) -> CacheStore:
    for label in ("vit", "my vit"):
        FeatureCache.open(root, replace(KEY, label=label), num_rows=3)
    return CacheStore(root)


def test_the_middle_of_a_name_removes_nothing(tmp_path: Path) -> None:
    store = two_alike(tmp_path)
    removed = store.remove(["vit"])
    assert [entry.name[:4] for entry in removed.entries] == ["vit-"]
    assert [entry.name[:7] for entry in store.entries()] == ["my-vit-"]
    for name in ("vit", ""):
        with pytest.raises(InputError, match="Unknown cache entry"):
            store.remove([name])
    assert len(store.entries()) == 1


def test_a_linked_folder_is_no_entry(tmp_path: Path) -> None:
    elsewhere = fill(open_cache(tmp_path / "elsewhere")).folder
    root = tmp_path / "cache"
    root.mkdir()
    (root / elsewhere.name).symlink_to(elsewhere)
    store = CacheStore(root)
    assert store.entries() == []
    store.remove(everything=True)
    assert (root / elsewhere.name).is_symlink() and len(list(elsewhere.glob("shard-*"))) == 5


def test_both_kinds_of_lock_go_with_their_entry(tmp_path: Path) -> None:
    folder = fill(open_cache(tmp_path)).folder
    (folder / "lock.held").write_text("elsewhere.1.00000000.0")
    CacheStore(tmp_path).remove(everything=True)
    assert not folder.exists()
