"""A page of docs that is worked through: its files are written, its programs and commands are run in their folder."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from worlds import images, npz

DOCS = Path(__file__).parents[2] / "docs"


class Page:
    """The code of a page. A Python block that begins with "# name.py" is the file of that name."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text()
        blocks = self.blocks("python")
        self.files = {name: text for text in blocks for name in re.findall(r"\A# (\w+\.py)\n", text)}
        self.programs = [text for text in blocks if text not in self.files.values()]

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", self.text, flags=re.DOTALL)

    def commands(self, word: str = "") -> list[list[str]]:
        """The arguments of all its commands of fdr that have `word` in them."""
        lines = (line for block in self.blocks("bash") for line in block.splitlines())
        return [shlex.split(line)[1:] for line in lines if line.startswith("fdr ") and word in line]

    def run(self) -> dict[str, Any]:
        """What a reader has in Python after all its programs."""
        names: dict[str, Any] = {}
        for program in self.programs:
            exec(program, names)
        return names

    @contextmanager
    def followed_in(self, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """In the folder of a reader: the page's files, and real images."""
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        for name, text in self.files.items():
            (folder / name).write_text(text)
        npz(folder / "real.npz", images(30, side=32))
        yield
        for name in self.files:
            sys.modules.pop(name.removesuffix(".py"), None)
