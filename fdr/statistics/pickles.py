"""Statistics in pickles, read without unpickling: EDM2's references, and the bundle of FD-loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdr._moments_files import listing
from fdr.errors import InputError
from fdr.moments import Moments, moments_from_arrays
from fdr.statistics._pickle_data import load_pickle
from fdr.statistics.base import INCEPTION, Entry, StatisticsFile
from fdr.statistics.npz import Pair, pairs_in

EDM2_METRICS: dict[str, tuple[str, ...]] = {"fid": INCEPTION, "fd_dinov2": ("dinov2:edm2", "dinov2:dgm")}
"""EDM2's metric names -> encoders: its DINOv2 is the 224 px one of dgm-eval, not that of FDr^6."""

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
"""Starts of the file names inside FD-loss's bundle -> encoders."""


class PickleStatistics(StatisticsFile):
    """A mapping of names to mappings of arrays; plain mu and sigma at the top level work as well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = load_pickle(path)
        if not isinstance(data, dict):
            raise InputError(
                f"{str(path)!r} is a pickle of a {type(data).__name__}; expected mappings of mu and sigma."
            )
        self._data = data
        self.format = "edm2" if data.keys() & EDM2_METRICS.keys() else "fdloss-bundle"
        self._arrays: dict[str, tuple[Mapping[str, Any], Pair]] = {}
        self.entries = tuple(self._find(data))
        if not self.entries:
            raise InputError(f"{str(path)!r} holds no mu and sigma; it holds {listing([str(key) for key in data])}.")

    def _find(self, data: Mapping[str, Any]) -> list[Entry]:
        groups: dict[str, Mapping[str, Any]] = {
            str(key): value for key, value in data.items() if isinstance(value, dict)
        }
        if pairs_in(data):
            groups, self.format = {"": data}, "pickle"
        count = data.get("num_images")
        entries = []
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
        encoders = EDM2_METRICS.get(key, ()) or next(
            (encoders for start, encoders in MODEL_FILES.items() if key.startswith(start)), pair.encoders
        )
        return Entry(name, "moments", mu.size, count, str(sigma.dtype), pair.output, encoders)

    def _load(self, entry: Entry) -> Moments:
        arrays, pair = self._arrays[entry.name]
        fields = {"mu": arrays[pair.mu], "sigma": np.asarray(arrays[pair.sigma]), "count": entry.count}
        return moments_from_arrays(fields, {}, f"{self.path}:{entry.name}")
