"""The parts of a diffusers pipeline: networks, schedulers and tokenizers, each read from data alone.

A pipeline is a folder with `model_index.json`, which names the class of every part, and one folder a part. Only classes
of diffusers and transformers are made, and of their files only JSON, vocabularies and .safetensors are read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fdr import runtime
from fdr.errors import InputError, WeightsError, first_line
from fdr.runtime import file_digest
from fdr.weights.diffusers import AUTOENCODER, DENOISER, Role, is_repository, linked, load_model
from fdr.weights.download import FetchError, cached_folder, fetch_from_hub, hub_files
from fdr.weights.files import WeightOptions
from fdr.weights.hub import CONFIG, INDEX, WEIGHTS, file_in, find_model, read_json
from fdr.weights.libraries import load_library, silent

PIPELINE = "model_index.json"
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are never loaded. A safety checker replaces images by black ones, which would be measured; the others
serve it, or images as inputs."""
NETWORK = Role("network", ("forward",), "unet")
_ROLES = {"unet": DENOISER, "transformer": DENOISER, "vae": AUTOENCODER, "vqvae": AUTOENCODER}
_TEXTS = (".json", ".txt", ".model")
"""The ends of files of tokenizers and settings."""
_WEIGHTS = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""Names of weight files, without those of another precision ("model.fp16.safetensors")."""


@dataclass(frozen=True)
class PipelineParts:
    """What a pipeline is made of."""

    class_name: str
    parts: Mapping[str, Any]
    """The parts by their names; None for one that is left out."""
    settings: Mapping[str, Any]
    """The other fields of `model_index.json`."""
    digest: str
    """sha256 over the class names, settings, configurations, vocabularies and weights."""
    left_out: tuple[str, ...]
    """The parts that the pipeline has and that were not loaded."""


def load_parts(text: str, options: WeightOptions) -> PipelineParts:
    """The parts of the pipeline in the folder `text`, or of the repository "owner/name" or "owner/name@revision".

    Networks are in eval mode, in float32 on the CPU. Raises `InputError` for a pipeline that is not diffusers' own and
    for a part that cannot be made from data, `WeightsError` for files that are missing, damaged or do not fit.
    """
    load_library("diffusers", text, "Generator")  # before anything is fetched
    folder = pipeline_folder(text, options)
    index = read_json(folder / PIPELINE, f"The pipeline {text!r}")
    named = parts_of(index, text)
    parts: dict[str, Any] = dict.fromkeys(key for key, value in index.items() if _is_part(value))
    decisive: dict[str, Any] = {"class": index["_class_name"]}
    for name, (library, class_name) in named.items():
        parts[name], digest = _load(text, folder, name, library, class_name, options)
        decisive[name] = [class_name, digest]
    settings = {key: value for key, value in index.items() if key[0] != "_" and not _is_part(value)}
    decisive["settings"] = settings
    left_out = tuple(name for name in LEFT_OUT if name in index and _is_part(index[name]) and any(index[name]))
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return PipelineParts(str(index["_class_name"]), parts, settings, digest, left_out)


def parts_of(index: Mapping[str, Any], text: str) -> dict[str, tuple[str, str]]:
    """(library, class) of the parts that are loaded, by name. Raises `InputError` for code of the pipeline's own."""
    class_name = index.get("_class_name")
    if not isinstance(class_name, str) or not class_name.isidentifier():
        raise InputError(
            f"The pipeline {text!r} is of a class of its own ({json.dumps(class_name)}), and fdr runs no code of a "
            "folder or repository; load it in Python and give the object to fdr.evaluate."
        )
    named = {}
    for name, value in index.items():
        if not _is_part(value) or value[0] is None or name in LEFT_OUT:
            continue
        library, kind = map(str, value)
        if library not in ("diffusers", "transformers") or not (kind.isidentifier() and name.isidentifier()):
            raise InputError(
                f"The pipeline {text!r} has the part {name!r}, {kind} of {library}; fdr makes parts of diffusers and "
                "transformers alone. Load it in Python and give the object to fdr.evaluate."
            )
        named[name] = (library, kind)
    return named


