"""CLIP models of OpenCLIP, as `openclip:ARCH/TAG`: any pair that `open_clip.list_pretrained()` lists.

OpenCLIP makes the network and reads the many layouts of checkpoints. fdr finds the files and prepares images as the
tag says, with its own resize.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fdr import runtime
from fdr.encoders.base import EncoderOptions
from fdr.encoders.catalogue import CLIP_MEAN, CLIP_STD, EncoderRow
from fdr.encoders.network import NetworkEncoder, build_spec
from fdr.encoders.registry import parse_open_name
from fdr.encoders.texts import AbstractTexts
from fdr.errors import FdrWarning, InputError, WeightsError, first_line, unknown
from fdr.weights import WeightsFile, hub_file, load_library, quiet, resolve

SAFE, PICKLED = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


@dataclass(frozen=True)
class _Pretrained:
    """A pair of architecture and weight tag, as OpenCLIP describes it."""

    architecture: str
    tag: str
    config: Mapping[str, Any]
    """OpenCLIP's description of the architecture."""
    tag_config: Mapping[str, Any]
    """Where the weights are, and how their images are prepared; empty without a tag."""


def load(name: str, options: EncoderOptions) -> NetworkEncoder:
    """The encoder "openclip:ARCH/TAG", or "openclip:ARCH" with a file of one's own in `options.weights`.

    Its output is that of OpenCLIP's `encode_image`: "embedding", projected and not normalised. Raises `InputError` for
    names that OpenCLIP does not know, `WeightsError` for missing or foreign files.
    """
    open_clip = load_library("open_clip", name)
    pretrained = _find(name, open_clip)
    device = runtime.resolve_device(options.device)
    runtime.check_dtype(options.dtype, device)
    if not pretrained.tag and options.weights is None:
        tags = open_clip.list_pretrained_tags_by_model(pretrained.architecture)
        raise InputError(f"Encoder {name!r} names no weights; add a tag ({', '.join(tags)}) or give a file.")
    _warn_of_another_activation(name, pretrained, open_clip.list_models())
    found = resolve(_weights_of(pretrained), options, name)
    model = _build(open_clip, pretrained, found.path, name).to(device)
    row = _row_of(name, pretrained, model)
    digest = hashlib.sha256(json.dumps(pretrained.config, sort_keys=True).encode()).hexdigest()[:16]
    spec = build_spec(row, options, found.sha256, found.path, extra=(("config", digest),))
    encoder = NetworkEncoder(spec, (row.output,), model, _run, device)
    encoder.load_texts = functools.partial(_Texts, open_clip, pretrained, encoder)
    return encoder


