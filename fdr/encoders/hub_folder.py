"""The files of a transformers model: in a folder, in a weights folder, in the hub cache, or on the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.encoders.catalogue import hub_file
from fdr.encoders.weights import WeightsFile, find, load_state_dict, resolve
from fdr.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from fdr.encoders.base import EncoderOptions

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@dataclass(frozen=True)
class ModelFiles:
    """What describes a model, and its weights."""

    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    config_digest: str
    weights: Path
    """The weight file, or the index of several."""
    weights_digest: str
    """sha256 of the weight file; where there are several, of their digests in the order of their names."""
    shards: tuple[Path, ...]

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, in float32."""
        state: dict[str, Tensor] = {}
        for path in self.shards:
            state.update({name: tensor.float() for name, tensor in load_state_dict(path).items()})
        return state


def needed_files(target: str) -> tuple[WeightsFile, ...]:
    """The files of the repository or folder `target` ("owner/name", "owner/name@revision", a path)."""
    weights = replace(_file(target, WEIGHTS), others=(_file(target, INDEX), _file(target, PICKLED)))
    return _file(target, CONFIG), _file(target, PREPROCESSOR), weights


def is_folder(target: str) -> bool:
    """True for a path rather than a repository of the hub."""
    return target.startswith(("/", "./", "../", "~")) or target.count("/") != 1 or Path(target).is_dir()


def resolve_files(target: str, options: EncoderOptions, encoder: str) -> ModelFiles:
    """The files of `target`, found or fetched; `options.weights` replaces the weight file alone.

    Raises `WeightsError` for what is missing, damaged or no JSON.
    """
    if is_folder(target) and not (Path(target).expanduser() / CONFIG).is_file():
        raise WeightsError(
            f"Encoder {encoder!r}: {target!r} is not a folder with a {CONFIG}; give a repository of the hub as "
            "hf:OWNER/NAME, or a folder that save_pretrained wrote."
        )
    described = replace(options, weights=None)
    config_file, preprocessor_file, weights_file = needed_files(target)
    config_path = resolve(config_file, described, encoder).path
    preprocessor = _read_json(resolve(preprocessor_file, described, encoder).path, encoder)
    found = resolve(weights_file, options, encoder)
    shards: tuple[Path, ...] = (found.path,)
    digest = found.sha256
    if found.path.name == INDEX:
        names = sorted(set(_read_json(found.path, encoder).get("weight_map", {}).values()))
        parts = [resolve(_file(target, name), described, encoder) for name in names]
        shards = tuple(part.path for part in parts)
        digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    config_digest = hashlib.sha256(config_path.read_bytes()).hexdigest()[:16]
    return ModelFiles(_read_json(config_path, encoder), preprocessor, config_digest, found.path, digest, shards)


def is_here(target: str, weights_dir: Path | None = None) -> bool:
    """True when nothing of `target` has to be fetched."""
    return all(find(file, weights_dir) is not None for file in needed_files(target))


def _file(target: str, name: str) -> WeightsFile:
    if is_folder(target):
        return WeightsFile(str(Path(target).expanduser().absolute() / name))
    repo, _, revision = target.partition("@")
    file = hub_file(repo, name)
    if not revision:
        return file
    return replace(file, filename=f"{repo.replace('/', '--')}@{revision}/{name}", revision=revision)


def _read_json(path: Path, encoder: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"Encoder {encoder!r}: {str(path)!r} is not readable JSON ({error}).") from error
    if not isinstance(data, dict):
        raise WeightsError(f"Encoder {encoder!r}: {str(path)!r} holds a {type(data).__name__}, not an object.")
    return data
