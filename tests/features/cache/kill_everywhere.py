"""Run by test_kill: SIGKILL a process at each of its file operations in turn, look at what it left, resume.

Every attempt is a forked process that dies by a real SIGKILL; forking saves the seconds of an import each. Prints the
number of kills; any broken promise is an exception.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

from cache_worlds import damaged, fill, good_rows, read, same, truth
from cache_worlds import open_cache as open_any

from fdr.features import FeatureCache
from fdr.runtime import atomic

NUM_ROWS = 20  # three shards, the last one short
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir"}  # audited by Python, each just before it happens


def open_cache(root: Path) -> FeatureCache:
    return open_any(root, num_rows=NUM_ROWS)


class Fuse:
    """Kills this process at its n-th file operation below `root`."""

    def __init__(self, root: Path, n: int) -> None:
        self.root, self.n, self.count = str(root), n, 0

    def burn(self) -> None:
        self.count += 1
        if self.count == self.n:
            os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        def hook(event: str, args: tuple[object, ...]) -> None:
            if event in EVENTS and str(args[0]).startswith(self.root):
                self.burn()

        real_fsync, real_open = os.fsync, builtins.open

        def fsync(fd: int) -> None:
            self.burn()
            real_fsync(fd)

        def open_in_halves(path: Path, mode: str = "r", **options: object) -> object:
            file = real_open(path, mode, **options)  # type: ignore[call-overload]
            return Halves(file, self) if mode == "xb" else file

        os.fsync = fsync  # type: ignore[assignment]
        atomic.open = open_in_halves  # type: ignore[attr-defined]
        sys.addaudithook(hook)


class Halves:
    """A file that reaches the disk in two halves, with a moment to die between."""

    def __init__(self, file: io.BufferedWriter, fuse: Fuse) -> None:
        self.file, self.fuse = file, fuse

    def __enter__(self) -> Halves:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.fuse.burn()
        self.file.write(data[len(data) // 2 :])


def attempt(root: Path, n: int) -> tuple[int, list[str]]:
    """Extract in a process that dies at operation n: its wait status and what it told before.

    It tells the start of each shard once that is published, and at the end the number of its operations.
    """
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        fuse = Fuse(root, n)
        fuse.arm()
        fill(open_cache(root), done=lambda start: _tell(sending, str(start)))
        _tell(sending, f"total {fuse.count}")
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "r") as pipe:
        told = pipe.read().splitlines()
    return os.waitpid(pid, 0)[1], told


def _tell(fd: int, line: str) -> None:
    os.write(fd, f"{line}\n".encode())


def check(root: Path, acknowledged: list[int]) -> None:
    """What is there is right, what was acknowledged is there, and the next run completes it bit for bit."""
    cache = open_cache(root)
    present = [span for span in cache.ranges if span not in cache.missing()]
    assert {start for start, _ in present} >= set(acknowledged), (present, acknowledged)
    assert len(present) <= len(acknowledged) + 1
    for start, stop in present:
        assert same(read(cache, start, stop), truth(start, stop))
    fill(cache)
    again = open_cache(root)
    assert damaged(again) == []
    assert same(read(again), truth(0, NUM_ROWS))
    assert again.count == len(good_rows(0, NUM_ROWS))


def main(root: Path) -> None:
    root.mkdir(exist_ok=True)
    warnings.simplefilter("error")  # a kill leaves nothing that looks damaged
    status, told = attempt(root / "whole", 10**9)
    total = int(told[-1].removeprefix("total "))
    assert status == 0 and total > 50, (status, total)
    files = sorted(path.name for path in (root / "whole").rglob("*"))
    for n in range(1, total + 1):
        folder = root / str(n)
        status, told = attempt(folder, n)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (n, status)
        check(folder, [int(start) for start in told])
        left = sorted(path.name for path in folder.rglob("*") if not path.name.endswith(".tmp"))
        assert left == files, (n, left)
        shutil.rmtree(folder)
    print(total)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
