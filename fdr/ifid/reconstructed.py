"""`measure_reconstructions`: reconstructions beside their originals in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fdr.encoders import EncoderOptions
from fdr.errors import InputError
from fdr.ifid.reconstruction import Reconstructed, Reconstruction
from fdr.ifid.setup import Encoders, Setup
from fdr.images import ImageOptions, open_images
from fdr.runtime import Progress, as_path, named_arguments


@named_arguments
def measure_reconstructions(
    originals: Any,
    reconstructions: Any = None,
    encoders: Encoders | Sequence[Encoders] = ("inception",),
    *,
    autoencoder: Any = None,
    lpips: bool = False,
    image_options: ImageOptions | None = None,
    encoder_options: EncoderOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    picture: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
) -> Reconstructed:
    """rFD under every encoder, and PSNR, SSIM, MS-SSIM (and LPIPS) of every reconstruction.

    `originals` and `reconstructions` are anything `fdr.open_images` reads; files are matched by name and rows of arrays
    by position, and `image_options` hold for both. Or give an `autoencoder`, as for `fdr.interpolated_fid`, in place of
    the reconstructions. The result has a `report`, the scores of every image (`qualities`, `ids`, `to_csv`) and the
    positions of the `worst` ones. The other arguments are those of `fdr.evaluate`.

    Raises `InputError` for anything unusable, `RunError` when a run cannot finish.
    """
    if (reconstructions is None) == (autoencoder is None):
        raise InputError("Give either the reconstructions or an autoencoder that makes them.")
    options = image_options or ImageOptions()
    setup = Setup.of(encoder_options, cache, batch_size, num_workers, progress)
    made = open_images(reconstructions, options) if autoencoder is None else setup.autoencoder(autoencoder)
    source = open_images(originals, options)
    run = Reconstruction(source, made, setup.encoders(encoders), setup.extraction, setup.lpips(lpips))
    found = run.run(None if picture is None else as_path(picture, "the picture"))
    assert found is not None
    return found
