"""Images in memory: PIL images, encoded images, arrays and tensors of any common layout, uint8 or floats in [0, 1]."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.decode import (
    SUFFIXES,
    Picture,
    UnreadableImage,
    WrongValues,
    check_file_bytes,
    decode,
    decode_file,
    to_rgb,
)
from fdr.images.options import ImageOptions

CHANNELS = (1, 3, 4)
KEYS = ("image", "images", "img", "imgs", "pixel_values")
"""Names of images in the items of datasets, before those that are image formats (WebDataset's "jpg")."""
ROUNDING = 1e-3
"""A float may lie this far outside [0, 1]; half a step of uint8 is twice that. Raising it accepts more rounding
errors."""


def is_tensor(value: Any) -> bool:
    """True for a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """True for a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def is_pil(value: Any) -> bool:
    """True for a PIL image, without importing PIL."""
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)  # None while another thread imports the module
    return kind is not None and isinstance(value, kind)


def image_of(item: Any) -> Any:
    """The image, or the batch of images, in an item of a dataset or loader.

    It is the item itself, or the only image of a tuple (image, label, index) or of a dict. A list of images stays a
    list. Raises `InputError` for a dict without an image or with several.
    """
    if isinstance(item, Mapping) and not _is_encoded(item):
        return _image_in_dict(item)
    if isinstance(item, tuple | list) and item:
        ranks = [_rank(value) for value in item]
        first = max(range(len(item)), key=lambda index: ranks[index])
        if ranks[first] > 1 and max([0, *ranks[:first], *ranks[first + 1 :]]) <= (2 if ranks[first] == 4 else 1):
            return item[first]
        if ranks[first] == 0 and isinstance(item[0], str | os.PathLike) and len(item) > 1 and not _are_paths(item):
            return item[0]
    return item


def _image_in_dict(item: Mapping[Any, Any]) -> Any:
    """The value under one of `KEYS`, else under the only key of an image format ("jpg", "input.png")."""
    keys = {str(key).lower(): key for key in item}
    for key in KEYS:
        if key in keys:
            return item[keys[key]]
    found = [key for name, key in keys.items() if f".{name.rpartition('.')[2]}" in SUFFIXES]
    if len(found) == 1:
        return item[found[0]]
    listed = ", ".join(map(str, item))
    what = "several images" if found else "no image"
    raise InputError(f"An item with the keys {listed} holds {what}; expected one under a key such as 'image' or 'jpg'.")


def _rank(value: Any) -> int:
    """3 for one image, 4 for a batch of images, 0 to 2 for anything that may be a label. For arrays, the dimensions."""
    if is_array(value):
        return value.ndim
    if isinstance(value, list | tuple):
        return 4 if value and all(_rank(one) == 3 for one in value) else 0
    return 3 if is_pil(value) or isinstance(value, bytes) or _is_encoded(value) else 0


def _is_encoded(value: Any) -> bool:
    """True for an undecoded image of Hugging Face datasets: {"bytes": ..., "path": ...}."""
    return isinstance(value, Mapping) and "bytes" in value and value.keys() <= {"bytes", "path"}


def _are_paths(values: Any) -> bool:
    return all(os.path.splitext(str(value))[1].lower() in SUFFIXES for value in values)


def picture_of(value: Any, options: ImageOptions, where: str) -> Picture:
    """An image as RGB: a PIL image, an encoded one, the path of a file, or an array or tensor [H, W], [H, W, C], [C, H,
    W].

    Raises `InputError` for anything else, `UnreadableImage` for an image that does not load.
    """
    if is_pil(value):
        try:
            return Picture(to_rgb(value, options.alpha), (value.format or "array").lower())
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableImage(f"Pillow cannot load it ({error})") from error
    if _is_encoded(value):
        value = value.get("path") if value["bytes"] is None else value["bytes"]
    if isinstance(value, bytes | bytearray):
        check_file_bytes(len(value), options.max_pixels)
        return decode(bytes(value), options.alpha, options.max_pixels)
    if isinstance(value, str | os.PathLike):
        return decode_file(value, options.alpha, options.max_pixels)
    if not is_array(value):
        raise InputError(
            f"{where} is a {type(value).__name__}; expected an image: a PIL image, an array or tensor, the bytes of a "
            "file, or a path."
        )
    axis = channel_axis(tuple(value.shape), is_tensor(value), where)
    return array_picture(to_numpy(value), axis, options, where)


def channel_axis(shape: tuple[int, ...], is_first: bool, where: str) -> int | None:
    """The axis of the channels of one image: 0 or 2, or None for [H, W]. `is_first` decides if both are possible."""
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
    """An array or tensor on any device as a NumPy array. Half precision becomes float32."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    return value.astype(np.float32) if value.dtype == np.float16 else value


def array_picture(array: np.ndarray, axis: int | None, options: ImageOptions, where: str) -> Picture:
    """One image of uint8, or floats in [0, 1], as RGB. The options say how it is quantised and composited."""
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
    """[H, W, C] with 1, 3 or 4 channels as a new contiguous array [H, W, 3]."""
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
