"""`fdr check` on reports: exit codes, what is printed, files, configuration, one sentence for every wrong use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from gate_worlds import report, row, write


@pytest.fixture
def main_report(tmp_path: Path) -> Path:
    return write(tmp_path / "main.json", report(row(value=3.0), row("is", 200.0, stderr=2.0)))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.json", report(row(value=2.9), row("is", 210.0, stderr=2.0)))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return write(tmp_path / "bad.json", report(row(value=3.3), row("is", 150.0, stderr=2.0)))


def test_pass_and_fail_by_limits(fdr_command, good: Path, bad: Path) -> None:
    limits = ["--max", "fd:inception=3.0", "--min", "is=200"]
    got = fdr_command("check", good, *limits)
    assert (got.code, got.err) == (0, "") and got.out.endswith("result: pass\n")
    got = fdr_command("check", bad, *limits)
    assert got.code == 1
    assert "FID with inception of samples.npz (fd:inception) is 3.3000." in got.out
    assert "The limit is at most 3.0000 (--max)." in got.out
    assert "It is 0.30000 (10.00 %) beyond the limit." in got.out
    assert f"Signature: {row().signature}" in got.out
    assert "It is 50.000 (25.00 %) beyond the limit (95 % confidence, standard error 2.0000)." in got.out


def test_pass_and_fail_by_baseline(fdr_command, good: Path, bad: Path, main_report: Path) -> None:
    assert fdr_command("check", good, "--baseline", main_report, "--tolerance", "0%").code == 0
    assert fdr_command("check", bad, "--baseline", main_report, "--tolerance", "fd=20%").code == 1
    assert fdr_command("check", bad, "--baseline", main_report, "--tolerance", "30%").code == 0


def test_dry_run_says_only_what_is_wrong(fdr_command, bad: Path) -> None:
    got = fdr_command("check", bad, "--max", "fd=3", "--dry-run", "--json", "x.json")
    assert (got.code, got.out) == (0, "") and not Path("x.json").exists()
    assert fdr_command("check", bad, "--max", "fdd=3", "--dry-run").code == 2


def test_inconclusive_is_said_and_counts_as_asked(fdr_command, good: Path) -> None:
    got = fdr_command("check", good, "--min", "is=209")
    assert got.code == 0 and got.out.endswith("result: inconclusive (counts as pass)\n")
    assert "inside the uncertainty from 206.71 to 213.29 (95 % confidence" in got.out
    assert fdr_command("check", good, "--min", "is=209", "--inconclusive", "fail").code == 1
    got = fdr_command("check", good, "--min", "is=211")
    assert got.code == 1 and got.out.endswith("result: inconclusive (counts as fail)\n")
    assert fdr_command("check", good, "--min", "is=211", "--inconclusive", "pass").code == 0


def test_other_signatures_are_refused(fdr_command, tmp_path: Path, main_report: Path) -> None:
    fewer = write(tmp_path / "fewer.json", report(row(value=1.0, fields={"n": "5000"})))
    got = fdr_command("check", fewer, "--baseline", main_report, "--allow-missing")
    assert got.code == 2 and got.out == ""
    assert "n (the number of images) is 5000 here and 50000 in the baseline, for fd:inception" in got.err
    got = fdr_command("check", fewer, "--baseline", main_report, "--allow-missing", "--allow", "n", "--json", "-")
    data = json.loads(got.out)
    assert got.code == 0 and data["allow"] == ["n"] and data["checks"][0]["allowed"][0]["field"] == "n"


def test_files(fdr_command, bad: Path) -> None:
    got = fdr_command(
        "check", bad, "--max", "fd=3", "--json", "c.json", "--junit", "c.xml", "--markdown", "c.md",
        "--openmetrics", "metrics.txt",
    )  # fmt: skip
    assert got.code == 1 and "result: fail" in got.out
    assert json.loads(Path("c.json").read_text())["result"] == "fail"
    assert ET.parse("c.xml").getroot().get("failures") == "1"
    assert "| samples.npz | `fd:inception` | 3.3000 |" in Path("c.md").read_text()
    assert 'fdr_value{samples="samples.npz",number="fd:inception"} 3.3' in Path("metrics.txt").read_text()


@pytest.mark.parametrize("kind", ["json", "junit", "markdown", "openmetrics"])
def test_stdout_is_only_the_file_asked_for(fdr_command, bad: Path, kind: str) -> None:
    got = fdr_command("check", bad, "--max", "fd=3", f"--{kind}", "-")
    assert got.code == 1
    assert got.out.startswith({"json": "{", "junit": "<?xml", "markdown": "###", "openmetrics": "# TYPE"}[kind])
    assert "result: fail" not in got.out


@pytest.mark.parametrize(
    "name, text",
    [
        ("fdr.toml", '[check]\nmax = {"fd:inception" = 3.0}\nmin = ["is=100"]\n'),
        ("fdr.toml", '[check.max]\n"fd:inception" = 3\n'),
        ("pyproject.toml", '[tool.fdr.check]\nmax = "fd:inception=3.0"\n'),
        ("pyproject.toml", '[tool.fdr.check]\nbaseline = "main.json"\ntolerance = "1%"\n'),
    ],
)
def test_limits_may_be_kept_in_a_file(
    fdr_command, good: Path, bad: Path, main_report: Path, name: str, text: str
) -> None:
    Path(name).write_text(text)
    assert fdr_command("check", good).code == 0
    assert fdr_command("check", bad).code == 1
    flags = ["--tolerance", "90%"] if "baseline" in text else ["--max", "fd:inception=9"]
    assert fdr_command("check", bad, *flags).code == 0, "a flag wins"


def test_limits_may_be_kept_in_the_environment(fdr_command, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDR_CHECK_MAX", "fd:inception=3.0")
    monkeypatch.setenv("FDR_CHECK_MIN", "is:inception=300 is=100")
    got = fdr_command("check", good)
    assert got.code == 1 and got.out.count("≤") == 1 and got.out.count("≥") == 2


@pytest.mark.parametrize("text, sentence", [
    ("[check]\nmaximum = {}\n", "Unknown option in the configuration of fdr check 'maximum'"),
    ("[check]\nmax = {fd = {inception = 3}}\n", "quote names with a colon"),
    ("[check]\nmax = {fd = 'x'}\n", "is not NAME=NUMBER"),
    ("[check]\ntolerance = 0.01\n", "is absolute"),
    ("[chekc]\n", r"did you mean '\[check\]'"),
])  # fmt: skip
def test_a_wrong_configuration_is_one_sentence(fdr_command, good: Path, text: str, sentence: str) -> None:
    Path("fdr.toml").write_text(text)
    got = fdr_command("check", good)
    assert got.code == 2 and re.search(sentence, got.err), got.err


def test_the_baseline_file_is_written_and_guarded(fdr_command, good: Path, bad: Path, tmp_path: Path) -> None:
    update = ["--baseline", "fdr.json", "--update-baseline"]
    got = fdr_command("check", good, *update)
    assert got.code == 0 and "fdr.json: fd:inception of samples.npz is 2.9" in got.out
    assert fdr_command("check", good, "--baseline", "fdr.json").code == 0
    assert fdr_command("check", bad, "--baseline", "fdr.json").code == 1
    before = Path("fdr.json").read_bytes()
    assert fdr_command("check", bad, *update, "--max", "fd=3").code == 1, "limits hold for a new baseline too"
    fewer = write(tmp_path / "fewer.json", report(row(value=1.0, fields={"n": "5000"})))
    got = fdr_command("check", fewer, *update)
    assert got.code == 2 and "--force" in got.err
    assert Path("fdr.json").read_bytes() == before
    assert fdr_command("check", fewer, *update, "--force").code == 0
    assert "(was 1)" in fdr_command("check", write(tmp_path / "m.json", report(row(fields={"n": "5000"}))), *update).out


def test_a_report_is_not_compared_with_itself(fdr_command, good: Path, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(good)
    for baseline in (good, "link.json", tmp_path / "." / good.name):
        got = fdr_command("check", good, "--baseline", baseline)
        assert got.code == 2 and "is both the report and the baseline, so every check would pass" in got.err


def test_a_report_is_not_replaced_by_a_baseline(fdr_command, good: Path, main_report: Path) -> None:
    before = main_report.read_bytes()
    got = fdr_command("check", good, "--baseline", main_report, "--update-baseline")
    assert got.code == 2 and "is a whole report" in got.err and main_report.read_bytes() == before


def test_github(fdr_command, good: Path, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", "out")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary")
    got = fdr_command("check", bad, "--max", "fd=3")
    assert got.code == 1
    assert got.err.startswith(
        "::error title=fd%3Ainception of samples.npz fails%3A 3.3000 > 3.0000::FID with inception"
    )
    assert got.err.count("::error") == 1
    assert Path("out").read_text().startswith("result=fail\nfd_inception=3.3\n")
    assert "| samples.npz |" in Path("summary").read_text()
    Path("out").unlink()
    got = fdr_command("check", good, "--max", "fdd=3")
    assert got.code == 2 and "::error title=fdr check::Unknown number 'fdd'" in got.err
    assert Path("out").read_text() == "result=error\n"
    assert "### fdr check: error\n\n- Unknown number 'fdd'" in Path("summary").read_text()
    Path("out").unlink()
    got = fdr_command("check", bad, "--max", "fd=3", "--no-annotations")
    assert got.code == 1 and got.err == "" and not Path("out").exists()


def _wrong(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    ok = write(tmp_path / "ok.json", report())
    broken, other = tmp_path / "broken.json", tmp_path / "other.json"
    broken.write_text('{"schema": "fdr-report/1", ')
    other.write_text('{"schema": "something"}')
    types = tmp_path / "types.json"
    types.write_text(ok.read_text().replace('"value": 3.0', '"value": "3"'))
    limit = ["--max", "fd=3"]
    return {
        "nothing to check": ([ok], "There is nothing to check"),
        "no input": (limit, "Name a report, sample sets, or a generator with --gen"),
        "missing file": ([tmp_path / "no.json", *limit], "does not exist|no such"),
        "no number": ([ok, "--max", "fd"], "is not NAME=NUMBER"),
        "unknown name": ([ok, "--max", "fd:incption=3"], "did you mean 'fd:inception'"),
        "wrong side": ([ok, "--min", "fd=3"], "write --max fd=3"),
        "tolerance": ([ok, "--baseline", ok, "--tolerance", "0.1"], "is absolute"),
        "unknown field": ([ok, "--baseline", ok, "--allow", "nn"], "Unknown field of a signature 'nn'"),
        "missing baseline": ([ok, "--baseline", "no.json"], "The baseline no.json does not exist"),
        "not JSON": ([broken, *limit], "is not JSON"),
        "no report": ([other, *limit], "Not a report: schema is 'something'"),
        "a text for a number": ([types, *limit], "Damaged report: value of fd:inception is '3', where a finite number"),
        "report and samples": ([ok, tmp_path, *limit], "cannot be checked in one command"),
        "report and generator": ([ok, "--gen", "runs/a", *limit], "cannot be checked in one command"),
        "no generator": ([ok, "--arch", "pmf-b-256", *limit], "--arch goes with --gen"),
        "options of samples": ([ok, "--ref", "x", *limit], "--ref says how samples are measured"),
        "report of a report": ([ok, "--report", "x.json", *limit], "--report goes with samples"),
        "two on stdout": ([ok, *limit, "--json", "-", "--junit", "-"], "Only one of --json, --junit"),
        "unwritable": ([ok, *limit, "--junit", ok / "x.xml"], "Cannot write"),
        "update without file": ([ok, "--update-baseline"], "needs --baseline FILE"),
        "update of a revision": ([ok, "--baseline", "main:x.json", "--update-baseline"], "is a git revision"),
        "tolerance alone": ([ok, *limit, "--tolerance", "1%"], "go with --baseline"),
        "verdict of an update": ([ok, "--baseline", "b", "--update-baseline", "--json", "x"], "gives no verdict"),
        "force alone": ([ok, *limit, "--force"], "--force goes with --update-baseline"),
    }


CASES = (
    "nothing to check", "no input", "missing file", "no number", "unknown name", "wrong side", "tolerance",
    "unknown field", "missing baseline", "not JSON", "no report", "a text for a number", "report and samples",
    "report and generator", "no generator", "options of samples", "report of a report", "two on stdout",
    "unwritable", "update without file", "update of a revision", "tolerance alone", "verdict of an update",
    "force alone",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_use_is_one_sentence_and_exit_code_2(fdr_command, tmp_path: Path, case: str) -> None:
    arguments, sentence = _wrong(tmp_path)[case]
    got = fdr_command("check", *arguments)
    assert (got.code, got.out) == (2, ""), got.err
    assert "Traceback" not in got.err and re.search(sentence, got.err, flags=re.DOTALL), got.err


WITHOUT = """
import sys
for name in ("torch", "numpy", "timm", "h5py", "PIL", "safetensors", "huggingface_hub", "filelock", "simplejpeg"):
    sys.modules[name] = None
