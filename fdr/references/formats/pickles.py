"""Statistics in pickles: references of EDM2, the bundle of FD-loss, caches of StyleGAN. Nothing is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import listing
from fdr.references.formats.base import INCEPTION, Content, Entry, Format, StatisticsFile, Writer
from fdr.references.formats.named_arrays import as_mapping, pairs_in, read_pairs
from fdr.references.formats.pickle_data import load_pickle
from fdr.runtime import atomic_path

EDM2_METRICS: dict[str, tuple[str, ...]] = {"fid": INCEPTION, "fd_dinov2": ("dinov2:edm2", "dinov2:dgm")}
"""EDM2's metric names -> encoders. Its DINOv2 is that of dgm-eval at 224 px, not that of FDr^6."""

MODEL_FILES: dict[str, tuple[str, ...]] = {
    "guided_diffusion": INCEPTION,
    "jit_in": INCEPTION,
    "adm_in": INCEPTION,
    "convnext": ("convnext",),
    "vit_large_patch14_dinov2_lvd142m_in256_t256": ("dinov2",),
    "vit_large_patch16_224_mae": ("mae",),
    "vit_so400m_patch16_siglip_256_v2_webli_in256_t224": ("siglip",),
    "vit_large_patch14_clip_224_openai_in256_t256": ("clip",),
}
"""How file names inside the bundle of FD-loss start -> encoders."""


STYLEGAN_FIELDS = frozenset(("num_items", "raw_mean", "raw_cov", "all_features"))
"""Some of the fields of `FeatureStats` in StyleGAN2-ADA and StyleGAN3, by which its pickles are recognised."""


def open_pickle(path: Path, offset: int = 0) -> StatisticsFile:
    """Open a pickle with mu and sigma, with mappings of names to these, or with `FeatureStats` of StyleGAN."""
    data = as_mapping(load_pickle(path, offset))
    if not isinstance(data, dict):
        raise InputError(f"{str(path)!r} is a pickle of a {type(data).__name__}; expected mappings of mu and sigma.")
    if data.keys() >= STYLEGAN_FIELDS:
        return StatisticsFile(path, "stylegan", _read_stylegan(data, path))
    count = data["num_images"] if isinstance(data.get("num_images"), int) else None
    if pairs_in(data):
        return StatisticsFile(path, "pickle", read_pairs(data, str(path), count=count))
    readers: dict[Entry, Callable[[], Any]] = {}
    for key, arrays in data.items():
        if isinstance(arrays, dict):
            name = str(key)
            group, encoders = name.removesuffix(".npz"), _encoders_of(name)
            readers |= read_pairs(arrays, str(path), group=group, encoders=encoders, count=count)
    if not readers:
        raise InputError(f"{str(path)!r} holds no mu and sigma; it holds {listing([str(key) for key in data])}.")
    return StatisticsFile(path, "edm2" if data.keys() & EDM2_METRICS.keys() else "fdloss-bundle", readers)


def _encoders_of(key: str) -> tuple[str, ...]:
    if key in EDM2_METRICS:
        return EDM2_METRICS[key]
    return next((encoders for start, encoders in MODEL_FILES.items() if key.startswith(start)), ())


def _read_stylegan(data: Mapping[str, Any], path: Path) -> dict[Entry, Callable[[], Any]]:
    """The features of `FeatureStats`, or mu and sigma from its raw sums, divided by N as StyleGAN does."""
    rows, count, mean, raw = (data[key] for key in ("all_features", "num_items", "raw_mean", "raw_cov"))
    if isinstance(rows, list) and rows and all(isinstance(part, np.ndarray) and part.ndim == 2 for part in rows):
        entry = Entry("features", "features", rows[0].shape[1], sum(map(len, rows)), str(rows[0].dtype))
        return {entry: lambda: iter(rows)}
    are_arrays = isinstance(mean, np.ndarray) and isinstance(raw, np.ndarray)
    if not are_arrays or not isinstance(count, int) or not 2 <= count < 1 << 53 or raw.shape != mean.shape * 2:
        raise InputError(f"{str(path)!r} is a FeatureStats of StyleGAN without moments; make it with capture_mean_cov.")
    mu = mean / count
    sigma = raw / count - np.outer(mu, mu)
    return {**read_pairs({"mu": mu, "sigma": sigma}, str(path), count=count, ddof=0)}


def _write_edm2(path: Path, content: Content) -> None:
    metric = _edm2_metric(content)
    statistics: dict[str, object] = {}
    if content.main.count is not None:
        statistics["num_images"] = content.main.count
    statistics[metric] = {"mu": np.array(content.main.mu), "sigma": np.array(content.main.sigma)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(statistics, file, protocol=4)


def _edm2_metric(content: Content) -> str:
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


FORMAT = Format(
    recognises=lambda start, members: start.startswith(b"\x80"),
    open=open_pickle,
    writers={
        "edm2": Writer(
            _write_edm2, "EDM2's pickle: fid or fd_dinov2, and num_images", (".pkl", ".pickle"), check=_edm2_metric
        )
    },
)
