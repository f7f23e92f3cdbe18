"""PSNR, SSIM, MS-SSIM and LPIPS of reconstructions, computed in the same pass as their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fdr.encoders import AbstractRowEncoder, EncoderSpec
from fdr.errors import InputError
from fdr.features import ExtractionOptions
from fdr.ifid.latents import Latents
from fdr.ifid.options import IfidOptions
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

    SSIM and MS-SSIM are left out for images too small for them. The row of an image finds its original. `compat`
    "reference" scales images as the paper's code does. Values that are not clamped are scored as they are, and the
    output `OUTSIDE` counts those far outside of [0, 1].
    """

    def __init__(
        self,
        queries: Latents,
        size: tuple[int, int],
        device: torch.device,
        options: IfidOptions,
        lpips: Lpips | None,
        extraction_options: ExtractionOptions,
    ) -> None:
        self._queries = queries
        self._num_workers = extraction_options.num_workers
        self._compat = options.compat
        self._lpips = lpips
        self._any_range = not options.clamp
        self.device = device
        self.is_cacheable = queries.source.digest is not None
        least = {"psnr": 1, "ssim": MIN_SSIM_SIDE, "ms_ssim": MIN_MS_SSIM_SIDE}
        names = tuple(name for name, side in least.items() if min(size) >= side)
        self.scores = names if lpips is None else (*names, "lpips")
        """Names of the qualities that a report shows."""
        self.outputs = self.stored_outputs = self.scores if options.clamp else (*self.scores, OUTSIDE)
        extra = (
            ("compat", options.compat or "none"),
            ("heads", "none" if lpips is None else lpips.heads),
            ("originals", queries.source.digest or ""),
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
        originals = self._originals(rows).to(inputs.device)
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

    def _originals(self, rows: Sequence[int]) -> Tensor:
        """The originals of the consecutive positions `rows` among readable images, float32 [B, 3, H, W] in [0, 1]."""
        source, good = self._queries.source, self._queries.rows[list(rows)]
        first, last = int(good[0]), int(good[-1])
        found: dict[int, Tensor] = {}
        for batch in source.batches(last + 1 - first, self._num_workers, first, last + 1):
            found |= dict(zip(batch.rows, batch.images, strict=True))
        lost = [row for row in good.tolist() if row not in found]
        if lost:
            raise InputError(f"{source.name}: {source.ids[lost[0]]} was readable before and is not now.")
        images = [found[row] for row in good.tolist()]
        return torch.stack([x if x.is_floating_point() else x.float() / 255 for x in images])
