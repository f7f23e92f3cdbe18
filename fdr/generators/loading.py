"""`load_generator`, which turns a checkpoint, a program or a run folder into a `Generator` that works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fdr import runtime
from fdr.errors import InputError, warn
from fdr.generators.architectures import DECLARED, build, declared
from fdr.generators.base import Architecture, Generator
from fdr.generators.first_images import check_first_images
from fdr.generators.objects import as_generator, spec_of
from fdr.generators.one_step import names_pipeline, read_pipeline
from fdr.generators.run_folder import INDEX_NAME, RunFolder, read_run_folder
from fdr.runtime import as_path, memory_for, missing_path, named_arguments, refuse_stand_in
from fdr.weights import (
    ADVICE,
    INDEX_SUFFIX,
    NO_AVERAGE,
    ONLINE,
    TakenWeights,
    holds_weights,
    load_weights,
    program_kind,
    read_sidecar,
)


@named_arguments
@memory_for("loading a generator", "close what else uses the memory, or choose another --device")
def load_generator(
    path: str | os.PathLike[str] | Any,
    arch: str | None = None,
    device: str | None = None,
    *,
    arch_args: Mapping[str, Any] | None = None,
    value_range: tuple[float, float] | None = None,
    noise_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    ema: str | None = None,
    offline: bool | None = None,
    trust: bool = False,
) -> Generator:
    """Load a generator in eval mode onto `device` and try it on a few samples.

    `path` is a TorchScript archive, a torch.export file (.pt2), a run folder of fdr, or weights (.pt read with
    weights_only, .safetensors, a folder of shards). Weights need `arch`, "module:factory", which makes the network when
    it is called with `arch_args`. `path` may also be a network, a function of noise (and labels), or a pipeline of
    diffusers, whose denoiser becomes a one-step generator: a folder that its save_pretrained wrote, or with `arch`
    "diffusers" a repository of the hub.

    `ema` selects one of several sets of weights by its label; "none" selects the trained weights. Without it the first
    average is taken, because papers measure averages, and an `FdrWarning` lists all sets. With `offline`, nothing that
    the architecture needs beside its weights (the decoder of a latent generator) is downloaded.

    The architecture that a run folder names is used if it is a preset, or if an installed package declares it as an
    entry point of the group "fdr.generators". Any other is imported only with `trust`, or if `arch` names it.

    `noise_shape`, `num_classes` (0 for an unconditional generator) and `value_range` are taken from the arguments, or
    else from `PATH.json` or the run folder, or else from attributes of the network. The noise shape is required; the
    defaults of the others are 0 and (0, 1).

    Raises `InputError` for arguments that are missing or contradict each other and for a generator that makes no images
    of its value range, `WeightsError` for a file that is damaged or does not fit.
    """
    asked: dict[str, Any] = {"noise_shape": noise_shape, "num_classes": num_classes, "value_range": value_range}
    if not isinstance(path, str | os.PathLike):
        if arch or arch_args or ema:
            raise InputError(
                "Leave out --arch, --arch-args, --ema: they are about files of weights, and this is an object."
            )
        return as_generator(path, device, **asked)
    place = as_path(path, "the generator").expanduser()
    target = runtime.resolve_device(device)
    given = {name: value for name, value in asked.items() if value is not None}
    named = None if arch is None else Architecture("factory", arch, dict(arch_args or {}))
    if names_pipeline(place, str(path), arch):
        with runtime.offline(offline):
            network, architecture, taken = read_pipeline(str(path), {} if named is None else named.arguments)
        return _checked(network.to(target), given, f"{place.name} (one step)", architecture, taken)
    if named is None and arch_args:
        raise InputError("Arguments of an architecture (--arch-args) need the architecture itself (--arch).")
    if not place.exists():
        raise InputError(f"The generator {missing_path(place)}")
    if not place.name.endswith(INDEX_SUFFIX):
        refuse_stand_in(place)
    with runtime.offline(offline):
        is_run = place.is_dir() and ((place / INDEX_NAME).is_file() or not holds_weights(place))
        if is_run:
            folder = read_run_folder(place)
            network, architecture, taken, stated = _from_folder(folder, named, ema, target, trust)
            trained_on = folder.trained_on
        else:
            network, architecture, taken, stated = _from_file(place, named, ema, target)
            trained_on = None
    return _checked(network, {**stated, **given}, place.name, architecture, taken, trained_on)


def _checked(
    network: nn.Module,
    stated: Mapping[str, Any],
    name: str,
    architecture: Architecture,
    taken: TakenWeights,
    trained_on: Sequence[str] | None = None,
) -> Generator:
    """The generator of a network in eval mode, tried on a few samples."""
    spec = spec_of(name, network, {**declared(network), **stated})
    generator = Generator(network, spec, name=name, architecture=architecture, weights=taken, trained_on=trained_on)
    check_first_images(generator.eval())
    return generator


_Read = tuple[nn.Module, Architecture, TakenWeights, Mapping[str, Any]]
"""A network, its architecture, the weights that were taken, and what a file beside the weights states about it."""


def _from_folder(folder: RunFolder, named: Architecture | None, ema: str | None, device: Any, trust: bool) -> _Read:
    path = folder.folder
    label, weights = folder.weights_file(ema)
    note = folder.sets.choice(label, repr(str(path))) if ema is None else None
    if note is not None:
        note = f"{note}; {ADVICE}."
        warn(note)
    named_by = f"The run folder {str(path)!r}" if named is None and not trust else None
    network, architecture = build(named or folder.architecture, device, named_by)
    load_weights(network, weights, None, path.name)
    return network, architecture, TakenWeights(label, tuple(folder.sets.labels()), note or ""), folder.declared


def _from_file(path: Path, named: Architecture | None, ema: str | None, device: Any) -> _Read:
    beside = {key: value for key, value in read_sidecar(path, DECLARED).items() if value is not None}
    kind = program_kind(path)
    if kind is None:
        if named is None:
            raise InputError(f"{str(path)!r} holds weights alone; name their network with --arch module:factory.")
        network, architecture = build(named, device)
        return network, architecture, load_weights(network, path, ema, path.name), beside
    if named is not None or ema not in (None, ONLINE, NO_AVERAGE):
        option = "--arch" if named is not None else "--ema"
        raise InputError(f"{str(path)!r} is a whole program, with its network and one set of weights; drop {option}.")
    network, architecture = build(Architecture(kind, str(path.resolve())), device)
    return network, architecture, TakenWeights(), beside
