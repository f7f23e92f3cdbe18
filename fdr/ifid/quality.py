"""PSNR, SSIM, MS-SSIM and LPIPS of reconstructions, computed in the same pass as their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fdr.encoders import AbstractRowEncoder, EncoderSpec
from fdr.errors import InputError
from fdr.ifid.originals import Originals
from fdr.metrics import MIN_MS_SSIM_SIDE, MIN_SSIM_SIDE, half_range, ms_ssim, num_outside, psnr, ssim

if TYPE_CHECKING:
    from fdr.metrics import Lpips

QUALITY_VERSION = 1
"""Raised whenever a release changes one of the scores."""
ENCODER = "reconstruction quality"
OUTSIDE = "outside"
"""The output that counts values far outside of [0, 1]; it exists if decoded values are not clamped."""


class QualityEncoder(AbstractRowEncoder):
    """The scores of reconstructions as an encoder: PSNR, SSIM, MS-SSIM and LPIPS, each [B, 1].

    SSIM and MS-SSIM are left out for images of a `size` [H, W] too small for them. The row of a reconstruction finds
    its original. `compat` "reference" scales images as the code of iFID's paper does. Unless `is_clamped`, values are
    scored as they are, and the output `OUTSIDE` counts those far outside of [0, 1]. `matching` identifies the pairs if
    reconstructions are not in the order of their originals.
    """

    def __init__(
        self,
        originals: Originals,
        size: tuple[int, int],
        device: torch.device,
        lpips: Lpips | None,
        num_workers: int | None,
        *,
        compat: str | None = None,
        is_clamped: bool = True,
        matching: str | None = None,
    ) -> None:
        self._pairs = originals
        self._num_workers = num_workers
        self._compat = compat
        self._lpips = lpips
        self._any_range = not is_clamped
        self.device = device
        digest = originals.source.digest
        self.is_cacheable = digest is not None
        least = {"psnr": 1, "ssim": MIN_SSIM_SIDE, "ms_ssim": MIN_MS_SSIM_SIDE}
        names = tuple(name for name, side in least.items() if min(size) >= side)
        self.scores = names if lpips is None else (*names, "lpips")
        """Names of the qualities that a report shows."""
        self.outputs = self.stored_outputs = self.scores if is_clamped else (*self.scores, OUTSIDE)
        extra = (
            ("compat", compat or "none"),
            ("heads", "none" if lpips is None else lpips.heads),
            *((("matching", matching),) if matching is not None else ()),
            ("originals", digest or ""),
            ("version", str(QUALITY_VERSION)),
        )
        self.spec = EncoderSpec(
            name=ENCODER,
            family="quality",
            model="image-quality",
            weights="none" if lpips is None else lpips.weights,
            output=names[0],
            dim=1,
            input_size=0,
            resize="none",
            mean=(),
            std=(),
            extra=extra,
        )

    def preprocess(self, images: Tensor) -> Tensor:
        return images

    def forward_rows(self, inputs: Tensor, outputs: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
        originals = self._originals(rows, inputs).to(inputs.device)
        seen = inputs, originals
        if self._compat == "reference":
            seen = half_range(inputs), half_range(originals)
        scores: dict[str, Callable[[], Tensor]] = {
            "psnr": lambda: psnr(*seen, self._any_range),
            "ssim": lambda: ssim(*seen, self._any_range),
            "ms_ssim": lambda: ms_ssim(*seen, self._any_range),
            "lpips": lambda: self._distances(*seen),
            OUTSIDE: lambda: num_outside(inputs),
        }
        return {name: scores[name]().reshape(-1, 1).float() for name in outputs}

    def _distances(self, images: Tensor, originals: Tensor) -> Tensor:
        assert self._lpips is not None
        return self._lpips(images, originals, self._any_range)

    def _originals(self, rows: Sequence[int], images: Tensor) -> Tensor:
        """The originals of `images` [B, 3, H, W] at the positions `rows`, float32 in [0, 1]."""
        source, wanted = self._pairs.source, self._pairs.rows[list(rows)]
        found: dict[int, Tensor] = {}
        for first, last in _runs(np.unique(wanted)):
            for batch in source.batches(last + 1 - first, self._num_workers, first, last + 1):
                found |= dict(zip(batch.rows, batch.images, strict=True))
        for row in wanted.tolist():
            where = f"{source.name}: {source.ids[row]}"
            if row not in found:
                raise InputError(f"{where} cannot be read, so that its reconstruction has no score; leave out both.")
            check_size(found[row], images, where)
        picked = [found[row] for row in wanted.tolist()]
        return torch.stack([x if x.is_floating_point() else x.float() / 255 for x in picked])


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of the runs of consecutive numbers in ascending `rows`."""
    parts = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]


def check_size(original: Tensor, images: Tensor, where: str) -> None:
    """Raise `InputError` unless an original [3, H, W] and its reconstruction [..., 3, H, W] are of one size."""
    if original.shape[-2:] != images.shape[-2:]:
        own, other = (f"{width} x {height}" for height, width in (original.shape[-2:], images.shape[-2:]))
        raise InputError(
            f"{where} is {own}, and its reconstruction {other}; bring both to one size with --size (and --crop)."
        )
