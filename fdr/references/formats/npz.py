"""Statistics in .npz: mu/sigma of pytorch-fid, TTUR, EDM and clean-fid, ADM's reference batch, FD-loss, fd_evaluator,
and features of dgm-eval, clean-fid's KID and fd_evaluator. Members are read one by one; images never."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from fdr.errors import InputError
from fdr.frechet import ATTRIBUTES, Moments, damaged, listing, read_attributes
from fdr.images import read_header
from fdr.references.formats.base import (
    INCEPTION,
    Content,
    Entry,
    Format,
    StatisticsFile,
    Writer,
    stored_encoders,
    stored_output,
    write_own,
)
from fdr.references.formats.named_arrays import COVARIANCES, MEANS, Pair, pairs_in
from fdr.references.formats.npy import features_entry, read_rows, write_rows
from fdr.runtime import DAMAGE, atomic_path

FEATURE_KEYS = ("reps", "features", "feats", "X", "pool_3", "pool3", "activations", "acts", "embeddings", "feature")
"""Names for features: those of dgm-eval, fd_evaluator, clean-fid's KID files, score_sde, and other common ones."""
ADM_WIDTHS = (("mu", 2048), ("mu_s", 2023))
"""Widths in an ADM file: pool features, and 7 channels of 17 x 17 positions of Inception's second to last stage."""


@dataclass(frozen=True)
class Header:
    """Shape and type of one array in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Headers = Mapping[str, Header]


def _open(path: Path) -> StatisticsFile:
    """Open an npz with one or several pairs of mean and covariance, or else with features."""
    try:
        headers = _read_headers(path)
    except DAMAGE as error:
        raise damaged(str(path), error) from None
    images = "arr_0.npy" if "arr_0" in headers and headers["arr_0"].dtype == np.uint8 else None
    pairs, key = pairs_in(headers), _feature_key(headers)
    if pairs:
        layout, count = _layout(headers), _count(path, headers)
        readers = {
            _pair_entry(path, pair, headers, layout, count): partial(Moments.load, path, (pair.mu, pair.sigma))
            for pair in pairs
        }
        return StatisticsFile(path, layout, readers, images)
    if key is None:
        raise InputError(
            f"{str(path)!r} has no 'mu' and 'sigma' (nor {', '.join(MEANS[1:])} and {', '.join(COVARIANCES[1:])}) "
            f"and no features ({', '.join(FEATURE_KEYS)}); it holds "
            f"{listing([f'{name} {header}' for name, header in headers.items()])}: save mu [D] and sigma [D, D]."
        )
    layout = {"reps": "dgm-eval", "feats": "clean-fid-kid"}.get(key, "fd-evaluator")
    entry = features_entry(key, f"{str(path)!r}: {key}", headers[key].shape, headers[key].dtype)
    read = partial(read_rows, path, partial(_open_member, path, f"{key}.npy"))
    return StatisticsFile(path, layout, {entry: read}, images)


def _is_statistics(path: Path) -> bool:
    """True if there are moments or features, or arrays of any name that may be such but cannot be images."""
    headers = _read_headers(path)
    key = _feature_key(headers)
    floats = [header for header in headers.values() if header.dtype.kind == "f" and header.shape]
    are_no_images = bool(floats) and all(len(header.shape) <= 2 for header in headers.values())
    has_features = key is not None and ("arr_0" not in headers or key == "arr_0")
    return bool(pairs_in(headers)) or has_features or are_no_images


def _read_headers(path: Path) -> dict[str, Header]:
    """The header of every array in an npz; other members are left out."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    shape, _, dtype = read_header(member)
                headers[name.removesuffix(".npy")] = Header(shape, dtype)
    return headers


def _layout(names: Headers) -> str:
    """The name of the layout (the tool) that uses these names."""
    if {"mu_s", "sigma_s"} <= names.keys():
        return "adm"
    if {"avg_mu", "avg_sigma"} <= names.keys():
        return "fdloss"
    if not {"mu", "sigma"} <= names.keys() and {"ref_mu", "ref_sigma"} <= names.keys():
        return "fd-evaluator"
    return "npz"


