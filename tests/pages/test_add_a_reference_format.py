"""What docs/add-a-reference-format.md shows works: its file and its line make a format that fdr reads and writes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from page_worlds import Page
from worlds import images, npz

import fdr
import fdr.references.formats
from fdr.cli import run
from fdr.references import is_statistics, open_statistics
from fdr.references.formats import recognise
from fdr.references.formats.registry import FORMATS

PAGE = Page("add-a-reference-format.md")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a reader who followed the page: its file counts as one of the formats, its line is registered."""
    monkeypatch.setattr(fdr.references.formats, "__path__", [*fdr.references.formats.__path__, str(tmp_path)])
    for name, layouts in PAGE.run()["FORMATS"].items():
        monkeypatch.setitem(FORMATS, name, layouts)
    npz(tmp_path / "samples.npz", images(30, seed=1, side=32))
    with PAGE.followed_in(tmp_path, monkeypatch):
        yield tmp_path
    recognise._load.cache_clear()
    sys.modules.pop("fdr.references.formats.json_file", None)


def test_the_page_has_one_file_and_one_line():
    assert set(PAGE.files) == {"json_file.py"}
    assert PAGE.run()["FORMATS"] == {"json_file": ("json",)}


def test_its_commands_write_the_file_and_measure_against_it(folder, capsys):
    for command in PAGE.commands():
        extra = ["--no-cache", "--json", "report.json"] if command[0] == "eval" else []
        assert run([*command, *extra, "-q"]) == 0, capsys.readouterr().err
    with np.load("stats.npz") as written:
        stored = json.loads((folder / "stats.json").read_text())
        assert stored["mean"] == written["mu"].tolist() and stored["covariance"] == written["sigma"].tolist()
    assert stored["images"] == 30
    assert json.loads((folder / "report.json").read_text())["results"][0]["reference_count"] == 30


def test_a_file_of_any_name_is_read_with_the_values_in_it(folder):
    values = {"mean": [1.0, -2.0], "covariance": [[2.0, 0.5], [0.5, 1.0]], "images": 77}
    (folder / "stats.dat").write_text(json.dumps(values))
    assert is_statistics(folder / "stats.dat")
    file = open_statistics("stats.dat")
    moments = file.load("mean")
    assert (file.format, moments.count, moments.ddof) == ("json", 77, 1)
    assert moments.mu.tolist() == values["mean"] and moments.sigma.tolist() == values["covariance"]
    for damaged in ('{"mean": [1]}', '{"mean": ', '{"mean": 1, "covariance": "x", "images": 3}', "{" * 9999):
        (folder / "stats.dat").write_text(damaged)
        with pytest.raises(fdr.InputError, match="is JSON without mean, covariance and images"):
            open_statistics("stats.dat")
