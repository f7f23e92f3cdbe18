"""Sample grids and evaluations of a run at one of its steps. Each use has noise of its own, the same at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.errors import FdrError
from fdr.evaluation import Evaluator
from fdr.features import ExtractionOptions
from fdr.generators import GeneratorSource
from fdr.images import ImageOptions, open_images, write_grid
from fdr.reports import reports_to_json
from fdr.runtime import memory_for, write_atomically
from fdr.training.folder import EVALUATIONS, GRIDS, REALS_NAME
from fdr.training.setup import Parts
from fdr.training.step import stream_seed

FILL_BATCH = 64
"""Images that are generated together without gradient. Raising it needs more memory."""


class Snapshots:
    """Grids, reference images and evaluations in the folder of a run; `images_of` runs the generator."""

    def __init__(self, parts: Parts, images_of: Callable[[Tensor, Tensor | None, str], Tensor]) -> None:
        self._parts, self._images_of = parts, images_of
        self._evaluator: Evaluator | None = None

    def grid(self, step: int) -> None:
        """Save a sheet of samples; the noise and labels are the same at every step."""
        parts, options = self._parts, self._parts.run_options
        if parts.group.rank > 0 or not options.grid_every:
            return
        with evaluated(parts.generator), memory_for("the grid of samples", "lower --grid-size"):
            batches = parts.draws.batches("grid", options.grid_size, FILL_BATCH)
            images = [as_bytes(self._images_of(*batch, f"the grid of step {step}")) for batch in batches]
        write_grid(np.concatenate(images), parts.run / GRIDS / f"step-{step:08d}.png")

    def reals(self) -> None:
        """Save as many reference images beside the grids, where the reference holds images."""
        parts, options = self._parts, self._parts.run_options
        if parts.group.rank > 0 or not options.grid_every:
            return
        images = first_images(parts.options.reference, options.grid_size)
        if images is not None:
            write_grid(images, parts.run / GRIDS / REALS_NAME)

    def evaluate(self, step: int) -> dict[str, Any]:
        """Evaluate the generator as `fdr eval` does, save the report, and return an entry for the log."""
        parts, count = self._parts, self._parts.run_options.eval_count
        seed = stream_seed(parts.options.seed, "evaluation")
        with evaluated(parts.generator):
            source = GeneratorSource(parts.generator, count, seed=seed, batch_size=FILL_BATCH)
            report = self._prepared().evaluate_source(source)
        if parts.group.rank == 0:
            write_atomically(parts.run / EVALUATIONS / f"step-{step:08d}.json", reports_to_json([report]).encode())
        values: dict[str, Any] = {"step": step, "count": count}
        for result in report:
            metric, _, group = result.metric.partition(":")  # "fdr_k:held_out" is that of a group of encoders
            values.setdefault(metric, {})[result.encoder or group or "all"] = result.value
        return values

    def _prepared(self) -> Evaluator:
        parts = self._parts
        if self._evaluator is None:
            self._evaluator = Evaluator(
                list(parts.encoders.values()),
                parts.reference,
                "fd" if parts.options.conditional is None else "fd,fd_conditional",
                image_options=ImageOptions(),
                encoder_options=EncoderOptions(device=str(parts.device), progress=parts.view),
                extraction_options=ExtractionOptions(progress=parts.view, group=parts.group),
            )
        return self._evaluator


@contextmanager
def evaluated(generator: torch.nn.Module) -> Iterator[None]:
    """Put the generator into eval mode, without gradient, and restore its mode at the end."""
    was_training = generator.training
    generator.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        generator.train(was_training)


def first_images(reference: str, count: int) -> np.ndarray | None:
    """The first `count` images, without those of another size than the first, uint8 [n, H, W, 3]; or None."""
    if not Path(reference).expanduser().exists():
        return None
    try:
        batch = next(iter(open_images(reference).batches(count)))
    except FdrError:  # statistics without images
        return None
    images = [image.permute(1, 2, 0).numpy() for image in batch.images]
    return np.stack([image for image in images if image.shape == images[0].shape])


def as_bytes(images: Tensor) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3], rounded as for PNG files; values outside are clamped."""
    rounded = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).cpu().numpy()
