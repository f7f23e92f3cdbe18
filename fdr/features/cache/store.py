"""Lists, verifies and removes the entries of a cache folder. Only files that `fdr` wrote are removed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fdr.errors import InputError, RunError, unknown
from fdr.features.cache import derived as _derived
from fdr.features.cache.manifest import MANIFEST_NAME, DamagedManifestError, Manifest, load_manifest, recover_shards
from fdr.features.cache.running_sums import sums_files
from fdr.features.cache.shards import DamagedShardError, recover_shard, shard_files
from fdr.runtime import Progress, SilentProgress, as_path, is_temporary

_LOCK_NAMES = ("lock", "lock.held")


@dataclass(frozen=True)
class CacheEntry:
    """One entry, as its manifest and the sizes of its files describe it."""

    name: str
    path: Path
    state: str
    """"complete", "partial", "sums" (of --moments-only, without features), "damaged" (manifest or shards missing,
    truncated, or of another format)."""
    num_bytes: int
    rows_done: int
    num_rows: int | None
    """Number of images; None if there is no sound manifest."""
    encoder: str
    source: str
    outputs: tuple[str, ...]
    num_bad: int
    modified: str
    """When the newest file was written; UTC, ISO 8601."""
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """The result of checking one entry; `problems` is empty if no file is damaged."""

    entry: CacheEntry
    num_shards: int
    """Number of shards that are undamaged."""
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class Removal:
    """Entries that were removed, or would be in a dry run, and the bytes that this frees."""

    entries: tuple[CacheEntry, ...]
    num_bytes: int
    is_dry_run: bool


class CacheStore:
    """All entries in one cache folder. A folder that does not exist has no entries."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = as_path(root, "the cache").expanduser()

    def entries(self) -> list[CacheEntry]:
        """All entries, sorted by name. No features are read. Raises `RunError` if the folder cannot be read."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                found.append(_entry(folder))
        return found

    def verify(self, names: Sequence[str] = (), progress: Progress | None = None) -> Iterator[Verification]:
        """Check the sha256 of every file of the named entries; a start of a name is enough, and no names mean all.

        Nothing is changed; damaged shards are extracted again when they are next used. Raises `InputError` at once for
        a name that no entry has.
        """
        entries = self._select(names)
        return (_verify(entry, progress or SilentProgress()) for entry in entries)

    def remove(self, names: Sequence[str] = (), *, everything: bool = False, dry_run: bool = False) -> Removal:
        """Remove the named entries (a start of a name is enough), or everything. `dry_run` removes nothing.

        Raises `InputError` for a name that no entry has, or for neither names nor `everything`; `RunError` if a file
        cannot be removed.
        """
        if bool(names) == everything:
            raise InputError("Name the cache entries to remove (or the start of their names), or everything, not both.")
        entries = tuple(self._select(names))
        if not dry_run:
            for entry in entries:
                _remove(entry.path)
        return Removal(entries, sum(entry.num_bytes for entry in entries), dry_run)

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if _is_entry(path))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise RunError(f"The feature cache {self.root} is a file; pass --cache DIR with a folder.") from None
        except OSError as error:
            raise RunError(f"The feature cache {error.filename} cannot be read ({error.strerror}).") from error

    def _select(self, names: Sequence[str]) -> list[CacheEntry]:
        entries = self.entries()
        for name in names:
            if not name or not any(entry.name.startswith(name) for entry in entries):
                raise unknown("cache entry", name, (entry.name for entry in entries))
        return [entry for entry in entries if not names or entry.name.startswith(tuple(names))]


def _is_entry(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return bool(shard_files(folder)) or _manifest_of(folder)[0] is not None or _is_wreck(folder)


def _is_wreck(folder: Path) -> bool:
    """True for an entry that has nothing left but its lock and a damaged manifest."""
    if not re.fullmatch(r".+-[0-9a-f]{16}", folder.name):
        return False
    names = {path.name for path in folder.iterdir()}
    return "lock" in names and names <= {*_LOCK_NAMES, MANIFEST_NAME}


def _own_files(folder: Path) -> list[Path]:
    own = {*shard_files(folder), *_derived.derived_files(folder), *sums_files(folder)}
    for path in folder.iterdir():
        if path.name in (MANIFEST_NAME, *_LOCK_NAMES) or is_temporary(path):
            own.add(path)
    return sorted(own)


def _manifest_of(folder: Path) -> tuple[Manifest | None, str]:
    """The manifest, or None and the reason."""
    try:
        manifest = load_manifest(folder)
    except DamagedManifestError as error:
        return None, f"{MANIFEST_NAME}: damaged ({error})"
    except RunError as error:
        return None, str(error)
    return manifest, "" if manifest is not None else f"{MANIFEST_NAME}: missing"


def _entry(folder: Path) -> CacheEntry:
    sizes, times = {}, [folder.stat().st_mtime]
    for path in _own_files(folder):
        with contextlib.suppress(FileNotFoundError):  # another process may be at work
            stat = path.stat()
            sizes[path.name] = stat.st_size
            times.append(stat.st_mtime)
    modified = datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds")
    manifest, _ = _manifest_of(folder)
    if manifest is None:
        return CacheEntry(folder.name, folder, "damaged", sum(sizes.values()), 0, None, "?", "?", (), 0, modified)
    whole = [record for record in manifest.shards if sizes.get(record.file) == record.num_bytes]
    rows = sum(record.stop - record.start for record in whole)
    header = manifest.header
    if len(whole) < len(manifest.shards):
        state = "damaged"
    elif not whole and sums_files(folder):
        state = "sums"
    else:
        state = "complete" if rows == header.num_rows else "partial"
    return CacheEntry(
        name=folder.name,
        path=folder,
        state=state,
        num_bytes=sum(sizes.values()),
        rows_done=rows,
        num_rows=header.num_rows,
        encoder=header.attributes.get("encoder", header.key.spec_hash),
        source=header.attributes.get("source", header.key.data_digest[:12]),
        outputs=header.key.outputs,
        num_bad=sum(len(record.bad) for record in whole),
        modified=modified,
        attributes=dict(header.attributes),
    )


def _verify(entry: CacheEntry, progress: Progress) -> Verification:
    manifest, problem = _manifest_of(entry.path)
    problems = [problem] if problem else []
    if manifest is None:
        manifest = _rebuilt(entry.path)
    shards = manifest.shards if manifest is not None else ()
    num_good = 0
    with progress.task(f"Checking {entry.name}", len(shards), "shards") as task:
        for record in shards:
            try:
                record.load(entry.path)
                num_good += 1
            except DamagedShardError as damage:
                problems.append(f"{record.file}: {damage}")
            task.advance()
    known = {record.file for record in shards}
    unlisted = [path for path in shard_files(entry.path) if path.name not in known]
    problems += [f"{path.name}: damaged and not listed" for path in unlisted if recover_shard(path) is None]
    problems += [
        f"{path.name}: damaged" for path in _derived.derived_files(entry.path) if not _derived.is_undamaged(path)
    ]
    return Verification(entry, num_good, tuple(problems))


def _rebuilt(folder: Path) -> Manifest | None:
    """The manifest that `FeatureCache.open` would rebuild from the shards. Nothing is written."""
    for path in shard_files(folder):
        recovered = recover_shard(path)
        if recovered is not None:
            return recover_shards(Manifest(recovered[0], ""), folder, is_new=True)
    return None


def _remove(folder: Path) -> None:
    """Remove the files of the entry, and the folder if it is then empty."""
    try:
        for path in _own_files(folder):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise RunError(f"The cache entry {folder} cannot be removed ({error.strerror}).") from error
