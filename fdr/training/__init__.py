"""Post-training of a generator with the Fréchet distance as the loss: `fdr train` as a library.

fdr.training.train(fdr.training.TrainOptions("model.pt2", reps=("inception",)), Path("runs/a"))
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "RunOptions": "fdr.training.options",
    "TrainOptions": "fdr.training.options",
    "TrainResult": "fdr.training.loop",
    "plan": "fdr.training.planning",
    "train": "fdr.training.loop",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'fdr.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
