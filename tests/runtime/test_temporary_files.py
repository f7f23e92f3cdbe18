"""Files as every command writes them: long names, what a killed process leaves, file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import Timeout
from processes import PATIENCE

from fdr.errors import InputError, RunError
from fdr.runtime import (
    as_path,
    atomic,
    atomic_path,
    beside,
    check_writable,
    locked_file,
    locks,
    write_atomically,
    write_error,
)
from fdr.runtime.atomic import HOST, temporary_path
from fdr.training.folder import locked


@pytest.mark.parametrize(
    "name",
    ["a.json", "n" * 250 + ".json", "é" * 125 + ".json", "n" * 251 + ".npz", "漢" * 85, os.fsdecode(b"\xff" * 250)],
)
def test_a_name_of_any_length_is_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "text"
    for path in (temporary_path(tmp_path / name), beside(tmp_path / name, ".parts")):
        assert len(os.fsencode(path.name)) <= max(len(os.fsencode(name)), 120)


def test_names_cut_to_the_same_length_stay_different(tmp_path: Path) -> None:
    first, second = (beside(tmp_path / f"{'n' * 254}{end}", ".parts").name for end in "ab")
    assert first != second
    assert first == f".{'n' * 240}{hashlib.sha256(b'n' * 254 + b'a').hexdigest()[:8]}.parts"
    assert beside(tmp_path / "out.npz", ".parts") == tmp_path / ".out.npz.parts"


def test_a_name_that_is_too_long_is_an_error_of_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="File name too long"):
        check_writable(tmp_path / ("n" * 256))
    with pytest.raises(InputError, match="File name too long"):
        write_atomically(tmp_path / ("n" * 256), b"")


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_process_was_writing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_SWEPT", set())
    program = "import os, sys; from pathlib import Path; from fdr.runtime import atomic_path\n"
    program += "with atomic_path(Path(sys.argv[1])): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "out.json"], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    young, others = tmp_path / f"{left.name.replace('out', 'young')}", tmp_path / left.name.replace(HOST, "elsewhere")
    mine, foreign = temporary_path(tmp_path / "other.json"), tmp_path / ".download.1a2b3c4d.tmp"
    for path in (young, others, mine, foreign):
        path.write_bytes(b"")
    for path in (left, others, mine, foreign):
        os.utime(path, (time.time() - 120,) * 2)
    write_atomically(tmp_path / "out.json", b"new")
    assert set(tmp_path.iterdir()) == {tmp_path / "out.json", young, others, mine, foreign}


def without_flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_locks_where_the_file_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_flock)
    with locked_file(tmp_path / ".lock"):
        assert (tmp_path / ".lock.held").exists()
        with pytest.raises(Timeout), locked_file(tmp_path / ".lock", blocking=False):
            pass
    assert not (tmp_path / ".lock.held").exists()
    with locked_file(tmp_path / ".lock", blocking=False):
        pass


def test_a_run_folder_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_flock)
    run, sentence = tmp_path / "run", r"Another process is training.*\(if none is, remove .*run/\.lock\.held\)"
    with locked(run), pytest.raises(InputError, match=sentence), locked(run):
        pass


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_run_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def mkdir(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(InputError, match=f"Cannot write .*run': {os.strerror(code)}"), locked(tmp_path / "run"):
        pass
    with pytest.raises(InputError, match=os.strerror(code)), atomic_path(tmp_path / "a" / "b"):
        pass


@pytest.mark.parametrize("content", [b"\xff\xfe\0", "wörter".encode(), b"", b"host." + b"9" * 40])
def test_a_lock_file_of_any_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / "lock.held").write_bytes(content)
    with pytest.raises(RunError, match="Another process has held"), locks.folder_lock(tmp_path, timeout=0.02):
        pass
    os.utime(tmp_path / "lock.held", (0, 0))
    with locks.folder_lock(tmp_path, timeout=PATIENCE):
        assert (tmp_path / "lock.held").read_bytes().startswith(HOST.encode())
    assert not (tmp_path / "lock.held").exists()


def test_a_folder_in_place_of_a_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / "lock.held").mkdir()
    with pytest.raises(RunError, match="Another process has held"), locks.folder_lock(tmp_path, timeout=0.02):
        pass


def test_a_lock_file_that_another_process_took_over_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.folder_lock(tmp_path):
        (tmp_path / "lock.held").write_text("elsewhere.1.00000000.0")
    assert (tmp_path / "lock.held").read_text() == "elsewhere.1.00000000.0"


def test_a_process_of_another_host_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number means nothing here, so its lock file counts as abandoned by its age alone."""
    monkeypatch.setattr(locks, "fcntl", None)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / "lock.held").write_text(f"elsewhere.{child.pid}.00000000.0")
    with pytest.raises(RunError, match="Another process has held"), locks.folder_lock(tmp_path, timeout=0.05):
        pass


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        assert (tmp_path / "a.json").read_text() == "old"
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "text")
        assert os.read(reader, 10) == b"text" and pipe.is_fifo()
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (errno.ENOSPC, RunError, "free some space or name another place"),
        (errno.EDQUOT, RunError, "free some space or name another place"),
        (None, RunError, "free some space or name another place"),
        (errno.EIO, RunError, "name another place"),
        (errno.EFBIG, RunError, "name another place"),
        (errno.ESTALE, RunError, "name another place"),
        (errno.ENODEV, RunError, "name another place"),
        (errno.EACCES, InputError, os.strerror(errno.EACCES)),
        (errno.ENOTDIR, InputError, os.strerror(errno.ENOTDIR)),
    ],
)
def test_what_a_failed_write_means(code: int | None, kind: type[Exception], advice: str) -> None:
    error = OSError("7 requested and 3 written") if code is None else OSError(code, os.strerror(code))
    found = write_error(Path("out.npz"), error)
    assert type(found) is kind and str(found).startswith("Cannot write 'out.npz': ") and advice in str(found)


def test_places_that_cannot_be_written_are_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new" / "folder" / "a.json")
    for path, words in (
        (tmp_path, "it is a folder; name a file"),
        (tmp_path / "file" / "a.json", "file' is not a folder"),
        (tmp_path / "file" / "b" / "a.json", "file' is not a folder"),
    ):
        with pytest.raises(InputError, match=words):
            check_writable(path)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match="is not writable"):
        check_writable(tmp_path / "new" / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_an_empty_text_is_no_path(text: str) -> None:
    with pytest.raises(InputError, match="The path of the report is an empty text; name a file or a folder"):
        as_path(text, "the report")
    assert as_path(" a", "the report") == Path(" a")
