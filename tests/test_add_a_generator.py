"""What docs/add-a-generator.md shows works: its files are written, its commands and programs run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from worlds import images, npz

import fdr
from fdr.cli import run
from fdr.generators.run_folder import INDEX_NAME, save_generator

PAGE = (Path(__file__).parent.parent / "docs" / "add-a-generator.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = {name: text for text in PYTHON for name in re.findall(r"\A# (\w+\.py)\n", text)}


@pytest.fixture
def space(tmp_path, monkeypatch):
    """What a reader has in Python who followed the page, in the folder of its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    npz(tmp_path / "real.npz", images(30, side=32))
    variables: dict = {}
    for program in PYTHON:
        if program not in FILES.values():
            exec(program, variables)
    yield variables
    sys.modules.pop("my_generator", None)


def test_its_programs_run(space):
    assert set(FILES) == {"my_generator.py"}
    assert space["images"].shape == (8, 3, 32, 32)
    assert space["images"].min() >= 0 and space["images"].max() <= 1
    assert all(parameter.grad is not None for parameter in space["generator"].parameters())


def test_its_commands_measure_the_same_samples(space, capsys):
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = (line for block in blocks for line in block.splitlines() if "blobs.safetensors" in line)
    commands = [shlex.split(line)[1:] for line in lines]
    assert [command[0] for command in commands] == ["sample", "eval"]
    assert run([*commands[0], "-q"]) == 0, capsys.readouterr().err
    assert run([*commands[1], "-q", "--no-cache", "--json", "a.json"]) == 0, capsys.readouterr().err
    assert np.bincount(np.load("samples.npz")["arr_1"]).tolist() == [20] * 10
    value = json.loads(Path("a.json").read_text())["results"][0]["value"]
    for report in (space["report"], fdr.evaluate("samples.npz", "real.npz", "random")):
        assert report["fd", "random"].value == pytest.approx(value, rel=1e-12)


def test_the_run_folder_is_as_the_page_says(space):
    generator = space["generator"]
    save_generator(Path("run"), generator, {"online": generator.state_dict(), "edm_250": generator.state_dict()})
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    expected, written = json.loads(shown), json.loads(Path("run", INDEX_NAME).read_text())
    assert {**written, "weights": list(written["weights"])} == {**expected, "weights": list(expected["weights"])}
