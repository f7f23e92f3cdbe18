"""Single files: digests, and the sentences for a file that is missing, is something else, or cannot be written."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import itertools
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fdr.errors import InputError, RunError, as_utf8
from fdr.runtime.progress import human_bytes

DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError),
    *(SyntaxError, tokenize.TokenError, AssertionError, SystemError),
)
"""All exceptions that zipfile, tarfile, NumPy, json and h5py raise when they read damaged bytes."""


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """A UTF-8 path to the file, for libraries that open no other: `path` itself, or a temporary link to it."""
    if as_utf8(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fdr-") as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.absolute())
        yield link


def check_writable(path: Path) -> None:
    """Raise the error that writing `path` would raise later, without writing anything."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, a folder that must not be read
        raise write_error(path, error) from error
    if path.is_dir():
        raise InputError(f"Cannot write {str(path)!r}: it is a folder; name a file.")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"Cannot write {str(path)!r}: {str(folder)!r} is not a folder.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write {str(path)!r}: folder {str(folder)!r} is not writable.")


def write_error(path: Path, error: OSError) -> InputError | RunError:
    """The sentence for a file or folder that could not be written: `RunError` for a disk that is full, has reached a
    limit or fails, else `InputError`."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # NumPy reports only that fewer bytes were written
        return RunError(f"Cannot write {str(path)!r}: {reason}; free some space or name another place.")
    if error.errno in (errno.EIO, errno.EFBIG, errno.ESTALE, errno.ENODEV):
        return RunError(f"Cannot write {str(path)!r}: {reason}; name another place.")
    return InputError(f"Cannot write {str(path)!r}: {reason}.")


def cache_write_error(error: OSError, folder: Path, needed: int) -> RunError:
    """The sentence for a cache `folder` that cannot be written, where some `needed` more bytes were to go."""
    reason = error.strerror or str(error)
    advice = "pass --cache DIR with another folder, or --no-cache"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = "The disk is full" if error.errno == errno.ENOSPC else f"A limit was reached ({reason})"
        return RunError(
            f"{what} while writing the feature cache {folder}: about {human_bytes(needed)} are still needed and "
            f"{_free(folder)} free; free the space and run the same command again to go on, or {advice}."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return RunError(f"The feature cache {folder} cannot be written ({reason}); {advice}.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return RunError(f"The feature cache {folder} cannot be a folder, for a file is in its place; {advice}.")
    if error.errno == errno.ENOENT:
        return RunError(f"The feature cache {folder} was removed during the run; run the same command again.")
    return RunError(f"Writing the feature cache {folder} failed ({reason}); {advice}.")


def _free(folder: Path) -> str:
    try:
        return f"{human_bytes(shutil.disk_usage(folder).free)} are"
    except OSError:
        return "an unknown amount is"


HEAD_BYTES = 512
"""How many bytes from the start of a file `stand_in_of` needs."""
_ERROR_WORDS = (b"not found", b"forbidden", b"unauthorized", b"denied", b"restricted", b"invalid", b"quota")
"""Words in the plain-text messages that servers send instead of a file."""
_MOST_NAMES = 20_000
"""At most this many names of a folder are compared to find a similar one; raising it costs time in large folders."""


def file_digest(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, as hex. Raises `InputError` when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def as_path(given: str | os.PathLike[str], what: str) -> Path:
    """The path of `what`. Raises `InputError` for an empty text, which Python takes for the current folder."""
    if isinstance(given, str) and not given.strip():
        raise InputError(f"The path of {what} is an empty text; name a file or a folder.")
    return Path(given)


def missing_path(path: Path) -> str:
    """The sentence for a path that does not exist, with the nearest name where it leaves what exists."""
    wrong = path
    while not wrong.parent.is_dir() and wrong.parent != wrong:
        wrong = wrong.parent
    near = " or ".join(map(str, near_names(wrong)))
    hint = f"; did you mean {near}?" if near else "."
    if wrong == path:
        return f"{path} does not exist{hint}"
    return f"{path} does not exist, and neither does the folder {path.parent}{hint}"


def near_names(path: Path) -> list[Path]:
    """Up to three paths beside `path` whose names are like its own; case and suffix count for nothing."""
    try:
        names = {entry.stem.lower(): entry for entry in sorted(itertools.islice(path.parent.iterdir(), _MOST_NAMES))}
    except OSError:
        return []
    return [names[match] for match in difflib.get_close_matches(path.stem.lower(), names, n=3, cutoff=0.6)]


def refuse_stand_in(path: Path) -> None:
    """Raise `InputError` for a pointer, a page, an error or nothing at all that was saved in place of binary data."""
    if not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            what = stand_in_of(file.read(HEAD_BYTES))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if what is not None:
        raise InputError(f"{path} {what}.")


def stand_in_of(head: bytes) -> str | None:
    """What the first bytes of a file say that it is instead of binary data, as half a sentence; None for such data."""
    if not head:
        return "is empty: the download or the copy did not finish"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"\0" in head[:8]:
        return None  # binary; a length in front of a safetensors header may look like a bracket
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer in place of the data; run git lfs pull"
    if text.startswith(b"<"):
        return "is a web page (HTML or XML) in place of the data: a download met an error or login page; fetch it again"
    if text.startswith((b"{", b"[")) and _is_text(head):
        return f"is JSON text in place of the data: it begins {_excerpt(head)}"
    if _is_text(head) and any(word in text for word in _ERROR_WORDS):
        return f"is a message in place of the data: it says {_excerpt(head)}"
    return None


def _is_text(head: bytes) -> bool:
    try:
        return all(letter.isprintable() or letter.isspace() for letter in head.decode())
    except UnicodeDecodeError:
        return False


def _excerpt(head: bytes) -> str:
    return repr(" ".join(head.decode(errors="replace").split())[:60])