def pipeline_folder(text: str, options: WeightOptions, only: Collection[str] | None = None) -> Path:
    """The folder of a pipeline: `text` itself, a folder OWNER--NAME for weights, the hub's cache, or fetched into it.

    With `only`, no other parts are fetched. Raises `WeightsError` if it is nowhere.
    """
    place = Path(text).expanduser()
    if (place / PIPELINE).is_file():
        return place
    if place.exists() or not is_repository(text):
        raise InputError(
            f"{text!r} is no pipeline of diffusers, which is a folder with {PIPELINE}, or OWNER/NAME of the hub."
        )
    repository, _, revision = text.partition("@")
    name = text.replace("/", "--")
    for folder in runtime.weights_dirs(options.weights_dir):
        if (folder / name / PIPELINE).is_file():
            return folder / name
    cached = cached_folder(repository, revision or None)
    if cached is not None and _is_whole(cached, text, only):
        return cached
    where = f"There is no file or folder {text!r}, and"
    if runtime.is_offline(options.offline):
        of = f"{repository} --revision {revision}" if revision else repository
        raise WeightsError(
            f"{where} the run is offline, so that no pipeline of this name can be fetched from the hub; fetch it where "
            f"there is a network: hf download {of}."
        )
    try:
        return _fetched(repository, revision or None, text, options, only)
    except FetchError as error:
        raise WeightsError(f"{where} no pipeline of this name could be fetched from the hub: {error}.") from error


def part_folder(folder: Path, name: str) -> Path:
    """The folder of a part. Without one of its name, its files lie beside model_index.json, as in old pipelines."""
    return folder / name if (folder / name).is_dir() else folder


def _fetched(
    repository: str, revision: str | None, text: str, options: WeightOptions, only: Collection[str] | None
) -> Path:
    files = hub_files(repository, revision)
    if PIPELINE not in files:
        raise FetchError(f"the repository of the hub has no {PIPELINE}, so it is no pipeline of diffusers")
    index = fetch_from_hub(repository, PIPELINE, revision, progress=options.progress)
    named = _wanted(read_json(index, f"The pipeline {text!r}"), text, only)
    folders = {file.partition("/")[0] for file in files if "/" in file}
    places = {name if name in folders else "" for name in named}
    for file in sorted(files):
        place, _, name = file.rpartition("/")
        if place in places and _is_read(name):
            fetch_from_hub(repository, file, revision, progress=options.progress)
    return index.parent


def _is_read(name: str) -> bool:
    """True for a file of a part that may be read: weights, settings or a vocabulary; no code and no pickle."""
    return _WEIGHTS.fullmatch(name) is not None or (name.endswith(_TEXTS) and ".index." not in name)


def _wanted(index: Mapping[str, Any], text: str, only: Collection[str] | None) -> dict[str, tuple[str, str]]:
    return {name: kind for name, kind in parts_of(index, text).items() if only is None or name in only}


def _is_whole(folder: Path, text: str, only: Collection[str] | None) -> bool:
    """True if a folder in the hub's cache has files of every part; a killed download leaves some without."""
    if not (folder / PIPELINE).is_file():
        return False
    named = _wanted(read_json(folder / PIPELINE, f"The pipeline {text!r}"), text, only)
    for name, (_, kind) in named.items():
        found = [path.name for path in part_folder(folder, name).glob("*") if path.name != PIPELINE]
        is_network = CONFIG in found and "Scheduler" not in kind
        if not found or (is_network and not any(map(_WEIGHTS.fullmatch, found))):
            return False
    return True


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(one is None or isinstance(one, str) for one in value)


def _load(text: str, folder: Path, name: str, library: str, class_name: str, options: WeightOptions) -> tuple[Any, str]:
    """One part and its digest."""
    place = part_folder(folder, name)
    if library == "transformers":
        return _load_of_transformers(f"{text}/{name}", folder / name, class_name)
    diffusers = load_library("diffusers", text, "Generator")
    kind = getattr(diffusers, class_name, None)
    if isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin):
        return _scheduler(diffusers, kind, place, f"{text}/{name}")
    _check_files(place, f"{text}/{name}")
    found = load_model(f"{text}/{name}", place, options, _ROLES.get(name, NETWORK))
    return found.model, f"{found.class_name} {found.weights_digest} {found.config_digest}"


def _check_description(folder: Path, file: str, name: str) -> None:
    """Raise `WeightsError` for a part without the file that describes it."""
    if not (folder / file).is_file():
        raise WeightsError(
            f"The part {name!r} of a pipeline has no {file}, which describes it; copy or fetch it again."
        )


