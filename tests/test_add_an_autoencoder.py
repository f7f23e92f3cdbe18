"""What docs/add-an-autoencoder.md shows works: its file is written, its programs run, and all forms are one model."""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest
import torch
from worlds import images, npz

from fdr.autoencoders.weight_free import TRANSFORMS
from fdr.cli import run

PAGE = (Path(__file__).parent.parent / "docs" / "add-an-autoencoder.md").read_text()
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
    npz(tmp_path / "real.npz", images(24, side=32))
    variables: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        for program in PYTHON:
            if program not in FILES.values():
                exec(program, variables)
    yield variables
    sys.modules.pop("my_autoencoder", None)


def test_its_programs_run_and_agree(space):
    assert set(FILES) == {"my_autoencoder.py"}
    given, latents = space["images"], space["latents"]
    assert latents.shape == (6, 4, 16, 16) and space["decoded"].shape == given.shape
    for name in ("same", "scripted", "exported"):
        other = space[name]
        torch.testing.assert_close(other.encode(given, range(6)), latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.decode(latents), space["decoded"], rtol=0, atol=1e-5)
        other.check(48, 64)


def test_its_commands_measure_one_model(space, capsys):
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert len(commands) == 3
    found = []
    for command in commands:
        assert run([*command, "-q", "--no-cache", "--device", "cpu", "--json", "a.json"]) == 0, capsys.readouterr().err
        found.append({row["metric"]: row["value"] for row in json.loads(Path("a.json").read_text())["results"]})
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-3)


def test_its_transforms_are_those_there_are():
    named = dict(re.findall(r"`([a-z-]+):(\d+)`", PAGE))
    assert named == {kind: str(usual) for kind, (_, usual, _) in TRANSFORMS.items()}
