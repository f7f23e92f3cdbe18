"""Reading weight files without running code from them, and loading them strictly."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.errors import WeightsError, first_line
from fdr.runtime import DAMAGE, HEAD_BYTES, check_torch_file, stand_in_of, utf8_path
from fdr.weights.inert_objects import class_of, load_inert

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WRAPPERS = ("state_dict", "model")
"""Keys under which a file of weights may hold its tensors."""


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch checkpoint, by name, on the CPU; maps the file where it can.

    The content decides the format, not the name. A dictionary under "state_dict" or "model" is unwrapped.
    Raises `WeightsError` for a file that is damaged, of another kind, or holds more than tensors.
    """
    loaded = read_checkpoint(path)
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    return only_tensors(loaded, path)


def read_checkpoint(path: Path) -> Any:
    """The content of a .safetensors file or a torch checkpoint: tensors, numbers, text, and containers of those.

    The content decides the format, not the name; a torch checkpoint is mapped where it can be. Raises `WeightsError`
    for a file that is damaged, of another kind, or holds other objects.
    """
    kind = _kind(path)
    return _load_safetensors(path) if kind == "safetensors" else _load_torch(path, is_zip=kind == "zip")


def load_into(module: torch.nn.Module, state_dict: Mapping[str, Tensor], path: Path, encoder: str) -> None:
    """Copy `state_dict` into `module`; every name and shape must agree, BatchNorm's step counters excepted.

    Raises `WeightsError` saying which model the file seems to be of, and what is missing, unexpected or misshapen.
    """
    faults = copy_state(module, state_dict)
    if faults:
        raise WeightsError(
            f"{str(path)!r} does not fit encoder {encoder!r}: it seems to hold {guess_model(state_dict)}, "
            f"{faults}; give the file of this encoder, or remove this one to have it fetched."
        )


def to_memory(module: torch.nn.Module, device: torch.device | str) -> None:
    """Give the tensors of a module that was made on the meta device memory on `device`, for a file to fill.

    As `Module.to_empty`, but that imports sympy, which takes as long as ten images.
    """
    import torch

    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))


def copy_state(module: torch.nn.Module, state_dict: Mapping[str, Tensor]) -> str:
    """Copy `state_dict` into `module` where every name and shape agrees; else copy nothing and say what does not.

    BatchNorm's step counters may be missing or left over.
    """
    own = module.state_dict()
    given = {name: tensor for name, tensor in state_dict.items() if not _is_counter(name) or name in own}
    missing = [name for name in own if name not in given and not _is_counter(name)]
    unexpected = [name for name in given if name not in own]
    reshaped = [name for name in own if name in given and own[name].shape != given[name].shape]
    shapes = [f"{name} ({_shape(given[name])} for {_shape(own[name])})" for name in reshaped]
    kinds = (("without", missing), ("with unexpected", unexpected), ("with wrong shapes", shapes))
    faults = ", ".join(f"{what} {_some(names)}" for what, names in kinds if names)
    if not faults:
        module.load_state_dict(given, strict=False)
    return faults


def guess_model(state_dict: Mapping[str, Tensor]) -> str:
    """The kind of network that has these names, for messages: "a ViT of width 1024 with 24 blocks"."""
    for marker, what in _MARKERS:
        if any(name.startswith(marker) for name in state_dict):
            return what
    if "patch_embed.proj.weight" in state_dict:
        blocks = {name.split(".")[1] for name in state_dict if name.startswith("blocks.")}
        return f"a ViT of width {state_dict['patch_embed.proj.weight'].shape[0]} with {len(blocks)} blocks"
    if any(".grn." in name for name in state_dict):
        return "a ConvNeXt V2"
    if any(name.startswith("stages.") for name in state_dict):
        return "a staged convolutional network such as ConvNeXt"
    first = next(iter(state_dict), "nothing")
    return f"a network of {len(state_dict)} tensors that begins with {first}"


_MARKERS = (
    ("AuxLogits.", "torchvision's Inception v3, not the FID one"),
    ("Mixed_7c.", "an Inception v3"),
    ("visual.", "an OpenCLIP model"),
    ("vision_model.", "a transformers vision model"),
    ("embeddings.patch_embeddings.", "a transformers ViT"),
    ("layer1.", "a ResNet"),
    ("features.", "a torchvision network with a `features` stack, such as SqueezeNet or VGG"),
    ("encoder.", "an autoencoder or encoder-decoder"),
)


def _kind(path: Path) -> str:
    """ "safetensors", "zip" (torch since 1.6) or "pickle" (torch before), from the first bytes."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f"Cannot read weight file {str(path)!r}: {error.strerror or error}.") from error
    what = stand_in_of(head)
    if what is not None:
        raise WeightsError(f"Weight file {str(path)!r} {what}.")
    if head.startswith(b"PK"):
        return "zip"
    if head[5:9] == b"\x00\x00\x00{" or path.suffix == ".safetensors":  # the length of a header, and its JSON
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise WeightsError(f"{str(path)!r} is not a weight file: expected .safetensors or a torch checkpoint.")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with utf8_path(path) as readable:
            return load_file(readable)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _load_torch(path: Path, *, is_zip: bool) -> Any:
    import torch

    if is_zip:
        _check_zip(path)
    try:
        check_torch_file(path)
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise _damaged(path, error) from error
    try:
        with warnings.catch_warnings(), utf8_path(path) as readable:
            warnings.simplefilter("ignore", UserWarning)  # torch's advice about foreign pickles
            return torch.load(readable, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        return _load_with_objects(path)
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _load_with_objects(path: Path) -> Any:
    """A checkpoint that holds more than tensors and plain values."""
    try:
        with utf8_path(path) as readable:
            return load_inert(readable)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"Weight file {str(path)!r} holds more than tensors or is damaged, and fdr runs no code from weight "
            f"files ({_reason(error)}); save its state dict alone, as .safetensors or with torch.save."
        ) from error
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            f"{str(path)!r} is a TorchScript archive (as NVIDIA's inception-2015-12-05.pt); a state dict is needed."
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise WeightsError(f"{str(path)!r} is a zip file, but not a torch checkpoint.")


def _damaged(path: Path, error: Exception) -> WeightsError:
    size = path.stat().st_size
    return WeightsError(
        f"Weight file {str(path)!r} is truncated or damaged ({size:,} bytes; {_reason(error)}); remove it and "
        "fetch it again."
    )


def _reason(error: Exception) -> str:
    """The first line of an error, without torch's advice to trust the file."""
    match = re.search(r"WeightsUnpickler error: (.*)", str(error))
    if match is not None:
        return match.group(1)[:120]
    return first_line(error)[:120]


def only_tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name. Raises `WeightsError` when `loaded` is something else."""
    import torch

    if class_of(loaded) is not None:
        raise WeightsError(
            f"{str(path)!r} holds a pickled {class_of(loaded)}, which would run code, not its weights by name; save "
            "its state dict alone: torch.save(model.state_dict(), path)."
        )
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{str(path)!r} holds a {type(loaded).__name__}, not a state dict of named tensors.")
    others = [name for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{str(path)!r} is not a state dict: {_some(map(str, others))} are not tensors; save the state dict alone."
        )
    return {str(name): value for name, value in loaded.items()}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 2} more" if len(listed) > 2 else ""
    return ", ".join(listed[:2]) + more
