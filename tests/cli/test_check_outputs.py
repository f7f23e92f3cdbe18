"""`fdr check` never leaves the pass of yesterday: what is missing is said everywhere, and so is every error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from gate_worlds import report, row, write
from processes import PATIENCE, ended, wait_until

from fdr.cli._verdict_outputs import Outputs
from fdr.errors import InputError, PeerError

FILES = ["--json", "c.json", "--junit", "c.xml", "--markdown", "c.md", "--openmetrics", "c.txt"]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.json", report(row(value=2.9)))


@pytest.fixture
def passed(fdr_command, good: Path) -> None:
    """Files of a check that passed."""
    assert fdr_command("check", good, "--max", "fd=3", *FILES).code == 0
    assert "pass" in Path("c.json").read_text()


def outcomes() -> tuple[str, int, int, str]:
    """The outcome in JSON, errors and skipped cases in JUnit, the heading in Markdown."""
    data, root = json.loads(Path("c.json").read_text()), ET.parse("c.xml").getroot()
    assert data["outcome"] == data["result"]
    counts = [len(list(root.iter(tag))) for tag in ("error", "skipped")]
    assert [root.get("errors"), root.get("skipped")] == [str(count) for count in counts]
    return data["outcome"], counts[0], counts[1], Path("c.md").read_text().splitlines()[0]


# What is missing


def test_what_is_missing_is_named_in_every_output(
    fdr_command, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole set of the baseline, a metric of the baseline, and a limited number that one set lacks."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", "out")
    before = [
        report(row(value=2.9), row("fdr", 1.0)),
        report(row(value=4.0), samples="b.npz"),
        report(row(value=5.0), samples="c.npz"),
    ]
    now = [report(row(value=2.9)), report(row(value=4.0, encoder="dinov2"), samples="b.npz")]
    arguments = [
        "check", write(tmp_path / "now.json", now), "--baseline", write(tmp_path / "main.json", before),
        "--max", "fd:inception=3", *FILES,
    ]  # fmt: skip
    got = fdr_command(*arguments)
    assert got.code == 2 and got.out.endswith("result: incomplete\n")
    expected = [
        ("samples.npz", "fdr:inception", "baseline"), ("b.npz", "fd:inception", "baseline"),
        ("b.npz", "fd:inception", "max"), ("c.npz", "fd:inception", "baseline"),
    ]  # fmt: skip
    missing = json.loads(Path("c.json").read_text())["missing"]
    assert [(m["samples"], m["key"], m["rule"]) for m in missing] == expected
    assert {m["outcome"] for m in missing} == {"skipped"} and missing[2]["limit"] == 3.0
    assert missing[3]["baseline"]["value"] == 5.0
    assert outcomes() == ("incomplete", 0, 4, "### fdr check: incomplete")
    cases = [
        (c.get("classname"), c.get("name")) for c in ET.parse("c.xml").iter("testcase") if c.find("skipped") is not None
    ]
    assert ("c.npz", "fd:inception baseline") in cases and ("b.npz", "fd:inception --max") in cases
    for samples, key, rule in expected:
        assert f"{key} of {samples} was not measured" in got.out
        assert f"| {samples} | `{key}` |  |  |  | skipped |" in Path("c.md").read_text()
        assert f"::error title={key.replace(':', '%3A')} of {samples} was not measured::" in got.err
        assert f'fdr_missing{{samples="{samples}",number="{key}",rule="{rule}"}} 1' in Path("c.txt").read_text()
    assert "result=incomplete\n" in Path("out").read_text()

    got = fdr_command(*arguments, "--allow-missing")
    assert got.code == 0 and "as --allow-missing says" in got.out and "::error" not in got.err
    assert got.err.count("::warning title=fd%3Ainception of b.npz") == 2
    assert outcomes() == ("pass", 0, 4, "### fdr check: pass")


def test_renamed_sets_are_missing_where_there_are_several(fdr_command, tmp_path: Path) -> None:
    before = write(tmp_path / "main.json", [report(samples="a"), report(samples="b")])
    got = fdr_command(
        "check", write(tmp_path / "x.json", [report(samples="a"), report(samples="b2")]), "--baseline", before
    )
    assert got.code == 2 and "Unknown sample set in baseline" in got.err and "did you mean 'b'" in got.err
    single = write(tmp_path / "single.json", report(samples="run-1"))
    assert fdr_command("check", write(tmp_path / "y.json", report(samples="run-2")), "--baseline", single).code == 0


def test_a_dry_run_says_what_would_be_missing(fdr_command, good: Path, tmp_path: Path) -> None:
    before = write(tmp_path / "main.json", report(row(), row(encoder="dinov2")))
    got = fdr_command("check", good, "--baseline", before, "--dry-run")
    assert got.code == 2 and "fd:dinov2 of samples.npz was not measured" in got.err
    assert fdr_command("check", good, "--baseline", before, "--dry-run", "--allow-missing").code == 0


def test_a_baseline_without_numbers_is_refused(fdr_command, good: Path) -> None:
    Path("empty.json").write_text('{"schema": "fdr-baseline/1", "sets": {}}')
    got = fdr_command("check", good, "--baseline", "empty.json", "--max", "fd=3")
    assert got.code == 2 and "sets of the file is {}, where an object with at least one entry is expected" in got.err


# Errors


def _wrong(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    """Arguments, and a part of the sentence."""
    good, broken = tmp_path / "good.json", tmp_path / "broken.json"
    broken.write_text("{")
    tampered = tmp_path / "tampered.json"
    tampered.write_text(good.read_text().replace('"count": 50000,\n      "lower', '"count": 5,\n      "lower'))
    return {
        "a missing report": (["no.json", "--max", "fd=3"], "does not exist"),
        "a broken report": ([broken, "--max", "fd=3"], "is not JSON"),
        "a tampered report": ([tampered, "--max", "fd=3"], "contradicts itself"),
        "a missing baseline": ([good, "--baseline", "no.json"], "does not exist"),
        "an unknown number": ([good, "--max", "ppl=3"], "not offered yet"),
        "a limit that is none": ([good, "--max", "fd=x"], "is not NAME=NUMBER"),
        "no limit": ([good], "There is nothing to check"),
        "no input": (["--max", "fd=3"], "Name a report"),
        "a misspelt option": ([good, "--mx", "fd=3"], "No such option"),
        "a file twice": ([good, "--max", "fd=3", "--json", "d.json"], "given several times"),
        "a swallowed option": ([good, "--max", "--json", "c.json"], "would be replaced"),
        "an empty argument": (["", "--max", "fd=3"], "is empty"),
        "a choice that is none": ([good, "--max", "fd=3", "--inconclusive", "psas"], "psas"),
    }


@pytest.mark.parametrize("case", [
    "a missing report", "a broken report", "a tampered report", "a missing baseline", "an unknown number",
    "a limit that is none", "no limit", "no input", "a misspelt option", "a file twice", "a swallowed option",
    "an empty argument", "a choice that is none",
])  # fmt: skip
def test_an_error_takes_the_place_of_the_last_verdict(
    fdr_command, passed: None, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", "out")
    arguments, sentence = _wrong(tmp_path)[case]
    got = fdr_command("check", *arguments, *FILES)
    assert got.code == 2 and got.out == "", got.err
    assert outcomes() == ("error", 1, 0, "### fdr check: error")
    data = json.loads(Path("c.json").read_text())
    assert sentence in data["message"] and data["passes"] is False
    assert sentence in (ET.parse("c.xml").find(".//error").get("message") or "")  # type: ignore[union-attr]
    assert Path("c.txt").read_text().splitlines()[-2:] == ["fdr_error 1", "# EOF"]
    assert got.err.count("::error title=fdr check::") == 1 and Path("out").read_text() == "result=error\n"


def test_a_damaged_configuration_is_an_error_case_too(fdr_command, passed: None, good: Path) -> None:
    Path("fdr.toml").write_text("[check]\nmax = {fd:random = 3}\n")
    assert fdr_command("check", good, *FILES).code == 2
    assert outcomes() == ("error", 1, 0, "### fdr check: error")
    Path("fdr.toml").write_text('[check]\nmaximum = {fd = 3}\njunit = "d.xml"\n')
    assert fdr_command("check", good, *FILES).code == 2
    assert "maximum" in json.loads(Path("c.json").read_text())["message"]


def test_the_files_of_the_configuration_are_replaced_as_well(fdr_command, good: Path) -> None:
    Path("fdr.toml").write_text('[check]\nmax = {"fd" = 3}\njunit = "d.xml"\n')
    assert fdr_command("check", good).code == 0 and 'failures="0"' in Path("d.xml").read_text()
    assert fdr_command("check", "no.json").code == 2
    assert "<error" in Path("d.xml").read_text()


def test_json_on_stdout_is_an_error_as_well(fdr_command, good: Path) -> None:
    got = fdr_command("check", good, "--max", "fdd=3", "--json", "-")
    assert got.code == 2 and json.loads(got.out)["outcome"] == "error"


def test_only_what_a_check_wrote_is_replaced_by_an_error(fdr_command, good: Path, tmp_path: Path) -> None:
    before, other = good.read_bytes(), tmp_path / "notes.md"
    other.write_text("# Notes\n")
    for name, path in (("--json", good), ("--junit", good), ("--markdown", other)):
        assert fdr_command("check", "no.json", "--max", "fd=3", name, path).code == 2
    assert good.read_bytes() == before and other.read_text() == "# Notes\n"
    assert fdr_command("check", "no.json", "--max", "fd=3", "--dry-run", "--json", "x.json").code == 2
    assert not Path("x.json").exists(), "a dry run writes nothing"


def test_an_interrupted_check_leaves_no_pass(tmp_path: Path, good: Path, passed: None) -> None:
    """Interrupted, it says so; killed, the files say that it has not finished."""
    for number, sentence in ((signal.SIGINT, "was interrupted"), (signal.SIGKILL, "has not finished")):
        pipe = tmp_path / f"pipe-{number}.json"
        os.mkfifo(pipe)  # a baseline that never comes
        process = subprocess.Popen(
            [sys.executable, "-m", "fdr", "check", good, "--baseline", f"./{pipe.name}", *FILES],
            cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with ended(process):
            wait_until(lambda: "has not finished" in Path("c.json").read_text(), process)
            process.send_signal(number)
            assert process.wait(PATIENCE) != 0
        assert sentence in json.loads(Path("c.json").read_text())["message"]
        assert outcomes()[:2] == ("error", 1)


def test_of_several_ranks_the_one_that_failed_says_why(tmp_path: Path) -> None:
    """The main rank may learn of it later, as the failure of another."""
    outputs = Outputs(None, [("json", tmp_path / "c.json")])

    def fail(error: Exception) -> str:
        with pytest.raises(type(error)), outputs.replaced_on_failure():
            raise error
        return json.loads((tmp_path / "c.json").read_text())["message"]

    assert "has not finished" in fail(PeerError("another rank failed"))
    assert fail(InputError("fd:random of a cannot be compared")) == "fd:random of a cannot be compared"


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_of_several_ranks_says_that_the_check_runs(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    with Outputs(None, [("json", tmp_path / "c.json")]).replaced_on_failure():
        assert (tmp_path / "c.json").exists() == (rank == 0)


def test_an_error_before_the_options_were_read_reaches_their_files(
    fdr_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for given in (["--json=c.json"], ["--json", "c.json"]):
        got = fdr_command("check", "r.json", "--misspelt", *given)
        assert got.code == 2 and "::error title=fdr check::" in got.err
        assert "--misspelt" in json.loads((tmp_path / "c.json").read_text())["message"]
        (tmp_path / "c.json").unlink()
    assert "::error" not in fdr_command("check", "r.json", "--misspelt", "--no-annotations").err
