"""Which sets of weights a checkpoint holds: the trained weights, their averages (EMAs), and others.

Trainers give them many names. One rule decides which set is used: papers measure an average, so it is the first average
of the file, or the trained weights where there is no average.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fdr.errors import InputError, unknown
from fdr.weights.inert_objects import class_of

ONLINE = "online"
"""The label of the trained weights, as opposed to their averages."""
NO_AVERAGE = "none"
"""Another label for the trained weights."""
ADVICE = "--ema LABEL takes another set, --ema none the trained weights"
"""The advice on how to use another set than the rule's."""
TRAINED_KEYS = (
    *("model", "state_dict", "generator", "net", "network", "params", "module", "model_state_dict", "model_state"),
    *("g", "G", "netG", "unet", "transformer", "weights"),
)
"""Keys of the trained weights, the likeliest first; a set under another key is taken when there is none of these."""
_ADVERSARY = re.compile(r"(?:net_?)?d|disc\w*", re.IGNORECASE)
_AVERAGE = re.compile(r"(?:^|[_.\-])(?:ema|swa)(?:$|[_.\-\d])|^ema|(?-i:EMA)|shadow|averag", re.IGNORECASE)
_INNER_KEYS = ("module", "model", "state_dict", "shadow", "shadow_params", "params", "ema_model", "ema", "weights")
"""Keys under which a container holds a set of weights."""
_COUNTERS = {"n_averaged", "initted", "step", "decay", "num_updates", "updates", "optimization_step"}
"""Counters that averages store beside their weights."""
State = Mapping[str, Any] | list[Tensor]
"""Tensors by name; or in the order of a network's parameters, as torch-ema keeps them."""


@dataclass(frozen=True)
class TakenWeights:
    """The set of weights that was copied into a network, and the sets to choose from."""

    label: str = ONLINE
    held: tuple[str, ...] = (ONLINE,)
    """The labels of all sets in the checkpoint."""
    note: str = ""
    """The warning about the choice, for reports; empty when there was none."""


@dataclass(frozen=True)
class WeightSets:
    """Sets by label, in the order of the file."""

    trained: Mapping[str, Any] = field(default_factory=dict)
    """The first is the one that "online" means; the others belong to other networks."""
    averages: Mapping[str, Any] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    """Averages that are pickled objects, and their classes."""

    def find(self, label: str | None, where: str) -> tuple[str, Any]:
        """The label and the set of a name: None follows the rule, "online" and "none" are the trained weights.

        A name is a label or the key in the file; "edm_250" and "edm_250.0" are one. Raises `InputError` for others.
        """
        online = next(iter(self.trained.items()), None)
        if label is None and self.averages:
            return next(iter(self.averages.items()))
        if online is not None and label in (None, ONLINE, NO_AVERAGE, online[0]):
            return ONLINE, online[1]
        for known, state in {**self.averages, **self.trained}.items():
            if label is not None and _canonical(known) == _canonical(label):
                return known, state
        if label in (ONLINE, NO_AVERAGE):
            raise InputError(f"{where} holds averages only ({', '.join(self.averages)}); name one with --ema LABEL.")
        raise unknown(f"weights in {where}:", str(label), self.labels())

    def labels(self) -> list[str]:
        """All labels, the trained weights first."""
        named = [ONLINE if index == 0 else key for index, key in enumerate(self.trained)]
        return [*named, *self.averages]

    def choice(self, label: str, where: str) -> str | None:
        """A sentence that says which of several sets was taken by the rule; None where there was one."""
        if not self.averages and self.unread:
            held = ", ".join(f"{key} (a pickled {kind})" for key, kind in self.unread.items())
            return f"{where} holds an average that cannot be read, {held}; measured: the trained weights"
        if not self.averages or (len(self.averages) == 1 and not self.trained):
            return None
        plural = "average" if len(self.averages) == 1 else "averages"
        beside = "the trained weights and " if self.trained else ""
        return f"{where} holds {beside}the {plural} {', '.join(self.averages)}; measured: {label}, as papers do"


