"""Statistics in .npz: mu/sigma of pytorch-fid, TTUR, EDM and clean-fid, ADM's reference batch, FD-loss, fd_evaluator,
and features of dgm-eval, clean-fid's KID and fd_evaluator. Members are read one by one; images never."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import ATTRIBUTES, Moments, damaged, listing, read_attributes
from fdr.images import read_header
from fdr.references.formats.base import INCEPTION, Entry, StatisticsFile, stored_encoders, stored_output
from fdr.references.formats.features import check_features, stream_rows
from fdr.runtime import DAMAGE

FEATURE_KEYS = ("reps", "features", "feats", "X", "pool_3", "pool3", "activations", "acts", "embeddings", "feature")
"""Names for features: those of dgm-eval, fd_evaluator, clean-fid's KID files, score_sde, and other common ones."""
MEANS, COVARIANCES = ("mu", "mean", "m", "means"), ("sigma", "cov", "covariance", "s")
"""Other names for mu and sigma, in any case; they are accepted if the shapes are [D] and [D, D]."""


@dataclass(frozen=True)
class Pair:
    """The names of a mean and a covariance in a file, and the output that they belong to."""

    mu: str
    sigma: str
    name: str
    output: str | None = None
    encoders: tuple[str, ...] = ()


PAIRS = (
    Pair("mu", "sigma", "mu"),
    Pair("mu_s", "sigma_s", "mu_s", "spatial"),
    Pair("mu_clip", "sigma_clip", "mu_clip", None, ("clip:*",)),
    Pair("avg_mu", "avg_sigma", "avg_mu", "mean"),
    Pair("ref_mu", "ref_sigma", "ref_mu"),
)


ADM_WIDTHS = (("mu", 2048), ("mu_s", 2023))
"""Widths in an ADM file: pool features, and 7 channels of 17 x 17 positions of Inception's second to last stage."""


