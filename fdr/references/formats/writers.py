"""Writes statistics in the layout of each tool, for `fdr convert`. There is one function per format."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from fdr import frechet
from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.runtime import atomic_path


@dataclass(frozen=True)
class Content:
    """What to write: moments by role, with their encoder, features and images."""

    moments: Mapping[str, Moments]
    """Moments by role: "main", "spatial", "mean"."""
    encoder: str | None = None
    """The encoder that made the moments, if known."""
    rows: Callable[[], Iterator[np.ndarray]] | None = None
    """Yields the features of the main moments in blocks, if the source holds features."""
    rows_dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    images: tuple[Path, str] | None = None
    """(npz file, name of an array of images in it) to copy unchanged."""

    @property
    def main(self) -> Moments:
        """The moments of the encoder's main output."""
        return self.moments["main"]


def write(path: Path, content: Content, to: str) -> None:
    """Write `content` to `path` in the format called `to`, in one step."""
    WRITERS[to].write(path, content)


def _pairs(content: Content, suffixes: Mapping[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """mu and sigma of each existing role; (before, after) are the prefix and suffix of their names."""
    arrays = {}
    for role, (before, after) in suffixes.items():
        if role in content.moments:
            arrays[f"{before}mu{after}"] = content.moments[role].mu
            arrays[f"{before}sigma{after}"] = content.moments[role].sigma
    return arrays


def _write_own(kind: str) -> Callable[[Path, Content], None]:
    def write_own(path: Path, content: Content) -> None:
        named = {} if content.encoder is None else {"encoder": content.encoder}
        frechet.save(path, content.main.fields(), {**content.main.attributes, **named}, kind)

    return write_own


def _write_pairs(suffixes: Mapping[str, tuple[str, str]], *, is_bare: bool = False) -> Callable[[Path, Content], None]:
    def write_pairs(path: Path, content: Content) -> None:
        arrays = _pairs(content, suffixes)
        if content.main.count is not None and not is_bare:
            arrays["count"] = np.array(content.main.count)  # other tools ignore it
        with atomic_path(path) as temporary, open(temporary, "w+b") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            if content.images is not None:
                _copy_member(*content.images, file)

    return write_pairs


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
        raise frechet.damaged(str(source), error) from None


def _write_edm2(path: Path, content: Content) -> None:
    metric = edm2_metric(content)
    statistics: dict[str, object] = {}
    if content.main.count is not None:
        statistics["num_images"] = content.main.count
    statistics[metric] = {"mu": np.array(content.main.mu), "sigma": np.array(content.main.sigma)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(statistics, file, protocol=4)


def edm2_metric(content: Content) -> str:
    """The name of these moments in EDM2. Raises `InputError` if EDM2 does not use such moments."""
    encoder = content.encoder or ""
    if encoder.split(":")[0] == "inception":
        return "fid"
    if encoder in ("dinov2:edm2", "dinov2:dgm"):
        return "fd_dinov2"
    of = f"of {encoder}" if encoder else f"{content.main.dim}-d, and their encoder is not known"
    raise InputError(
        f"EDM2 knows fid (inception) and fd_dinov2 (dinov2:edm2), but these moments are {of}; say --encoder inception "
        "or --encoder dinov2:edm2 if that is what they are, or write another format."
    )


def _write_torch(path: Path, content: Content) -> None:
    import torch

    statistics = {"mu": np.array(content.main.mu), "sigma": np.array(content.main.sigma)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(statistics, file)


def _write_rows(file: IO[bytes], content: Content) -> None:
    """Write the features as npy data, block by block."""
    assert content.rows is not None
    shape = (content.main.count or 0, content.main.dim)
    header = {"descr": content.rows_dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for rows in content.rows():
        file.write(np.ascontiguousarray(rows, content.rows_dtype).tobytes())


def _write_npy(path: Path, content: Content) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        _write_rows(file, content)


def _write_features(key: str) -> Callable[[Path, Content], None]:
    def write_features(path: Path, content: Content) -> None:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                _write_rows(member, content)
            if key == "reps" and content.encoder is not None:
                with archive.open("model.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(content.encoder), allow_pickle=False)

    return write_features


@dataclass(frozen=True)
class Writer:
    """How to write one format."""

    write: Callable[[Path, Content], None]
    note: str
    roles: tuple[str, ...] = ("main",)
    """The roles of the moments that the format can hold."""
    needs_rows: bool = False
    keeps_images: bool = False


WRITERS: dict[str, Writer] = {
    "npz": Writer(_write_own("npz"), "mu and sigma that every tool reads, with fdr's provenance beside them"),
    "h5": Writer(_write_own("h5"), "fdr's own, with full provenance"),
    "adm": Writer(
        _write_pairs({"main": ("", ""), "spatial": ("", "_s")}),
        "ADM's evaluator: mu, sigma, and mu_s, sigma_s where there are spatial moments",
        ("main", "spatial"),
        keeps_images=True,
    ),
    "fdloss": Writer(
        _write_pairs({"main": ("", ""), "mean": ("avg_", "")}),
        "FD-loss: mu, sigma, and avg_mu, avg_sigma where there are those of the patch means",
        ("main", "mean"),
    ),
    "clean-fid": Writer(
        _write_pairs({"main": ("", "")}, is_bare=True), "nothing but mu and sigma: clean-fid, pytorch-fid, TTUR"
    ),
    "edm2": Writer(_write_edm2, "EDM2's pickle: fid or fd_dinov2, and num_images"),
    "torch-fidelity": Writer(_write_torch, "torch-fidelity's cache item: a torch file of mu and sigma"),
    "dgm-eval": Writer(_write_features("reps"), "dgm-eval's features: reps, and model", needs_rows=True),
    "clean-fid-kid": Writer(_write_features("feats"), "clean-fid's features for KID: feats", needs_rows=True),
    "npy": Writer(_write_npy, "features alone, as CMMD keeps them", needs_rows=True),
}

BY_SUFFIX = {**frechet.SUFFIXES, ".pkl": "edm2", ".pickle": "edm2", ".pt": "torch-fidelity", ".npy": "npy"}
