"""The decoder of an AutoencoderKL (diffusers) as a fixed part of a latent generator."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fdr import runtime
from fdr.encoders.callables import digest_state
from fdr.encoders.hub_folder import is_folder
from fdr.encoders.libraries import first_line, quiet
from fdr.errors import InputError, WeightsError

INSTALL = "pip install 'diffusers>=0.36'"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


class LatentDecoder(nn.Module):
    """Latents [B, C, h, w], as the autoencoder itself makes them, -> images [B, 3, H, W] around [-1, 1].

    Its weights are constants, buffers that no state dict holds: they move with the generator, are neither trained nor
    averaged, and neither checkpoints nor run folders repeat them. What tells two decoders apart is the digest that
    `repr` shows, which makes it a part of the generator's own.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.post_quant_conv = autoencoder.post_quant_conv or nn.Identity()
        self.decoder = autoencoder.decoder
        digest = hashlib.sha256()
        digest_state(self, digest)
        self.digest = digest.hexdigest()
        """sha256 over the weights."""
        _freeze(self)
        self.train(False)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))

    def train(self, mode: bool = True) -> LatentDecoder:
        """It stays as it samples, whatever is trained around it."""
        return super().train(False)

    def extra_repr(self) -> str:
        return f"sha256={self.digest}"


def load_decoder(source: str, channels: int) -> LatentDecoder:
    """The decoder of the autoencoder in a folder that `save_pretrained` wrote, or of a repository of the hub.

    `source` is a path, "owner/name" or "owner/name@revision"; the hub is asked only where its cache has not the files,
    and never offline. Weights are read from safetensors alone. Raises `InputError` without diffusers and for latents of
    other than `channels` channels, `WeightsError` for files that are missing or do not fit.
    """
    library = _diffusers()
    repository, _, revision = source.partition("@")
    place = {"pretrained_model_name_or_path": repository, "revision": revision or None}
    if is_folder(source):
        place = {"pretrained_model_name_or_path": str(Path(source).expanduser())}
        missing = [name for name in (CONFIG, WEIGHTS) if not (Path(source).expanduser() / name).is_file()]
        if missing:
            raise WeightsError(
                f"The decoder of latents {source!r} is not a folder with {CONFIG} and {WEIGHTS}; give one that an "
                "AutoencoderKL's save_pretrained wrote, or a repository of the hub as OWNER/NAME (--arch-args vae=)."
            )
    autoencoder, found = _read(library, source, place)
    faults = [name for name in found["missing_keys"] if not name.startswith(("encoder.", "quant_conv."))]
    faults += [str(fault) for key in ("mismatched_keys", "error_msgs") for fault in found[key]]
    if faults:
        raise WeightsError(
            f"The decoder of latents {source!r} is incomplete: its weights lack {faults[0]} or have it in another "
            f"shape ({len(faults)} in all); fetch its files again."
        )
    if autoencoder.config.latent_channels != channels:
        raise InputError(
            f"The autoencoder {source!r} has latents of {autoencoder.config.latent_channels} channels; the generator "
            f"makes {channels}."
        )
    return LatentDecoder(autoencoder)


def _read(library: ModuleType, source: str, place: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The autoencoder in float32 on the CPU, and what diffusers says of names that did not fit."""
    is_offline = runtime.is_offline()
    try:
        with _silence(library), torch.device("cpu"):
            return library.AutoencoderKL.from_pretrained(
                **place,
                torch_dtype=torch.float32,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                local_files_only=is_offline,
                output_loading_info=True,
            )
    except Exception as error:  # a library, its downloader and a network between them raise anything
        is_absent = is_offline and isinstance(error, OSError) and not is_folder(source)
        why = "is not on this machine, and the run is offline" if is_absent else "could not be loaded"
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise WeightsError(
            f"The decoder of latents {source!r} {why} ({type(error).__name__}: {said}); name a folder with its "
            f"{CONFIG} and {WEIGHTS} by --arch-args vae=FOLDER."
        ) from error


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except Exception as error:  # a broken neighbour raises anything
        raise InputError(
            f"A latent generator needs diffusers for its decoder, which failed to import ({type(error).__name__}: "
            f"{first_line(error)}); {INSTALL}."
        ) from error
    return diffusers


@contextlib.contextmanager
def _silence(library: ModuleType) -> Iterator[None]:
    """No bars, no advice; what does not fit is told by us."""
    bars = library.utils.logging
    was_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with quiet("diffusers"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if was_shown:
            bars.enable_progress_bar()


def _freeze(module: nn.Module) -> None:
    """Make constants of all parameters and buffers: no gradient is wanted for them, and no state dict has them."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            delattr(part, name)
            part.register_buffer(name, tensor.detach().clone(), persistent=False)  # off the mapped file
