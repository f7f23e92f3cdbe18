"""fdr correlate, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE

PUBLISHED = Path(__file__).parent.parent / "comparison" / "ifid_published.csv"
XL = (PUBLISHED, "--x", "ifid", "--y", "gfid_xl")


def test_the_published_table(fdr_command):
    done = fdr_command("correlate", *XL)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["Pearson", "r", "0.8958", "0.7341", "to", "0.9695"] in lines
    assert [line[:3] for line in lines if line and line[0] == "Spearman"] == [["Spearman", "rho", "0.8813"]]
    assert "ifid and gfid_xl of 14 rows; intervals by the BCa bootstrap, 9,999 resamples, seed 0" in done.out


def test_a_row_without_a_number_is_told_by_its_label(fdr_command):
    done = fdr_command("correlate", PUBLISHED, "--x", "ifid", "--y", "gfid_b", "--label", "vae")
    assert "0.8555" in done.out and "of 13 rows" in done.out and "1 left out, without a number: RAE" in done.out


def test_json_alone_on_stdout(fdr_command):
    done = fdr_command("correlate", *XL, "--json", "-", "--seed", 3, "--confidence", 0.9)
    facts = json.loads(done.out)
    assert (facts["schema"], facts["count"], facts["seed"], facts["confidence"]) == ("fdr-correlation/1", 14, 3, 0.9)
    assert facts["kendall"]["value"] == pytest.approx(0.7582, abs=5e-5)
    assert facts["kendall"]["low"] < facts["kendall"]["value"] < facts["kendall"]["high"]
    assert (facts["x"], facts["y"], facts["left_out"], facts["log_x"]) == ("ifid", "gfid_xl", [], False)


def test_logarithms_move_pearson_alone(fdr_command):
    plain, logs = (
        json.loads(fdr_command("correlate", *XL, "--json", "-", *more).out) for more in ((), ("--log-x", "--log-y"))
    )
    assert logs["pearson"]["value"] == pytest.approx(0.9407, abs=5e-5)
    assert (plain["spearman"], plain["kendall"]) == (logs["spearman"], logs["kendall"])
    assert "log ifid and gfid_xl of 14" in fdr_command("correlate", *XL, "--log-x").out


def test_a_plot_and_json_beside_the_table(fdr_command, tmp_path):
    done = fdr_command("correlate", *XL, "--label", "vae", "--plot", "plot.svg", "--json", "c.json")
    assert done.code == 0 and "0.8958" in done.out
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "c.json").read_text())["pearson"]["value"] == pytest.approx(0.8958, abs=5e-5)


def test_few_rows_and_perfect_orders_have_no_intervals(fdr_command, tmp_path):
    (tmp_path / "few.csv").write_text("a,b\n1,2\n2,4\n3,5\n")
    done = fdr_command("correlate", "few.csv", "--x", "a", "--y", "b")
    assert done.code == 0 and "none" in done.out and "of 3 rows; too few rows for intervals" in done.out


def test_a_thing_twice_is_warned_of(fdr_command, tmp_path):
    (tmp_path / "t.csv").write_text("n,a,b\nA,1,2\nA,2,4\nB,3,5\n")
    done = fdr_command("correlate", "t.csv", "--x", "a", "--y", "b", "--label", "n")
    assert done.code == 0 and "warning: 'A' names several rows" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.csv", "--x", "a", "--y", "b"), "Cannot read table 'none.csv'"),
        ((PUBLISHED, "--x", "iFID", "--y", "gfid_xl"), "did you mean 'ifid'"),
        ((PUBLISHED, "--x", "vae", "--y", "gfid_xl"), "line 2: vae is 'SD-VAE', not a finite number"),
        ((PUBLISHED, "--x", "ifid", "--y", "ifid"), "both are 'ifid'"),
        ((*XL, "--plot", "a.jpeg"), "saved as .svg, .pdf, .png"),
        (("flat.csv", "--x", "a", "--y", "b"), "Column b is constant (7 in all 3 rows)"),
        (("flat.csv", "--x", "c", "--y", "a", "--log-x"), "Column c holds -1, which has no logarithm"),
        ((*XL, "--confidence", "95"), "is not in the range 0<x<1"),
    ],
)
def test_wrong_use_is_one_sentence(fdr_command, tmp_path, arguments, words):
    (tmp_path / "flat.csv").write_text("a,b,c\n1,7,1\n2,7,-1\n3,7,2\n")
    done = fdr_command("correlate", *arguments)
    assert done.code == 2 and words in done.err and done.out == ""


def test_it_imports_neither_torch_nor_matplotlib():
    arguments = ["correlate", *map(str, XL)]
    code = (
        f"import sys; from fdr.cli import run; code = run({arguments!r}); "
        "print(code, sorted({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
