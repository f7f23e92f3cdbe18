"""The code of docs/training.md on the loss in one's own loop: it runs, and FD falls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fdr
from fdr.errors import NonFiniteError

PAGE = Path(__file__).parent.parent.parent / "docs" / "training.md"


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """The names that the section's blocks define, in order."""
    text = PAGE.read_text()
    section = text[text.index("## The loss in your own loop") :].partition("\n## ")[0]
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
            exec(block, names)
    return names


def test_fd_falls(world: dict[str, Any]) -> None:
    history = world["history"]
    assert len(history) == 20
    assert history[-1] < history[0] / 2
    reals, generator = world["reals"], world["generator"]
    encoder = fdr.load_encoder("random")
    with torch.no_grad():
        features = encoder(generator(torch.randn(200, 16, generator=torch.Generator().manual_seed(9))))["features"]
        trained = fdr.frechet_distance(features, encoder(reals)["features"])
    assert trained < history[0] / 2


def test_a_skipped_step_of_the_page_changes_nothing(world: dict[str, Any]) -> None:
    loss, generator, optimizer = world["loss"], world["generator"], world["optimizer"]
    noise = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    assert world["step"](loss, generator, optimizer, noise) is not None
    before = {key: value.clone() for key, value in loss.state_dict()["encoders"]["random"]["term"].items()}
    weights = [parameter.clone() for parameter in generator.parameters()]
    assert world["step"](loss, generator, optimizer, noise * torch.nan) is None
    with pytest.raises(NonFiniteError):
        loss(generator(noise * torch.nan))
    handle = next(generator.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    assert world["step"](loss, generator, optimizer, noise) is None
    handle.remove()
    torch.testing.assert_close(dict(loss.state_dict()["encoders"]["random"]["term"]), before, rtol=0, atol=0)
    torch.testing.assert_close(list(generator.parameters()), weights, rtol=0, atol=0)


def test_accumulation_of_the_page(world: dict[str, Any]) -> None:
    out = world["accumulate"](world["loss"], world["generator"], world["optimizer"], 3, 2)
    assert out.fd["random"] < world["history"][0]