def weight_sets(checkpoint: Any, own: Iterable[str] = ()) -> WeightSets:
    """The sets of a checkpoint: a state dict, or a container of state dicts under the keys that trainers use.

    `own` are the names of the network: where a part of it is itself called "ema", names are not used to separate sets.
    """
    is_flat = any(_average_prefix(name)[0] is not None for name in own)
    if not isinstance(checkpoint, Mapping):
        return WeightSets({ONLINE: checkpoint})
    if {"averaging_state", "current_model_state", "state_dict"} <= checkpoint.keys():  # Lightning's WeightAveraging
        return WeightSets({ONLINE: checkpoint["current_model_state"]}, {"average": checkpoint["state_dict"]})
    states = {str(key): value for key, value in checkpoint.items() if _is_set(str(key), value)}
    if not states:
        parts = None if is_flat else _parted(checkpoint)
        return parts or WeightSets({ONLINE: checkpoint})
    averages: dict[str, Any] = {}
    trained: dict[str, Any] = {}
    for key, value in states.items():
        if is_average(key):
            averages |= _averages_under(_label(key), value)
            continue
        if _holds_averages(value):  # a container in a container
            inner = weight_sets(value, own)
            trained, averages = trained | dict(inner.trained), averages | dict(inner.averages)
            continue
        parts = _parted(value) if _holds_tensors(value) and not is_flat else None
        trained[key] = _unwrapped(value) if parts is None else next(iter(parts.trained.values()), {})
        averages |= {} if parts is None else parts.averages
    averages |= _of_callbacks(checkpoint.get("callbacks"))
    kinds = {str(key): class_of(value) for key, value in checkpoint.items() if is_average(str(key))}
    return WeightSets(
        _ordered(trained, averages), averages, {key: kind for key, kind in kinds.items() if kind is not None}
    )


def is_average(name: str) -> bool:
    """True for the name of an average: "ema", "model_ema1", "g_ema", "unet_ema"."""
    return _AVERAGE.search(name) is not None


def _ordered(trained: dict[str, Any], averages: Mapping[str, Any]) -> dict[str, Any]:
    """The trained sets; the generator's comes first, recognized by its key or by having an average's names."""
    named = [key for key in TRAINED_KEYS if key in trained]
    average = next((state for state in averages.values() if isinstance(state, Mapping)), {})
    alike = [key for key, state in trained.items() if isinstance(state, Mapping) and state.keys() == average.keys()]
    others = [key for key in trained if not _ADVERSARY.fullmatch(key)]
    order = dict.fromkeys([*named, *alike, *others, *trained])
    return {key: trained[key] for key in order if trained[key]}


def _averages_under(key: str, value: Any) -> dict[str, Any]:
    """The averages under the key of an average: one, or several by their decays."""
    shadows = value.get("shadows") if isinstance(value, Mapping) else None
    if isinstance(shadows, Mapping):
        return {str(label): state for label, state in shadows.items()}
    if isinstance(value, list) and isinstance(value[0], Mapping):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or _holds_tensors(value) or any(inner in value for inner in _INNER_KEYS):
        state = _unwrapped(value)
        parts = _parted(state) if isinstance(state, Mapping) else None
        return {key: state if parts is None else next(iter(parts.averages.values()), state)}
    inner = {name: _unwrapped(state) for name, state in value.items()}
    return {f"{key}_{name}": state for name, state in inner.items() if state is not None}


def _of_callbacks(callbacks: Any) -> dict[str, Any]:
    """The averages that a callback of Lightning has saved as its state."""
    if not isinstance(callbacks, Mapping):
        return {}
    entries = [entry for entry in callbacks.values() if isinstance(entry, Mapping)]
    found = {str(key): _unwrapped(value) for entry in entries for key, value in entry.items() if is_average(str(key))}
    return {_label(key): state for key, state in found.items() if state is not None}


