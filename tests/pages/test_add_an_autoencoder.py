"""What docs/add-an-autoencoder.md shows works: its file is written, its programs run, and all forms are one model."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from page_worlds import Page

from fdr.cli import run
from fdr.ifid.autoencoders.weight_free import TRANSFORMS

PAGE = Page("add-an-autoencoder.md")


@pytest.fixture
def space(tmp_path, monkeypatch):
    """What a reader has in Python who followed the page, in the folder of its files."""
    with PAGE.followed_in(tmp_path, monkeypatch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
            names = PAGE.run()
        yield names


def test_its_programs_run_and_agree(space):
    assert set(PAGE.files) == {"my_autoencoder.py"}
    given, latents = space["images"], space["latents"]
    assert latents.shape == (6, 4, 16, 16) and space["decoded"].shape == given.shape
    for name in ("same", "scripted", "exported"):
        other = space[name]
        torch.testing.assert_close(other.encode(given, range(6)), latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.decode(latents), space["decoded"], rtol=0, atol=1e-5)
        other.check(48, 64)


def test_its_commands_measure_one_model(space, capsys):
    commands = PAGE.commands()
    assert len(commands) == 3
    found = []
    for command in commands:
        assert run([*command, "-q", "--no-cache", "--device", "cpu", "--json", "a.json"]) == 0, capsys.readouterr().err
        found.append({row["metric"]: row["value"] for row in json.loads(Path("a.json").read_text())["results"]})
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-3)


def test_its_transforms_are_those_there_are():
    named = dict(re.findall(r"`([a-z-]+):(\d+)`", PAGE.text))
    assert named == {kind: str(usual) for kind, (_, usual, _) in TRANSFORMS.items()}
