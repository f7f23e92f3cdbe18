"""Vision models of transformers, as `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION` or `hf:FOLDER`.

transformers makes the network. fdr finds and reads the files, and never runs code of the repository. Images are
prepared as preprocessor_config.json says, and everything runs in float32, whatever the file holds.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from fdr import runtime, weights
from fdr.encoders.base import EncoderOptions
from fdr.encoders.catalogue import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, EncoderRow
from fdr.encoders.network import NetworkEncoder, build_spec
from fdr.encoders.preprocessing import Preprocessing
from fdr.encoders.registry import parse_open_name
from fdr.encoders.texts import AbstractTexts
from fdr.encoders.transformers_texts import TransformersTexts
from fdr.errors import InputError, WeightsError, unknown
from fdr.weights import ModelFiles, WeightsFile, load_library, resolve_files, silent


@dataclass(frozen=True)
class _Family:
    model: str
    """The class of transformers."""
    config: str
    processor: str
    """The key in `PROCESSORS` for files that name none."""
    outputs: tuple[str, ...]
    """The main one first."""
    is_fixed: bool = False
    """True for a network that takes only images of config.image_size."""


_TOKENS = ("cls", "mean")
FAMILIES = {
    "dinov2": _Family("Dinov2Model", "Dinov2Config", "Bit", _TOKENS),
    "dinov2_with_registers": _Family("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "Bit", _TOKENS),
    "dinov3_vit": _Family("DINOv3ViTModel", "DINOv3ViTConfig", "DINOv3ViT", _TOKENS),
    "vit_mae": _Family("ViTMAEModel", "ViTMAEConfig", "ViT", _TOKENS, is_fixed=True),
    "siglip": _Family("SiglipVisionModel", "SiglipVisionConfig", "Siglip", ("attention-pool", "mean"), is_fixed=True),
    "siglip2": _Family("Siglip2VisionModel", "Siglip2VisionConfig", "Siglip2", ("attention-pool", "mean")),
    "clip": _Family(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", "CLIP", ("embedding", "cls", "mean"), is_fixed=True
    ),
}
"""By `model_type` of config.json; "NAME_vision_model" (a vision tower saved alone) is its family too."""


def load(name: str, options: EncoderOptions) -> NetworkEncoder:
    """The encoder "hf:REPO" or "hf:FOLDER", with "?output=mean" for another main output.

    Raises `InputError` for a model type that is not in `FAMILIES`, `WeightsError` for missing or foreign files.
    """
    target, settings = parse_open_name(name, ("output",))
    device = runtime.resolve_device(options.device)
    runtime.check_dtype(options.dtype, device)
    files, preprocessor = resolve_files(target, options, name)
    model_type, config = _vision_config(files.config)
    if model_type not in FAMILIES:
        raise unknown("model type of transformers", str(model_type), FAMILIES, f"It is what {name!r} says it is.")
    family = FAMILIES[model_type]
    outputs = _main_first(family.outputs, settings.get("output"), name)
    preprocessing = preprocessing_of(preprocessor, family.processor, name)
    _check_size(family, config, preprocessing, name)
    model = _build(family, config, files, name).to(device)
    row = EncoderRow(
        name,
        f"transformers-{model_type}",
        model.config.projection_dim if outputs[0] == "embedding" else model.config.hidden_size,
        outputs[0],
        preprocessing.size,
        preprocessing.mean,
        preprocessing.std,
        resize=preprocessing.resize,
        family="hf",
    )
    config_digest = hashlib.sha256(files.config_path.read_bytes()).hexdigest()[:16]
    spec = build_spec(row, options, files.digest, files.weights, extra=(("config", config_digest),))
    num_prefix = ("cls" in outputs) + (getattr(model.config, "num_register_tokens", None) or 0)
    run = functools.partial(_run, _RUNNERS.get(model_type, _run_pixels), num_prefix)
    encoder = NetworkEncoder(spec, outputs, model, run, device)
    if model_type == "clip" and "text_config" in files.config:
        encoder.load_texts = functools.partial(_load_texts, target, files, options, encoder)
    return encoder


def _load_texts(target: str, files: ModelFiles, options: EncoderOptions, encoder: NetworkEncoder) -> AbstractTexts:
    """The text tower in the weight file of the image tower."""
    config = {**files.config["text_config"], "projection_dim": files.config.get("projection_dim", 512)}
    family = _Family("CLIPTextModelWithProjection", "CLIPTextConfig", "CLIP", ("embedding",))
    model = _build(family, config, files, encoder.spec.name)
    return TransformersTexts(target, options, encoder, model)


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The files of "hf:REPO"."""
    return weights.needed_files(parse_open_name(name, ("output",))[0])


