"""The examples of docs/in-your-loop.md run; Lightning is a stand-in where it is not installed."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "in-your-loop.md"


class Model:
    """What the callback needs of a LightningModule."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}

    def sample(self) -> torch.Tensor:
        return torch.rand(16, 3, 32, 32)

    def log(self, name: str, value: torch.Tensor) -> None:
        self.logged[name] = value.item()


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("lightning") is None:
        monkeypatch.setitem(sys.modules, "lightning", types.SimpleNamespace(Callback=object))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, names)
    assert re.fullmatch(r"0 \d+\.\d+\n1 \d+\.\d+\n", capsys.readouterr().out)
    model = Model()
    names["callback"].on_validation_epoch_end(types.SimpleNamespace(sanity_checking=True), model)
    assert model.logged == {}
    names["callback"].on_validation_epoch_end(types.SimpleNamespace(sanity_checking=False), model)
    assert model.logged["val/fd"] > 0 and names["callback"].metric.update_count == 0
