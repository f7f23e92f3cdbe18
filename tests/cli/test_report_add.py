"""`fdr report --add`: results of GenEval, DPG-Bench and HPSv3 on the page, in limits, comparisons and exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from benchmark_worlds import dpg_answers, geneval_rows, hps_file, hps_rewards, write_dpg, write_geneval, write_hps
from processes import PATIENCE
from report_worlds import reports

from fdr.metrics import peer_name
from fdr.reports import load_reports


@pytest.fixture
def world(tmp_path: Path) -> Path:
    reports(tmp_path)
    write_geneval(tmp_path / "a.jsonl", geneval_rows(prompts=30))
    write_geneval(tmp_path / "b.jsonl", geneval_rows(prompts=30, seed=5))
    write_dpg(tmp_path / "dpg.txt", dpg_answers())
    write_hps(tmp_path / "hps.json", hps_file(hps_rewards()))
    return tmp_path


def test_results_of_other_tools_stand_beside_fd(fdr_command, world: Path) -> None:
    got = fdr_command(
        "report", "base.json", "new.json", "-o", "out.html", "--add", "geneval=a.jsonl", "--add", "geneval=b.jsonl",
        "--add", "dpg-bench=-", "--add", "dpg-bench=dpg.txt", "--add", "hpsv3=hps.json", "--add", "hpsv3=-",
    )  # fmt: skip
    assert (got.code, got.err) == (0, "")
    text = (world / "out.html").read_text()
    assert all(f">{label} <span" in text for label in ("GenEval", "DPG-Bench", "HPSv3")) and "/home/ada" not in text
    base, new = load_reports(world / "out.html")
    assert [row.metric for row in base][-2:] == ["geneval", "hpsv3"]
    assert [row.metric for row in new][-2:] == ["geneval", "dpg_bench"]
    table = fdr_command("report", "new.json", "--add", "geneval=b.jsonl", "--format", "md").out
    assert "| GenEval ↑ |" in table and "geneval|tool:djghosh13/geneval|" in table


def test_limits_and_comparisons_read_what_was_added(fdr_command, world: Path) -> None:
    for name in ("base", "new"):
        table = "a.jsonl" if name == "base" else "b.jsonl"
        got = fdr_command("report", f"{name}.json", "--add", f"geneval={table}", "-o", f"{name}+.json")
        assert got.code == 0, got.err
    assert fdr_command("check", "base+.json", "--min", "geneval=0.01").code == 0
    failed = fdr_command("check", "base+.json", "--min", "geneval=0.99")
    assert failed.code == 1 and "geneval" in failed.out
    assert "bounds geneval on its good side" in fdr_command("check", "base+.json", "--max", "geneval=0.5").err
    compared = json.loads(fdr_command("compare", "base+.json", "new+.json", "--json", "-").out)
    ranking = next(one for one in compared["rankings"] if one["key"] == "geneval")
    assert ranking["pairs"][0]["stderr"] > 0
    (world / "before.json").write_text((world / "base+.json").read_text())
    checked = fdr_command("check", "base+.json", "--baseline", "before.json", "--tolerance", "1%")
    assert checked.code == 0, checked.err


def test_show_has_a_row_for_each_number_of_images(fdr_command, world: Path) -> None:
    add = ("--add", "geneval=a.jsonl", "--add", "hpsv3=hps.json")
    assert fdr_command("report", "base.json", *add, "-o", "all.json").code == 0
    shown = fdr_command("show", "all.json").out
    lines = [line.split() for line in shown.splitlines()]
    images, compared = len(geneval_rows(prompts=30)), sum(map(len, hps_rewards().values()))
    assert [line[1] for line in lines if line[:1] == ["base.npz"]][-2:] == [str(images), str(compared)], shown
    assert "note: geneval: " in shown and "None" not in shown


def test_exports_take_them_too(fdr_command, world: Path) -> None:
    add = ("--add", "geneval=b.jsonl")
    got = fdr_command("report", "new.json", *add, "--format", "hf", "--dataset", "a/b", "--task", "geneval=t")
    assert "tool:djghosh13/geneval" in yaml.safe_load(got.out)[0]["notes"]
    stated = ("--model", "a/b", "--organization", "c", "--relationship", "other", "--date", "2026-11-28")
    last = json.loads(fdr_command("report", "new.json", *add, "--format", "eee", *stated).out)["evaluation_results"][-1]
    assert last["source_data"]["url"] == ["https://github.com/djghosh13/geneval"]
    assert (last["metric_config"]["metric_id"], last["metric_config"]["max_score"]) == ("geneval", 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new.json", "--add", "geneval"), "is not BENCHMARK=FILE"),
        (("new.json", "--add", "fid=a.jsonl"), "Unknown benchmark 'fid'"),
        (("new.json", "--add", "geneval=dpg.txt"), "'dpg.txt' holds no results of GenEval: line 1 is not JSON"),
        (("new.json", "--add", "geneval=none.jsonl"), "The file none.jsonl does not exist"),
        (("base.json", "new.json", "--add", "geneval=a.jsonl"), "geneval has 1 file, and there are 2 sample sets"),
        (("new.json", "--add", "hpsv3=hps.json", "-o", "hps.json"), "is an input of this command"),
    ],
)
def test_one_sentence_for_what_cannot_be_added(fdr_command, world: Path, arguments: tuple, words: str) -> None:
    got = fdr_command("report", "--format", "json", *arguments)
    assert got.code == 2 and words in " ".join(got.err.split()) and "Traceback" not in got.err, got.err


def test_nothing_of_it_needs_torch_or_numpy(world: Path) -> None:
    added = "['report', 'new.json', '--add', 'geneval=a.jsonl', '--add', 'hpsv3=hps.json', '--add', 'dpg_bench=dpg.txt'"
    code = (
        "import sys; from fdr.cli import run\n"
        f"assert run({added}, '-o', 'all.json']) == 0\n"
        f"assert run({added}, '-o', 'x.yaml', '--dataset', 'a/b', '--task', 'geneval=t']) == 0\n"
        f"assert run({added}, '-o', 'y.json', '--format', 'eee', '--model', 'a/b', '--organization', 'c',\n"
        "           '--relationship', 'other', '--date', '2026-11-28']) == 0\n"
        "print(sorted({'torch', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=world, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr + done.stdout


def test_their_names_as_metrics_say_who_measures_them() -> None:
    for name, key in (("GenEval", "geneval"), ("dpg-bench", "dpg_bench"), ("HPSv3", "hpsv3")):
        assert f"fdr report --add {key}=FILE reads its results" in str(peer_name(name))
