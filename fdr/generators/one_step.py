"""Diffusion models of diffusers as one-step generators: the image that a scheduler predicts from pure noise.

Of a denoiser eps, v or x0 at the last timestep T, with x = a x0 + s e and noise e = x / s for a ~ 0:

    epsilon        x0 = (x - s eps) / a
    v_prediction   x0 = a x - s v
    sample         x0
    flow           x0 = x - v            (rectified flow: x = (1 - sigma) x0 + sigma e, sigma = 1)

(Ho et al. 2020; Salimans & Ho 2022; Liu et al. 2023.) Such an image is blurred; post-training makes it sharp.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr.errors import InputError
from fdr.generators.architectures import preset
from fdr.generators.base import Architecture
from fdr.generators.published.vae import load_decoder
from fdr.weights import (
    DENOISER,
    PIPELINE,
    TakenWeights,
    WeightOptions,
    is_repository,
    load_library,
    load_model,
    model_of_config,
    part_folder,
    pipeline_folder,
    read_json,
)

PRESET = "diffusers"
DENOISERS = ("unet", "transformer")
"""The names that pipelines have for the denoiser."""
GIVEN = {"timestep": int, "vae": str}
"""The arguments that a user may choose, with their types."""
FLOW = "FlowMatchEulerDiscreteScheduler"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
LEAST_SIGNAL = 1e-4
"""The least a of an epsilon model. Below it the noise's own rounding decides the image."""


class OneStep(nn.Module):
    """Noise [B, C, h, w] (and labels [B]) -> images [B, 3, H, W] around [-1, 1]."""

    value_range = (-1.0, 1.0)
    may_leave_range = True
    """The prediction from pure noise need not look like an image, above all that of an epsilon model."""

    def __init__(
        self, denoiser: nn.Module, signal: float, timestep: int, prediction: str, decoder: nn.Module | None
    ) -> None:
        super().__init__()
        self.denoiser, self.decoder = denoiser, decoder
        self.signal, self.timestep, self.prediction = signal, timestep, prediction
        config: Any = denoiser.config
        size = config.sample_size
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        self.noise_shape = (int(config.in_channels), *map(int, sides))
        self.num_classes = num_classes_of(config)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        steps = torch.full((len(noise),), self.timestep, device=noise.device)
        given = {} if self.num_classes is None else {"class_labels": labels}
        made = self.denoiser(noise, steps, **given).sample[:, : noise.shape[1]]  # a DiT predicts variances as well
        images = self._image(noise, made)
        return images if self.decoder is None else self.decoder(images)

    def _image(self, noise: Tensor, made: Tensor) -> Tensor:
        signal, spread = self.signal, (1 - self.signal**2) ** 0.5
        if self.prediction == "epsilon":
            return (noise - spread * made) / signal
        if self.prediction == "v_prediction":
            return signal * noise - spread * made
        return noise - made if self.prediction == "flow" else made

    def extra_repr(self) -> str:
        return f"signal={self.signal!r}, timestep={self.timestep}, prediction={self.prediction!r}"


def make_one_step(
    model: str,
    config: Mapping[str, Any],
    scheduler: str,
    scheduler_config: Mapping[str, Any],
    vae: str | None = None,
    timestep: int | None = None,
    *,
    denoiser: nn.Module | None = None,
) -> nn.Module:
    """The preset "diffusers": the network of these configurations, without weights unless `denoiser` has them."""
    name = f"The diffusion model {model}"
    network = denoiser if denoiser is not None else model_of_config(model, config, name)
    _check_inputs(network, model)
    signal, at, prediction = _at_the_end(scheduler, scheduler_config, timestep)
    channels = int(config["in_channels"])
    if vae is None and channels not in (1, 3):
        raise InputError(
            f"{name} makes latents of {channels} channels; name the autoencoder that decodes them, a folder or "
            "OWNER/NAME, with --arch diffusers --arch-args vae=."
        )
    decoder = None if vae is None else load_decoder(vae, channels, has_scale=True)
    return OneStep(network, signal, at, prediction, decoder)


def names_pipeline(path: Path, text: str, arch: str | None) -> bool:
    """True for a folder that save_pretrained of a pipeline wrote, and for a repository of the hub with the preset."""
    is_there = (path / PIPELINE).is_file() or (arch == PRESET and not path.exists() and is_repository(text))
    return is_there and arch in (None, PRESET)