def _check_files(folder: Path, name: str) -> None:
    """Raise `WeightsError` for a network without a description, or with weights only in files that are not read."""
    _check_description(folder, CONFIG, name)
    files = sorted(path.name for path in folder.glob("*"))
    if any(map(_WEIGHTS.fullmatch, files)):
        return
    others = [file for file in files if file.endswith((".bin", ".safetensors", ".ckpt", ".pt", ".msgpack", ".h5"))]
    held = f"holds {', '.join(others[:2])}" if others else "has no weights"
    raise WeightsError(
        f"The part {name!r} of a pipeline {held}; fdr reads .safetensors alone, and none of a variant: load it with "
        "diffusers and save it again with pipeline.save_pretrained(folder)."
    )


def _scheduler(diffusers: Any, kind: Any, folder: Path, name: str) -> tuple[Any, str]:
    path, asked_by = folder / "scheduler_config.json", f"The scheduler {name!r}"
    _check_description(folder, path.name, name)
    settings = read_json(path, asked_by)
    try:
        with silent(diffusers):
            return kind.from_config(settings), file_digest(path)
    except Exception as error:  # a library may raise anything for values that it does not know
        raise InputError(f"{asked_by} cannot be made from its configuration ({first_line(error)}).") from error


def _load_of_transformers(name: str, folder: Path, class_name: str) -> tuple[Any, str]:
    transformers = load_library("transformers", name, "Generator")
    kind = getattr(transformers, class_name, None)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return _network(transformers, kind, name, folder)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedTokenizerBase):
        return _tokenizer(transformers, kind, name, folder)
    raise InputError(
        f"The part {name!r} of a pipeline is a {class_name} of transformers, which is neither a network nor a "
        f"tokenizer of transformers {transformers.__version__}; load the pipeline in Python and give the object to "
        "fdr.evaluate."
    )


def _network(transformers: Any, kind: Any, name: str, folder: Path) -> tuple[Any, str]:
    import torch

    asked_by = f"Network {name!r}"
    _check_files(folder, name)
    place = str(folder.absolute())
    files = find_model(
        lambda file: replace(file_in(place, file), what=NETWORK.what), (WEIGHTS, INDEX), WeightOptions(), name, asked_by
    )
    code = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")
    settings = {key: value for key, value in files.config.items() if key not in code}
    state = files.state_dict()
    try:
        with silent(transformers):
            model, info = kind.from_pretrained(
                None,
                config=kind.config_class.from_dict(settings),
                state_dict=state,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # the error below says so in one sentence
                output_loading_info=True,
            )
    except Exception as error:  # a library may raise anything for settings that it does not know
        raise WeightsError(f"{asked_by} cannot be made from its configuration ({first_line(error)}).") from error
    wrong = [*info["missing_keys"], *(str(item[0]) for item in info["mismatched_keys"])]
    if wrong:
        raise WeightsError(
            f"{str(files.weights)!r} does not fit network {name!r}, a {kind.__name__} by config.json "
            f"({len(wrong)} names do not agree, {min(wrong)} among them); fetch the files of one repository again."
        )
    config = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return model.eval().requires_grad_(False), f"{files.digest} {config}"


def _check_vocabulary(kind: Any, files: Collection[str], name: str) -> None:
    """Raise `WeightsError` for a tokenizer without its vocabulary, which transformers would make from nothing."""
    known = dict(kind.vocab_files_names)
    whole = known.pop("tokenizer_file", None)
    missing = [file for file in known.values() if file not in files]
    if whole not in files and (missing or not known):
        wanted = " and ".join(known.values())
        raise WeightsError(
            f"The tokenizer {name!r} has no {' and '.join(missing) or whole}; it needs "
            f"{' or '.join(filter(None, (whole, wanted)))}. Copy or fetch it again."
        )


def _tokenizer(transformers: Any, kind: Any, name: str, folder: Path) -> tuple[Any, str]:
    files = {path.name: path for path in sorted(folder.glob("*")) if path.suffix in _TEXTS}
    _check_vocabulary(kind, files, name)
    digest = hashlib.sha256()
    for file, path in files.items():
        digest.update(f"{file} {file_digest(path)} ".encode())
    try:
        with silent(transformers), linked(files) as place:
            found = kind.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged vocabulary, or a package that the tokenizer needs
        raise InputError(f"The tokenizer {name!r} cannot be made from its files ({first_line(error)}).") from error
    return found, digest.hexdigest()
