"""FDr = FD / FD of the validation set, and FDr^k, its mean over k encoders (arXiv 2604.28190), with rounding bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fdr.frechet import ValidationFD, fd_ratio, fdr_k


@dataclass(frozen=True)
class Ratio:
    """FDr of one encoder. `low` and `high` bound it when the denominator is a rounded published constant."""

    value: float
    low: float
    high: float
    val_fd: ValidationFD

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None when the denominator is exact."""
        return None if self.val_fd.decimals is None else (self.low, self.high)

    @property
    def notes(self) -> tuple[str, ...]:
        """Says by how much rounding moves the value, where that exceeds 1 %."""
        spread = max(self.high - self.value, self.value - self.low) / abs(self.value) if self.value else 0.0
        if self.val_fd.decimals is None or spread < 0.01:
            return ()
        constant = f"{self.val_fd.value:.{self.val_fd.decimals}f}"
        percent = 50 * 10.0**-self.val_fd.decimals / self.val_fd.value
        return (
            f"validation FD {constant} is published to {self.val_fd.decimals} decimals: FDr is ±{percent:.3g} % wide",
        )


def ratio(fd: float, val_fd: ValidationFD) -> Ratio:
    """FD over the validation FD, and over both ends of its rounding interval."""
    low, high = val_fd.bounds
    ends = sorted((fd_ratio(fd, high), fd_ratio(fd, low)))
    return Ratio(fd_ratio(fd, val_fd.value), ends[0], ends[1], val_fd)


def mean_ratio(ratios: Mapping[str, Ratio]) -> tuple[float, tuple[float, float] | None]:
    """FDr^k and the interval that rounding leaves open (None when every denominator is exact)."""

    def mean(values: Sequence[float]) -> float:
        return fdr_k(dict(zip(ratios, values, strict=True)))

    value = mean([r.value for r in ratios.values()])
    if all(r.interval is None for r in ratios.values()):
        return value, None
    return value, (mean([r.low for r in ratios.values()]), mean([r.high for r in ratios.values()]))
