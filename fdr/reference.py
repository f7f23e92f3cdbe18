"""Reference moments: by registry name, from a statistics file, or from a folder that `fdr stats` wrote."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tomllib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.encoders.base import EncoderSpec
from fdr.errors import FdrWarning, InputError, unknown
from fdr.moments import Moments
from fdr.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from fdr.encoders.base import AbstractEncoder

INDEX_NAME = "reference.json"
INDEX_SCHEMA = "fdr-reference/1"
DEFAULT_REFERENCE = "imagenet256"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class ValidationFD:
    """FD of the real validation set against the reference: the denominator of FDr."""

    value: float
    decimals: int | None
    """Decimals of a rounded published constant; None when the value is exact."""
    source: str

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that the rounding leaves open; a point when the value is exact."""
        half = 0.0 if self.decimals is None else 0.5 * 10.0**-self.decimals
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Reference:
    """Moments of one encoder on one reference set, with their provenance."""

    name: str
    source: str
    digest: str
    """sha256 of the statistics file, or of the image content they were computed from."""
    moments: Moments
    images_digest: str | None = None
    """Digest of the images behind the moments, where known."""
    spec_hash: str | None = None
    """Spec of the encoder that made the moments; None when the file does not say."""
    val_fd: ValidationFD | None = None


@dataclass(frozen=True)
class RegistryEncoder:
    """One row of the registry: where an encoder's moments are and what their validation FD is."""

    file: str
    url: str | None
    sha256: str | None
    dim: int | None
    val_fd: ValidationFD | None


@dataclass(frozen=True)
class RegistryEntry:
    """A reference known by name."""

    name: str
    title: str
    images: str
    count: int | None
    provenance: str
    encoders: Mapping[str, RegistryEncoder]


def reference_stats_dir() -> Path:
    """The folder that ships with the package (in a source tree: the one beside it)."""
    inside = Path(__file__).parent / "reference_stats"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "reference_stats"


@functools.cache
def registry() -> Mapping[str, RegistryEntry]:
    """The references of `reference_stats/manifest.toml`, by name."""
    data = tomllib.loads((reference_stats_dir() / "manifest.toml").read_text(encoding="utf-8"))
    return {name: _registry_entry(name, entry) for name, entry in data.items()}


def _registry_entry(name: str, entry: Mapping[str, Any]) -> RegistryEntry:
    base = entry.get("base_url")
    encoders = {}
    for encoder, row in entry["encoders"].items():
        val_fd = None
        if "val_fd" in row:
            val_fd = ValidationFD(row["val_fd"], row.get("decimals"), f"published for {name}")
        url = None if base is None else base + row["file"]
        encoders[encoder] = RegistryEncoder(row["file"], url, row.get("sha256"), row.get("dim"), val_fd)
    return RegistryEntry(name, entry["title"], entry["images"], entry.get("count"), entry["provenance"], encoders)


def is_statistics(path: Path) -> bool:
    """True when the content of `path` is moments (npz or HDF5 with `mu` and `sigma`) or a folder of them."""
    if path.is_dir():
        return (path / INDEX_NAME).is_file()
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError:
        return False
    if magic.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
        except zipfile.BadZipFile:
            return False
    if magic == _HDF5_MAGIC:
        import h5py

        with h5py.File(path, "r") as file:
            return "mu" in file
    return False


def names_images(reference: Any) -> bool:
    """True when `reference` has to be read as images: anything but moments, statistics and registry names.

    Raises `InputError` for a string that is neither a path nor a registry name.
    """
    if isinstance(reference, Moments):
        return False
    if not isinstance(reference, str | os.PathLike):
        return True
    path = Path(reference).expanduser()
    if path.exists():
        return not is_statistics(path)
    if str(reference) in registry() or "{" in str(reference):
        return "{" in str(reference)
    raise unknown("reference", str(reference), registry(), "A path to images or to a statistics file works as well.")


