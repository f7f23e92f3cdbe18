"""The FD between random halves of a reference, which shows what FD is where the true FD is 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

PREFIX = "noise_floor_"


@dataclass(frozen=True)
class NoiseFloor:
    """FD between two random halves of a reference, averaged over several splits."""

    fd: float
    """The raw FD. All of it is bias: it falls about as 1 / `count`."""
    fd_stderr: float
    """The standard error of that mean over the splits."""
    count: int
    """Number of images in each half."""
    splits: int
    seed: int
    debiased: float | None = None
    """The debiased FD, around 0; None where the halves are too small for it."""
    debiased_stderr: float | None = None

    @property
    def attributes(self) -> dict[str, float]:
        """The fields as attributes of a statistics file."""
        return {PREFIX + name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> NoiseFloor | None:
        """The noise floor that a statistics file states, or None."""
        stated = {name: attributes.get(PREFIX + name) for name in cls.__dataclass_fields__}
        found = {name: value for name, value in stated.items() if isinstance(value, int | float)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        return cls(**found) if needed <= found.keys() else None  # type: ignore[arg-type]

    def __str__(self) -> str:
        raw = f"{self.fd:.4g} ± {self.fd_stderr:.2g}"
        debiased = ""
        if self.debiased is not None and self.debiased_stderr is not None:
            debiased = f", debiased {self.debiased:.4g} ± {self.debiased_stderr:.2g}"
        return f"FD {raw}{debiased} between random halves of {self.count} images ({self.splits} splits)"
