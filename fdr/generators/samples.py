"""Writes the samples of a generator to a file or a folder, in parts, so that a killed run can be resumed.

Until the last image is written, all parts are in a folder `.NAME.parts` beside the output. One step then publishes
them.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdr.errors import InputError
from fdr.generators.source import SampleSource
from fdr.runtime import (
    DAMAGE,
    SOLO,
    Group,
    Progress,
    SharedTask,
    as_progress,
    atomic_path,
    available_cpus,
    beside,
    check_writable,
    ordered_map,
    part_of,
    run_on_rank0,
    sync_folder,
    write_atomically,
    write_error,
)

PART_SIZE = 1024
"""Images in one part. Raising it makes a killed run lose more images of an npz."""
SETTINGS, LABELS, METADATA = "samples.json", "dataset.json", "metadata.jsonl"
PART = "part_size"
"""The field of the settings of an unfinished output with the number of samples in a part."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # as the time of all members, so that the same samples give the same file


class SampleSet(ABC):
    """The images of `source`, written to the file or folder `path`. A subclass is one format."""

    def __init__(self, source: SampleSource, path: Path) -> None:
        if not source.is_repeatable:
            raise InputError(
                f"The code of {source.name} cannot be read, so its samples could not be resumed; measure it with fdr "
                "eval --gen, or make it an nn.Module in a file."
            )
        self.source = source
        self.path = path
        self.parts = beside(path, ".parts")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the samples depend on."""
        return {**self.source.made_by, **self.source.policy, "samples": self.source.digest}

    def is_finished(self) -> bool:
        """True if `path` already holds exactly these samples. Raises `InputError` if something else is there."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            check_writable(self.path.with_name(SETTINGS))
            return False
        self._check_same(self._published_settings(), self.path, "remove it or name another")
        return True

    def missing(self) -> list[tuple[int, int]]:
        """The parts (start, stop) that are not written yet.

        Raises `InputError` if the folder has parts of other samples.
        """
        if (self.parts / SETTINGS).is_file():  # otherwise the run was killed before it wrote anything
            self._check_same(_read_json(self.parts / SETTINGS), self.parts, "finish those first, or remove the folder")
        total, size = len(self.source), self.part_size
        spans = [(start, min(start + size, total)) for start in range(0, total, size)]
        found = {path.relative_to(self.parts).as_posix() for path in self.parts.rglob("*")}
        return [span for span in spans if not self._has(found, *span)]

    @property
    def part_size(self) -> int:
        """The samples in one part: as many as in the parts that a killed run left, whatever its batch size was."""
        left = _read_json(self.parts / SETTINGS)
        size = left.get(PART) if isinstance(left, dict) else None
        return size if isinstance(size, int) and size > 0 else self.source.part_size or PART_SIZE

    def begin(self) -> list[tuple[int, int]]:
        """Make the folder of parts unless a killed run has left one, and return the parts that are missing."""
        missing = self.missing()
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error
        write_atomically(self.parts / SETTINGS, _json({**self.settings, PART: self.part_size}))
        return missing

    def _check_same(self, found: Any, where: Path, advice: str) -> None:
        if not isinstance(found, dict):
            raise InputError(f"{str(where)!r} is there already and is not what fdr sample wrote; {advice}.")
        for name, value in self.settings.items():
            if name not in ("generator", "weights_held", "trained_on") and found.get(name) != value:
                raise InputError(
                    f"{str(where)!r} holds samples with {name} {found.get(name)!r}; asked for was {value!r}; {advice}."
                )

    @abstractmethod
    def _published_settings(self) -> Any:
        """The settings stored in a finished output; None if `path` is not such an output."""

    @abstractmethod
    def _has(self, found: set[str], start: int, stop: int) -> bool:
        """True if the file names `found` include all files of a part."""

    @abstractmethod
    def write_part(self, start: int, stop: int, images: Sequence[np.ndarray]) -> None:
        """Write the images start..stop, each uint8 [H, W, 3], as one part."""

    @abstractmethod
    def publish(self) -> None:
        """Make the output from the parts."""


class NpzSamples(SampleSet):
    """One uncompressed npz in ADM's layout: `arr_0` uint8 [N, H, W, 3], and `arr_1` int64 labels if there are
    classes."""

    def _part(self, start: int) -> str:
        return f"images-{start:09d}.npy"

    def _has(self, found: set[str], start: int, stop: int) -> bool:
        return self._part(start) in found

    def _published_settings(self) -> Any:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return json.loads(archive.comment)
        except DAMAGE:
            return None

    def write_part(self, start: int, stop: int, images: Sequence[np.ndarray]) -> None:
        with atomic_path(self.parts / self._part(start)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.stack(images))

    def publish(self) -> None:
        starts = range(0, len(self.source), self.part_size)
        parts = [np.load(self.parts / self._part(start), mmap_mode="r") for start in starts]
        labels = self.source.labels_at(0, len(self.source))
        with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.comment = _json(self.settings)
            _add(archive, "arr_0", (len(self.source), *parts[0].shape[1:]), parts)
            if labels is not None:
                _add(archive, "arr_1", labels.shape, [labels])
        shutil.rmtree(self.parts)


