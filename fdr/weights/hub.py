"""The files of a transformers model: in a folder, in a weights folder, in the hub cache, or on the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.errors import WeightsError
from fdr.weights.files import FoundWeights, WeightsFile, find, hub_file, load_state_dict, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from fdr.weights.options import WeightOptions

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@dataclass(frozen=True)
class ModelFiles:
    """The descriptions of a model, and its weights."""

    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    config_digest: str
    weights: Path
    """The weight file, or the index of several."""
    weights_digest: str
    """sha256 of the weight file; for several shards, sha256 of their joined digests in the order of their names."""
    shards: tuple[Path, ...]

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, in float32."""
        state: dict[str, Tensor] = {}
        for path in self.shards:
            state.update({name: tensor.float() for name, tensor in load_state_dict(path).items()})
        return state


def needed_files(target: str) -> tuple[WeightsFile, ...]:
    """The files of the repository or folder `target` ("owner/name", "owner/name@revision", a path)."""
    weights = replace(file_in(target, WEIGHTS), others=(file_in(target, INDEX), file_in(target, PICKLED)))
    return file_in(target, CONFIG), file_in(target, PREPROCESSOR), weights


def is_folder(target: str) -> bool:
    """True for a path, false for a repository of the hub."""
    return target.startswith(("/", "./", "../", "~")) or target.count("/") != 1 or Path(target).is_dir()


def resolve_files(target: str, options: WeightOptions, encoder: str) -> ModelFiles:
    """The files of `target`, found or fetched; `options.weights` replaces the weight file alone.

    Raises `WeightsError` for what is missing, damaged or no JSON.
    """
    if is_folder(target) and not (Path(target).expanduser() / CONFIG).is_file():
        raise WeightsError(
            f"Encoder {encoder!r}: {target!r} is not a folder with a {CONFIG}; give a repository of the hub as "
            "hf:OWNER/NAME, or a folder that save_pretrained wrote."
        )
    described = replace(options, weights=None)
    asked_by = f"Encoder {encoder!r}"
    config_file, preprocessor_file, weights_file = needed_files(target)
    config_path = resolve(config_file, described, encoder).path
    preprocessor = read_json(resolve(preprocessor_file, described, encoder).path, asked_by)
    found = resolve(weights_file, options, encoder)
    shards, digest = shards_of(found, lambda part: resolve(file_in(target, part), described, encoder), asked_by)
    config_digest = hashlib.sha256(config_path.read_bytes()).hexdigest()[:16]
    return ModelFiles(read_json(config_path, asked_by), preprocessor, config_digest, found.path, digest, shards)


def is_here(target: str, weights_dir: Path | None = None) -> bool:
    """True when all files of `target` are on this machine."""
    return all(find(file, weights_dir) is not None for file in needed_files(target))


def shards_of(
    found: FoundWeights, resolve_part: Callable[[str], FoundWeights], asked_by: str
) -> tuple[tuple[Path, ...], str]:
    """The weight files and their digest; `found` is the one weight file, or the index of several."""
    if not found.path.name.endswith(".index.json"):
        return (found.path,), found.sha256
    parts = [resolve_part(name) for name in shard_names(found.path, asked_by)]
    digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return tuple(part.path for part in parts), digest


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
