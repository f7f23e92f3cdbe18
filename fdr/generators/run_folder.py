"""Run folders of fdr: `generator.json`, weights as .safetensors, and the program if the generator is one.

`generator.json` is replaced last and names its weight files by their content. So a reader finds either the old
generator or the new one, whenever a writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fdr.errors import InputError, WeightsError
from fdr.generators.base import Architecture, Generator
from fdr.runtime import are_texts, atomic_path, check_writable, file_digest, write_atomically
from fdr.weights import ONLINE, WeightSets

INDEX_NAME = "generator.json"
SCHEMA = "fdr-generator/1"
_PREFIX = "network."
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
_DIGEST = re.compile(r"(?:weights|program)-([0-9a-f]{16})\.\w+")


@dataclass(frozen=True)
class RunFolder:
    """The content of `generator.json`."""

    folder: Path
    architecture: Architecture
    declared: Mapping[str, Any]
    """noise_shape, num_classes (0: unconditional), value_range."""
    weights: Mapping[str, str]
    """File names by label."""
    trained_on: tuple[str, ...] | None = None
    """The encoders that `fdr train` trained it on; None if the folder does not say."""

    @property
    def sets(self) -> WeightSets:
        """The sets of weights, as file names."""
        averages = {label: name for label, name in self.weights.items() if label != ONLINE}
        return WeightSets({ONLINE: self.weights[ONLINE]} if ONLINE in self.weights else {}, averages)

    def weights_file(self, label: str | None) -> tuple[str, Path]:
        """The label and the path of one set of weights.

        Raises `WeightsError` or `InputError` if it is missing or unknown.
        """
        found, name = self.sets.find(label, repr(str(self.folder)))
        path = self.folder / name
        if not path.is_file():
            raise WeightsError(f"{str(self.folder / INDEX_NAME)!r} names {name!r} as {found!r}, which is not there.")
        _check_content(path)
        return found, path


def save_generator(
    folder: Path, generator: Generator, states: Mapping[str, Mapping[str, Tensor]] | None = None
) -> None:
    """Write a generator so that `fdr.load_generator(folder)` gives it back; replaces an earlier one in one step.

    `states` are sets of weights by label, each with the names of `generator.state_dict()`: "online" and averages, the
    first of which is taken when no label is asked for; left out, the generator's own as "online". Raises `InputError`
    for a generator that was made in Python, not by `load_generator`, and for a folder that cannot be written.
    """
    architecture = generator.architecture
    if architecture is None:
        raise InputError(f"{generator.name} was made in Python and names no architecture; make it with load_generator.")
    check_writable(folder / INDEX_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    target = architecture.target
    if architecture.kind != "factory":
        target = _keep_program(folder, architecture)
    own = {label: _saved(folder, state) for label, state in (states or {ONLINE: generator.state_dict()}).items()}
    spec = generator.spec
    index = {
        "schema": SCHEMA,
        "architecture": {"kind": architecture.kind, "target": target, "arguments": dict(architecture.arguments)},
        "noise_shape": list(spec.noise_shape),
        "num_classes": spec.num_classes,
        "value_range": list(spec.value_range),
        "weights": own,
        **({} if generator.trained_on is None else {"trained_on": list(generator.trained_on)}),
    }
    write_atomically(folder / INDEX_NAME, (json.dumps(index, indent=2) + "\n").encode())
    for path in folder.iterdir():
        if _WEIGHTS.fullmatch(path.name) and path.name not in own.values():
            path.unlink(missing_ok=True)


def read_run_folder(folder: Path) -> RunFolder:
    """The content of a run folder. Raises `InputError` if it has no readable generator.json."""
    path = folder / INDEX_NAME
    if not path.is_file():
        raise InputError(
            f"Folder {str(folder)!r} holds no generator: it has no {INDEX_NAME}; name a run folder or a file."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["schema"] != SCHEMA:
            raise InputError(f"{str(path)!r} is of the schema {index['schema']!r}; this fdr reads {SCHEMA!r}.")
        parsed = _parsed(folder, index)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} is not what fdr writes ({type(error).__name__}: {error}); restore it."
        ) from error
    if parsed.architecture.kind != "factory":
        _check_content(Path(parsed.architecture.target))
    return parsed


def _check_content(path: Path) -> None:
    """Raise `WeightsError` if the digest in the name of a file is not that of its content."""
    named = _DIGEST.fullmatch(path.name)
    if named is not None and path.is_file() and not file_digest(path).startswith(named[1]):
        raise WeightsError(
            f"{str(path)!r} is damaged: its sha256 does not begin with {named[1]}, as its name says; copy or train it "
            "again."
        )


def _parsed(folder: Path, index: Mapping[str, Any]) -> RunFolder:
    made_by, weights = index["architecture"], dict(index["weights"])
    kind, target = made_by["kind"], str(made_by["target"])
    if kind not in ("factory", "torchscript", "export"):
        raise ValueError(f"architecture {kind!r}")
    for name in (*weights.values(), *((target,) if kind != "factory" else ())):
        if Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} is no file name")
    target = target if kind == "factory" else str(folder / target)
    declared = {"noise_shape": index["noise_shape"], "value_range": index["value_range"]}
    declared["num_classes"] = index["num_classes"] or 0
    trained_on = index.get("trained_on")
    if trained_on is not None and not (isinstance(trained_on, list) and are_texts(trained_on)):
        raise ValueError(f"trained_on {trained_on!r}")
    return RunFolder(
        folder,
        Architecture(kind, target, dict(made_by["arguments"])),
        declared,
        weights,
        None if trained_on is None else tuple(trained_on),
    )


def _keep_program(folder: Path, architecture: Architecture) -> str:
    """Copy the program into the folder and return its name there."""
    source = Path(architecture.target)
    name = f"program-{architecture.digest[:16]}{'.pt2' if architecture.kind == 'export' else '.pt'}"
    if not (folder / name).is_file():
        if file_digest(source) != architecture.digest:
            raise InputError(f"{str(source)!r} has changed since the generator was loaded from it; load it again.")
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(source, temporary)
    return name


def _saved(folder: Path, state: Mapping[str, Tensor]) -> str:
    """Write one set of weights under a name that is a digest of its content, and return the name."""
    from safetensors.torch import save

    tensors = {name.removeprefix(_PREFIX): tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    data = save(tensors)
    name = f"weights-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    if not (folder / name).is_file():
        write_atomically(folder / name, data)
    return name
