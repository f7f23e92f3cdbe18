"""What an interpolated FID is told; the defaults here are the only ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fdr.errors import InputError, unknown
from fdr.features import check_stored
from fdr.ifid.interpolation import MODES

COMPATS = ("reference",)
HALF = 0.5
DEFAULT_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class IfidOptions:
    """All that decides the images that an interpolated FID is taken of, besides autoencoder and image sets.

    The defaults are those of the paper (arXiv 2603.05630).
    """

    mode: str = "slerp"
    """"slerp", "linear" or "mask"; neighbours are nearest by cosine for slerp and mask, by L2 for linear."""
    alphas: tuple[float, ...] = (0.5,)
    """How far towards the neighbour; the last is that of "iFID", the others make the curve."""
    top_k: int = 10
    """The neighbour is drawn from so many nearest, by the softmax of minus their mean squared distance."""
    seed: int = 0
    """Of the draw, and of posterior samples."""
    same_class: bool = False
    """Only neighbours of the query's class."""
    clamp: bool = True
    """Decoded values outside of [0, 1] are clamped, as in any file of images; False needs quantize "none"."""
    quantize: str = "uint8"
    """Decoded images are rounded to 8 bits, or ("none") measured as floats."""
    latent_dtype: str = "float32"
    """What the latents of the neighbours' set are stored as: "float32", "float16" or "bfloat16"."""
    memory: int = DEFAULT_MEMORY
    """Bytes that the neighbour search may hold; moves nothing."""
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
        """What "nearest" means: "l2" or "cosine"."""
        return "l2" if self.mode == "linear" else "cosine"

    @property
    def alpha(self) -> float:
        """That of "iFID"."""
        return self.alphas[-1]

    def used_alpha(self, alpha: float) -> float:
        """The alpha that images at `alpha` are made with: the paper's code ignores it in the mode "mask"."""
        return HALF if self.mode == "mask" and self.compat == "reference" else alpha

    def doubts(self) -> Iterator[str]:
        """What a user may not expect of these options, one sentence each."""
        ignored = [f"{alpha:g}" for alpha in self.alphas if self.used_alpha(alpha) != alpha]
        if ignored:
            yield (
                f"With --compat reference (compat=) the mode mask takes half of the rows whatever alpha is, as the "
                f"paper's code does, so alpha {', '.join(ignored)} gives the images of alpha {HALF:g}."
            )


REFERENCE_COMPAT: dict[str, Any] = {"clamp": False, "quantize": "none", "compat": "reference"}
"""The conventions of the paper's own code, as changes of the defaults."""