def _run(model: Any, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    return dict.fromkeys(outputs, model.encode_image(inputs, normalize=False))


class _Texts(AbstractTexts):
    """OpenCLIP's `encode_text`, of the network that encodes the images. Raises `InputError` for an architecture whose
    tokenizer OpenCLIP fetches from the hub.
    """

    tokenizer = "openclip"

    def __init__(self, open_clip: ModuleType, pretrained: _Pretrained, encoder: NetworkEncoder) -> None:
        config = pretrained.config.get("text_cfg", {})
        if config.get("hf_tokenizer_name") or config.get("hf_model_name"):
            raise InputError(
                f"Encoder {encoder.spec.name!r} has a text tower whose tokenizer is fetched from the hub, which fdr "
                "does not do; use a CLIP with OpenCLIP's own tokenizer, such as openclip:ViT-B-32-quickgelu/openai."
            )
        with quiet(""):
            self._tokenizer = open_clip.get_tokenizer(pretrained.architecture)
        self._model, self._device = encoder.network, encoder.device
        self._is_bf16 = encoder.spec.dtype == "bf16"
        self.max_tokens = int(self._tokenizer.context_length)

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        begin, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        return [[begin, *self._tokenizer.encode(prompt), end] for prompt in prompts]

    def embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        rows = torch.zeros((len(tokens), self.max_tokens), dtype=torch.long)
        for row, own in zip(rows, tokens, strict=True):
            row[: len(own)] = torch.tensor(own)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16):
            model: Any = self._model
            return model.encode_text(rows.to(self._device), normalize=False).float()


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The weight file of "openclip:ARCH/TAG"."""
    pretrained = _find(name, load_library("open_clip", name))
    return (_weights_of(pretrained),) if pretrained.tag else ()


def _find(name: str, open_clip: ModuleType) -> _Pretrained:
    architecture, _, tag = parse_open_name(name, ())[0].partition("/")
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise unknown("OpenCLIP architecture", architecture, open_clip.list_models(), f"Asked for by {name!r}.")
    tag_config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if tag and not tag_config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise unknown(f"OpenCLIP weight tag of {architecture}", tag, tags)
    return _Pretrained(architecture, tag, config, tag_config)


def _weights_of(pretrained: _Pretrained) -> WeightsFile:
    """Where the tag's file is published; the library's own order: a safetensors file before a pickled one."""
    repo, _, filename = str(pretrained.tag_config.get("hf_hub", "")).rpartition("/")
    if repo:
        pickled = filename or PICKLED
        safe = SAFE if not filename else str(Path(filename).with_suffix(".safetensors"))
        return replace(hub_file(repo, safe), others=(hub_file(repo, pickled),))
    url = pretrained.tag_config.get("url") or None
    stem = f"openclip--{pretrained.architecture}--{pretrained.tag}"
    return WeightsFile(f"{stem}{Path(url).suffix if url else '.safetensors'}", url=url)


def _warn_of_another_activation(name: str, pretrained: _Pretrained, architectures: Sequence[str]) -> None:
    """Weights trained with QuickGELU run with exact GELU, silently worse, unless the architecture says so too."""
    trained, built = (bool(config.get("quick_gelu")) for config in (pretrained.tag_config, pretrained.config))
    if pretrained.tag and trained != built:
        words = {True: "QuickGELU", False: "exact GELU"}
        other = pretrained.architecture.removesuffix("-quickgelu") + ("-quickgelu" if trained else "")
        better = f"; openclip:{other}/{pretrained.tag} runs them as they were trained" if other in architectures else ""
        warnings.warn(
            f"{name}: the weights were trained with {words[trained]}, and {pretrained.architecture} runs "
            f"{words[built]}, as OpenCLIP does for that name{better}.",
            FdrWarning,
            stacklevel=3,
        )


def _build(open_clip: ModuleType, pretrained: _Pretrained, path: Path, name: str) -> Any:
    try:
        with quiet(""), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(
                pretrained.architecture, pretrained=str(path), pretrained_text=False, weights_only=True
            )
    except Exception as error:  # whatever the library's readers raise on a foreign or damaged file
        raise WeightsError(
            f"{str(path)!r} does not fit encoder {name!r}: OpenCLIP says {type(error).__name__}: {first_line(error)}; "
            "give the file of this architecture and tag."
        ) from error
    return model.eval().requires_grad_(False)


def _row_of(name: str, pretrained: _Pretrained, model: Any) -> EncoderRow:
    """The encoder, and the preparation of its images, that the tag stands for."""
    tag_config = pretrained.tag_config
    sizes = model.visual.image_size
    height, width = sizes if isinstance(sizes, tuple | list) else (sizes, sizes)
    mode = tag_config.get("resize_mode") or "shortest"
    if height != width or mode == "longest":
        raise InputError(f"Encoder {name!r} takes {width} x {height} px, resized by the {mode} side; fdr runs squares.")
    kernel = "pil-bilinear" if tag_config.get("interpolation") == "bilinear" else "pil-bicubic"
    return EncoderRow(
        name,
        f"openclip-{pretrained.architecture}",
        pretrained.config["embed_dim"],
        "embedding",
        height,
        tuple(tag_config.get("mean") or CLIP_MEAN),
        tuple(tag_config.get("std") or CLIP_STD),
        resize=kernel + ("" if mode == "squash" else "+short-crop"),
        family="openclip",
    )
