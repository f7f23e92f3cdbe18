"""What docs/add-an-encoder.md shows works: its files are written, its commands and programs run."""

from __future__ import annotations

import pytest
import torch
from page_worlds import Page
from safetensors.torch import save_file
from worlds import images, npz

import fdr
from fdr.cli import run
from fdr.encoders import load_encoder, registry

PAGE = Page("add-an-encoder.md")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a reader who followed the page: its files, two sets of images, and weights."""
    monkeypatch.setattr(registry, "_registered", {})
    npz(tmp_path / "samples.npz", images(30, seed=1, side=32))
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    save_file(torch.nn.Conv2d(3, 16, 7, stride=4).state_dict(), tmp_path / "weights" / "my_package_v1.safetensors")
    with PAGE.followed_in(tmp_path, monkeypatch):
        yield tmp_path


def test_the_page_has_its_files():
    assert set(PAGE.files) == {"my_encoder.py", "my_package.py"}


def test_its_commands_run(folder, capsys):
    commands = PAGE.commands()
    assert len(commands) == 2
    for command in commands:
        assert run([*command, "--cache", "cache", "-q"]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        assert f"|enc:{command[command.index('--reps') + 1]}|" in out or "|enc:embedder|" in out


def test_its_programs_run(folder):
    assert len(PAGE.programs) == 2
    space = PAGE.run()
    assert space["encoder"].spec.name == "embedder"
    assert next(iter(space["features"])).shape[1] == 48


def test_the_examples_measure_what_they_say(folder):
    x = torch.rand((3, 3, 40, 30), generator=torch.Generator().manual_seed(1))
    grid = load_encoder("py:my_encoder:make", device="cpu")
    assert grid.is_cacheable
    assert grid(x)["features"].shape == (3, 144)
    embedder = load_encoder("py:my_package:Embedder", device="cpu", weights_dir="weights")
    assert {name: value.shape[1] for name, value in embedder(x).items()} == {"embedding": 16, "map": 16 * 7 * 7}
    for encoder in (grid, embedder):
        together, alone = (next(iter(encoder(part).values())) for part in (x, x[1:2]))
        torch.testing.assert_close(together[1:2], alone)
    with pytest.raises(fdr.WeightsError, match=r"my_package_v1.safetensors"):
        load_encoder("py:my_package:Embedder", device="cpu", offline=True)