def load_reference(
    reference: str | os.PathLike[str] | Moments,
    encoder: AbstractEncoder | EncoderSpec | str,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Moments:
    """The reference moments for `encoder`: from the registry, a statistics file, or a folder of `fdr stats`.

    Raises `InputError` when nothing fits the encoder: an unknown name, another width, another encoder spec.
    """
    return find_reference(reference, encoder, weights_dir=weights_dir, offline=offline).moments


def find_reference(
    reference: str | os.PathLike[str] | Moments,
    encoder: AbstractEncoder | EncoderSpec | str,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Reference:
    """Like `load_reference`, with provenance and validation FD."""
    name, dim, spec_hash = _identity(encoder)
    if isinstance(reference, Moments):
        found = Reference("moments", "Moments object", moments_digest(reference), reference)
    elif Path(reference).expanduser().exists():
        path = Path(reference).expanduser()
        found = _from_folder(path, name, spec_hash) if path.is_dir() else _from_file(path)
    else:
        found = registered_reference(str(reference), name, weights_dir, offline, progress)
    _check_fits(found, name, dim, spec_hash)
    return found


def _identity(encoder: AbstractEncoder | EncoderSpec | str) -> tuple[str, int | None, str | None]:
    if isinstance(encoder, str):
        from fdr.encoders.catalogue import find_row

        row = find_row(encoder)
        return encoder, row.width if row is not None else None, None
    spec = encoder if isinstance(encoder, EncoderSpec) else encoder.spec
    return spec.name, spec.dim, spec.hash


def _from_file(path: Path) -> Reference:
    moments = Moments.load(path)
    if moments.factor is None:  # centred features are a covariance by construction
        try:
            moments.check()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    attributes = moments.attributes
    return Reference(
        name=str(attributes.get("reference", path.stem)),
        source=str(path),
        digest=file_digest(path),
        moments=moments,
        images_digest=_text(attributes.get("images_digest")),
        spec_hash=_text(attributes.get("spec_hash")),
        val_fd=_exact_val_fd(attributes, str(path)),
    )


def _exact_val_fd(attributes: Mapping[str, Any], source: str) -> ValidationFD | None:
    value = attributes.get("val_fd")
    return None if value is None else ValidationFD(float(value), None, f"exact, from {Path(source).name}")


def _from_folder(folder: Path, encoder: str, spec_hash: str | None) -> Reference:
    entries = read_index(folder)["encoders"]
    fitting = [e for e in entries if spec_hash is not None and e["spec_hash"] == spec_hash]
    fitting = fitting or [e for e in entries if e["name"] == encoder]
    if not fitting:
        raise InputError(
            f"Reference {str(folder)!r} has no moments for {encoder} (it has {', '.join(e['name'] for e in entries)}); "
            f"add them: fdr stats IMAGES --reps {encoder} -o {folder}."
        )
    path = folder / fitting[0]["file"]
    if not path.is_file():
        raise InputError(f"Reference {str(folder)!r} lists {path.name}, which is missing; compute it again.")
    return _from_file(path)


def read_index(folder: Path) -> dict[str, Any]:
    """The `reference.json` of a folder that `fdr stats` wrote. Raises `InputError` when it is damaged."""
    path = folder / INDEX_NAME
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["schema"] != INDEX_SCHEMA:
            raise InputError(f"{str(path)!r} has schema {index['schema']!r}; expected {INDEX_SCHEMA!r}.")
        _ = [(entry["name"], entry["spec_hash"], entry["file"]) for entry in index["encoders"]]
    except OSError as error:
        raise InputError(
            f"Folder {str(folder)!r} is no reference: it has no {INDEX_NAME} ({error.strerror})."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); run fdr stats again.") from error
    return index


def registered_reference(
    name: str,
    encoder: str,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Reference:
    """The reference that the registry has under `name`, whatever files or folders of that name there are."""
    if name not in registry():
        raise unknown("reference", name, registry(), "A path to images or to a statistics file works as well.")
    entry = registry()[name]
    if encoder not in entry.encoders:
        raise InputError(
            f"Reference {name!r} has no moments for {encoder} (it has {', '.join(entry.encoders)}); give --ref images "
            "or a statistics file, or make one with fdr stats."
        )
    row = entry.encoders[encoder]
    path = _registry_file(entry, row, encoder, weights_dir, offline, progress or SilentProgress())
    found = _from_file(path)
    return Reference(
        name=name,
        source=row.url or row.file,
        digest=found.digest,
        moments=found.moments if found.moments.count else found.moments.with_count(entry.count),
        images_digest=found.images_digest,
        spec_hash=found.spec_hash,
        val_fd=found.val_fd or row.val_fd,
    )


def _registry_file(
    entry: RegistryEntry,
    row: RegistryEncoder,
    encoder: str,
    weights_dir: str | os.PathLike[str] | None,
    offline: bool | None,
    progress: Progress,
) -> Path:
    shipped = reference_stats_dir() / row.file
    if shipped.is_file():
        return shipped
    from fdr.encoders.base import EncoderOptions
    from fdr.encoders.weights import WeightsFile, resolve

    file = WeightsFile(row.file, sha256=row.sha256, url=row.url)
    folder = None if weights_dir is None else Path(weights_dir)
    options = EncoderOptions(weights_dir=folder, offline=offline, progress=progress)
    return resolve(file, options, f"reference {entry.name} ({encoder})").path


def _check_fits(found: Reference, encoder: str, dim: int | None, spec_hash: str | None) -> None:
    if dim and found.moments.dim != dim:
        raise InputError(
            f"{found.source} holds {found.moments.dim}-d moments, but {encoder} gives {dim}-d features; "
            f"use moments computed with {encoder}."
        )
    if spec_hash is not None and found.spec_hash is not None and found.spec_hash != spec_hash:
        stored = found.moments.attributes.get("spec")
        differing = _differing_fields(stored, encoder, spec_hash)
        raise InputError(
            f"{found.source} was computed with another encoder spec ({found.spec_hash}) than {encoder} has here "
            f"({spec_hash}){differing}; the numbers would not be comparable: make the reference again with fdr stats."
        )


def _differing_fields(stored: Any, encoder: str, spec_hash: str) -> str:
    if not isinstance(stored, str):
        return ""
    try:
        name = json.loads(stored).get("name")
    except (ValueError, AttributeError):
        return ""
    return f": it was made by {name}" if name != encoder else ": same name, but other weights, dtype or options"


def warn_if_same_images(samples_digest: str | None, reference: Reference) -> None:
    """Warn when the samples are the reference images themselves."""
    if samples_digest is not None and samples_digest == reference.images_digest:
        warnings.warn(
            f"The samples are the reference {reference.name} itself (same content): FD measures nothing here.",
            FdrWarning,
            stacklevel=2,
        )


def moments_digest(moments: Moments) -> str:
    """sha256 over mu and sigma."""
    digest = hashlib.sha256(moments.mu.tobytes())
    digest.update(moments.sigma.tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