def _unwrapped(value: Any) -> State | None:
    """The set that a container holds; None for what is no set, such as the state of an optimizer."""
    if isinstance(value, list):
        is_set = all(isinstance(item, Tensor) for item in value)
        return value if value and (is_set or all(_unwrapped(item) is not None for item in value)) else None
    if not isinstance(value, Mapping) or "param_groups" in value:
        return None
    if _holds_tensors(value):
        return {name: item for name, item in value.items() if name not in _COUNTERS or len(value) == 1}
    found = (_unwrapped(value[key]) for key in _INNER_KEYS if key in value)
    inner = next((state for state in found if state is not None), None)
    if inner is None and value and all(isinstance(item, Mapping) and _holds_tensors(item) for item in value.values()):
        return value  # several by their decays
    return inner if not isinstance(value.get("shadows"), Mapping) else value


def _parted(state: Mapping[Any, Any]) -> WeightSets | None:
    """Separate the sets of a flat state dict by prefixes ("model.", "ema_model."); None when there is one set.

    Apart from its prefix, an average has the names of the trained weights.
    """
    groups: dict[str, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for name, value in state.items():
        prefix, inner = _average_prefix(str(name))
        if prefix is None:
            rest[str(name)] = value
        elif inner not in _COUNTERS:
            groups.setdefault(prefix, {})[inner] = value
    rest = {name: value for name, value in rest.items() if name not in _COUNTERS}
    if "n_averaged" in state and not groups:  # torch's AveragedModel
        return WeightSets({}, {"average": rest})
    known = _endings(rest)
    for prefix, group in groups.items():
        if rest and not all(name in known for name in group):  # "ema.module.conv.weight"
            group = {name.partition(".")[2]: value for name, value in group.items()}
        groups[prefix] = {known.get(name, name): value for name, value in group.items()}
        if rest and not all(name in known for name in group):
            return None
    averages = {_label(prefix): group for prefix, group in groups.items()}
    return WeightSets({ONLINE: rest} if rest else {}, averages) if averages else None


def _average_prefix(name: str) -> tuple[str | None, str]:
    """ "ema_model.conv.weight" -> ("ema_model", "conv.weight"); (None, name) without an average's name in front."""
    parts = name.split(".")
    for index, part in enumerate(parts[:2]):
        if is_average(part) and index + 1 < len(parts):
            return part, ".".join(parts[index + 1 :])
    return None, name


def _endings(names: Iterable[str]) -> dict[str, str]:
    """Names without their first parts (up to two), by the same name with and without dots (LitEma writes none)."""
    parts = [name.split(".") for name in names]
    endings = [".".join(part[skipped:]) for skipped in (2, 1, 0) for part in parts if len(part) > skipped]
    return {**{ending.replace(".", ""): ending for ending in endings}, **{ending: ending for ending in endings}}


def _is_set(key: str, value: Any) -> bool:
    """True for a set of weights; lists of tensors elsewhere are the states of random generators."""
    is_container = isinstance(value, Mapping)
    return (is_container or is_average(key)) and (_unwrapped(value) is not None or _holds_averages(value))


def _holds_averages(value: Any) -> bool:
    """True for a container that holds an average under one of its keys."""
    return isinstance(value, Mapping) and any(is_average(str(key)) and _unwrapped(value[key]) for key in value)


def _holds_tensors(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(item, Tensor) for item in value.values())


def _label(key: str) -> str:
    """ "model_ema1" -> "ema1"; other keys are labels as they are."""
    match = re.fullmatch(r"(?:model_)(ema\w*)", key)
    return key if match is None else match.group(1)


def _canonical(label: str) -> tuple[str, float | None]:
    """ "edm_250.0" -> ("edm_", 250.0)."""
    match = re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)", _label(label))
    return (_label(label), None) if match is None else (match.group(1), float(match.group(2)))
