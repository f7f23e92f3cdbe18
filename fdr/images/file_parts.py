"""`FileSource`, the images of one file or of several, one after the other, and the parts that read one file each."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError, RunError, first_line
from fdr.images.base import ImageSource, Loader
from fdr.images.decode import Picture
from fdr.images.digests import container_digest
from fdr.images.files import Place
from fdr.images.labels import Labels
from fdr.images.options import ImageOptions
from fdr.images.values import CHANNELS, array_picture, picture_of
from fdr.runtime import DAMAGE, Group, Progress, read_ahead

AHEAD = 32
"""Images of a stream that are read before a thread decodes them; raising it takes more memory."""

Read = Callable[[], Any]
"""Reads one stored image, in any thread: an array [H, W] or [H, W, C], or the bytes of an image file. Raises
`UnreadableImage`."""


@dataclass(frozen=True)
class ArrayInfo:
    """The header of one array in a file, or of a column of image files."""

    key: str
    """Its name; image i has the id key[i]."""
    shape: tuple[int, ...]
    """[N, ...]; of image files [N]."""
    dtype: np.dtype
    is_fortran: bool = False

    def __str__(self) -> str:
        return f"{self.key} {self.dtype} {list(self.shape)}"

    @property
    def is_images(self) -> bool:
        """True for uint8 [N, H, W, C] with 1, 3 or 4 channels, and for uint8 [N, H, W]."""
        if self.dtype != np.uint8 or self.is_fortran or 0 in self.shape:
            return False
        return len(self.shape) in (3, 4) and (self.shape[-1] in CHANNELS) == (len(self.shape) == 4)


@dataclass
class FilePart(ABC):
    """The images of one file. A subclass derives from `StoredPart` or `StreamedPart`, or gives `reads`."""

    path: Path
    info: ArrayInfo
    labels: Labels | None
    has_checksum: bool = field(default=False, kw_only=True)
    """True where the file has a checksum that reading by rows does not check; see `fdr.images.digests`."""

    @abstractmethod
    def reads(self, rows: np.ndarray) -> Generator[Read]:
        """One function for each of these ascending rows, which reads the image."""


class StoredPart(FilePart):
    """A file in which every image can be read at once."""

    @abstractmethod
    def read(self, row: int) -> Any:
        """The stored image `row`; called from any thread."""

    def reads(self, rows: np.ndarray) -> Generator[Read]:
        for row in rows:
            yield functools.partial(self.read, int(row))


class StreamedPart(FilePart):
    """A file that is read from front to back."""

    kind: str
    """The format, for messages."""
    damage: tuple[type[Exception], ...] = DAMAGE
    """The errors that its reader raises for damaged bytes."""

    @abstractmethod
    def stream(self, rows: np.ndarray) -> Iterator[Any]:
        """The stored images of these ascending rows; of one that cannot be read, the `UnreadableImage`."""

    def reads(self, rows: np.ndarray) -> Generator[Read]:
        with closing(read_ahead(self.stream(rows), AHEAD)) as values, refuse_damage(self.path, self.kind, self.damage):
            left = len(rows)
            for value in values:
                left -= 1
                yield functools.partial(_given, value)
            if left > 0:
                raise EOFError(f"it ends {left} images too early")


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


@contextlib.contextmanager
def refuse_damage(path: Path, kind: str, damage: tuple[type[Exception], ...] = DAMAGE) -> Iterator[None]:
    """Turn an error that a reader of the format `kind` raises for damaged bytes into one `InputError`."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except damage as error:
        raise InputError(
            f"{path} is not a complete {kind} file: it is truncated or damaged ({first_line(error)})."
        ) from error


class FileSource(ImageSource):
    """The images of all parts, one after the other."""

    def __init__(
        self,
        kind: str,
        place: Place,
        options: ImageOptions,
        parts: Sequence[FilePart],
        ids: Sequence[str],
        labels: Labels | None,
        left_out: dict[str, int] | None = None,
    ) -> None:
        super().__init__(place.name, options, ids, labels, left_out)
        self.kind = kind
        self._place, self._parts = place, parts
        self._starts = np.cumsum([0, *(part.info.shape[0] for part in parts)])

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        if any(part.has_checksum for part in self._parts):
            _ = self.digest  # which compares stored arrays with their checksums
        rows, ids = self.rows[start:stop], self.ids[start:stop]
        for part, first, end in zip(self._parts, self._starts, self._starts[1:], strict=False):
            low, high = np.searchsorted(rows, (first, end))
            if low == high:
                continue
            with closing(part.reads(rows[low:high] - first)) as reads:
                for read, name in zip(reads, ids[low:high], strict=True):
                    yield functools.partial(self._load, read, name)

    def _load(self, read: Read, name: str) -> Picture:
        value, where = read(), f"{self.name}: {name}"
        if isinstance(value, np.ndarray):
            return array_picture(value, 2 if value.ndim == 3 else None, self.options, where)
        return picture_of(value, self.options, where)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return self._place.files

    def _content_digest(self, group: Group, progress: Progress) -> str:
        content = container_digest(self._files(), self.rows, group, progress)
        chosen = self._chosen()
        return hashlib.sha256(content.encode() + chosen).hexdigest() if chosen else content

    @abstractmethod
    def _chosen(self) -> bytes:
        """What was chosen in the files, beside the rows; empty where there is no choice."""


class OffsetReader:
    """Reads a file at any offset, from any thread. A mapping would do so too, but mapped pages count as memory of the
    process, and a file that is cut short meanwhile would kill it instead of raising.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""
        try:
            if hasattr(os, "pread"):
                return os.pread(self._file.fileno(), size, offset)
            with self._lock:
                self._file.seek(offset)
                return self._file.read(size)
        except OSError as error:
            raise RunError(f"{self.path} can no longer be read: {error.strerror}.") from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
