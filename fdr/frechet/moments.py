"""`Moments`: mean, covariance and count of a set of features; the only code that computes a mean or a covariance."""

from __future__ import annotations

import dataclasses
import os
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import FdrWarning, InputError
from fdr.frechet import covariance as _covariance
from fdr.frechet import files as _moments_files
from fdr.frechet import sums as _sums
from fdr.frechet.class_moments import CLASS_ARRAYS, ClassMoments
from fdr.frechet.curve import LeverageCurve
from fdr.runtime import memory_for

if TYPE_CHECKING:
    import torch

Attribute = str | int | float

NOTABLE_ASYMMETRY = 1e-9
"""A float64 covariance that differs from its transpose by more than this share of its largest entry gets a warning.

float64 sums stay below it. Raising it warns less often of covariances computed in low precision.
"""


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Mean `mu` [D] and covariance `sigma` [D, D] of `count` features, in float64, read-only.

    `sigma` is the scatter divided by `count - ddof`: 1 is the unbiased covariance of evaluation, 0 the biased one.
    Sets of at most D features also keep their centred features `factor` [N, D], with
    sigma = factor^T factor / (N - ddof): the distance then uses them instead of the singular covariance.

    Raises `InputError` for shapes that disagree, values that are not finite, an asymmetric covariance, a negative
    variance, or fewer than 2 samples. Whether the covariance is positive semidefinite costs a factorisation: `check`
    tells, and the distance finds out for itself.
    """

    mu: np.ndarray
    sigma: np.ndarray
    count: int | None = None
    ddof: int = 1
    factor: np.ndarray | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    """Provenance that files carry; not compared."""
    rows: np.ndarray | None = None
    """The features [N, D] themselves, float32 or float64, in their order, where somebody kept them: standard errors and
    the debiased FD need them. Not compared, not saved."""
    curve: LeverageCurve | None = None
    """What the debiased FD needs of a reference without `rows`. Not compared; files need not hold it."""
    classes: ClassMoments | None = None
    """The counts, means and spreads of the classes of these features, where they are known: what a conditional FD needs
    of a reference beside `mu` and `sigma`. Not compared; files need not hold them."""
    derived: dict[str, Any] = field(default_factory=dict, init=False)
    """Scratch space for what others compute from these moments once, such as a Cholesky factor; never saved."""

    def __post_init__(self) -> None:
        mu, sigma = _covariance.real_array(self.mu, "mu"), _covariance.real_array(self.sigma, "sigma")
        _covariance.check_shapes(mu, sigma)
        sigma = _covariance.symmetric(sigma)
        if self.ddof not in (0, 1):
            raise InputError(f"ddof is {self.ddof!r}; expected 1 (unbiased covariance) or 0 (biased).")
        count = None if self.count is None else _checked_count(self.count)
        factor = None
        if self.factor is not None:
            factor = _covariance.real_array(self.factor, "factor")
            _check_factor(factor, sigma, count, self.ddof)
        rows = None if self.rows is None else _checked_rows(self.rows, len(mu), count)
        if self.classes is not None:
            _check_classes(self.classes, len(mu), count)
        for array in (mu, sigma, factor, rows):
            if array is not None:
                array.flags.writeable = False
        attributes = types.MappingProxyType(dict(self.attributes))
        values = {"mu": mu, "sigma": sigma, "count": count, "factor": factor, "attributes": attributes, "rows": rows}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """Width D of the features."""
        return self.mu.shape[0]

    @property
    def rank_deficient(self) -> bool:
        """True when the samples are known to be so few (count <= D) that the covariance must be singular."""
        return self.count is not None and self.count <= self.dim

    @classmethod
    @memory_for("the moments of features", "use --device cpu, or an encoder of fewer dimensions")
    def from_features(cls, features: Any, *, ddof: int = 1, device: str | torch.device | None = None) -> Moments:
        """The moments of features [N, D]: an array, a tensor, or an iterable of batches [n, D] of any sizes.

        Accumulates in float64, with memory that does not grow with N beyond N = D; features on CUDA are summed there,
        others on the CPU, or all on `device`. The result depends on the rows and their order, not on how they are
        batched: it is the same bit for bit (on one machine, with one number of threads).

        Features of `fdr.extract` carry the encoder that made them, and the moments keep it, so that they are refused as
        the reference of another encoder.

        Raises `InputError` for other shapes, features that are not finite, or fewer than 2 rows.
        """
        sums = _sums.Sums(device)
        for batch in _sums.batches(features):
            sums.add(batch)
        moments, provenance = cls.from_sums(sums, ddof=ddof), getattr(features, "provenance", None)
        return dataclasses.replace(moments, attributes=provenance) if isinstance(provenance, Mapping) else moments

    @classmethod
    def from_sums(cls, sums: _sums.Sums, *, ddof: int = 1) -> Moments:
        """The moments of all features that were added to `sums`. Raises `InputError` below 2 rows."""
        mu, sigma, count, factor = sums.finish(ddof)
        return cls(mu, sigma, count, ddof, factor)

    def merge(self, *others: Moments) -> Moments:
        """The moments of all the features together, exact up to rounding; with `self`'s ddof and attributes.

        They have `rows` if all parts do, and neither `curve` nor `classes`.

        Raises `InputError` when a count is unknown or the widths differ.
        """
        if not others:
            return self
        parts = (self, *others)
        total, mu, scatter = 0, np.zeros(self.dim), np.zeros((self.dim, self.dim))
        for part in parts:
            if part.count is None:
                raise InputError("Moments without a sample count cannot be merged; give it with `with_count`.")
            specs = [moments.attributes.get("spec_hash") for moments in (self, part)]
            if None not in specs and specs[0] != specs[1]:
                raise InputError("Moments of two encoders cannot be merged; take those of one encoder for all parts.")
            if part.dim != self.dim:
                raise InputError(
                    f"Moments of width {self.dim} and {part.dim} cannot be merged; they come from different encoders."
                )
            own = part.sigma * (part.count - part.ddof)
            total, mu = _sums.chan_update(total, mu, scatter, part.count, part.mu, own)
        factors = [part.factor + (part.mu - mu) for part in parts if part.factor is not None]
        factor = None
        if total <= self.dim and len(factors) == len(parts):
            factor = np.concatenate(factors)
            scatter = factor.T @ factor
        kept = [part.rows for part in parts if part.rows is not None]
        rows = np.concatenate(kept) if len(kept) == len(parts) else None
        return Moments(mu, scatter / (total - self.ddof), total, self.ddof, factor, self.attributes, rows)

    def with_count(self, count: int | None) -> Moments:
        """These moments with a count that is known from elsewhere, as for the files of peers, which hold none.

        Raises `InputError` when it contradicts the count that is stored.
        """
        if count is None or count == self.count:
            return self
        if self.count is not None:
            raise InputError(f"These moments are of {self.count} samples, but {count} were announced; one is wrong.")
        return dataclasses.replace(self, count=count)

    def check(self) -> Moments:
        """`self`; raises `InputError` when the covariance is not positive semidefinite."""
        _covariance.rank(self.sigma)
        return self

    def save(self, path: str | os.PathLike[str], attributes: Mapping[str, Attribute] | None = None) -> None:
        """Write a `.npz` that peers read (`mu`, `sigma`) or a `.h5`, by the suffix; a reader never sees half a file.

        `attributes` are added to the moments' own and come back as `.attributes`.
        """
        _moments_files.save(path, self.fields(), {**self.attributes, **(attributes or {})})

    def fields(self) -> dict[str, Any]:
        """The arrays and numbers that a file of these moments holds besides attributes, by name."""
        curve = None if self.curve is None else self.curve.array
        arrays = {"mu": self.mu, "sigma": self.sigma, "count": self.count, "ddof": self.ddof, "factor": self.factor}
        arrays["curve"] = curve
        if self.classes is not None:
            arrays |= self.classes.arrays
        return {name: value for name, value in arrays.items() if value is not None}

    @classmethod
    def load(cls, path: str | os.PathLike[str], keys: tuple[str, str] = ("mu", "sigma")) -> Moments:
        """Moments from a `.npz` (ours or a peer's) or our `.h5`, recognised by content; nothing in it is executed.

        `keys` names another pair in a peer's npz, such as ("mu_s", "sigma_s").

        Raises `InputError` with one sentence that names the file and what is wrong with it.
        """
        arrays, attributes = _moments_files.load(path, keys)
        return moments_from_arrays(arrays, attributes, os.fspath(path))

    def __repr__(self) -> str:
        return f"Moments(dim={self.dim}, count={self.count}, ddof={self.ddof})"

    def __eq__(self, other: object) -> bool:
        """True when all numbers are equal, bit for bit; attributes are not compared."""
        if not isinstance(other, Moments):
            return NotImplemented
        has_same_kind = (self.count, self.ddof, self.dim) == (other.count, other.ddof, other.dim)
        return has_same_kind and np.array_equal(self.mu, other.mu) and np.array_equal(self.sigma, other.sigma)

    def __hash__(self) -> int:
        return hash((self.count, self.ddof, self.mu.tobytes()))

    def __reduce__(self) -> tuple[Any, ...]:
        values = self.mu, self.sigma, self.count, self.ddof, self.factor, dict(self.attributes), self.rows, self.curve
        return Moments, (*values, self.classes)


def moments_from_arrays(arrays: Mapping[str, Any], attributes: Mapping[str, Attribute], where: str) -> Moments:
    """The moments of the fields that a file holds; `where` names it in errors and in the warning about float32."""
    dtype = np.asarray(arrays["sigma"]).dtype
    if dtype in (np.float16, np.float32):
        warnings.warn(
            f"{where!r} holds its covariance in {dtype}; FD needs statistics in float64, and from these only the "
            "first digits can be trusted.",
            FdrWarning,
            stacklevel=3,
        )
    try:
        curve = LeverageCurve.of(arrays["curve"]) if "curve" in arrays else None
        fields = {name: value for name, value in arrays.items() if name not in CLASS_ARRAYS}
        moments = Moments(**{**fields, "curve": curve, "classes": ClassMoments.of(arrays)}, attributes=attributes)
    except InputError as error:
        raise InputError(f"{where!r}: {error}") from None
    gap = _covariance.asymmetry(np.asarray(arrays["sigma"]))
    if gap > NOTABLE_ASYMMETRY and dtype == np.float64:
        warnings.warn(
            f"{where!r} holds a covariance that is symmetric only to {gap:.1e} of its largest entry, as if it had been "
            "computed in low precision; its symmetric part is used.",
            FdrWarning,
            stacklevel=3,
        )
    return moments


def _checked_count(count: Any) -> int:
    if count != count or int(count) != count or count < 2:
        raise InputError(f"The count is {count}; moments need at least 2 samples.")
    return int(count)


def _checked_rows(rows: Any, dim: int, count: int | None) -> np.ndarray:
    """A read-only view of the features, which are not copied."""
    rows = _covariance.as_numpy(rows).view()
    if rows.ndim != 2 or rows.shape[1] != dim or count not in (None, len(rows)):
        raise InputError(f"The rows have shape {list(rows.shape)}; expected [count, D] = [{count}, {dim}].")
    if rows.dtype not in (np.float32, np.float64):
        raise InputError(f"The rows have dtype {rows.dtype}; expected float32 or float64.")
    return rows


def _check_classes(classes: ClassMoments, dim: int, count: int | None) -> None:
    if classes.means.shape[1] != dim or count not in (None, classes.total):
        raise InputError(
            f"The classes are of {classes.total} features of width {classes.means.shape[1]}, the moments of {count} of "
            f"width {dim}; the file was altered or mixed from two sets."
        )


def _check_factor(factor: np.ndarray, sigma: np.ndarray, count: int | None, ddof: int) -> None:
    if factor.shape != (count, len(sigma)):
        raise InputError(
            f"The centred features have shape {list(factor.shape)}; expected [count, D] = [{count}, {len(sigma)}]."
        )
    trace = float(np.vdot(factor, factor)) / (len(factor) - ddof)
    if abs(trace - sigma.trace()) > 1e-9 * trace:
        raise InputError("The centred features and sigma disagree; the file was altered or mixed from two sets.")
