"""What docs/add-a-generator.md shows works: its files are written, its commands and programs run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from page_worlds import Page

import fdr
from fdr.cli import run
from fdr.generators import save_generator
from fdr.generators.run_folder import INDEX_NAME

PAGE = Page("add-a-generator.md")


@pytest.fixture
def space(tmp_path, monkeypatch):
    """What a reader has in Python who followed the page, in the folder of its files."""
    with PAGE.followed_in(tmp_path, monkeypatch):
        yield PAGE.run()


def test_its_programs_run(space):
    assert set(PAGE.files) == {"my_generator.py"}
    assert space["images"].shape == (8, 3, 32, 32)
    assert space["images"].min() >= 0 and space["images"].max() <= 1
    assert all(parameter.grad is not None for parameter in space["generator"].parameters())


def test_its_commands_measure_the_same_samples(space, capsys):
    commands = PAGE.commands("blobs.safetensors")
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
    (shown,) = PAGE.blocks("json")
    expected, written = json.loads(shown), json.loads(Path("run", INDEX_NAME).read_text())
    assert {**written, "weights": list(written["weights"])} == {**expected, "weights": list(expected["weights"])}