def _run(
    call: Callable[[Any, Tensor], Any], num_prefix: int, model: Any, inputs: Tensor, outputs: Sequence[str]
) -> dict[str, Tensor]:
    """The outputs of one pass. `num_prefix` is the number of class and register tokens before the patches.

    "cls" and "mean" are the class token and the mean of the patches in the library's last hidden state.
    "attention-pool" is SigLIP's pooler, "embedding" CLIP's projected image embedding.
    """
    result = call(model, inputs)
    pools = {
        "embedding": lambda: result.image_embeds,
        "attention-pool": lambda: result.pooler_output,
        "cls": lambda: result.last_hidden_state[:, 0],
        "mean": lambda: result.last_hidden_state[:, num_prefix:].mean(1),
    }
    return {name: pools[name]() for name in outputs}


def _run_pixels(model: Any, inputs: Tensor) -> Any:
    return model(pixel_values=inputs)


def _run_unmasked(model: Any, inputs: Tensor) -> Any:
    """ViT-MAE keeps every patch (its config says mask_ratio 0), in order: increasing noise sorts to the identity."""
    positions = model.embeddings.position_embeddings.shape[1] - 1
    noise = torch.arange(positions, dtype=torch.float32, device=inputs.device).expand(len(inputs), -1)
    return model(pixel_values=inputs, noise=noise)


def _run_patches(model: Any, inputs: Tensor) -> Any:
    """SigLIP 2 "NaFlex" takes flattened patches (row, column, channel), their mask, and the grid."""
    side = model.config.patch_size
    patches = inputs.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # [B, 3, rows, side, columns, side]
    rows, columns = patches.shape[2], patches.shape[4]
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=inputs.device)
    shapes = torch.tensor([[rows, columns]], device=inputs.device).expand(len(inputs), -1)
    return model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)


_RUNNERS: dict[str, Callable[[Any, Tensor], Any]] = {"vit_mae": _run_unmasked, "siglip2": _run_patches}


def _vision_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family, and the settings of its vision tower (those of a whole CLIP or SigLIP lie under "vision_config")."""
    model_type = str(config.get("model_type", "")).removesuffix("_vision_model")
    vision = dict(config.get("vision_config") or config)
    if model_type == "clip" and "vision_config" in config and "projection_dim" in config:
        vision["projection_dim"] = config["projection_dim"]
    if model_type == "vit_mae":
        vision["mask_ratio"] = 0.0
    return model_type, vision


def _main_first(outputs: tuple[str, ...], main: str | None, name: str) -> tuple[str, ...]:
    if main is None:
        return outputs
    if main not in outputs:
        raise unknown(f"output of {name!r}", main, outputs)
    return (main, *(output for output in outputs if output != main))


def _check_size(family: _Family, config: Mapping[str, Any], preprocessing: Preprocessing, name: str) -> None:
    expected = config.get("image_size", 224)
    if family.is_fixed and preprocessing.size != expected:
        raise InputError(
            f"Encoder {name!r}: preprocessor_config.json makes images of {preprocessing.size} px, and config.json "
            f"describes a network for {expected} px; correct one of the two files."
        )


def _build(family: _Family, config: Mapping[str, Any], files: ModelFiles, name: str) -> Any:
    """The network, every parameter read from the files. Raises `WeightsError` for what is missing or misshapen."""
    transformers = load_library("transformers", name)
    with silent(transformers):
        model, info = getattr(transformers, family.model).from_pretrained(
            None,
            config=getattr(transformers, family.config).from_dict(dict(config)),
            state_dict=files.state_dict(),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # the error below says so in one sentence
            output_loading_info=True,
        )
    missing = sorted(info["missing_keys"])
    reshaped = sorted(str(item[0]) for item in info["mismatched_keys"])
    if missing or reshaped:
        what = f"without {missing[0]}" if missing else f"with another shape of {reshaped[0]}"
        raise WeightsError(
            f"{str(files.weights)!r} does not fit encoder {name!r}: config.json describes {family.model}, and the file "
            f"is {what} ({len(missing) + len(reshaped)} in all); fetch the files of one repository again."
        )
    return model.eval().requires_grad_(False)


# --- preprocessor_config.json ----------------------------------------------------------------------------------------

# The library's own processors are not called: since transformers 5 the default one resizes with torchvision, some grey
# levels from the Pillow one that the models were published with. What is built here equals the Pillow processors.

_PILLOW = {0: "pil-nearest", 1: "pil-lanczos", 2: "pil-bilinear", 3: "pil-bicubic"}
_TORCH = {2: "bilinear-antialias", 3: "bicubic-antialias"}


@dataclass(frozen=True)
class Processor:
    """The defaults of one of the library's image processors, for what the file leaves out."""

    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_short: bool = False
    """A single number as `size` is the short side; otherwise both sides."""
    crops: bool = False
    kernels: Mapping[int, str] = field(default_factory=lambda: _PILLOW)
    """Pillow's resample number -> our resize."""


