"""The files of a model as transformers or diffusers save it: config.json, and weights in one file or in shards.

They lie in a folder that a user names, in a weights folder, in the hub cache, or on the hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.errors import WeightsError
from fdr.weights.files import WeightOptions, WeightsFile, hub_file, resolve
from fdr.weights.state_dict import load_state_dict

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@dataclass(frozen=True)
class ModelFiles:
    """The description of a model, and its weights."""

    config_path: Path
    config: Mapping[str, Any]
    """The content of config.json."""
    weights: Path
    """The weight file, or the index of several."""
    digest: str
    """sha256 of the weight file; for several shards, sha256 of their joined digests in the order of their names."""
    shards: tuple[Path, ...]

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, in float32."""
        state: dict[str, Tensor] = {}
        for path in self.shards:
            state.update({name: tensor.float() for name, tensor in load_state_dict(path).items()})
        return state


def find_model(
    file: Callable[[str], WeightsFile], weights: Sequence[str], options: WeightOptions, name: str, asked_by: str
) -> ModelFiles:
    """The files of a model, found or fetched; `options.weights` replaces the weight file alone.

    `file` describes the file of a name. `weights` are the names that the weights may have, the likeliest first. Raises
    `WeightsError` for what is missing, damaged or no JSON; messages begin with `asked_by`.
    """
    described = replace(options, weights=None)
    config = resolve(file(CONFIG), described, name).path
    first, *others = map(file, weights)
    found = resolve(replace(first, others=tuple(others)), options, name)
    shards: tuple[Path, ...] = (found.path,)
    digest = found.sha256
    if found.path.name.endswith(".index.json"):
        parts = [resolve(file(part), described, name) for part in shard_names(found.path, asked_by)]
        shards = tuple(part.path for part in parts)
        digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return ModelFiles(config, read_json(config, asked_by), found.path, digest, shards)


def needed_files(target: str) -> tuple[WeightsFile, WeightsFile, WeightsFile]:
    """The files of a transformers model; `target` is "owner/name", "owner/name@revision" or the path of a folder."""
    weights = replace(file_in(target, WEIGHTS), others=(file_in(target, INDEX), file_in(target, PICKLED)))
    return file_in(target, CONFIG), file_in(target, PREPROCESSOR), weights


def is_folder(target: str) -> bool:
    """True for a path, false for a repository of the hub."""
    return target.startswith(("/", "./", "../", "~")) or target.count("/") != 1 or Path(target).is_dir()


def resolve_files(target: str, options: WeightOptions, encoder: str) -> tuple[ModelFiles, dict[str, Any]]:
    """The files of a transformers model, and the content of its preprocessor_config.json.

    Raises `WeightsError` for what is missing, damaged or no JSON.
    """
    asked_by = f"Encoder {encoder!r}"
    if is_folder(target) and not (Path(target).expanduser() / CONFIG).is_file():
        raise WeightsError(
            f"{asked_by}: {target!r} is not a folder with a {CONFIG}; give a repository of the hub as "
            "hf:OWNER/NAME, or a folder that save_pretrained wrote."
        )
    described = replace(options, weights=None)
    preprocessor = read_json(resolve(file_in(target, PREPROCESSOR), described, encoder).path, asked_by)
    names = (WEIGHTS, INDEX, PICKLED)
    return find_model(lambda name: file_in(target, name), names, options, encoder, asked_by), preprocessor


def shard_names(index: Path, asked_by: str) -> list[str]:
    """The files that an index lists, beside it. Raises `WeightsError` for one that lies elsewhere."""
    listed = read_json(index, asked_by).get("weight_map", {})
    names = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else [""]
    for name in names:
        if name in ("", ".", "..") or re.search(r"[/\\\0:]", name):
            raise WeightsError(
                f"{asked_by}: {str(index)!r} names {name[:60]!r}, which is no file name; fetch it again."
            )
    return names


def file_in(target: str, name: str) -> WeightsFile:
    """The file `name` of a repository or folder."""
    if is_folder(target):
        return WeightsFile(str(Path(target).expanduser().absolute() / name))
    repo, _, revision = target.partition("@")
    file = hub_file(repo, name)
    if not revision:
        return file
    return replace(file, filename=f"{repo.replace('/', '--')}@{revision}/{name}", revision=revision)


def read_json(path: Path, asked_by: str) -> dict[str, Any]:
    """The object in a file. Raises `WeightsError`, beginning with `asked_by`, for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{asked_by}: {str(path)!r} is not readable JSON ({error}).") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{asked_by}: {str(path)!r} holds a {type(data).__name__}, not an object.")
    return data
