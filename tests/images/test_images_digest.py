"""A digest changes with every change of pixels, and only then; unchanged files are not read again."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from image_worlds import encoded, photo, photos, write_files, write_tar, write_zip
from PIL import Image

from fdr.images import ImageOptions, digests, open_images


def digest(source, **options):
    return open_images(source, ImageOptions(**options)).digest


@pytest.fixture
def settled(monkeypatch):
    """Hashing happens well after the files were written, so that their hashes may be remembered."""
    real = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: real() + 10_000_000_000)


@pytest.fixture
def hashed(monkeypatch):
    """The paths that were really read."""
    read = []
    hash_file = digests._hash
    monkeypatch.setattr(
        digests, "_hash", lambda key, *rest: read.append(os.path.basename(key)) or hash_file(key, *rest)
    )
    return read


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "images", {f"{i}.png": encoded(photo(i)) for i in range(5)})


def test_digest_is_hex_and_stable(folder):
    assert digest(folder) == digest(folder) == digest(str(folder))
    assert len(digest(folder)) == 64 and int(digest(folder), 16)


def test_digest_follows_content_names_selection_and_policy(folder, tmp_path):
    first = digest(folder)
    seen = {first}
    for options in (
        dict(count=3),
        dict(count=3, seed=1),
        dict(size=8),
        dict(size=8, crop="adm"),
        dict(size=9, crop="adm"),
        dict(alpha="white"),
        dict(quantize="none"),
    ):
        seen.add(digest(folder, **options))
    assert len(seen) == 8
    (folder / "1.png").rename(folder / "1b.png")
    assert digest(folder) != first
    (folder / "1b.png").rename(folder / "1.png")
    assert digest(folder) == first
    (folder / "1.png").write_bytes(encoded(photo(99)))
    assert digest(folder) != first
    moved = write_files(tmp_path / "elsewhere", {f"{i}.png": encoded(photo(i)) for i in range(5)})
    assert digest(moved) == first


def test_on_bad_and_the_batching_do_not_enter(folder):
    assert digest(folder) == digest(folder, on_bad="skip", max_bad=0.5)


def test_every_repeatable_source_has_a_digest_that_follows_its_content(tmp_path):
    for seed in (0, 1):
        images = photos(3) + np.uint8(seed)
        files = {f"{i}.png": encoded(image) for i, image in enumerate(images)}
        np.save(tmp_path / f"{seed}.npy", images)
        np.savez(tmp_path / f"{seed}.npz", images)
        write_zip(tmp_path / f"{seed}.zip", files)
        write_tar(tmp_path / f"{seed}.tar", files)
    for suffix in ("npy", "npz", "zip", "tar"):
        found = [digest(tmp_path / f"{seed}.{suffix}") for seed in (0, 1)]
        assert len(set(found)) == 2 and digest(tmp_path / f"0.{suffix}", count=2) not in found
    images = photos(3)
    values = [
        images,
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        list(images),
        list(map(Image.fromarray, images)),
    ]
    for value in values:
        assert digest(value) == digest(value) != digest(value, count=2)
    images[2, 0, 0, 0] ^= 1
    assert digest(photos(3)) != digest(images)
    assert digest(list(photos(3))) != digest(list(images))


def test_unchanged_files_are_known_by_stat_alone(folder, settled, hashed):
    first = digest(folder)
    assert sorted(hashed) == [f"{i}.png" for i in range(5)]
    hashed.clear()
    assert digest(folder) == first and hashed == []
    (folder / "new.png").write_bytes(encoded(photo(7)))
    assert digest(folder) != first and hashed == ["new.png"]


def test_a_regenerated_file_with_forged_times_and_equal_size_is_noticed(folder, settled, hashed):
    first = digest(folder)
    path = folder / "2.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert digest(folder) != first


def test_files_written_within_the_last_two_seconds_are_not_remembered(folder, hashed):
    digest(folder)
    digest(folder)
    assert len(hashed) == 10


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"/x": [1, 2]}', b"\xff\xfe"])
def test_a_damaged_memo_is_ignored_and_rewritten(folder, settled, hashed, own_cache_home, damage):
    first = digest(folder)
    [memo] = (own_cache_home / "digests").iterdir()
    memo.write_bytes(damage)
    hashed.clear()
    assert digest(folder) == first and len(hashed) == 5
    assert len(json.loads(memo.read_bytes())) == 5
    hashed.clear()
    assert digest(folder) == first and hashed == []


def test_a_memo_that_cannot_be_written_is_no_error(folder, settled, own_cache_home):
    (own_cache_home / "digests").write_text("a file where the folder should be")
    assert digest(folder) == digest(folder)


def test_many_writers_leave_a_whole_memo(folder, settled, own_cache_home):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: digest(folder), range(40)))
    assert len(found) == 1
    [memo] = (own_cache_home / "digests").iterdir()
    assert len(json.loads(memo.read_bytes())) == 5


def test_a_container_is_hashed_once(tmp_path, settled, hashed):
    np.savez(tmp_path / "x.npz", photos(3))
    assert digest(tmp_path / "x.npz") == digest(tmp_path / "x.npz") != digest(tmp_path / "x.npz", count=2)
    assert hashed == ["x.npz"]


def test_old_memos_make_room(tmp_path, settled, own_cache_home, monkeypatch):
    monkeypatch.setattr(digests, "MAX_MEMOS", 3)
    for i in range(6):
        digest(write_files(tmp_path / str(i), {"a.png": encoded(photo(i))}))
    assert len(list((own_cache_home / "digests").iterdir())) == 3
