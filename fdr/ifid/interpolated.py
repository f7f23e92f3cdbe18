"""`interpolated_fid`: iFID of an autoencoder in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders
from fdr.features import ExtractionOptions
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.autoencoders.loading import as_autoencoder, load_autoencoder
from fdr.ifid.options import DEFAULT_MEMORY, IfidOptions
from fdr.ifid.run import InterpolatedFid
from fdr.images import ImageOptions, ImageSource, open_images
from fdr.metrics import load_lpips
from fdr.reports import Report
from fdr.runtime import SOLO, Group, Progress, SilentProgress, as_path, named_arguments

Encoders = str | AbstractEncoder | Any


@named_arguments
def interpolated_fid(
    autoencoder: Any,
    images: Any,
    neighbours: Any = None,
    encoders: Encoders | Sequence[Encoders] = ("inception",),
    mode: str = "slerp",
    alpha: float | Sequence[float] = 0.5,
    top_k: int = 10,
    seed: int = 0,
    *,
    same_class: bool = False,
    clamp: bool = True,
    quantize: str = "uint8",
    latent_dtype: str = "float32",
    memory: int = DEFAULT_MEMORY,
    posterior: str | None = None,
    value_range: tuple[float, float] | None = None,
    lpips: bool = False,
    compat: str | None = None,
    picture: str | os.PathLike[str] | None = None,
    image_options: ImageOptions | None = None,
    encoder_options: EncoderOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
    group: Group = SOLO,
) -> Report:
    """iFID, rFID, FD of decoded neighbours, and PSNR, SSIM, MS-SSIM (and LPIPS) of reconstructions.

    `autoencoder` is a name or path that `fdr.load_autoencoder` knows, or any object with `encode` (images
    [B, 3, H, W] in [-1, 1], or in `value_range`) and `decode`. `images` and `neighbours` are anything
    `fdr.open_images` reads, all of one size once `image_options` have been applied to both (its count to `images`
    alone). Without `neighbours` they come from `images`; an image is never its own neighbour, nor a copy of it.
    `alpha` may be a list; the last value is that of "ifd", the others are "ifd:ALPHA". `posterior`, "sample" or
    "mean", overrides the autoencoder's usual one. With `cache`, latents, neighbours and features are kept, and
    a killed run resumes. The other arguments are those of `fdr.ifid.options.IfidOptions` and `fdr.evaluate`.

    Raises `InputError` for anything unusable, `RunError` when a run cannot finish.
    """
    shown = progress or SilentProgress()
    alphas = (float(alpha),) if isinstance(alpha, int | float) else tuple(float(a) for a in alpha)
    options = IfidOptions(
        mode=mode,
        alphas=alphas,
        top_k=top_k,
        seed=seed,
        same_class=same_class,
        clamp=clamp,
        quantize=quantize,
        latent_dtype=latent_dtype,
        memory=memory,
        lpips=lpips,
        compat=compat,
    )
    encoder_options = encoder_options or EncoderOptions(progress=shown)
    loaded = _loaded(autoencoder, posterior, seed, value_range, encoder_options)
    queries, others = open_sets(images, neighbours, image_options or ImageOptions())
    extraction = ExtractionOptions(
        None if cache is None else as_path(cache, "the cache"), batch_size, num_workers, shown, group=group
    )
    given = list(encoders) if isinstance(encoders, list | tuple) else encoders
    measured_with = load_encoders(given, encoder_options, None)
    distance = load_lpips(encoder_options, device=encoder_options.device, tf32=encoder_options.tf32) if lpips else None
    run = InterpolatedFid(loaded, queries, others, measured_with, options, extraction, distance)
    return run.run(None if picture is None else as_path(picture, "the picture"))


def _loaded(
    item: Any, posterior: str | None, seed: int, value_range: tuple[float, float] | None, options: EncoderOptions
) -> LoadedAutoencoder:
    device, dtype, tf32 = options.device, options.dtype, options.tf32
    if not isinstance(item, str | os.PathLike):
        return as_autoencoder(
            item, device=device, posterior=posterior, seed=seed, value_range=value_range, dtype=dtype, tf32=tf32
        )
    return load_autoencoder(
        item,
        device=device,
        posterior=posterior,
        seed=seed,
        value_range=value_range,
        dtype=dtype,
        tf32=tf32,
        weights_dir=options.weights_dir,
        offline=options.offline,
        progress=options.progress,
    )


def open_sets(
    images: Any, neighbours: Any, options: ImageOptions, neighbour_count: int | None = None
) -> tuple[ImageSource, ImageSource | None]:
    """Open both image sets with the same crop and size; `options.count` applies to `images` only."""
    queries = open_images(images, options)
    if neighbours is None:
        return queries, None
    return queries, open_images(neighbours, replace(options, count=neighbour_count))
