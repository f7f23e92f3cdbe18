"""Promise: whatever happens to the files, never a wrong number: one shard is extracted again, or one clear sentence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_worlds import damaged, fill, open_cache, read, same, start_python, truth, write
from processes import PATIENCE

from fdr.errors import FdrWarning, RunError
from fdr.features import CacheStore, FeatureCache
from fdr.features.cache.manifest import _checksum
from fdr.runtime import atomic, locks
from fdr.runtime.atomic import HOST, TOKEN


def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def shard_of(cache: FeatureCache, start: int) -> Path:
    return next(cache.folder.glob(f"shard-{start:09d}-*.h5"))


SEEN_AT_OPEN: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}
SEEN_WHEN_READ: dict[str, Callable[[Path], object]] = {
    f"bit flip at {where}": lambda path, where=where: flip(path, where) for where in (0, 0.1, 0.5, 0.9, 1)
} | {"zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size))}


@pytest.mark.parametrize("damage", SEEN_AT_OPEN)
def test_a_shard_without_its_bytes_is_missing_at_once_and_extracted_again(tmp_path: Path, damage: str) -> None:
    SEEN_AT_OPEN[damage](shard_of(fill(open_cache(tmp_path)), 8))
    with pytest.warns(FdrWarning, match=r"1 of 5 shards .* are damaged .*only their rows will be extracted again"):
        cache = open_cache(tmp_path)
    assert cache.missing() == [(8, 16)]
    assert same(read(fill(cache)), truth()) and damaged(open_cache(tmp_path)) == []


@pytest.mark.parametrize("damage", SEEN_WHEN_READ)
def test_altered_content_is_found_before_it_is_used(tmp_path: Path, damage: str) -> None:
    SEEN_WHEN_READ[damage](shard_of(fill(open_cache(tmp_path)), 8))
    asking, reading, checking = open_cache(tmp_path), open_cache(tmp_path), open_cache(tmp_path)
    with pytest.warns(FdrWarning, match="its content changed"):
        assert asking.has(0, 8) and not asking.has(8, 16)
    with pytest.warns(FdrWarning), pytest.raises(RunError, match=r"Rows 8 to 15 .* are damaged .*run the same command"):
        read(reading)
    with pytest.warns(FdrWarning, match="1 of 5 shards"):
        assert damaged(checking) == [(8, 16)]
    for cache in (asking, reading, checking):
        assert cache.missing() == [(8, 16)]
    assert same(read(fill(checking)), truth()) and damaged(open_cache(tmp_path)) == []


def test_a_reader_goes_on_with_the_shard_that_another_process_repaired(tmp_path: Path) -> None:
    reader = fill(open_cache(tmp_path))
    flip(shard_of(reader, 8), 0.5)
    repairing = open_cache(tmp_path)
    with pytest.warns(FdrWarning):
        damaged(repairing)
    write(repairing, 8, 16, shift=1)  # another name, for the content differs
    assert len(list(reader.folder.glob("shard-*"))) == 5
    assert same(read(reader, 8, 16), {name: x + 1 for name, x in truth(8, 16).items()})
    assert damaged(reader) == [] and reader.has(8, 16)


@pytest.mark.parametrize("where", [0, 0.2, 0.5, 0.8, 1])
def test_a_damaged_manifest_is_rebuilt_from_the_shards(tmp_path: Path, where: float) -> None:
    flip(fill(open_cache(tmp_path)).folder / "manifest.json", where)
    with pytest.warns(FdrWarning, match=r"The manifest of .* is damaged .*rebuilt from 5 good shards of 5") as said:
        cache = open_cache(tmp_path)
    assert len(said) == 1  # the manifest is read again under the lock
    assert cache.is_complete and same(read(cache), truth()) and len(cache.bad) == 4
    assert open_cache(tmp_path).is_complete  # written again: no further warning


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "\udcff"])
def test_a_manifest_that_is_no_manifest_is_rebuilt(tmp_path: Path, text: str) -> None:
    path = fill(open_cache(tmp_path)).folder / "manifest.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.warns(FdrWarning, match="is damaged"):
        assert open_cache(tmp_path).is_complete


def test_a_manifest_names_shards_beside_it_alone(tmp_path: Path) -> None:
    path = fill(open_cache(tmp_path)).folder / "manifest.json"
    fields = json.loads(path.read_text())
    fields.pop("checksum")
    fields["shards"][0]["file"] = "../" + fields["shards"][0]["file"]
    path.write_text(json.dumps({**fields, "checksum": _checksum(fields)}))
    with pytest.warns(FdrWarning, match="a shard in another folder.*rebuilt from 5 good shards of 5"):
        open_cache(tmp_path)


def test_a_missing_manifest_is_rebuilt_from_the_good_shards_alone(tmp_path: Path) -> None:
    cache = fill(open_cache(tmp_path, shard_size=16))
    (cache.folder / "manifest.json").unlink()
    flip(shard_of(cache, 16), 0.5)
    with pytest.warns(FdrWarning, match="is missing; it was rebuilt from 2 good shards of 3"):
        again = open_cache(tmp_path)  # asks for shards of 8
    assert again.missing() == [(16, 32)] and again.shard_size == 16
    assert same(read(fill(again)), truth())


# Temporary files


def tmp_of(cache: FeatureCache, pid: int, host: str = HOST, token: str = "0" * 8, age: float = 120) -> Path:
    path = cache.folder / f"shard.h5.{host}.{pid}.{token}.0.tmp"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    nested = (
        cache.folder / f".moments-pool-00.npz.{HOST}.{child.pid}.00000000.3.tmp.npz.{HOST}.{child.pid}.00000000.4.tmp"
    )
    tmp_of(cache, child.pid).rename(nested)
    removed = [nested, tmp_of(cache, child.pid), tmp_of(cache, os.getpid()), tmp_of(cache, 1, "elsewhere", age=90000)]
    kept = [
        tmp_of(cache, os.getppid()),
        tmp_of(cache, os.getpid(), token=TOKEN),
        tmp_of(cache, child.pid, "elsewhere"),
        tmp_of(cache, child.pid, token="1" * 8, age=0),
    ]
    open_cache(tmp_path)
    assert not any(path.exists() for path in removed)
    assert all(path.exists() for path in kept)
    assert HOST and set(HOST) <= set(socket.gethostname()) | {"_"}


# Disks that do not take it


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.ENOSPC,
            r"The disk is full while writing the feature cache .*: about [\d.]+ kB are still needed and .* free",
        ),
        (errno.EDQUOT, r"A limit was reached \(.*quota.*\) .*pass cache=DIR with another folder, or no_cache"),
        (errno.EROFS, r"cannot be written \(Read-only file system\); pass cache=DIR"),
        (errno.EACCES, r"cannot be written \(Permission denied\); pass cache=DIR"),
        (errno.EIO, r"failed \(Input/output error\); pass cache=DIR"),
        (errno.ENOENT, r"was removed during the run; run the same command again"),
    ],
)
@pytest.mark.parametrize("when", ["open", "fsync", "replace"])
def test_a_disk_error_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, when: str
) -> None:
    cache = open_cache(tmp_path)
    write(cache, 0, 8)
    before = sorted(path.name for path in cache.folder.iterdir())

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if when == "open":
        monkeypatch.setattr(atomic, "open", fail, raising=False)
    else:
        monkeypatch.setattr(os, when, fail)
    with pytest.raises(RunError, match=said):
        write(cache, 8, 16)
    monkeypatch.undo()
    assert sorted(path.name for path in cache.folder.iterdir()) == before
    assert same(read(fill(cache)), truth())


LIMITED = """
import resource, sys, signal
from pathlib import Path
import numpy as np, h5py
from cache_worlds import open_cache, write
from fdr.errors import RunError
cache = open_cache(Path(sys.argv[1]))
write(cache, 0, 8)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    write(cache, 8, 16)
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a file size limit")
def test_a_real_limit_of_the_kernel_in_mid_write_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    out, err = start_python("-c", LIMITED, str(tmp_path)).communicate()
    assert "A limit was reached (File too large) while writing the feature cache" in out, err
    assert not list(tmp_path.rglob("*.tmp"))
    cache = open_cache(tmp_path)
    assert cache.missing()[0] == (8, 16) and same(read(fill(cache)), truth())


