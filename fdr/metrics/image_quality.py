"""PSNR, SSIM and MS-SSIM between images and their reconstructions, one number for each image, in float64.

All take two batches [B, 3, H, W] of floats in [0, 1], so the data range is 1. The caller clamps or quantises them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fdr.errors import InputError

PSNR_CAP = 100.0
"""Largest PSNR in dB, so that means stay finite: equal images have this instead of infinity. It is that of a mean
squared difference of 1e-10."""

WINDOW_SIDE, WINDOW_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales (Wang, Simoncelli & Bovik 2003), finest first."""

MIN_SSIM_SIDE = WINDOW_SIDE
MIN_MS_SSIM_SIDE = (WINDOW_SIDE - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
"""161 px. In smaller images the window does not fit after four halvings."""

CACHED_VALUES = 400_000
"""Values that a CPU processes at once. More do not fit into its cache, and took 2.5 to 4 times as long."""

OVERSHOOT = 0.5
"""Values may lie this far outside of [0, 1], as those of a decoder do before clamping. Values further out are refused
as values of another range."""


def psnr(images: Tensor, others: Tensor, any_range: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB, [B]: -10 log10 of the mean squared difference over pixels and channels, at most
    `PSNR_CAP`.

    Raises `InputError` for batches of unequal or other shapes, of integers, with NaN, or with values far outside of
    [0, 1]. With `any_range` such values are scored as they are.
    """
    x, y = checked_pair(images, others, "PSNR", any_range=any_range)
    return (-10 * (x - y).square().mean(dim=(1, 2, 3)).log10()).clamp(max=PSNR_CAP)


def ssim(images: Tensor, others: Tensor, any_range: bool = False) -> Tensor:
    """Structural similarity, [B] (Wang et al. 2004): Gaussian 11 x 11 windows that lie wholly inside, mean of channels.

    Sigma is 1.5, K1 is 0.01 and K2 is 0.03. Covariances are weighted means, without a correction for the sample. Images
    are not downscaled first. Raises `InputError` as `psnr` does, and for images below 11 px.
    """
    x, y = checked_pair(images, others, "SSIM", MIN_SSIM_SIDE, any_range=any_range)
    return _ssim_and_structure(x, y)[0].mean(1)


def ms_ssim(images: Tensor, others: Tensor, any_range: bool = False) -> Tensor:
    """Multi-scale structural similarity, [B] (Wang, Simoncelli & Bovik 2003): five scales, mean of channels.

    For each channel it is the product of the mean contrast-structure at the four finer scales and the mean SSIM at the
    coarsest, each to the power of its weight. A negative mean, which has no real power, counts as 0. A scale is halved
    by averaging 2 x 2 pixels; an odd last row or column is repeated, as in the authors' code. Raises `InputError` as
    `psnr` does, and for images below `MIN_MS_SSIM_SIDE`.
    """
    x, y = checked_pair(images, others, "MS-SSIM", MIN_MS_SSIM_SIDE, any_range=any_range)
    product = torch.ones_like(x[:, :, 0, 0])
    for weight in SCALE_WEIGHTS[:-1]:
        product *= _ssim_and_structure(x, y)[1].clamp(min=0) ** weight
        x, y = (avg_pool2d(one, 2, ceil_mode=True) for one in (x, y))
    return (product * _ssim_and_structure(x, y)[0].clamp(min=0) ** SCALE_WEIGHTS[-1]).mean(1)


def half_range(images: Tensor) -> Tensor:
    """0.5 + 0.5 x, which is what the reference code of iFID (arXiv 2603.05630) scores: it takes images in [0, 1] for
    images in [-1, 1].

    Apply it to both images to get the scores of that code. PSNR is higher by 20 log10 2 = 6.02 dB, SSIM and MS-SSIM are
    higher too, and LPIPS gets images in [0, 1] although its network was trained on [-1, 1].
    """
    return 0.5 + 0.5 * images


def num_outside(images: Tensor) -> Tensor:
    """The number of values of each image that lie further outside of [0, 1] than `OVERSHOOT`, int64 [B]."""
    return ((images < -OVERSHOOT) | (images > 1 + OVERSHOOT)).flatten(1).sum(1)


def checked_pair(
    images: Tensor, others: Tensor, score: str, min_side: int = 1, *, any_range: bool = False
) -> tuple[Tensor, Tensor]:
    """Both batches as float64 [B, 3, H, W], on the CPU if their device has no float64.

    Raises `InputError` for batches from which `score` cannot be computed, for images with a side below `min_side`, and
    unless `any_range` is set for values far outside of [0, 1].
    """
    for one in (images, others):
        if not isinstance(one, Tensor) or one.ndim != 4 or one.shape[1] != 3 or not one.is_floating_point():
            found = f"{list(one.shape)} {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
            raise InputError(f"{score} takes two float batches [B, 3, H, W] in [0, 1]; got {found}.")
    if images.shape != others.shape:
        raise InputError(f"{score} takes two batches of one shape; got {list(images.shape)} and {list(others.shape)}.")
    if min(images.shape[2:]) < min_side:
        raise InputError(f"{score} needs images of at least {min_side} px; got {images.shape[3]} x {images.shape[2]}.")
    for one in (images, others):
        low, high = (1.0, 0.0) if one.numel() == 0 else (float(end) for end in one.detach().aminmax())
        least, most = (-math.inf, math.inf) if any_range else (-OVERSHOOT, 1 + OVERSHOOT)
        if not (low >= least and high <= most):  # NaN is neither
            raise InputError(
                f"{score} takes images in [0, 1]; got values from {low:g} to {high:g}: scale them (divide bytes by "
                "255, map [-1, 1] by 0.5 + 0.5 x), and clamp them."
            )
    return _as_float64(images), _as_float64(others)


def _as_float64(images: Tensor) -> Tensor:
    images = images.detach()
    return (images.cpu() if images.device.type == "mps" else images).double()


def _ssim_and_structure(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the windows, [B, 3], of SSIM and of its contrast-structure factor (2 s_xy + c2) / (s_x² + s_y² + c2).

    A CPU computes a few images at a time.
    """
    step = max(1, CACHED_VALUES // max(1, x[:1].numel()) if x.device.type == "cpu" else len(x))
    similarity, structure = zip(*map(_of_windows, x.split(step), y.split(step)), strict=True)
    return torch.cat(similarity), torch.cat(structure)


def _of_windows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`_ssim_and_structure` of a few images. Variances are E[x²] - E[x]², which is exact enough in float64."""
    c1, c2 = K1**2, K2**2
    mean_x, mean_y = _windowed(x), _windowed(y)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _windowed(x * y) - product
    variances = _windowed(x.square() + y.square()) - squares
    structure = (2 * covariance + c2) / (variances + c2)
    similarity = (2 * product + c1) / (squares + c1) * structure
    return similarity.mean(dim=(2, 3)), structure.mean(dim=(2, 3))


def _windowed(x: Tensor) -> Tensor:
    """Gaussian means of all whole windows, [B, C, H - 10, W - 10].

    Shifted sums along either axis take a quarter of the time of torch's convolutions in float64 on a CPU.
    """
    offsets = torch.arange(WINDOW_SIDE).double() - WINDOW_SIDE // 2
    window = torch.exp(-offsets.square() / (2 * WINDOW_SIGMA**2))
    weights: list[float] = (window / window.sum()).tolist()
    for axis in (2, 3):
        length = x.shape[axis] - WINDOW_SIDE + 1
        total = weights[0] * x.narrow(axis, 0, length)
        for start, weight in enumerate(weights[1:], start=1):
            total.add_(x.narrow(axis, start, length), alpha=weight)
        x = total
    return x