class PngSamples(SampleSet):
    """A folder of PNG files, samples.json with the settings, and dataset.json with the labels if there are classes.

    The files are 00000000.png, 00000001.png, ..., or are called as their prompts are, which metadata.jsonl then lists.
    """

    def _name(self, index: int) -> str:
        prompts = self.source.prompts
        return f"{index:08d}.png" if prompts is None else f"{prompts.names[index]}.png"

    def _has(self, found: set[str], start: int, stop: int) -> bool:
        return all(self._name(index) in found for index in range(start, stop))

    def _published_settings(self) -> Any:
        return _read_json(self.path / SETTINGS)

    def write_part(self, start: int, stop: int, images: Sequence[np.ndarray]) -> None:
        named = zip(map(self._name, range(start, stop)), images, strict=True)
        write = functools.partial(_write_png, self.parts)
        for _ in ordered_map(write, named, min(16, available_cpus()), 64):
            pass

    def publish(self) -> None:
        labels = self.source.labels_at(0, len(self.source))
        settings = self.settings if labels is None else {**self.settings, "class_of": labels.tolist()}
        write_atomically(self.parts / SETTINGS, _json(settings))
        if labels is not None:  # as StyleGAN and EDM have it, so that others read the labels, too
            pairs = [[self._name(index), label] for index, label in enumerate(labels.tolist())]
            write_atomically(self.parts / LABELS, json.dumps({"labels": pairs}).encode())
        if self.source.prompts is not None:
            write_atomically(self.parts / METADATA, self.source.prompts.metadata())
        for left in self.parts.rglob(".*"):  # files that a killed run did not finish
            left.unlink(missing_ok=True)
        try:
            os.replace(self.parts, self.path)
        except OSError as error:
            raise write_error(self.path, error) from error
        sync_folder(self.path.parent)


def sample_set(source: SampleSource, path: Path) -> SampleSet:
    """The format that `path` asks for: ".npz" means one file; no suffix, or an existing folder, means PNG files.

    Raises `InputError` for any other suffix.
    """
    if path.suffix == ".npz" and not path.is_dir():
        return NpzSamples(source, path)
    if path.suffix and not path.is_dir():
        raise InputError(f"Samples are written as an .npz file or as a folder of PNG files; got {str(path)!r}.")
    return PngSamples(source, path)


def write_samples(samples: SampleSet, progress: Progress | bool | None = None, group: Group = SOLO) -> bool:
    """Make the missing images and publish the set. The ranks of `group` share the work.

    Returns False if the set was finished already. Raises `InputError` if something else has its name, `RunError` for a
    full disk.
    """
    if run_on_rank0(group, samples.is_finished):
        return False
    missing = run_on_rank0(group, samples.begin)
    total = len(samples.source)
    with as_progress(progress).task(f"Sampling {samples.source.name}", total) as task:
        task.resume(total - sum(stop - start for start, stop in missing))
        shared = SharedTask(task, group)
        for start, stop in part_of(group, missing):
            _write_part(samples, start, stop, shared.advance)
            group.check_peers()
        group.gather(None, while_waiting=shared.advance)
        shared.advance()
    run_on_rank0(group, samples.publish)
    return True


def _write_part(samples: SampleSet, start: int, stop: int, advance: Callable[[int], None]) -> None:
    images: list[np.ndarray] = []
    for batch in samples.source.batches(samples.source.batch_size, None, start, stop):
        images += [image.permute(1, 2, 0).numpy() for image in batch.images]
        advance(len(batch.images))
    samples.write_part(start, stop, images)


def _write_png(folder: Path, named: tuple[str, np.ndarray]) -> None:
    """Write one image under a temporary name first, so that a killed run leaves no half-written image."""
    from PIL import Image

    name, image = named
    path = folder / name
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # a name may have a folder: animals/3
        Image.fromarray(image).save(temporary, format="PNG", compress_level=3)
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error


def _add(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], parts: Sequence[np.ndarray]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False, "shape": shape}
    member: IO[bytes]
    with archive.open(zipfile.ZipInfo(f"{key}.npy", _EPOCH), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part).data)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _json(settings: Any) -> bytes:
    return json.dumps(settings, indent=1, sort_keys=True).encode()
