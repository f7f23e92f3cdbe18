"""Reads statistics from pickles, without unpickling: references of EDM2, the bundle of FD-loss, caches of StyleGAN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import Moments, listing, moments_from_arrays
from fdr.references.formats.base import INCEPTION, Entry, StatisticsFile
from fdr.references.formats.npz import Pair, as_mapping, pairs_in
from fdr.references.formats.pickle_data import load_pickle

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


class PickleStatistics(StatisticsFile):
    """A pickle with mu and sigma, with mappings of names to these, or with `FeatureStats` of StyleGAN."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        data = as_mapping(load_pickle(path, offset))
        if not isinstance(data, dict):
            raise InputError(
                f"{str(path)!r} is a pickle of a {type(data).__name__}; expected mappings of mu and sigma."
            )
        self.format = "edm2" if data.keys() & EDM2_METRICS.keys() else "fdloss-bundle"
        self._arrays: dict[str, tuple[Mapping[str, Any], Pair]] = {}
        self._rows: list[np.ndarray] = []
        self._ddof = 1
        if data.keys() >= STYLEGAN_FIELDS:
            self.format = "stylegan"
            data = self._of_stylegan(data)
        self.entries = tuple(self._find(data))
        if not self.entries:
            raise InputError(f"{str(path)!r} holds no mu and sigma; it holds {listing([str(key) for key in data])}.")

    def _of_stylegan(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """mu and sigma from the raw sums of `FeatureStats`, divided by N as StyleGAN does; or its features."""
        count, mean, raw = data["num_items"], data["raw_mean"], data["raw_cov"]
        rows = data["all_features"]
        if isinstance(rows, list) and rows and all(isinstance(part, np.ndarray) and part.ndim == 2 for part in rows):
            self._rows = rows
            return {}
        are_arrays = isinstance(mean, np.ndarray) and isinstance(raw, np.ndarray)
        if not are_arrays or not isinstance(count, int) or not 2 <= count < 1 << 53 or raw.shape != mean.shape * 2:
            raise InputError(
                f"{str(self.path)!r} is a FeatureStats of StyleGAN without moments; make it with capture_mean_cov."
            )
        self._ddof = 0
        mu = mean / count
        return {"mu": mu, "sigma": raw / count - np.outer(mu, mu), "num_images": count}

    def _find(self, data: Mapping[str, Any]) -> list[Entry]:
        if self._rows:
            total, dim = sum(map(len, self._rows)), self._rows[0].shape[1]
            return [Entry("features", "features", dim, total, str(self._rows[0].dtype))]
        groups: dict[str, Mapping[str, Any]] = {
            str(key): value for key, value in data.items() if isinstance(value, dict)
        }
        if pairs_in(data):
            groups = {"": data}
            self.format = self.format if self.format == "stylegan" else "pickle"
        count = data.get("num_images")
        entries: list[Entry] = []
        for key, arrays in groups.items():
            for pair in pairs_in(arrays):
                name = "/".join(
                    filter(None, (key.removesuffix(".npz"), "" if key and pair.name == "mu" else pair.name))
                )
                self._arrays[name] = (arrays, pair)
                entries.append(self._entry(name, key, count if isinstance(count, int) else None))
        return entries

    def _entry(self, name: str, key: str, count: int | None) -> Entry:
        arrays, pair = self._arrays[name]
        mu, sigma = np.asarray(arrays[pair.mu]), np.asarray(arrays[pair.sigma])
        encoders: tuple[str, ...] = EDM2_METRICS.get(key, ()) or next(
            (encoders for start, encoders in MODEL_FILES.items() if key.startswith(start)), pair.encoders
        )
        return Entry(name, "moments", mu.size, count, str(sigma.dtype), pair.output, encoders)

    def _load(self, entry: Entry) -> Moments:
        if entry.kind == "features":
            return Moments.from_features(self.shown_rows(entry))
        arrays, pair = self._arrays[entry.name]
        fields = {"mu": arrays[pair.mu], "sigma": np.asarray(arrays[pair.sigma]), "count": entry.count}
        return moments_from_arrays({**fields, "ddof": self._ddof}, {}, f"{self.path}:{entry.name}")

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        if entry.kind != "features":
            yield from super().rows(entry)
        yield from self._rows
