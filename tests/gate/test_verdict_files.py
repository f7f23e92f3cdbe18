"""What a verdict looks like to people, to JSON readers, to JUnit, OpenMetrics and GitHub."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from gate_worlds import report, row

from fdr.errors import RunError
from fdr.gate import (
    GateOptions,
    Verdict,
    annotation,
    annotations_of,
    baseline_of,
    judge,
    sentences_of,
    verdict_to_json,
    verdict_to_junit,
    verdict_to_markdown,
    verdict_to_openmetrics,
    write_job_files,
)
from fdr.gate.limits import parse_limit
from fdr.runtime import GitHubJob, github_job

NASTY = 'a|b"\\c\x07\n::error::injected, 100%'


def verdict(inconclusive: str = "fail", samples: str = NASTY) -> Verdict:
    """One check of every outcome, one of them against a baseline, and a number without a limit."""
    rows = (row(value=3.3), row("fdr", 2.0), row(value=9.0, encoder="dinov2", stderr=1.0), row("is", 200.0))
    options = GateOptions(
        tuple(parse_limit(text, "max") for text in ("fd:inception=3", "fd:dinov2=9.5", "fdr=4")),
        inconclusive=inconclusive,  # type: ignore[arg-type]
    )
    before = baseline_of([report(row(value=3.0, fields={"v": "0.0.1"}), samples=samples)], "main.json")
    return judge([report(*rows, samples=samples)], options, before)


def test_four_sentences_say_what_limit_margin_and_signature() -> None:
    found = [sentences_of(check) for check in verdict(samples="s.npz").checks]
    assert found[0] == (
        "FID with inception of s.npz (fd:inception) is 3.3000.",
        "The limit is at most 3.0000 (--max).",
        "It is 0.30000 (10.00 %) beyond the limit.",
        f"Signature: {row().signature}",
    )
    assert found[1][1] == "The limit is at most 3.0300: 3.0000 in baseline main.json and a tolerance of 1 %."
    assert found[2][2] == "It is 2.0000 (50.00 %) within the limit."
    assert "inside the uncertainty from 7.3551 to 10.645 (95 % confidence, standard error 1.0000)" in found[3][2]


def test_json_is_complete_and_exact() -> None:
    data = json.loads(verdict_to_json(verdict()))
    assert (data["schema"], data["result"], data["passes"]) == ("fdr-check/1", "fail", False)
    assert (data["confidence"], data["exit_code"]) == (0.95, 1)
    assert [check["noise"] for check in data["checks"]] == [None, None, None, 1.0]
    assert [check["outcome"] for check in data["checks"]] == ["fail", "fail", "pass", "inconclusive"]
    first, second = data["checks"][:2]
    assert first["samples"] == NASTY and first["excess"] == pytest.approx(0.3) and first["baseline"] is None
    assert second["baseline"]["value"] == 3.0 and second["rule"] == "baseline" and second["limit"] == 3.03
    assert [number["key"] for number in data["unchecked"]] == ["is:inception"]
    assert "v (the version of fdr)" in data["warnings"][0]


@pytest.mark.parametrize("inconclusive, failures, skipped", [("fail", 3, 0), ("pass", 2, 1), ("exit-3", 2, 1)])
def test_junit_counts_what_stops_the_gate(inconclusive: str, failures: int, skipped: int) -> None:
    root = ET.fromstring(verdict_to_junit(verdict(inconclusive)))
    suite = root.find("testsuite")
    assert suite is not None
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures"), element.get("skipped")) == (
            "4",
            str(failures),
            str(skipped),
        )
    assert len(root.findall(".//failure")) == failures and len(root.findall(".//skipped")) == skipped
    assert [case.get("name") for case in root.iter("testcase")][:2] == ["fd:inception --max", "fd:inception baseline"]
    assert row().signature in (root.findall(".//failure")[0].text or "")


def test_markdown_rows_have_equal_cells() -> None:
    lines = verdict_to_markdown(verdict()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert lines[0] == "### fdr check: fail"
    assert len(table) == 2 + 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


def test_markdown_lists_what_does_not_pass_then_the_warnings_then_each_signature_once() -> None:
    found = verdict(samples="s.npz")
    sentences = [" ".join(sentences_of(found.checks[place])[:3]) for place in (0, 1, 3)]  # the third check passes
    (warning,) = found.warnings
    signatures = [row().signature, row("fdr").signature, row(encoder="dinov2").signature]
    confidence = "Numbers with a standard error pass or fail at 95 % confidence, and are inconclusive otherwise."
    expected = [
        "",
        *(f"- {text}" for text in (*sentences, warning, confidence)),
        "",
        *(f"    {text}" for text in signatures),
    ]
    assert verdict_to_markdown(found).splitlines()[8:] == expected


def test_markdown_of_a_check_that_passes_is_the_table_and_the_signature() -> None:
    passing = judge([report(row(value=2.9))], GateOptions((parse_limit("fd=3", "max"),)))
    assert verdict_to_markdown(passing).splitlines()[3:] == [
        "|---|---|---:|---:|---:|---|",
        "| samples.npz | `fd:inception` | 2.9000 | ≤ 3.0000 | -0.10000 (-3.3 %) | pass |",
        "",
        f"    {row().signature}",
    ]


def test_openmetrics_has_a_line_per_number_and_limit() -> None:
    lines = verdict_to_openmetrics(verdict()).splitlines()
    assert lines[-1] == "# EOF"
    assert sum(line.startswith("fdr_value{") for line in lines) == 4
    assert sum(line.startswith("fdr_limit{") for line in lines) == 4
    pattern = r'fdr_(value|limit)\{(\w+="(?:[^"\\]|\\.)*",?)+\} [-+.\de]+'
    assert all(re.fullmatch(pattern, line) for line in lines if not line.startswith("#"))


def test_annotations_are_one_line_per_failed_limit_and_cannot_be_injected() -> None:
    lines = list(annotations_of(verdict("pass")))
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::warning", "::warning"]
    assert all("\n" not in line and "\r" not in line for line in lines)
    assert annotation("error", "a:b,c%\n", "x:y%\r\n") == "::error title=a%3Ab%2Cc%25%0A::x:y%25%0D%0A"


def test_a_job_gets_outputs_and_a_summary(tmp_path: Path) -> None:
    job = GitHubJob(tmp_path / "out", tmp_path / "summary")
    (tmp_path / "out").write_text("before=1\n")
    write_job_files(verdict(samples="s"), job, Path("r.json"))
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines == [
        "before=1", "result=fail", "fd_inception=3.3", "fdr_inception=2.0", "fd_dinov2=9.0", "is_inception=200.0",
        'numbers={"fd_inception": 3.3, "fdr_inception": 2.0, "fd_dinov2": 9.0, "is_inception": 200.0}', "report=r.json",
    ]  # fmt: skip
    assert (tmp_path / "summary").read_text() == verdict_to_markdown(verdict(samples="s"))


def test_outputs_of_several_sets_have_their_names_and_values_with_line_breaks_their_frame(tmp_path: Path) -> None:
    reports = [report(row(value=1.0), samples="a-1.npz"), report(row(value=2.0), samples="b.npz")]
    job = GitHubJob(tmp_path / "out", None)
    write_job_files(judge(reports, GateOptions((parse_limit("fd=3", "max"),))), job, Path("x\nresult=pass"))
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:3] == ["result=pass", "a_1_npz_fd_inception=1.0", "b_npz_fd_inception=2.0"]
    assert json.loads(lines[3].removeprefix("numbers=")) == {"a_1_npz_fd_inception": 1.0, "b_npz_fd_inception": 2.0}
    name, end = lines[4].split("<<")
    assert (name, lines[5:]) == ("report", ["x", "result=pass", end])


def test_a_job_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="which GitHub named for results"):
        write_job_files(verdict(), GitHubJob(None, tmp_path), None)


def test_a_job_is_known_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    assert github_job() is None
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert github_job() == GitHubJob(None, None)
    monkeypatch.setenv("GITHUB_OUTPUT", "/x/out")
    assert github_job() == GitHubJob(Path("/x/out"), None)
