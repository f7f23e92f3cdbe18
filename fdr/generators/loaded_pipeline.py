"""Pipelines of diffusers in a folder or on the hub, run as a whole: many steps, guidance, labels or texts."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fdr import runtime
from fdr.errors import InputError, first_line, unknown
from fdr.generators.one_step import num_classes_of
from fdr.runtime import memory_for, named_arguments
from fdr.weights import PIPELINE, PipelineParts, WeightOptions, is_repository, load_library, load_parts, silent

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
SUPPLIED = ("generator", "batch_size", "class_labels", "prompt", "output_type", "return_dict", "num_images_per_prompt")
"""Arguments of a pipeline that fdr gives itself."""
SHOWN = ("num_inference_steps", "guidance_scale")
"""Arguments that reports name even where a pipeline's own default is taken."""
_WEIGHTS = (".pt", ".pth", ".pt2", ".ckpt", ".safetensors", ".bin", ".json", ".pkl", ".npz")


@dataclass(frozen=True, eq=False)
class LoadedPipeline:
    """A pipeline that `load_pipeline` made, with the arguments that it is called with."""

    name: str
    pipeline: Any
    """The pipeline of diffusers."""
    arguments: Mapping[str, Any]
    """Arguments of the call, where they are not the pipeline's own defaults."""
    scheduler: str
    dtype: str
    versions: Mapping[str, str]
    """Versions of diffusers and transformers, whose code makes the images."""
    digest: str
    """sha256 over weights, configurations, arguments, precision and those versions."""
    num_classes: int | None = None
    left_out: tuple[str, ...] = ()
    """Parts of the pipeline that do not run."""

    @property
    def shown(self) -> dict[str, Any]:
        """The arguments for reports, with the steps and the guidance that are the pipeline's defaults."""
        defaults = {name: item.default for name, item in _called(self.pipeline).items() if name in SHOWN}
        return {**{name: value for name, value in defaults.items() if value is not None}, **self.arguments}

    @property
    def kind(self) -> str:
        """ "StableDiffusionPipeline with DDIMScheduler", for messages."""
        return f"{type(self.pipeline).__name__} with {self.scheduler}"


def names_whole_pipeline(text: str) -> bool:
    """True for a folder that save_pretrained of a pipeline wrote, and for what can only be a repository of the hub."""
    place = Path(text).expanduser()
    if place.exists():
        return (place / PIPELINE).is_file()
    owner, _, rest = text.partition("/")
    return is_repository(text) and rest.count("/") == 0 and not rest.endswith(_WEIGHTS) and not Path(owner).exists()


@named_arguments
@memory_for("loading a pipeline", "close what else uses the memory, or choose another --device")
def load_pipeline(
    path: str | os.PathLike[str],
    pipeline_args: Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
    device: str | None = None,
    offline: bool | None = None,
) -> LoadedPipeline:
    """A pipeline of diffusers, to be sampled as a whole: `fdr.evaluate(fdr.load_pipeline("folder"), ...)`.

    `path` is a folder that save_pretrained wrote, or "owner/name" or "owner/name@revision" of the hub, which is
    searched as weights are and fetched unless `offline`. `pipeline_args` are arguments of its call, such as
    num_inference_steps and guidance_scale, and two of fdr: `scheduler`, the name of a class of diffusers that takes the
    place of the scheduler, and `dtype`, "float32" (the default), "bf16" or "float16". `num_classes` is for a pipeline
    that takes class labels and does not say how many.

    Only classes of diffusers and transformers are made, from JSON, vocabularies and .safetensors. A safety checker is
    left out, because black images would be measured. Raises `InputError` for a pipeline that needs more than that and
    for arguments that it does not have, `WeightsError` for files that are missing, damaged or do not fit.
    """
    text, given = os.fspath(path), dict(pipeline_args or {})
    asked_by = f"The pipeline {text!r}"
    target = runtime.resolve_device(device)
    dtype = given.pop("dtype", "float32")
    if dtype not in PRECISIONS:
        raise InputError(f"{asked_by}: dtype is {dtype!r}; expected {', '.join(PRECISIONS)}.")
    with runtime.offline(offline):
        found = load_parts(text, WeightOptions())
    diffusers = load_library("diffusers", text, "Generator")
    pipeline, scheduler = _made(diffusers, found, given.pop("scheduler", None), asked_by)
    _check_arguments(pipeline, given, asked_by)
    versions = _versions(found)
    decisive = {"parts": found.digest, "scheduler": scheduler, "dtype": dtype, "arguments": given, "versions": versions}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    pipeline.set_progress_bar_config(disable=True)
    with silent(diffusers):
        pipeline.to(target, PRECISIONS[dtype])
    name = Path(text).expanduser().resolve().name if Path(text).expanduser().exists() else text
    classes = num_classes if num_classes is not None else _classes(pipeline)
    return LoadedPipeline(name, pipeline, given, scheduler, dtype, versions, digest, classes, found.left_out)


