"""Checks of the pickles in torch files before torch's restricted unpickler reads them.

That unpickler runs no code, but a tuple that holds another one twice, which holds a third one twice and so on, is a
hundred bytes long and has 2^40 parts as soon as something takes its hash, compares it or prints it.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fdr.runtime.zip_check import check_zip

MAX_PARTS = 100_000
"""The most parts that a tuple may have, with those of nested tuples. A tensor's shape and strides have some ten;
raising the limit admits files that take longer to read."""
_PLAIN_READ = 1 << 20
"""Reads of fewer bytes are made without a look at the size of the file."""
_LEGACY_PICKLES = 4
"""A torch file from before 1.6 begins with a magic number, a version, a description of the machine, and the object."""


def check_torch_file(path: str | os.PathLike[str]) -> None:
    """Compare a torch file with its checksums, and look for tuples that grow without bound.

    Raises `zipfile.BadZipFile` for the first, `pickle.UnpicklingError` for the second, `OSError` for a file that cannot
    be read. Other damage of the pickle is left to torch.
    """
    if zipfile.is_zipfile(path):
        check_zip(path)
    for file in pickles_in(path):
        check_pickle(file)


def pickles_in(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield the pickles of a torch file; the caller reads each to its end before it takes the next."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            for _ in range(_LEGACY_PICKLES):
                yield file
        return
    with zipfile.ZipFile(Path(path)) as archive:
        for member in archive.infolist():
            if member.filename.endswith("data.pkl"):
                yield io.BytesIO(archive.read(member))


class _Sized:
    """A file that never asks for memory which it could not fill: a length above what is left is damage."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(start)
        self.tell, self.readline = file.tell, file.readline

    def read(self, size: int) -> bytes:
        if size > max(_PLAIN_READ, self._end - self._file.tell()):
            raise pickle.UnpicklingError(f"it says that {size:,} bytes follow, and has {self._end:,} in all")
        return self._file.read(size)


def check_pickle(file: IO[bytes]) -> None:
    """Follow one pickle without building anything.

    Raises `pickle.UnpicklingError` for a tuple above `MAX_PARTS`, and for a value that is longer than the file.
    """
    stack: list[Any] = []
    memo: dict[int, int] = {}
    try:
        for opcode, argument, _ in pickletools.genops(_Sized(file)):  # type: ignore[arg-type]
            _follow(opcode, argument, stack, memo)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return  # damaged, which torch finds itself


def _follow(opcode: Any, argument: Any, stack: list[Any], memo: dict[int, int]) -> None:
    """Do to the parts of values on the stack what an opcode does to the values: 1 part each, but for tuples."""
    if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
        return
    if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
        return
    parts = _popped(opcode, stack)
    if opcode.name == "MARK":
        stack.append(None)
    elif opcode.name == "DUP":
        stack.extend([parts[0], parts[0]])
    elif opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        size = 1 + sum(parts)
        if size > MAX_PARTS:
            raise pickle.UnpicklingError(f"it holds a tuple of more than {MAX_PARTS:,} parts")
        stack.append(size)
    else:
        stack.extend([1] * len(opcode.stack_after))


def _popped(opcode: Any, stack: list[Any]) -> list[Any]:
    """The parts of the values that an opcode takes from the stack."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = len(stack) - 1
        while stack[start] is not None:
            start -= 1
        parts = stack[start + 1 :]
        del stack[start - before.index(pickletools.markobject) :]
        return parts
    parts = stack[len(stack) - len(before) :] if before else []
    del stack[len(stack) - len(before) :]
    return parts
