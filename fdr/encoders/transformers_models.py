"""Vision models of transformers, as `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION` or `hf:FOLDER`.

Only the network is the library's: files are found and read by fdr (no code of the repository is ever run), images are
prepared as preprocessor_config.json says, and everything runs in float32 whatever the file holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.encoders.hf_preprocessing import preprocessing_of
from fdr.encoders.names import parse_open_name
from fdr.encoders.preprocessing import Preprocessing
from fdr.errors import InputError, WeightsError, unknown
from fdr.weights import ModelFiles, load_library, quiet, resolve_files


@dataclass(frozen=True)
class _Family:
    model: str
    """The class of transformers."""
    config: str
    processor: str
    """Of `PROCESSORS`, for files that name none."""
    outputs: tuple[str, ...]
    """The main one first."""
    is_fixed: bool = False
    """True for networks that take images of config.image_size alone."""


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


def load(name: str, options: EncoderOptions) -> TransformersEncoder:
    """The encoder "hf:REPO" or "hf:FOLDER", with "?output=mean" for another main output.

    Raises `InputError` for a model type that is not in `FAMILIES`, `WeightsError` for missing or foreign files.
    """
    parsed = parse_open_name(name, ("output",))
    device = runtime.resolve_device(options.device)
    runtime.check_dtype(options.dtype, device)
    files = resolve_files(parsed.target, options, name)
    model_type, config = _vision_config(files.config)
    if model_type not in FAMILIES:
        raise unknown("model type of transformers", str(model_type), FAMILIES, f"It is what {name!r} says it is.")
    family = FAMILIES[model_type]
    outputs = _main_first(family.outputs, parsed.settings.get("output"), name)
    preprocessing = preprocessing_of(files.preprocessor, family.processor, name)
    _check_size(family, config, preprocessing, name)
    model = _build(family, config, files, name).to(device)
    width = model.config.projection_dim if outputs[0] == "embedding" else model.config.hidden_size
    spec = EncoderSpec(
        name=name,
        family="hf",
        model=f"transformers-{model_type}",
        weights=files.weights_digest,
        output=outputs[0],
        dim=width,
        input_size=preprocessing.size,
        resize=preprocessing.resize,
        mean=preprocessing.mean,
        std=preprocessing.std,
        dtype=options.dtype,
        compute=options.compute(),
        extra=(("config", files.config_digest),),
        weights_source=str(files.weights),
    )
    return TransformersEncoder(spec, outputs, model, _RUNNERS.get(model_type, _run_pixels), preprocessing, device)


class TransformersEncoder(AbstractEncoder):
    """A vision network of transformers.

    "cls" and "mean" are of the library's last hidden state: the class token, and the mean of the patches without class
    and register tokens. "attention-pool" is SigLIP's pooler, "embedding" CLIP's projected image embedding.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        outputs: tuple[str, ...],
        model: Any,
        run: Callable[[Any, Tensor], Any],
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> None:
        self.spec = spec
        self.device = device
        self.outputs = outputs
        self.stored_outputs = outputs[:1]
        self.host_preprocess = preprocessing.runs_on_host
        self._model = model
        self._run = run
        self._preprocessing = preprocessing
        has_class_token = "cls" in outputs
        self._num_prefix = has_class_token + (getattr(model.config, "num_register_tokens", None) or 0)

    def preprocess(self, images: Tensor) -> Tensor:
        return self._preprocessing(images)

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.dtype == "bf16"):
            result = self._run(self._model, inputs)
            return {name: self._pooled(result, name).float() for name in outputs}

    def _pooled(self, result: Any, name: str) -> Tensor:
        if name == "embedding":
            return result.image_embeds
        if name == "attention-pool":
            return result.pooler_output
        tokens = result.last_hidden_state
        return tokens[:, 0] if name == "cls" else tokens[:, self._num_prefix :].mean(1)


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
    with _silence(transformers):
        model, info = getattr(transformers, family.model).from_pretrained(
            None,
            config=getattr(transformers, family.config).from_dict(dict(config)),
            state_dict=files.state_dict(),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # told below, in one sentence
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


@contextlib.contextmanager
def _silence(transformers: Any) -> Iterator[None]:
    """No bars and no load report on stderr; what they would say is checked and told by us."""
    bars = transformers.utils.logging
    was_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with quiet("transformers"):
            yield
    finally:
        if was_shown:
            bars.enable_progress_bar()
