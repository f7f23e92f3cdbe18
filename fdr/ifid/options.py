"""The options of an interpolated FID; their defaults are set here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fdr.errors import InputError, unknown
from fdr.features import check_stored
from fdr.ifid.interpolation import MODES
from fdr.neighbours import DEFAULT_MEMORY

COMPATS = ("reference",)
HALF = 0.5


@dataclass(frozen=True)
class IfidOptions:
    """How neighbours are found, latents interpolated and images decoded and measured.

    The defaults are those of the paper (arXiv 2603.05630).
    """

    mode: str = "slerp"
    """"slerp", "linear" or "mask". Neighbours are nearest by cosine for slerp and mask, and by L2 for linear."""
    alphas: tuple[float, ...] = (0.5,)
    """How far to go towards the neighbour, 0 to 1. The last value is that of "iFID"; the others make a curve."""
    top_k: int = 10
    """K: the neighbour is drawn from the K nearest, by the softmax of minus their mean squared distances."""
    seed: int = 0
    """Seed for the draw of neighbours and for posterior samples."""
    same_class: bool = False
    """Take neighbours of the image's own class only."""
    clamp: bool = True
    """Clamp decoded values to [0, 1], as image files do; False needs quantize "none"."""
    quantize: str = "uint8"
    """"uint8" rounds decoded images to 8 bits; "none" measures them as floats."""
    latent_dtype: str = "float32"
    """The dtype in which latents of neighbours are stored: "float32", "float16" or "bfloat16"."""
    memory: int = DEFAULT_MEMORY
    """Bytes that the neighbour search may hold; does not change the result."""
    lpips: bool = False
    """Measure LPIPS as well; needs the extra `lpips`."""
    compat: str | None = None
    """"reference" scales the images of PSNR, SSIM and MS-SSIM as the paper's code does, and takes half of the rows for
    the mode "mask" whatever alpha is."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("interpolation", self.mode, MODES)
        if not self.alphas or not all(math.isfinite(a) and 0 <= a <= 1 for a in self.alphas):
            raise InputError(f"Alpha is a number from 0 (the image itself) to 1 (its neighbour); got {self.alphas}.")
        if len(set(self.alphas)) != len(self.alphas):
            raise InputError(f"Every alpha is measured once; got {self.alphas}.")
        for name, value, least in (("top-k", self.top_k, 1), ("seed", self.seed, 0), ("memory", self.memory, 1)):
            if value < least:
                raise InputError(f"{name} must be at least {least}; got {value}.")
        if self.quantize not in ("uint8", "none"):
            raise unknown("quantize", self.quantize, ("uint8", "none"))
        if not self.clamp and self.quantize != "none":
            raise InputError("Values that are not clamped cannot be rounded to 8 bits; add --quantize none.")
        if self.compat is not None and self.compat not in COMPATS:
            raise unknown("compat", self.compat, COMPATS)
        check_stored(self.latent_dtype)

    @property
    def distance(self) -> str:
        """The metric of the neighbour search: "l2" or "cosine"."""
        return "l2" if self.mode == "linear" else "cosine"

    @property
    def alpha(self) -> float:
        """The alpha of "iFID"."""
        return self.alphas[-1]

    def used_alpha(self, alpha: float) -> float:
        """The alpha that images named `alpha` are made with; compat "reference" ignores it in the mode "mask"."""
        return HALF if self.mode == "mask" and self.compat == "reference" else alpha

    @property
    def decoded_alphas(self) -> tuple[float, ...]:
        """The alphas whose images must be decoded: all but those that give the reconstructions."""
        return tuple(alpha for alpha in self.alphas if self.used_alpha(alpha) > 0)

    @property
    def surprise(self) -> str | None:
        """A warning, if these options have an effect that a user may not expect."""
        ignored = [f"{alpha:g}" for alpha in self.alphas if self.used_alpha(alpha) != alpha]
        if not ignored:
            return None
        return (
            f"With --compat reference (compat=) the mode mask takes half of the rows whatever alpha is, as the paper's "
            f"code does, so alpha {', '.join(ignored)} gives the images of alpha {HALF:g}."
        )


REFERENCE_COMPAT: dict[str, Any] = {"clamp": False, "quantize": "none", "compat": "reference"}
"""Options that differ from the defaults in the paper's own code."""
