"""What identifies a network: a digest of its structure, its code and its weights."""

from __future__ import annotations

import functools
import hashlib
import inspect
from typing import Any

import torch

UNKNOWN = "unknown"
"""The identity of a plain function: nothing tells two versions of it apart, so its features are never cached."""


def module_digest(module: torch.nn.Module) -> str:
    """sha256 over the structure, the source of every class in it, and all weights; "unknown" without the source."""
    digest = hashlib.sha256(repr(module).encode())
    classes = {type(part) for part in module.modules()}
    for kind in sorted(classes, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        try:
            digest.update(_source_of(kind).encode())  # type: ignore[arg-type]
        except (OSError, TypeError):  # typed into an interpreter: its code could change unseen
            return UNKNOWN
    digest_state(module, digest)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _source_of(kind: type) -> str:
    """The source of a class, cached: Python parses a whole file to find it, which in 3.11 is not safe in threads."""
    return inspect.getsource(kind)


def digest_state(module: torch.nn.Module, digest: Any) -> None:
    """Update a hash with the names, types, shapes and bytes of all weights."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
