"""Copying one set of weights from a checkpoint file or folder into a network, under the network's names."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdr.errors import FdrWarning, InputError, WeightsError
from fdr.weights.state_dict import copy_state, only_tensors, read_checkpoint
from fdr.weights.weight_sets import ADVICE, ONLINE, TRAINED_KEYS, TakenWeights, WeightSets, is_average, weight_sets

INDEX_SUFFIX = ".index.json"
"""The end of the name of a file that says which shard of a checkpoint holds which tensor."""
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r"-\d+-of-0*(\d+)\.")
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Parts of parameter names that torch.compile, FSDP and activation checkpointing insert."""


def load_weights(
    network: nn.Module,
    path: Path,
    label: str | None,
    name: str,
    to_check: str = "--arch and --arch-args",
    advice: str = ADVICE,
) -> TakenWeights:
    """Copy one set of weights of a checkpoint into a network, strictly; returns which.

    `label` None takes the first average of a file that has averages, else the trained weights. Parts of names that
    wrappers put in are dropped, and so are prefixes ("module.", "net.") that the network's names have not; then a
    network with a method `adapt_state` may rename what it knows by other names. An average that lacks buffers gets
    those of the trained weights. A choice between several sets, and such a completion, causes an `FdrWarning`.

    Raises `InputError` for an unknown label, `WeightsError` for a file that does not fit; its message advises to
    check `to_check`.
    """
    sets, where = _sets_in(path, network.state_dict()), repr(str(path))
    found, state = sets.find(label, where)
    note = sets.choice(found, where) if label is None else None
    if note is not None:
        note = f"{note}{f'; {advice}' if advice else ''}."
        warnings.warn(note, FdrWarning, stacklevel=6)
    tensors = _for_network(state, network, path)
    adapt = getattr(network, "adapt_state", None)
    if adapt is None and found in sets.averages and sets.trained:
        tensors = _completed(tensors, next(iter(sets.trained.values())), network, path, found)
    faults = copy_state(network, tensors if adapt is None else adapt(tensors))
    if faults:
        match = _SHARD.search(path.name)
        shard = "" if match is None else f" It is one of {match[1]} shards; name their folder."
        raise WeightsError(f"{str(path)!r} does not fit the architecture of {name}: {faults}; check {to_check}.{shard}")
    return TakenWeights(found, tuple(sets.labels()), note or "")


def holds_weights(folder: Path) -> bool:
    """True for a folder that holds weights, in one file, in shards or in subfolders."""
    sets = _folder_sets(folder)
    return bool(sets.trained or sets.averages)


def _sets_in(path: Path, own: Iterable[str]) -> WeightSets:
    """The sets of a file or a folder; sets in subfolders are paths until they are read."""
    if not path.is_dir():
        return weight_sets(_read(path), own)
    sets = _folder_sets(path)
    if len(sets.trained) == 1 and not sets.averages:
        return weight_sets(_read(next(iter(sets.trained.values()))), own)
    return sets


def _folder_sets(folder: Path) -> WeightSets:
    """The weight file of a folder, and those of its subfolders: "unet" and "unet_ema", as diffusers writes them."""
    own = _weight_file(folder)
    subfolders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    below = {path.name: found for path in subfolders if (found := _weight_file(path)) is not None}
    averages = {name: path for name, path in below.items() if is_average(name)}
    others = {name: path for name, path in below.items() if name not in averages}
    bases = [name for name in others if any(average.startswith(f"{name}_") for average in averages)]
    trained = {} if own is None else {ONLINE: own}
    trained |= {name: others[name] for name in dict.fromkeys([*bases, *others])}
    return WeightSets(trained, averages)


