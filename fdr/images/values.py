"""Images that are values already: PIL images, arrays and tensors, uint8 or floats in [0, 1], of any common layout."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.base import ImageOptions
from fdr.images.decode import Picture, UnreadableImage, WrongValues, to_rgb
from fdr.images.files import decode_file

CHANNELS = (1, 3, 4)
ROUNDING = 1e-3  # how far outside [0, 1] a float may lie; half a step of uint8 is twice that


def is_tensor(value: Any) -> bool:
    """True for a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """True for a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def is_pil(value: Any) -> bool:
    """True for a PIL image, without importing PIL."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def image_of(item: Any) -> Any:
    """The image in a dataset's item: the item itself, the first of (image, label), or the entry "image" of a dict."""
    if isinstance(item, Mapping):
        for key in ("image", "images", "img", "pixel_values"):
            if key in item:
                return item[key]
        raise InputError(f"An item with the keys {', '.join(map(str, item))} holds no image; expected a key 'image'.")
    if isinstance(item, tuple | list) and len(item) == 2 and not _is_image_like(item[1]):
        return item[0]
    return item


def _is_image_like(value: Any) -> bool:
    return is_pil(value) or (is_array(value) and value.ndim >= 2)


def picture_of(value: Any, options: ImageOptions, where: str) -> Picture:
    """A PIL image, the path of an image file, or one array or tensor ([H, W], [H, W, C] or [C, H, W]), as RGB.

    Raises `InputError` for anything else, `UnreadableImage` for an image that does not load.
    """
    if is_pil(value):
        try:
            return Picture(to_rgb(value, options.alpha), (value.format or "array").lower())
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableImage(f"Pillow cannot load it ({error})") from error
    if isinstance(value, str | os.PathLike):
        return decode_file(value, options.alpha, options.max_pixels)
    if not is_array(value):
        raise InputError(
            f"{where} is a {type(value).__name__}; expected an image: a PIL image, an array or tensor, or a path."
        )
    axis = channel_axis(tuple(value.shape), is_tensor(value), where)
    return array_picture(to_numpy(value), axis, options, where)


def channel_axis(shape: tuple[int, ...], is_first: bool, where: str) -> int | None:
    """Where the channels of one image are: 0 or 2, or None for [H, W]; `is_first` decides where both would do."""
    if len(shape) == 2:
        return None
    found = [axis for axis in ((0, 2) if is_first else (2, 0)) if len(shape) == 3 and shape[axis] in CHANNELS]
    if not found or 0 in shape:
        raise InputError(
            f"{where} has shape {list(shape)}; expected an image [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 "
            "channels."
        )
    return found[0]


def to_numpy(value: Any) -> np.ndarray:
    """An array or tensor, wherever it lives, as a numpy array; half precision becomes float32."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    return value.astype(np.float32) if value.dtype == np.float16 else value


def array_picture(array: np.ndarray, axis: int | None, options: ImageOptions, where: str) -> Picture:
    """One image, uint8 or floats in [0, 1], as RGB with the options' quantisation and alpha."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(
            f"{where} has the dtype {array.dtype}; expected uint8, or floats in [0, 1] (for 0..255 integers: convert "
            "to uint8)."
        )
    if axis is None:
        array = array[..., None]
    elif axis == 0:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f":
        array = _unit_range(array, where)
        if options.quantize == "uint8":
            array = np.rint(array * np.float32(255)).astype(np.uint8)
    return Picture(_to_three(array, options.alpha), "array")


def _unit_range(array: np.ndarray, where: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return np.clip(array, 0, 1, dtype=np.float32, casting="same_kind")
    if not (np.isfinite(low) and np.isfinite(high)):
        raise WrongValues(f"{where} holds values that are not finite; expected floats in [0, 1].")
    if low >= -1 - ROUNDING and high <= 1 + ROUNDING:
        advice = "looks like [-1, 1]: give (x + 1) / 2"
    elif low >= -ROUNDING and high <= 255.5:
        advice = "looks like [0, 255]: give x / 255, or uint8"
    else:
        advice = "rescale or clamp them first"
    raise WrongValues(f"{where} holds floats from {low:.4g} to {high:.4g}; expected [0, 1] ({advice}).")


def _to_three(array: np.ndarray, alpha: str) -> np.ndarray:
    """[H, W, C] of 1, 3 or 4 channels -> contiguous, writable [H, W, 3] of its own."""
    channels = array.shape[2]
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 4 and alpha != "drop":
        if array.dtype == np.uint8:
            from PIL import Image

            return np.array(to_rgb(Image.fromarray(np.ascontiguousarray(array)), alpha))
        ground = np.float32(alpha == "white")
        return array[..., :3] * array[..., 3:] + ground * (1 - array[..., 3:])
    return np.array(array[..., :3], order="C")
