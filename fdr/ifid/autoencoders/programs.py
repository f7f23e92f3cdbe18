"""Autoencoders saved as programs: a TorchScript module with two methods, or a pair of torch.export files.

Their outputs are read like those of any object; a distribution is a dict of `mean` and `logvar`. The value range and
the use of the posterior can be declared in `PATH.json` beside the module, or beside the encoder of a pair. A
TorchScript module may also declare the value range as its attribute `value_range`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdr import runtime
from fdr.errors import InputError, WeightsError, unknown
from fdr.ifid.autoencoders.base import AutoencoderSpec, LoadedAutoencoder
from fdr.ifid.autoencoders.objects import AutoencoderOptions, wrap
from fdr.runtime import file_digest
from fdr.weights import ScriptedProgram, is_archive, load_archive, load_program, read_sidecar

ENCODER, DECODER = "encoder.pt2", "decoder.pt2"
_SETTINGS = ("value_range", "posterior")


class ProgramPair(nn.Module):
    """An encoder and a decoder: two programs, or two methods of one."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, value_range: Any = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.value_range = value_range

    def encode(self, images: Tensor) -> Any:
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Any:
        return self.decoder(latents)


def export_pair(path: Path) -> tuple[Path, Path] | None:
    """The files of encoder and decoder, if `path` is one of them or their folder; else None.

    They are named `encoder.pt2` and `decoder.pt2`, or `NAME.encoder.pt2` and `NAME.decoder.pt2`. Raises
    `WeightsError` for one without the other, `InputError` for a .pt2 of another name.
    """
    if path.is_dir():
        here = [path / name for name in (ENCODER, DECODER)]
        if not any(one.is_file() for one in here):
            return None
    elif path.suffix == ".pt2":
        stem = next((path.name.removesuffix(end) for end in (ENCODER, DECODER) if path.name.endswith(end)), None)
        if stem is None or (stem and not stem.endswith(".")):
            raise InputError(
                f"{str(path)!r} is one program, and an autoencoder has two; expected NAME.{ENCODER} and NAME.{DECODER}"
                f", or a folder with {ENCODER} and {DECODER}."
            )
        here = [path.with_name(stem + end) for end in (ENCODER, DECODER)]
    else:
        return None
    for one in here:
        if not one.is_file():
            raise WeightsError(f"There is no {str(one)!r}, without which {str(path)!r} is half an autoencoder.")
    return here[0], here[1]


def load_export_pair(name: str, pair: tuple[Path, Path], options: AutoencoderOptions) -> LoadedAutoencoder:
    """Load a pair of programs. Raises `WeightsError` for files that are damaged or no programs."""
    device = runtime.resolve_device(None if options.device is None else str(options.device))
    encoder, decoder = (load_program("export", path, device) for path in pair)
    digest = hashlib.sha256("".join(map(file_digest, pair)).encode()).hexdigest()
    return _program(name, ProgramPair(encoder, decoder), "export", pair[0], digest, options)


def load_torchscript(name: str, path: Path, options: AutoencoderOptions) -> LoadedAutoencoder:
    """Load a TorchScript module. Raises `InputError` if it lacks a method, `WeightsError` for a damaged file."""
    if not is_archive(path):
        raise InputError(
            f"{str(path)!r} is no program; weights alone need the code of their model: name it as module:factory, and "
            "this file as its weights (--vae-weights)."
        )
    program = load_archive(path, runtime.resolve_device(None if options.device is None else str(options.device)))
    missing = [method for method in ("encode", "decode") if not hasattr(program, method)]
    if missing:
        raise InputError(
            f"{str(path)!r} has no method {' and no '.join(missing)}; mark both with torch.jit.export before it is "
            "scripted."
        )
    encoder, decoder = (ScriptedProgram(program, method) for method in ("encode", "decode"))
    pair = ProgramPair(encoder, decoder, getattr(program, "value_range", None))
    return _program(name, pair, "torchscript", path, file_digest(path), options)


def _program(
    name: str, model: nn.Module, family: str, path: Path, digest: str, options: AutoencoderOptions
) -> LoadedAutoencoder:
    sidecar = {key: value for key, value in read_sidecar(path, _SETTINGS).items() if value is not None}
    if sidecar.get("posterior", "mean") not in ("sample", "mean"):
        raise unknown(f"posterior in '{path}.json':", str(sidecar["posterior"]), ("sample", "mean"))
    if options.dtype != "float32":
        raise InputError(f"{str(path)!r} runs in the precision it was saved in; drop --dtype.")
    spec = AutoencoderSpec(name=name, family=family, model=path.name, weights=digest)
    return wrap(model, spec, options, sidecar)
