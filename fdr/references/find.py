"""Finds reference moments: by registry name, in a statistics file, or in a folder that `fdr stats` wrote."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.encoders import EncoderSpec
from fdr.errors import FdrWarning, InputError, unknown
from fdr.frechet import Moments, ValidationFD
from fdr.images import ImageOptions, ImageSource, names_files, open_images
from fdr.references.formats.base import stored_spec
from fdr.references.formats.checks import check_moments
from fdr.references.formats.recognise import is_statistics_file, open_statistics
from fdr.references.index import INDEX_NAME, indexed_file, read_index, reference_folder
from fdr.references.local_files import published_file
from fdr.references.manifest import known_as, registry
from fdr.runtime import (
    Progress,
    SilentProgress,
    as_path,
    as_progress,
    file_digest,
    missing_path,
    named_arguments,
    near_names,
)
from fdr.weights import WeightOptions, resolve

if TYPE_CHECKING:
    from fdr.encoders import AbstractEncoder

DEFAULT_REFERENCE = "imagenet256"


@dataclass(frozen=True)
class Reference:
    """The moments of one encoder on one reference set, and where they come from."""

    name: str
    source: str
    digest: str
    """sha256 over mu and sigma, or over the content of the images if these were measured in this run."""
    moments: Moments
    images_digest: str | None = None
    """Digest of the images that the moments were computed from, if known."""
    spec_hash: str | None = None
    """Spec hash of the encoder that made the moments; None if the file does not say."""
    val_fd: ValidationFD | None = None
    """The raw FD of the validation set, the denominator of FDr."""
    val_fd_debiased: ValidationFD | None = None
    """The same without its bias, the denominator of the debiased FDr; only `fdr stats --val` computes it."""
    path: Path | None = None
    """The statistics file on this machine. It may contain images as well."""
    protocol_count: int | None = None
    """Number of samples in the published protocol for this reference, such as 50,000; None if there is none."""
    is_declared: bool = False
    """True if the file, the registry or the `Moments` name the requested encoder."""


def is_statistics(path: Path) -> bool:
    """True if `path` contains moments or features in any known format, or is a folder of them."""
    return reference_folder(path) is not None or (not path.is_dir() and is_statistics_file(path))


def open_samples(samples: Any, options: ImageOptions) -> ImageSource:
    """Like `open_images`, with a clearer error if the samples are a statistics file."""
    try:
        return open_images(samples, options)
    except InputError:
        if isinstance(samples, str | os.PathLike) and _can_be_opened(Path(samples).expanduser()):
            raise InputError(
                f"{os.fspath(samples)} holds statistics, not images; give it as the reference (--ref {samples})."
            ) from None
        raise


def _can_be_opened(path: Path) -> bool:
    try:
        return reference_folder(path) is not None or bool(open_statistics(path))
    except InputError:
        return False


def names_images(reference: Any) -> bool:
    """True if `reference` is images, that is, neither moments nor statistics nor a registry name.

    Raises `InputError` for a string that is neither a path nor a registry name.
    """
    if isinstance(reference, Moments):
        return False
    if not isinstance(reference, str | os.PathLike):
        return True
    path = as_path(reference, "the reference").expanduser()
    if path.exists():
        return not is_statistics(path)
    if str(reference) in registry():
        return False
    if names_files(str(reference)):
        return True
    raise _no_reference(str(reference))


def _no_reference(text: str) -> InputError:
    """The error for a text that is neither a path that exists nor the name of a reference."""
    path = Path(text).expanduser()
    if "/" in text or os.sep in text or text.startswith((".", "~")) or re.fullmatch(r"\.[a-zA-Z]\w{0,6}", path.suffix):
        return InputError(f"The reference {missing_path(path)}")
    near = [*difflib.get_close_matches(text.lower(), registry(), n=2, cutoff=0.5), *map(str, near_names(path))]
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else "there is no file or folder of that name, either, and fdr references list shows the names."
    )
    return InputError(f"Unknown reference {text!r}; {hint}")


@named_arguments
def load_reference(
    reference: str | os.PathLike[str] | Moments,
    encoder: AbstractEncoder | EncoderSpec | str,
    *,
    output: str | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: Progress | bool | None = None,
) -> Moments:
    """The reference moments for `encoder`: from the registry, a statistics file, or a folder of `fdr stats`.

    `output` names another output than the encoder's main one, such as "spatial" (sFID) or "mean".

    Raises `InputError` when nothing fits the encoder: an unknown name, another width, another encoder spec.
    """
    places: dict[str, Any] = {"weights_dir": weights_dir, "offline": offline}
    return find_reference(reference, encoder, output=output, progress=as_progress(progress), **places).moments


def find_reference(
    reference: str | os.PathLike[str] | Moments,
    encoder: AbstractEncoder | EncoderSpec | str,
    *,
    output: str | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Reference:
    """Like `load_reference`, but returns the provenance, the validation FD and the protocol's sample count as well.

    Questionable moments (float32, asymmetric, singular, or of an unknown count) cause an `FdrWarning`.
    """
    wanted = _wanted(encoder, output)
    if isinstance(reference, Moments):
        name = str(reference.attributes.get("reference", "moments"))
        found = _reference(name, "Moments object", reference)
    elif (path := as_path(reference, "the reference").expanduser()).exists():
        found = _from_path(path, wanted)
        _warn(check_moments(found.moments, str(path)))
    else:
        folder = None if weights_dir is None else Path(weights_dir)
        options = WeightOptions(weights_dir=folder, offline=offline, progress=progress or SilentProgress())
        found = _registered(str(reference), wanted, options)
        _warn(check_moments(found.moments, str(found.path)))
    _check_fits(found, wanted)
    return replace(found, is_declared=found.is_declared or found.spec_hash is not None)


def registered_reference(name: str, encoder: str) -> Reference:
    """The reference with that name in the registry, even if a file or folder has the same name."""
    return _registered(name, _wanted(encoder, None), WeightOptions())


def reference_for(reference: Any, encoder: str) -> Any:
    """The entry for `encoder` if `reference` is a dict by encoder name, else `reference` itself."""
    if not isinstance(reference, Mapping):
        return reference
    if encoder not in reference:
        raise unknown("reference of encoder", encoder, reference)
    return reference[encoder]


@dataclass(frozen=True)
class _Wanted:
    """The encoder output whose reference moments we need."""

    encoder: str
    dim: int | None
    """Width of the output; None or 0 if it is known only after running the encoder."""
    spec_hash: str | None
    output: str | None
    """Name of the output; None means the main output."""


def _wanted(encoder: AbstractEncoder | EncoderSpec | str, output: str | None) -> _Wanted:
    if isinstance(encoder, str):
        from fdr.encoders import find_row

        row = find_row(encoder)
        name, spec_hash = encoder, None
        dim, main = (None, None) if row is None else (row.width, row.output)
    else:
        spec = encoder if isinstance(encoder, EncoderSpec) else encoder.spec
        name, dim, spec_hash, main = spec.name, spec.dim, spec.hash, spec.output
    is_main = output in (None, main)
    return _Wanted(name, dim if is_main else None, spec_hash, None if is_main else output)


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        warnings.warn(sentence, FdrWarning, stacklevel=3)


def _reference(name: str, source: str, moments: Moments) -> Reference:
    """A reference of moments, with what their attributes say of its images and encoder."""
    images_digest, spec_hash = (moments.attributes.get(key) for key in ("images_digest", "spec_hash"))
    return Reference(
        name,
        source,
        moments_digest(moments),
        moments,
        images_digest=None if images_digest is None else str(images_digest),
        spec_hash=None if spec_hash is None else str(spec_hash),
    )


def _from_path(path: Path, wanted: _Wanted) -> Reference:
    """The reference in a statistics file, or in a folder that `fdr stats` wrote."""
    folder = reference_folder(path)
    if folder is None and path.is_dir():
        raise InputError(f"Folder {str(path)!r} is no reference: it has no {INDEX_NAME}.")
    return _from_file(path, wanted) if folder is None else _from_folder(folder, wanted)


def _from_file(path: Path, wanted: _Wanted, entry: str | None = None, sha256: str | None = None) -> Reference:
    """Read the reference from a statistics file. `sha256` is the digest of the file, if it is already known."""
    file = open_statistics(path)
    chosen = file.select(wanted.encoder, wanted.dim, wanted.output) if entry is None else file.entry(entry)
    moments = file.load(chosen)
    attributes: Mapping[str, Any] = moments.attributes
    known = known_as(sha256 or file_digest(path), moments.mu, moments.sigma)
    if known is not None and moments.count is None:
        moments = moments.with_count(known.count)
    name = str(attributes.get("reference", path.stem)) if known is None else known.name
    stated = attributes if wanted.output is None else {}
    return replace(
        _reference(name, str(path), moments),
        path=path,
        val_fd=_stored_val_fd("val_fd", stated, f"exact, from {path.name}"),
        val_fd_debiased=_stored_val_fd("val_fd_debiased", stated, f"debiased, from {path.name}"),
        protocol_count=None if known is None else known.samples,
        is_declared=wanted.encoder in chosen.encoders or (known is not None and wanted.encoder in known.encoders),
    )


def _stored_val_fd(name: str, attributes: Mapping[str, Any], source: str) -> ValidationFD | None:
    value, stderr = attributes.get(name), attributes.get(f"{name}_stderr")
    return None if value is None else ValidationFD(value, None, source, stderr)


def check_one_encoder_each(references: Mapping[tuple[str, str], Reference]) -> None:
    """Raise `InputError` if two encoders would use the same moments and these do not name their encoder.

    Such moments belong to at most one of the two, and the width alone does not show to which.
    `references` are by (encoder, output).
    """
    for (encoder, _), found in references.items():
        for (other, _), same in references.items():
            is_shared = other != encoder and same.digest == found.digest
            if is_shared and not (found.is_declared and same.is_declared):
                raise InputError(
                    f"{found.source} does not say which encoder its moments are of, so it cannot serve both {encoder} "
                    f"and {other}; give each its own (--ref {encoder}=FILE,{other}=FILE, or a dict in Python), or "
                    "measure one of them."
                )


def _from_folder(folder: Path, wanted: _Wanted) -> Reference:
    entries = read_index(folder)["encoders"]
    fitting = [e for e in entries if wanted.spec_hash is not None and e["spec_hash"] == wanted.spec_hash]
    fitting = fitting or [e for e in entries if e["name"] == wanted.encoder]
    if not fitting:
        raise InputError(
            f"Reference {str(folder)!r} has no moments for {wanted.encoder} "
            f"(it has {', '.join(e['name'] for e in entries)}); "
            f"add them: fdr stats IMAGES --reps {wanted.encoder} -o {folder}."
        )
    return _from_file(indexed_file(folder, fitting[0]), wanted, sha256=fitting[0]["sha256"])


def _registered(name: str, wanted: _Wanted, options: WeightOptions) -> Reference:
    if name not in registry():
        raise _no_reference(name)
    entry = registry()[name]
    encoder = wanted.encoder
    if encoder not in entry.encoders:
        raise InputError(
            f"Reference {name!r} has no moments for {encoder} (it has {', '.join(entry.encoders)}); give --ref images "
            "or a statistics file, or make one with fdr stats."
        )
    row = entry.encoders[encoder]
    if wanted.output is not None and wanted.output not in row.outputs:
        raise _no_output(name, wanted)
    file = resolve(published_file(entry, encoder), options, encoder)
    found = _from_file(file.path, wanted, row.entry if wanted.output is None else None, file.sha256)
    moments = found.moments if found.moments.count else found.moments.with_count(entry.count)
    return replace(
        found,
        name=entry.name,
        source=row.url or row.file,
        moments=moments,
        val_fd=found.val_fd or (row.val_fd if wanted.output is None else None),
        protocol_count=entry.samples,
        is_declared=True,
    )


def _no_output(name: str, wanted: _Wanted) -> InputError:
    having = [
        other
        for other, entry in registry().items()
        if wanted.encoder in entry.encoders and wanted.output in entry.encoders[wanted.encoder].outputs
    ]
    hint = f"; {' and '.join(having)} have them" if having else "; give --ref a statistics file that has them"
    return InputError(f"Reference {name!r} has no moments of the output {wanted.output!r} of {wanted.encoder}{hint}.")


def _check_fits(found: Reference, wanted: _Wanted) -> None:
    encoder, dim, spec_hash = wanted.encoder, wanted.dim, wanted.spec_hash
    if dim and found.moments.dim != dim:
        raise InputError(
            f"{found.source} holds {found.moments.dim}-d moments, but {encoder} gives {dim}-d features; "
            f"use moments computed with {encoder}."
        )
    made_by = found.moments.attributes.get("encoder")
    if spec_hash is None and found.spec_hash is not None and made_by not in (None, encoder):
        raise InputError(f"{found.source} holds moments of {made_by}, not of {encoder}; use moments of {encoder}.")
    if spec_hash is not None and found.spec_hash is not None and found.spec_hash != spec_hash:
        name = stored_spec(found.moments.attributes).get("name")
        made = "same name, but other weights, dtype or options" if name == encoder else f"it was made by {name}"
        differing = "" if name is None else f": {made}"
        raise InputError(
            f"{found.source} was computed with another encoder spec ({found.spec_hash}) than {encoder} has here "
            f"({spec_hash}){differing}; the numbers would not be comparable: make the reference again with fdr stats."
        )


def warn_if_same_images(samples_digest: str | None, reference: Reference) -> None:
    """Warn if the samples are the reference images themselves."""
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