from fdr.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments, code", [
    (["check", "bad.json", "--max", "fd:inception=3.0", "--json", "x", "--junit", "y"], 1),
    (["check", "good.json", "--baseline", "main.json"], 0),
    (["check", "good.json", "--baseline", "new.json", "--update-baseline"], 0),
    (["compare", "main.json", "good.json"], 0),
])  # fmt: skip
def test_reports_need_neither_torch_nor_numpy(
    tmp_path: Path, good: Path, bad: Path, main_report: Path, arguments: list[str], code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr


def test_what_is_missing_for_samples_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "check", "samples.npz", "--max", "fd=3"], capture_output=True, text=True,
        cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "fdr: error: this needs numpy, which is not installed" in done.stderr


def test_a_budget_that_the_unchanged_model_breaks_is_refused(fdr_command, good: Path, tmp_path: Path) -> None:
    null = [write(tmp_path / f"null{index}.json", report(row(value=v))) for index, v in enumerate((3.05, 2.9))]
    got = fdr_command("check", good, "--max", "fd=3", "--null", null[0], "--null", null[1], "--junit", "fdr.xml")
    assert got.code == 2 and "is a budget that the unchanged model already breaks: null report" in got.err
    assert "The smallest limit that the null reports keep is 3.1; " in got.err
    assert "already breaks" in Path("fdr.xml").read_text()
    got = fdr_command("check", good, "--max", "fd=3.1", "--null", null[0], "--null", null[1], "--json", "out.json")
    assert got.code == 0 and "warning: samples.npz: --max fd:inception=3.1 is narrow: 2 null reports keep it" in got.out
    assert len(json.loads(Path("out.json").read_text())["null"][0]["values"]) == 2
    alone = fdr_command("check", good, "--baseline", "b.json", "--update-baseline", "--null", null[0])
    assert alone.code == 2 and "--null goes with --max, --min, or a baseline" in alone.err


def test_a_confidence_decides_what_is_conclusive(fdr_command, good: Path) -> None:
    wide, narrow = (
        fdr_command("check", good, "--min", "is=208", "--inconclusive", "exit-3", "--confidence", p)
        for p in (0.95, 0.8)
    )
    assert (wide.code, narrow.code) == (3, 0)
    assert wide.out.endswith("result: inconclusive (exit code 3)\n") and narrow.out.endswith("result: pass\n")
