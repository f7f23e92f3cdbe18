"""Networks saved as programs: `torchscript:PATH` (torch.jit.save) and `export:PATH` (torch.export.save).

A file says nothing about the images it wants, so the name or a file `PATH.json` beside it does, in one grammar:
"torchscript:net.pt?size=224&resize=bicubic-antialias&mean=0.485:0.456:0.406&std=0.229:0.224:0.225".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr import runtime
from fdr.encoders.base import EncoderOptions
from fdr.encoders.callables import checked_features
from fdr.encoders.catalogue import EncoderRow
from fdr.encoders.network import NetworkEncoder, build_spec
from fdr.encoders.preprocessing import Preprocessing
from fdr.encoders.registry import parse_open_name
from fdr.errors import InputError, WeightsError
from fdr.runtime import file_digest, missing_path, refuse_stand_in
from fdr.weights import ScriptedProgram, WeightsFile, load_program, read_sidecar

SETTINGS = {
    "size": "the side of the square that the network takes, in pixels; without it, images keep their size",
    "resize": "how images become that square: one of the resizes below; bicubic-antialias by default",
    "range": "the values of black and white, LOW:HIGH; 0:1 by default",
    "mean": "one number or R:G:B, which is subtracted from values in [0, 1]; not together with range",
    "std": "one number or R:G:B, by which the difference is divided; not together with range",
}
"""The settings that a name or `PATH.json` may hold, and what they are."""

NVIDIA_RANGE = (0.0, 255.0)
NVIDIA_FLAG = "return_features"
"""The argument by which NVIDIA's Inception is recognised. It takes values 0..255 and resizes images itself."""


def load(name: str, options: EncoderOptions) -> NetworkEncoder:
    """The encoder "torchscript:PATH" or "export:PATH", with settings; its output is "features" [B, D].

    Raises `InputError` for settings that make no sense, `WeightsError` for a file that is missing, damaged or foreign.
    """
    family = name.partition(":")[0]
    target, settings = parse_open_name(name, tuple(SETTINGS))
    path = _path(name, target, options)
    device = runtime.resolve_device(options.device)
    if runtime.check_dtype(options.dtype, device) is not torch.float32:
        raise InputError(f"Encoder {name!r} runs in the precision it was saved in; drop --dtype.")
    program = load_program(family, path, device).requires_grad_(False)
    is_nvidia = isinstance(program, ScriptedProgram) and NVIDIA_FLAG in program.arguments
    images = _preprocessing(name, read_sidecar(path, SETTINGS) | settings, is_nvidia)
    scale = () if images.range is None else (("range", ":".join(f"{value:g}" for value in images.range)),)
    row = EncoderRow(
        name,
        path.name,
        0,  # its width shows when it runs
        "features",
        images.size,
        images.mean,
        images.std,
        resize=images.resize,
        family=family,
    )
    spec = build_spec(row, options, file_digest(path), path, extra=scale)
    run = functools.partial(_run, name, {NVIDIA_FLAG: True} if is_nvidia else {})
    return NetworkEncoder(spec, ("features",), program, run, device, images)


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The file of "torchscript:PATH" or "export:PATH"."""
    return (WeightsFile(str(Path(parse_open_name(name, tuple(SETTINGS))[0]).expanduser().absolute())),)


def _run(
    name: str, arguments: Mapping[str, Any], program: nn.Module, inputs: Tensor, outputs: Sequence[str]
) -> dict[str, Tensor]:
    try:
        features = program(inputs, **arguments)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
        raise InputError(
            f"Encoder {name!r} failed on a batch of shape {list(inputs.shape)}: {reason}; check its settings (size, "
            "range), and that it was saved for batches of any length."
        ) from error
    return dict.fromkeys(outputs, checked_features(features, len(inputs), name))


def _path(name: str, target: str, options: EncoderOptions) -> Path:
    if options.weights is not None:
        raise InputError(f"Encoder {name!r} has its file in its name; drop --weights.")
    path = Path(target).expanduser()
    if not path.is_file():
        what = f"{path} is a folder; name a file." if path.is_dir() else missing_path(path)
        raise WeightsError(f"Encoder {name!r}: {what}")
    refuse_stand_in(path)
    return path


def _preprocessing(name: str, settings: Mapping[str, Any], is_nvidia: bool) -> Preprocessing:
    has_mean = "mean" in settings or "std" in settings
    if has_mean and "range" in settings:
        raise InputError(f"Encoder {name!r}: range and mean/std exclude each other; both scale [0, 1].")
    size = 0 if "size" not in settings else int(_numbers(name, "size", settings["size"], (1,))[0])
    resize = str(settings.get("resize", "bicubic-antialias" if size else "none"))
    if (size > 0) != (resize != "none"):
        raise InputError(f"Encoder {name!r}: size and resize go together; got size {size or 'none'}, resize {resize}.")
    scale: tuple[float, ...] | None = None
    if "range" in settings:
        scale = _numbers(name, "range", settings["range"], (2,))
    elif is_nvidia and not has_mean:
        scale = NVIDIA_RANGE
    mean = _per_channel(_numbers(name, "mean", settings.get("mean", 0), (1, 3)))
    std = _per_channel(_numbers(name, "std", settings.get("std", 1), (1, 3)))
    if min(std) <= 0:
        raise InputError(f"Encoder {name!r}: std must be positive; got {std}.")
    return Preprocessing(resize, size, mean, std, scale)


def _numbers(name: str, key: str, value: Any, counts: tuple[int, ...]) -> tuple[float, ...]:
    """The numbers in "0.5:0.5:0.5", in a JSON list, or one alone. Raises `InputError` for another count or kind."""
    parts = value.split(":") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) not in counts:
        expected = " or ".join(map(str, counts))
        raise InputError(f"Encoder {name!r}: {key} takes {expected} number(s), {SETTINGS[key]}; got {value!r}.")
    return numbers


def _per_channel(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return numbers * 3 if len(numbers) == 1 else numbers