def _made(diffusers: Any, found: PipelineParts, scheduler: str | None, asked_by: str) -> tuple[Any, str]:
    """The pipeline, and the class of its scheduler."""
    kind = getattr(diffusers, found.class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise InputError(
            f"{asked_by} is a {found.class_name}, which is no pipeline of diffusers {diffusers.__version__}; install "
            "the version that it was saved with."
        )
    parts, known = dict(found.parts), inspect.signature(kind).parameters
    if scheduler is not None:
        parts["scheduler"] = _other_scheduler(diffusers, scheduler, parts.get("scheduler"), asked_by)
    settings = {name: value for name, value in found.settings.items() if name in known}
    if "requires_safety_checker" in known:
        settings["requires_safety_checker"] = False
    try:
        with silent(diffusers), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = kind(**{name: part for name, part in parts.items() if name in known}, **settings)
    except Exception as error:  # parts that do not go together
        raise InputError(
            f"{asked_by}: a {found.class_name} cannot be made of its parts ({first_line(error)})."
        ) from error
    return made, type(parts.get("scheduler")).__name__


def _other_scheduler(diffusers: Any, name: Any, old: Any, asked_by: str) -> Any:
    kind: Any = getattr(diffusers, str(name), None)
    if old is None or not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        known = [name for name in dir(diffusers) if name.endswith("Scheduler")]
        raise unknown("scheduler", str(name), known, f"Asked for by {asked_by[0].lower() + asked_by[1:]}.")
    try:
        with silent(diffusers):
            return getattr(diffusers, name).from_config(old.config)
    except Exception as error:  # settings that the other scheduler cannot have
        raise InputError(
            f"{asked_by}: {name} cannot take the place of {type(old).__name__} ({first_line(error)})."
        ) from error


def _check_arguments(pipeline: Any, given: Mapping[str, Any], asked_by: str) -> None:
    called = _called(pipeline)
    for name in given:
        if name in SUPPLIED:
            advice = {"prompt": "give prompts with --prompts", "class_labels": "choose labels with --labels"}
            raise InputError(f"{asked_by} gets {name} from fdr; {advice.get(name, 'leave it out of --pipeline-args')}.")
        if name not in called:
            choices = [name for name in called if name not in SUPPLIED]
            raise unknown(
                "argument", name, choices, f"{asked_by}, a {type(pipeline).__name__}, takes none of that name."
            )


def _called(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: item for name, item in inspect.signature(pipeline).parameters.items() if item.kind not in kinds}


def _classes(pipeline: Any) -> int | None:
    """The classes of the denoiser, where the pipeline takes labels."""
    if "class_labels" not in _called(pipeline):
        return None
    networks = (getattr(pipeline, name, None) for name in ("unet", "transformer"))
    return next((num_classes_of(network.config) for network in networks if network is not None), None)


def _versions(found: PipelineParts) -> dict[str, str]:
    from importlib.metadata import version

    libraries = {type(part).__module__.partition(".")[0] for part in found.parts.values() if part is not None}
    return {name: version(name) for name in ("diffusers", "transformers") if name in libraries}