def _weight_file(folder: Path) -> Path | None:
    """The index of the shards in a folder, or its one weight file. Raises `InputError` where there are several."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    found = [path for path in files if path.name.endswith(INDEX_SUFFIX)]
    found = found or [path for path in files if path.suffix in _WEIGHT_SUFFIXES]
    if len({path.name.partition(".")[0] for path in found}) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise InputError(f"Folder {str(folder)!r} holds several weight files ({names}); name one of them.")
    return next((path for path in found if ".safetensors" in path.name), found[0] if found else None)


def _read(path: Path) -> Any:
    """The content of a weight file; for an index, the tensors of all its shards by name."""
    if not path.name.endswith(INDEX_SUFFIX):
        return read_checkpoint(path)
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(files.values()))
        if any(Path(shard).name != shard for shard in shards):
            raise ValueError("a shard in another folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{str(path)!r} is no index of shards ({type(error).__name__}: {error}).") from error
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if missing:
        raise WeightsError(f"{str(path)!r} names {len(shards)} shards, of which {missing[0]} is not there; copy it.")
    tensors: dict[str, Any] = {}
    for shard in shards:
        tensors |= only_tensors(read_checkpoint(path.parent / shard), path.parent / shard)
    if absent := sorted(files.keys() - tensors.keys()):
        raise WeightsError(f"{str(path)!r} names {absent[0]}, which is in none of its shards; copy them again.")
    return tensors


def _for_network(state: Any, network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors of a set under the network's names; a list takes the names of the parameters in their order."""
    state = _read(state) if isinstance(state, Path) else state
    if isinstance(state, list) and state and all(isinstance(item, Tensor) for item in state):
        names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        if len(names) != len(state):
            names = [name for name, _ in network.named_parameters()]
        if len(names) != len(state):
            raise WeightsError(
                f"{str(path)!r} holds an average of {len(state)} parameters without names; the network has "
                f"{len(names)} parameters."
            )
        return dict(zip(names, state, strict=True))
    plain = (int, float, str, type(None))
    flat = _flat(state) if isinstance(state, Mapping) else {}
    kept = {key: value for key, value in flat.items() if not isinstance(value, plain)}
    own = {_unwrapped(name): name for name in network.state_dict()}
    tensors = {_unwrapped(name): value for name, value in only_tensors(kept or state, path).items()}
    return {own.get(name, name): value for name, value in _without_prefix(tensors, own).items()}


def _flat(state: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested state dict, whose parts are state dicts of parts of the network."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        inner = isinstance(value, Mapping) and value
        found |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def _completed(
    average: dict[str, Tensor], trained: Any, network: nn.Module, path: Path, label: str
) -> dict[str, Tensor]:
    """The average, completed with buffers and untrained parameters that only the trained weights hold."""
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    missing = [name for name in network.state_dict() if name not in average]
    counters = all(name.endswith("num_batches_tracked") for name in missing)
    if counters or learned & set(missing):
        return average
    others = _for_network(trained, network, path)
    taken = {name: others[name] for name in missing if name in others}
    warnings.warn(
        f"The average {label} of {str(path)!r} holds parameters only; {len(taken)} buffers ({missing[0]}, ...) are "
        "those of the trained weights.",
        FdrWarning,
        stacklevel=7,
    )
    return {**average, **taken}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under the one prefix whose removal gives the network's names; other tensors are dropped."""
    if state.keys() & own.keys():
        return dict(state)
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    ends = [name[: -len(needed[0])] for name in state if name.endswith(f".{needed[0]}")] if needed else []
    whole = [prefix for prefix in ends if all(f"{prefix}{name}" in state for name in needed)]
    likely = [prefix for prefix in whole if prefix.rstrip(".") in TRAINED_KEYS]
    prefix = next(iter(likely or whole), None)
    if prefix is not None and (likely or len(whole) == 1):
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return _without_common_prefix(state, own)


def _without_common_prefix(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    names = dict(state)
    while names and not names.keys() & own.keys():
        firsts = {name.partition(".")[0] for name in names}
        if len(firsts) != 1 or any("." not in name for name in names):
            return dict(state)
        names = {name.partition(".")[2]: tensor for name, tensor in names.items()}
    return names or dict(state)