def read_pipeline(
    text: str, given: Mapping[str, Any], options: WeightOptions | None = None
) -> tuple[nn.Module, Architecture, TakenWeights]:
    """The one-step generator of a pipeline in a folder or on the hub; `given` may hold `timestep` and `vae`.

    Raises `InputError` for a pipeline that needs more than noise and labels, `WeightsError` for damaged files.
    """
    options = options or WeightOptions()
    asked_by = f"The pipeline {text!r}"
    for key, value in given.items():
        if key not in GIVEN or not isinstance(value, GIVEN[key]) or isinstance(value, bool):
            raise InputError(
                f"{asked_by} takes timestep=N and vae=FOLDER|OWNER/NAME as --arch-args; got {key}={value}."
            )
    load_library("diffusers", text, "Generator")
    place = pipeline_folder(text, options, (*DENOISERS, "scheduler", "vae"))
    index = read_json(place / PIPELINE, asked_by)
    parts = [part for part in DENOISERS if index.get(part)]
    if len(parts) != 1 or "scheduler" not in index:
        listed = ", ".join(key for key in index if not key.startswith("_"))
        raise InputError(
            f"{asked_by} has the parts {listed}; a one-step generator is made of a unet or transformer and a scheduler."
        )
    (part,) = parts
    found = load_model(f"{text}/{part}", part_folder(place, part), options, DENOISER)
    arguments: dict[str, Any] = {
        "model": found.class_name,
        "config": dict(found.config),
        "scheduler": str(index["scheduler"][1]),
        "scheduler_config": _settings(part_folder(place, "scheduler") / "scheduler_config.json", asked_by),
    }
    if index.get("vae"):
        repository, _, revision = text.partition("@")
        of_hub = f"{repository}/vae@{revision}" if revision else f"{repository}/vae"
        arguments["vae"] = str(place / "vae") if Path(text).expanduser().is_dir() else of_hub
    arguments |= given
    network = make_one_step(**arguments, denoiser=found.model.requires_grad_(True))
    return network, preset(PRESET, arguments), TakenWeights()


def _settings(path: Path, asked_by: str) -> dict[str, Any]:
    return {key: value for key, value in read_json(path, asked_by).items() if not key.startswith("_")}


def num_classes_of(config: Any) -> int | None:
    """The number of classes of a denoiser; None for an unconditional one."""
    for name in ("num_class_embeds", "num_embeds_ada_norm"):
        count = getattr(config, name, None)
        if count is not None:
            return int(count)
    return None


def _check_inputs(network: nn.Module, name: str) -> None:
    """Raise `InputError` for a denoiser that needs texts or the like."""
    for parameter in list(inspect.signature(network.forward).parameters.values())[2:]:
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise InputError(
                f"The diffusion model {name} needs {parameter.name} beside noise, timestep and labels (a text, for "
                "example); wrap it in a module of your own that supplies it, and name that with --arch module:factory."
            )


def _at_the_end(name: str, config: Mapping[str, Any], timestep: int | None) -> tuple[float, int, str]:
    """The share a of the image in the noisy sample, the timestep, and what the denoiser predicts."""
    diffusers = load_library("diffusers", name, "Scheduler")
    steps = int(config.get("num_train_timesteps", 1000))
    if name == FLOW:
        if timestep not in (None, steps):
            raise InputError(f"A flow model makes an image of pure noise at timestep {steps}; leave out timestep.")
        return 0.0, steps, "flow"
    kind = getattr(diffusers, name, None)
    products = getattr(kind.from_config(dict(config)), "alphas_cumprod", None) if kind is not None else None
    if products is None:
        raise InputError(
            f"The scheduler {name} has no known step from pure noise to an image; known are those with alphas_cumprod "
            f"(DDPM, DDIM, ...) and {FLOW}."
        )
    at = steps - 1 if timestep is None else timestep
    if not 0 <= at < steps:
        raise InputError(f"timestep is {at}; the scheduler {name} has 0 to {steps - 1}.")
    prediction = str(config.get("prediction_type", "epsilon"))
    signal = float(products[at]) ** 0.5
    if prediction not in PREDICTIONS:
        raise InputError(f"The scheduler {name} predicts {prediction!r}; known are {', '.join(PREDICTIONS)}.")
    if prediction == "epsilon" and signal < LEAST_SIGNAL:
        raise InputError(
            f"A model of the noise says nothing about the image at timestep {at}, where nothing is left of it; give an "
            "earlier one, with --arch diffusers --arch-args timestep=N."
        )
    return signal, at, prediction
