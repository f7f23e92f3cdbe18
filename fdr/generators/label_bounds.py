"""Labels beyond a network's tables, found before a GPU meets them: there, the failure would end the whole process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_LOOKUPS: dict[Any, Callable[..., list[tuple[int, Any]]]] = {
    _aten.embedding.default: lambda table, index, *_: [(table.shape[0], index)],
    _aten.index_select.default: lambda table, dim, index: [(table.shape[dim], index)],
    _aten.gather.default: lambda table, dim, index, *_: [(table.shape[dim], index)],
    _aten.scatter_.value: lambda table, dim, index, *_: [(table.shape[dim], index)],  # one_hot
    _aten.scatter.value: lambda table, dim, index, *_: [(table.shape[dim], index)],
    _aten.index.Tensor: lambda table, indices: list(zip(table.shape, indices, strict=False)),
}
"""By operation: the length of the table and the index into it."""


class LabelBounds(TorchDispatchMode):
    """Inside, an index beyond its table is an `IndexError` on every device; each look-up waits for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for length, index in _LOOKUPS[func](*args) if func in _LOOKUPS else ():
            if isinstance(index, Tensor) and index.dtype in (torch.int32, torch.int64) and index.numel():
                least, most = (int(value) for value in index.aminmax())
                if least < -length or most >= length:
                    raise IndexError(f"index {most if most >= length else least} in a table of {length} rows")
        return func(*args, **(kwargs or {}))
