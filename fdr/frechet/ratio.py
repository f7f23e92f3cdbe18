"""FDr, FD over the FD of real validation images, and FDr^k, its mean over k encoders (arXiv 2604.28190)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fdr.errors import InputError


@dataclass(frozen=True)
class ValidationFD:
    """FD of the real validation set against the reference: the denominator of FDr."""

    value: float
    decimals: int | None
    """Decimals of a rounded published constant; None when the value is exact."""
    source: str

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that the rounding leaves open; a point when the value is exact."""
        half = 0.0 if self.decimals is None else 0.5 * 10.0**-self.decimals
        return self.value - half, self.value + half


def fd_ratio(fd: float, fd_val: float) -> float:
    """FDr: FD divided by the FD of the validation set under the same encoder and reference; 1 for validation data."""
    if not math.isfinite(fd):
        raise InputError(f"FD is {fd}; FDr needs a finite FD.")
    if not (math.isfinite(fd_val) and fd_val > 0):
        raise InputError(f"The validation FD is {fd_val}; FDr needs one above 0.")
    return fd / fd_val


def fdr_k(ratios: Mapping[str, float]) -> float:
    """FDr^k: the arithmetic mean of FDr over k encoders, {"inception": 1.2, "dinov2": 3.4}."""
    if not ratios:
        raise InputError("FDr^k needs the FDr of at least one encoder; got none.")
    for name, ratio in ratios.items():
        if not math.isfinite(ratio):
            raise InputError(f"The FDr of {name} is {ratio}; FDr^k needs finite ones.")
    return math.fsum(ratios.values()) / len(ratios)