def _feature_key(headers: Headers) -> str | None:
    """The array with features: one with a known name that is not an image array, or the only array without a name."""
    found = next((key for key in FEATURE_KEYS if key in headers and headers[key].dtype != np.uint8), None)
    if found is not None:
        return found
    tables = {
        key.lower(): key for key, header in headers.items() if len(header.shape) == 2 and header.dtype.kind == "f"
    }
    return next((tables[key.lower()] for key in (*FEATURE_KEYS, "arr_0") if key.lower() in tables), None)


def _count(path: Path, headers: Headers) -> int | None:
    """The number of images behind all pairs in the file, if fdr wrote it."""
    if "count" not in headers or headers["count"].shape != ():
        return None
    with np.load(path, allow_pickle=False) as file:
        return int(file["count"])


def _pair_entry(path: Path, pair: Pair, headers: Headers, layout: str, count: int | None) -> Entry:
    mu, sigma = headers[pair.mu], headers[pair.sigma]
    dim = mu.shape[0] if len(mu.shape) == 1 else 0
    is_adm = layout == "adm" and (pair.name, dim) in ADM_WIDTHS
    output, encoders = pair.output, INCEPTION if is_adm else pair.encoders
    if pair.name == "mu" and ATTRIBUTES in headers:
        attributes = read_attributes(path)
        output, encoders = stored_output(attributes), encoders or stored_encoders(attributes)
    return Entry(pair.name, "moments", dim, count, str(sigma.dtype), output, encoders)


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        yield member


def _write_pairs(suffixes: Mapping[str, tuple[str, str]], *, is_bare: bool = False) -> Callable[[Path, Content], None]:
    """A function that writes the moments of each role; (before, after) is what the names have around mu and sigma."""

    def write(path: Path, content: Content) -> None:
        arrays = {}
        for role, (before, after) in suffixes.items():
            if role in content.moments:
                arrays[f"{before}mu{after}"] = content.moments[role].mu
                arrays[f"{before}sigma{after}"] = content.moments[role].sigma
        if content.main.count is not None and not is_bare:
            arrays["count"] = np.array(content.main.count)  # other tools ignore it
        with atomic_path(path) as temporary, open(temporary, "w+b") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            if content.images is not None:
                _copy_member(*content.images, file)

    return write


def _copy_member(source: Path, name: str, file: IO[bytes]) -> None:
    """Append a member of another archive with the same compression, without loading it whole."""
    try:
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(file, "a") as target:
            info = archive.getinfo(name)
            copy = zipfile.ZipInfo(name, info.date_time)
            copy.compress_type = info.compress_type
            copy.file_size = info.file_size
            with archive.open(info) as member, target.open(copy, "w", force_zip64=True) as out:
                shutil.copyfileobj(member, out, 1 << 20)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise damaged(str(source), error) from None


def _write_features(key: str) -> Callable[[Path, Content], None]:
    """A function that writes the features under that name, block by block."""

    def write(path: Path, content: Content) -> None:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                write_rows(member, content)
            if key == "reps" and content.encoder is not None:
                with archive.open("model.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(content.encoder), allow_pickle=False)

    return write


FORMAT = Format(
    recognises=lambda start, members: any(name.endswith(".npy") for name in members),
    open=_open,
    is_statistics=_is_statistics,
    writers={
        "npz": Writer(
            write_own("npz"),
            "mu and sigma that every tool reads, with fdr's provenance, leverage curve and moments of classes",
            (".npz",),
            keeps_provenance=True,
        ),
        "adm": Writer(
            _write_pairs({"main": ("", ""), "spatial": ("", "_s")}),
            "ADM's evaluator: mu, sigma, and mu_s, sigma_s where there are spatial moments",
            roles=("main", "spatial"),
            keeps_images=True,
        ),
        "fdloss": Writer(
            _write_pairs({"main": ("", ""), "mean": ("avg_", "")}),
            "FD-loss: mu, sigma, and avg_mu, avg_sigma where there are those of the patch means",
            roles=("main", "mean"),
        ),
        "clean-fid": Writer(
            _write_pairs({"main": ("", "")}, is_bare=True), "nothing but mu and sigma: clean-fid, pytorch-fid, TTUR"
        ),
        "dgm-eval": Writer(_write_features("reps"), "dgm-eval's features: reps, and model", needs_rows=True),
        "clean-fid-kid": Writer(_write_features("feats"), "clean-fid's features for KID: feats", needs_rows=True),
    },
)
