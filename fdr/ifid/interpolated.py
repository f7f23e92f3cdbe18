"""`interpolated_fid`: iFID of an autoencoder in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fdr.encoders import EncoderOptions
from fdr.ifid.options import IfidOptions
from fdr.ifid.run import InterpolatedFid
from fdr.ifid.setup import Encoders, Setup
from fdr.images import ImageOptions, ImageSource, open_images
from fdr.reports import Report
from fdr.runtime import SOLO, Group, Progress, as_path, named_arguments


@named_arguments
def interpolated_fid(
    autoencoder: Any,
    images: Any,
    neighbours: Any = None,
    encoders: Encoders | Sequence[Encoders] = ("inception",),
    *,
    ifid_options: IfidOptions | None = None,
    image_options: ImageOptions | None = None,
    encoder_options: EncoderOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    picture: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
    group: Group = SOLO,
) -> Report:
    """iFID, rFID, FD of decoded neighbours, and PSNR, SSIM, MS-SSIM (and LPIPS) of reconstructions.

    `autoencoder` is a name, a path or an object that `fdr.load_autoencoder` takes, or what it returned, which is the
    way to give its posterior or value range. `images` and `neighbours` are anything `fdr.open_images` reads, all of one
    size once `image_options` have been applied to both (its count to `images` alone). Without `neighbours` they come
    from `images`; an image is never its own neighbour, nor a copy of it. `ifid_options` say how neighbours are found
    and latents interpolated; of several `alphas` the last one gives "ifd", the others "ifd:ALPHA". With `cache`,
    latents, neighbours and features are kept, and a killed run resumes. The other arguments are those of
    `fdr.evaluate`.

    Raises `InputError` for anything unusable, `RunError` when a run cannot finish.
    """
    options = ifid_options or IfidOptions()
    setup = Setup.of(encoder_options, cache, batch_size, num_workers, progress, group)
    loaded = setup.autoencoder(autoencoder, seed=options.seed)
    queries, others = open_sets(images, neighbours, image_options or ImageOptions())
    lpips, measured_with = setup.lpips(options.lpips), setup.encoders(encoders)
    run = InterpolatedFid(loaded, queries, others, measured_with, options, setup.extraction, lpips)
    return run.run(None if picture is None else as_path(picture, "the picture"))


def open_sets(
    images: Any, neighbours: Any, options: ImageOptions, neighbour_count: int | None = None
) -> tuple[ImageSource, ImageSource | None]:
    """Open both image sets with the same crop and size; `options.count` applies to `images` only."""
    queries = open_images(images, options)
    if neighbours is None:
        return queries, None
    return queries, open_images(neighbours, replace(options, count=neighbour_count))
