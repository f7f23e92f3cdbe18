"""The names under which tools store a mean and a covariance in a mapping of arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fdr.frechet import Moments, as_numpy, moments_from_arrays
from fdr.references.formats.base import Entry

MEANS, COVARIANCES = ("mu", "mean", "m", "means"), ("sigma", "cov", "covariance", "s")
"""Names for mu and sigma, in any case; names other than these two are accepted if the shapes are [D] and [D, D]."""


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


def pairs_in(names: Mapping[Any, Any]) -> list[Pair]:
    """The pairs of mean and covariance that a file or mapping has; `ref_mu` only if there is no `mu`."""
    found = [pair for pair in PAIRS if pair.mu in names and pair.sigma in names]
    if not any(pair.name in ("mu", "ref_mu") for pair in found):
        found = [*_other_names(names), *found]
    return [pair for pair in found if pair.name != "ref_mu" or "mu" not in names]


def _other_names(names: Mapping[Any, Any]) -> list[Pair]:
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


def read_pairs(
    arrays: Mapping[Any, Any],
    where: str,
    *,
    group: str = "",
    encoders: tuple[str, ...] = (),
    count: int | None = None,
    ddof: int = 1,
) -> dict[Entry, Callable[[], Moments]]:
    """The entries of a mapping of arrays in memory, with a function for each that makes its moments.

    `group` is the name of the mapping in its file, and `where` the path of the file, for errors. `encoders` are known
    from the group.
    """
    readers: dict[Entry, Callable[[], Moments]] = {}
    for pair in pairs_in(arrays):
        mu, sigma = as_numpy(arrays[pair.mu]), as_numpy(arrays[pair.sigma])
        name = "/".join(part for part in (group, "" if group and pair.name == "mu" else pair.name) if part)
        entry = Entry(name, "moments", mu.size, count, str(sigma.dtype), pair.output, encoders or pair.encoders)
        fields = {"mu": mu, "sigma": sigma, "count": count, "ddof": ddof}
        readers[entry] = partial(moments_from_arrays, fields, {}, f"{where}:{name}")
    return readers