@dataclass(frozen=True)
class Header:
    """Shape and type of one array in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    @property
    def is_table(self) -> bool:
        """True for floats with two axes."""
        return len(self.shape) == 2 and self.dtype.kind == "f"

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def pairs_in(names: Mapping[str, object]) -> list[Pair]:
    """The pairs of mean and covariance that a file or mapping has; `ref_mu` only if there is no `mu`."""
    found = [pair for pair in PAIRS if pair.mu in names and pair.sigma in names]
    if not any(pair.name in ("mu", "ref_mu") for pair in found):
        found = [*_other_names(names), *found]
    return [pair for pair in found if pair.name != "ref_mu" or "mu" not in names]


def _other_names(names: Mapping[str, object]) -> list[Pair]:
    """A pair with other names than mu and sigma, or without names, as `np.savez(path, mu, sigma)` stores it."""
    lowered = {key.lower(): key for key in names if isinstance(key, str)}
    for mean, covariance in (*itertools.product(MEANS, COVARIANCES), ("arr_0", "arr_1")):
        if mean in lowered and covariance in lowered:
            shapes = [tuple(getattr(names[lowered[name]], "shape", ())) for name in (mean, covariance)]
            if len(shapes[0]) == 1 and shapes[1] == shapes[0] * 2:
                return [Pair(lowered[mean], lowered[covariance], "mu")]
    return []


def as_mapping(data: Any) -> Any:
    """Turn a list or tuple of arrays into a dict with the names that `np.savez` gives; return other data unchanged."""
    are_arrays = isinstance(data, list | tuple) and len(data) > 0 and all(hasattr(item, "shape") for item in data)
    return {f"arr_{i}": item for i, item in enumerate(data)} if are_arrays else data


def format_of(names: Mapping[str, object]) -> str:
    """The name of the layout (the tool) that uses these names."""
    if {"mu_s", "sigma_s"} <= names.keys():
        return "adm"
    if {"avg_mu", "avg_sigma"} <= names.keys():
        return "fdloss"
    if not {"mu", "sigma"} <= names.keys() and {"ref_mu", "ref_sigma"} <= names.keys():
        return "fd-evaluator"
    return "npz"


def feature_key(headers: Mapping[str, Header]) -> str | None:
    """The array with features: one with a known name that is not an image array, or the only array without a name."""
    found = next((key for key in FEATURE_KEYS if key in headers and headers[key].dtype != np.uint8), None)
    if found is not None:
        return found
    tables = {key.lower(): key for key, header in headers.items() if header.is_table}
    return next((tables[key.lower()] for key in (*FEATURE_KEYS, "arr_0") if key.lower() in tables), None)


def resembles_statistics(headers: Mapping[str, Header]) -> bool:
    """True for arrays that cannot be images but may be moments or features, whatever their names."""
    floats = [header for header in headers.values() if header.dtype.kind == "f" and header.shape]
    return bool(floats) and all(len(header.shape) <= 2 for header in headers.values())


class NpzStatistics(StatisticsFile):
    """An .npz with one or several pairs of mean and covariance, or with features."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            headers = read_headers(path)
        except DAMAGE as error:
            raise damaged(str(path), error) from None
        self.pairs = {pair.name: pair for pair in pairs_in(headers)}
        self.has_images = "arr_0" in headers and headers["arr_0"].dtype == np.uint8
        self._headers = headers
        if self.pairs:
            self.format = format_of(headers)
            self.entries = tuple(self._pair_entry(pair) for pair in self.pairs.values())
            return
        key = feature_key(headers)
        if key is None:
            raise InputError(
                f"{str(path)!r} has no 'mu' and 'sigma' (nor {', '.join(MEANS[1:])} and {', '.join(COVARIANCES[1:])}) "
                f"and no features ({', '.join(FEATURE_KEYS)}); it holds "
                f"{listing([f'{name} {header}' for name, header in headers.items()])}: save mu [D] and sigma [D, D]."
            )
        self.format = {"reps": "dgm-eval", "feats": "clean-fid-kid"}.get(key, "fd-evaluator")
        header = headers[key]
        check_features(f"{str(path)!r}: {key}", header.shape, header.dtype)
        count, dim = header.shape
        self.entries = (Entry(key, "features", dim, count, str(header.dtype)),)

    def _pair_entry(self, pair: Pair) -> Entry:
        mu, sigma = self._headers[pair.mu], self._headers[pair.sigma]
        dim = mu.shape[0] if len(mu.shape) == 1 else 0
        is_adm = self.format == "adm" and (pair.name, dim) in ADM_WIDTHS
        output, encoders = pair.output, INCEPTION if is_adm else pair.encoders
        if pair.name == "mu" and ATTRIBUTES in self._headers:
            attributes = read_attributes(self.path)
            output, encoders = stored_output(attributes), encoders or stored_encoders(attributes)
        return Entry(pair.name, "moments", dim, self._count(), str(sigma.dtype), output, encoders)

    def _count(self) -> int | None:
        """The number of images behind all pairs in the file, if fdr wrote it."""
        if "count" not in self._headers or self._headers["count"].shape != ():
            return None
        with np.load(self.path, allow_pickle=False) as file:
            return int(file["count"])

    def _load(self, entry: Entry) -> Moments:
        if entry.kind == "features":
            return Moments.from_features(self.shown_rows(entry))
        pair = self.pairs[entry.name]
        return Moments.load(self.path, (pair.mu, pair.sigma)).with_count(entry.count)

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        if entry.kind != "features":
            yield from super().rows(entry)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{entry.name}.npy") as member:
                shape, is_fortran, dtype = read_header(member)
                yield from stream_rows(member, shape, np.dtype(dtype), is_fortran)
        except DAMAGE as error:
            raise damaged(str(self.path), error) from None


def read_headers(path: Path) -> dict[str, Header]:
    """The header of every array in an npz; other members are left out."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    shape, is_fortran, dtype = read_header(member)
                headers[name.removesuffix(".npy")] = Header(tuple(shape), np.dtype(dtype), is_fortran)
    return headers