READ_ONLY = """
import os, sys
from pathlib import Path
import numpy as np, h5py
import fdr.frechet.moments
from cache_worlds import damaged, fill, open_cache, read, same, truth
from fdr.errors import RunError
complete, partial, closed = map(Path, sys.argv[1:])
if os.geteuid() == 0:
    os.setuid(65534)
cache = open_cache(complete)
assert cache.is_complete and damaged(cache) == [] and same(read(cache), truth())
x = truth()["pool"]
assert not cache.save_moments("pool", fdr.frechet.moments.Moments(mu=x.mean(0), sigma=np.cov(x.T), count=len(x)))
for folder in (partial, closed):
    try:
        open_cache(folder)
    except RunError as error:
        print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_read_only_cache_is_read_when_complete_and_refused_at_once_when_not() -> None:
    root = Path(tempfile.mkdtemp())
    try:
        complete, partial, closed = root / "complete", root / "partial", root / "closed"
        fill(open_cache(complete))
        write(open_cache(partial), 0, 8)
        closed.mkdir()
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        process = start_python("-c", READ_ONLY, str(complete), str(partial), str(closed))
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.count("cannot be written (Permission denied); pass cache=DIR") == 2
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(root)


def test_a_cache_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(RunError, match=r"cannot be a folder, for a file is in its place; pass cache=DIR"):
        open_cache(path)
    with pytest.raises(RunError, match="is a file; pass cache=DIR"):
        CacheStore(path).entries()


def test_an_entry_removed_in_mid_run_is_one_sentence(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    write(cache, 0, 8)
    CacheStore(tmp_path).remove(everything=True)
    with pytest.raises(RunError, match="was removed during the run"):
        write(cache, 8, 16)


# The lock


@pytest.mark.parametrize("has_flock", [True, False])
def test_the_lock_excludes_threads_with_and_without_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_flock: bool
) -> None:
    if not has_flock:
        monkeypatch.setattr(locks, "fcntl", None)
    inside, most = [], []

    def work() -> None:
        for _ in range(5):
            with locks.folder_lock(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 15 and max(most) == 1
    assert not (tmp_path / "lock.held").exists()


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_that_stays_taken_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_flock: bool
) -> None:
    if not has_flock:
        monkeypatch.setattr(locks, "fcntl", None)
    with (
        locks.folder_lock(tmp_path),
        pytest.raises(RunError, match=r"Another process has held .*lock.* look for a stopped fdr process"),
        locks.folder_lock(tmp_path, timeout=0.05),
    ):
        pass


def test_a_lock_file_of_a_dead_process_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / "lock.held").write_text(f"{HOST}.{child.pid}.00000000.0")
    with locks.folder_lock(tmp_path, timeout=PATIENCE):
        assert (tmp_path / "lock.held").exists()
    (tmp_path / "lock.held").write_text("elsewhere.1.00000000.0")
    os.utime(tmp_path / "lock.held", (0, 0))
    with locks.folder_lock(tmp_path, timeout=PATIENCE):
        pass


def test_a_file_system_without_flock_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert same(read(fill(open_cache(tmp_path))), truth())
