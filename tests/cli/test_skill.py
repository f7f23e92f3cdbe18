"""skills/fdr/SKILL.md: one page that a coding agent can follow as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from page_worlds import Page
from safetensors.torch import save_file
from worlds import images, npz

from fdr.images import noisy

SKILL = "../skills/fdr/SKILL.md"
GENERATOR = """
import torch
from torch import nn

class Dots(nn.Module):
    noise_shape = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 3 * 32 * 32), nn.Sigmoid(), nn.Unflatten(1, (3, 32, 32)))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return self.layers(noise)
"""


@pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
def test_every_command_of_the_page_works(
    fdr_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(SKILL)
    with page.followed_in(tmp_path, monkeypatch):
        real = images(30, side=32)
        npz(tmp_path / "samples.npz", noisy(real, seed=1))
        npz(tmp_path / "other.npz", noisy(real, seed=2))
        (tmp_path / "my_generator.py").write_text(GENERATOR)
        names: dict[str, Any] = {}
        exec(GENERATOR, names)
        torch.manual_seed(0)
        save_file(names["Dots"]().state_dict(), tmp_path / "generator.safetensors")
        for arguments in page.commands():
            done = fdr_command(*arguments)
            assert done.code == 0, (arguments, done.err)
            if "out.json" in arguments and "eval" in arguments:
                page.run()


def test_the_head_of_the_page_says_what_it_is_for() -> None:
    text = Page(SKILL).text
    _, head, _ = text.split("---", 2)
    stated = yaml.safe_load(head)
    assert stated["name"] == "fdr" and 100 < len(stated["description"]) < 1024
    assert len(text.splitlines()) < 110, "one page"
    for page in (word.strip("(),.") for word in text.split("## More")[1].split() if ".md" in word):
        assert (Path(__file__).parents[2] / "docs" / page.strip("(,)")).is_file(), page
