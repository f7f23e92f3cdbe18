"""`LeverageCurve`: how unequal the leverages of a set of features are, in a few numbers that a file can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fdr.errors import InputError


@dataclass(frozen=True, eq=False)
class LeverageCurve:
    """kappa(h) = mean h_a^2 / (mean h_a)^2 of the leverages h_a of a set, by its effective dimension h.

    It is 1 or more: 1 says that all leverages are equal, as those of many Gaussian features nearly are. With the count
    it is all that the debiased FD needs of a reference whose features are not at hand.
    """

    h: np.ndarray
    """[K] effective dimensions, ascending, each above 0."""
    kappa: np.ndarray
    """[K] kappa at each of them."""

    def __post_init__(self) -> None:
        h, kappa = (np.array(values, dtype=np.float64) for values in (self.h, self.kappa))
        if h.ndim != 1 or h.shape != kappa.shape or len(h) == 0:
            raise InputError(
                f"A leverage curve has h of shape {list(h.shape)} and kappa of shape {list(kappa.shape)}; "
                "expected [K] twice."
            )
        if not (np.isfinite(h).all() and (h > 0).all() and (np.diff(h) > 0).all()):
            raise InputError("The h of a leverage curve are not ascending numbers above 0; the file was altered.")
        if not (np.isfinite(kappa).all() and (kappa >= 1 - 1e-9).all()):
            raise InputError("The kappa of a leverage curve are not numbers of at least 1; the file was altered.")
        for name, values in (("h", h), ("kappa", kappa)):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def at(self, h: np.ndarray) -> np.ndarray:
        """kappa at any h [n], interpolated in log h; constant beyond both ends."""
        return np.interp(np.log(h), np.log(self.h), self.kappa)

    @property
    def array(self) -> np.ndarray:
        """[2, K]: h and kappa, as files hold them."""
        return np.stack([self.h, self.kappa])

    @classmethod
    def of(cls, array: Any) -> LeverageCurve:
        """The curve of the `array` in a file. Raises `InputError` where it is none."""
        array = np.asarray(array)
        if array.ndim != 2 or len(array) != 2 or array.dtype.kind not in "fiu":
            raise InputError(f"A leverage curve has shape {list(array.shape)}; expected [2, K].")
        return cls(array[0], array[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return LeverageCurve, (self.h, self.kappa)
