"""The weights in a checkpoint: one set, or several with averages (EMAs) under labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdr.encoders.weights import copy_state, only_tensors, read_checkpoint
from fdr.errors import InputError, WeightsError, unknown

ONLINE = "online"
"""The weights that are trained, as opposed to their averages."""
_ONLINE_KEYS = ("model", "state_dict", "generator")
_EMA_KEY = re.compile(r"(?:model_)?(ema\w*)")


def load_weights(
    network: nn.Module, path: Path, label: str | None, name: str, to_check: str = "--arch and --arch-args"
) -> str:
    """Copy the weights `label` (None: "online") of a checkpoint into a network, strictly; returns their label.

    A prefix that all names have in common and the network's have not ("module.", "net.") is dropped; then a network
    with a method `adapt_state` may rename what it knows by other names. Raises `InputError` for an unknown label,
    `WeightsError` for a file that does not fit, which
    advises to look at `to_check`.
    """
    found, state = find_weights(weight_sets(read_checkpoint(path)), label, path)
    tensors = _without_common_prefix(only_tensors(state, path), network.state_dict())
    adapt = getattr(network, "adapt_state", None)
    faults = copy_state(network, tensors if adapt is None else adapt(tensors))
    if faults:
        raise WeightsError(f"{str(path)!r} does not fit the architecture of {name}: {faults}; check {to_check}.")
    return found


def weight_sets(checkpoint: Any) -> dict[str, Any]:
    """The sets of weights in a checkpoint by label.

    Read are a bare state dict; {"model" or "state_dict": state} with averages as {"model_ema": {"shadows": {label:
    state}}}, "model_ema1", "model_ema2" (labels "ema1", "ema2") or "ema".
    """
    if not isinstance(checkpoint, Mapping):
        return {ONLINE: checkpoint}
    sets = {ONLINE: next((checkpoint[key] for key in _ONLINE_KEYS if isinstance(checkpoint.get(key), Mapping)), None)}
    for key, value in checkpoint.items():
        match = _EMA_KEY.fullmatch(str(key))
        if match and isinstance(value, Mapping):
            shadows = value.get("shadows")
            sets |= {str(k): v for k, v in shadows.items()} if isinstance(shadows, Mapping) else {match.group(1): value}
    if sets[ONLINE] is None:
        del sets[ONLINE]
    return sets or {ONLINE: checkpoint}


def find_weights(sets: Mapping[str, Any], label: str | None, path: Path) -> tuple[str, Any]:
    """The set called `label`; "edm_250" and "edm_250.0" are one. Raises `InputError` when there is none."""
    wanted = label or ONLINE
    if label is None and ONLINE not in sets and len(sets) == 1:
        wanted = next(iter(sets))
    for known, state in sets.items():
        if _canonical(known) == _canonical(wanted):
            return known, state
    if label is None:
        raise InputError(f"{str(path)!r} holds averages only ({', '.join(sets)}); name one with --ema.")
    raise unknown(f"weights in {str(path)!r}:", wanted, sets)


def _canonical(label: str) -> tuple[str, float | None]:
    """ "edm_250.0" -> ("edm_", 250.0)."""
    match = re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)", label)
    return (label, None) if match is None else (match.group(1), float(match.group(2)))


def _without_common_prefix(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    names = dict(state)
    while names and not names.keys() & own.keys():
        firsts = {name.partition(".")[0] for name in names}
        if len(firsts) != 1 or any("." not in name for name in names):
            return dict(state)
        names = {name.partition(".")[2]: tensor for name, tensor in names.items()}
    return names or dict(state)
