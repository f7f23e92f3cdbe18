"""An autoencoder or diffusion model of diffusers: its files, in a folder or a repository of the hub, and the model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fdr.errors import InputError, WeightsError, first_line
from fdr.weights.files import WeightOptions, WeightsFile
from fdr.weights.hub import CONFIG, ModelFiles, file_in, find_model
from fdr.weights.libraries import load_library, silent

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(@[\w./-]+)?")


@dataclass(frozen=True)
class Role:
    """What a model is wanted as."""

    noun: str
    methods: tuple[str, ...]
    """What it must have."""
    place: str
    """The subfolder of a pipeline that usually holds one."""

    @property
    def what(self) -> tuple[str, str]:
        """Several files and one, for messages."""
        return f"files of {self.noun}", f"file of {self.noun}"


AUTOENCODER = Role("autoencoder", ("encode", "decode"), "vae")
DENOISER = Role("diffusion model", ("forward",), "unet")


@dataclass(frozen=True)
class DiffusersModel:
    """A model in eval mode on the CPU; its parameters need no gradient."""

    model: torch.nn.Module
    class_name: str
    weights_digest: str
    config_digest: str
    config: Mapping[str, Any]
    """The settings in config.json, without what the library notes of itself."""


def is_repository(name: str) -> bool:
    """True for "owner/name", "owner/name/folder", each with "@revision" or without."""
    return _REPOSITORY.fullmatch(name) is not None


def folder_of(path: Path) -> Path | None:
    """The folder with config.json: `path`, or its subfolder "vae" where it holds a whole pipeline; None without one."""
    return next((folder for folder in (path, path / "vae") if (folder / CONFIG).is_file()), None)


def load_model(name: str, folder: Path | None, options: WeightOptions, role: Role = AUTOENCODER) -> DiffusersModel:
    """The model in `folder`, or of the repository `name`: its class by config.json, its weights by .safetensors.

    Files are searched like those of encoders, the network last; `options.weights` takes the place of the weights.
    Raises `InputError` without diffusers, and for a class that has another `role`; `WeightsError` for files that are
    missing, damaged or do not fit.
    """
    diffusers = load_library("diffusers", name, role.noun.capitalize())  # before anything is fetched
    asked_by = f"{role.noun.capitalize()} {name!r}"
    files = find_model(lambda file: _file(name, folder, file, role), (WEIGHTS, INDEX), options, name, asked_by)
    for shard in files.shards:
        if shard.suffix != ".safetensors":
            raise WeightsError(f"{asked_by}: {str(shard)!r} is no .safetensors file, and no other is read; convert it.")
    settings = {key: value for key, value in files.config.items() if not key.startswith("_")}
    class_name = str(files.config.get("_class_name", ""))
    model = _build(diffusers, name, class_name, files, role)
    config = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return DiffusersModel(model, class_name, files.digest, config, settings)


def model_of_config(class_name: str, config: Mapping[str, Any], asked_by: str) -> torch.nn.Module:
    """A denoiser with random weights. Raises `InputError` for a class or a configuration that is none."""
    diffusers = load_library("diffusers", asked_by, DENOISER.noun.capitalize())
    kind = _class_of(diffusers, asked_by, class_name, DENOISER)
    try:
        with silent(diffusers):
            return kind.from_config(dict(config))
    except Exception as error:  # fields it does not know, sizes that do not agree
        raise InputError(f"{asked_by} cannot be built from its configuration ({first_line(error)}).") from error


def _file(name: str, folder: Path | None, file: str, role: Role) -> WeightsFile:
    if folder is not None:
        return WeightsFile(str(folder.absolute() / file), what=role.what)
    match = _REPOSITORY.fullmatch(name)
    assert match is not None
    repository, inside, revision = match.groups()
    published = file_in(f"{repository}{revision or ''}", f"{inside.removeprefix('/')}/{file}".removeprefix("/"))
    return replace(published, what=role.what)


def _class_of(diffusers: Any, asked_by: str, class_name: str, role: Role) -> Any:
    """The class of a model of that role."""
    kind = getattr(diffusers, class_name, None)
    is_model = isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)
    if not (is_model and all(hasattr(kind, method) for method in role.methods)):
        raise InputError(
            f"{asked_by}: config.json describes a {class_name or 'model without _class_name'}, which is no {role.noun} "
            f"of diffusers {diffusers.__version__}; name the folder of one, such as OWNER/NAME/{role.place}."
        )
    return kind


def _build(diffusers: Any, name: str, class_name: str, files: ModelFiles, role: Role) -> torch.nn.Module:
    kind = _class_of(diffusers, f"{role.noun.capitalize()} {name!r}", class_name, role)
    with _one_folder(files) as folder, silent(diffusers):
        try:
            model, info = kind.from_pretrained(
                folder,
                torch_dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except Exception as error:  # sizes that do not agree, fields it does not know, a damaged file
            raise _misfit(name, class_name, files, role, f"{type(error).__name__}: {first_line(error)}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *(str(item[0]) for item in info["mismatched_keys"])]
    if wrong:
        raise _misfit(name, class_name, files, role, f"{len(wrong)} names do not agree, {min(wrong)} among them")
    return model.eval().requires_grad_(False)


def _misfit(name: str, class_name: str, files: ModelFiles, role: Role, why: str) -> WeightsError:
    return WeightsError(
        f"{str(files.weights)!r} does not fit {role.noun} {name!r}, an {class_name} by config.json ({why})"
        "; fetch the files of one repository again."
    )


def _one_folder(files: ModelFiles) -> contextlib.AbstractContextManager[Path]:
    """The files side by side under the names that diffusers looks for, wherever they were found."""
    names = {CONFIG: files.config_path}
    if files.weights in files.shards:
        names[WEIGHTS] = files.weights
    else:
        names |= {INDEX: files.weights} | {path.name: path for path in files.shards}
    return linked(names)


@contextlib.contextmanager
def linked(files: Mapping[str, Path]) -> Iterator[Path]:
    """A temporary folder with these files, and no others, under these names."""
    with tempfile.TemporaryDirectory(prefix="fdr-") as temporary:
        folder = Path(temporary)
        for file, path in files.items():
            try:
                (folder / file).symlink_to(path.absolute())
            except OSError:  # a system without links
                shutil.copyfile(path, folder / file)
        yield folder