_CLIP = Processor(3, CLIP_MEAN, CLIP_STD, is_short=True, crops=True)
_VIT = Processor(2, HALF, HALF)
PROCESSORS = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "ViT": _VIT,
    "Siglip": Processor(3, HALF, HALF),
    "Siglip2": _VIT,
    "DINOv3ViT": Processor(2, IMAGENET_MEAN, IMAGENET_STD, kernels=_TORCH),  # floats, before the resize
}


def preprocessing_of(config: Mapping[str, Any], default_processor: str, encoder: str) -> Preprocessing:
    """The preprocessing that `config` describes; `default_processor` is a key of `PROCESSORS` for files that name none.

    Raises `InputError` for a processor, a resampling or a step that fdr does not reproduce.
    """
    named = str(config.get("image_processor_type") or config.get("feature_extractor_type") or default_processor)
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", named)
    processor = PROCESSORS.get(kind)
    if processor is None:
        raise _unsupported(encoder, f"the processor {named}", f"one of {', '.join(PROCESSORS)}")
    factor = config.get("rescale_factor", 1 / 255)
    if not config.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise _unsupported(encoder, f"rescale_factor {factor}", "1/255")
    resize, size = _resize(config, processor, kind, encoder)
    is_normalised = config.get("do_normalize", True)
    mean, std = config.get("image_mean") or processor.mean, config.get("image_std") or processor.std
    return Preprocessing(
        resize, size, tuple(mean) if is_normalised else (0.0,) * 3, tuple(std) if is_normalised else (1.0,) * 3
    )


def _resize(config: Mapping[str, Any], processor: Processor, kind: str, encoder: str) -> tuple[str, int]:
    """The name of the resize, and the side that the network sees."""
    resample = config.get("resample", processor.resample)
    if resample not in processor.kernels:
        raise _unsupported(encoder, f"resample {resample}", f"one of {', '.join(map(str, processor.kernels))}")
    kernel = processor.kernels[resample]
    if kind == "Siglip2":  # a square image fills a square of patches; others would keep their aspect, padded
        return kernel, isqrt(config.get("max_num_patches", 256)) * config.get("patch_size", 16)
    if not config.get("do_resize", True):
        raise _unsupported(encoder, "no resize", "a square size")
    is_short, side = _size(config.get("size", 224), processor, encoder)
    if config.get("do_center_crop", processor.crops) and not (not is_short and side == _crop(config, side, encoder)):
        if not is_short:
            raise _unsupported(encoder, f"a crop after a resize to {side} x {side}", "a crop after the short side")
        crop = _crop(config, side, encoder)
        return f"{kernel}+short{'' if crop == side else side}-crop-floor", crop
    if is_short:
        raise _unsupported(encoder, "a short side without a crop", "a square size")
    return kernel, side


def _size(size: Any, processor: Processor, encoder: str) -> tuple[bool, int]:
    """Whether the size is that of the short side, and the size in pixels."""
    if isinstance(size, int):
        return processor.is_short, size
    if isinstance(size, Mapping) and isinstance(size.get("shortest_edge"), int) and not size.get("longest_edge"):
        return True, size["shortest_edge"]
    return False, _square(size, encoder)


def _crop(config: Mapping[str, Any], side: int, encoder: str) -> int:
    crop = config.get("crop_size", side)
    return crop if isinstance(crop, int) else _square(crop, encoder)


def _square(size: Any, encoder: str) -> int:
    if isinstance(size, Mapping) and isinstance(size.get("height"), int) and size["height"] == size.get("width"):
        return size["height"]
    raise _unsupported(encoder, f"the size {size}", "a square or a short side")


def _unsupported(encoder: str, found: str, expected: str) -> InputError:
    return InputError(
        f"Encoder {encoder!r}: its preprocessor_config.json asks for {found}, and fdr reproduces {expected}; "
        "load the model yourself and pass it as a callable, or as py:MODULE:FACTORY."
    )
