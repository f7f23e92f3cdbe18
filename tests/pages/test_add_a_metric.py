"""What docs/add-a-metric.md shows works: its file and its line make a metric that the command measures."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from page_worlds import Page
from worlds import images, npz

import fdr
import fdr.metrics
from fdr.cli import run
from fdr.metrics import METRICS, Context, load_metrics
from fdr.metrics.registry import MetricInfo

PAGE = Page("add-a-metric.md")


def lines():
    """The lines of the registry that the page shows."""
    names = {"MetricInfo": MetricInfo}
    for program in PAGE.programs:
        exec(program, names)
    return names["METRICS"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a reader who followed the page: its file counts as one of fdr/metrics, its line is registered."""
    monkeypatch.setattr(fdr.metrics, "__path__", [*fdr.metrics.__path__, str(tmp_path)])
    for name, info in lines().items():
        monkeypatch.setitem(METRICS, name, info)
    npz(tmp_path / "samples.npz", images(30, seed=1, side=32))
    with PAGE.followed_in(tmp_path, monkeypatch):
        yield tmp_path
    sys.modules.pop("fdr.metrics.mean_gap", None)


def moments(features: np.ndarray) -> fdr.Moments:
    return fdr.Moments.from_features(features)


def test_the_page_has_one_file_and_one_line():
    assert set(PAGE.files) == {"mean_gap.py"}
    assert list(lines()) == ["mean_gap"]


def test_its_command_measures_both_metrics_and_its_tables_limits_and_reports_know_it(folder, capsys):
    (command,) = PAGE.commands()
    assert run([*command, "--no-cache", "-q", "--json", "report.json"]) == 0, capsys.readouterr().err
    results = {row["metric"]: row for row in json.loads((folder / "report.json").read_text())["results"]}
    assert set(results) == {"fd", "mean_gap"}
    assert results["mean_gap"]["details"]["distance"] ** 2 == pytest.approx(results["fd"]["details"]["mean_term"])
    assert results["mean_gap"]["signature"].startswith("mean_gap|enc:random|")
    capsys.readouterr()
    assert run(["show", "report.json"]) == 0
    assert "Mean gap" in capsys.readouterr().out
    assert run(["check", "report.json", "--max", "mean_gap=1e-6"]) == 1
    assert run(["check", "report.json", "--min", "mean_gap=1"]) == 2  # lower is better
    assert (
        run(["check", "report.json", "--max", "mean_gap=-1"]) == 2
        and "Mean gap is 0 or more" in capsys.readouterr().err
    )


def test_the_example_measures_what_it_says(folder):
    compute = load_metrics("mean_gap")["mean_gap"].compute
    context = Context()
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    assert compute(moments(x), moments(x), context).value == 0
    shifted = compute(moments(x + np.float32(2)), moments(x), context).value
    assert shifted == pytest.approx(2 * np.sqrt(6 / x.astype(float).var(axis=0, ddof=1).sum()), rel=1e-5)
    with pytest.raises(fdr.InputError, match="images that differ"):
        compute(moments(x), moments(np.ones((40, 6), np.float32)), context)
