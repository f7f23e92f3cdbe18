"""`fdr report --format json|hf|eee`: options, outputs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from gate_worlds import report, write
from report_worlds import number, reports

from fdr.reports import load_reports

HUB = ("--format", "hf", "--dataset", "org/bench", "--task", "fd_debiased=fid", "--task", "fd:clip=fd-clip")
RECORD = (
    "--format", "eee", "--model", "org/net", "--organization", "Ours", "--relationship", "third_party", "--date",
    "2026-11-28",
)  # fmt: skip


def test_each_option_reaches_its_format(fdr_command, tmp_path: Path) -> None:
    reports(tmp_path)
    got = fdr_command("report", "new.json", *HUB, "--source-url", "https://x.org", "--date", "2026-11-28")
    assert got.code == 0, got.err
    first, second = yaml.safe_load(got.out)
    assert first["dataset"] == {"id": "org/bench", "task_id": "fid"} and first["value"] == 2.0
    assert second["dataset"]["task_id"] == "fd-clip" and second["value"] == 60.0
    assert first["source"]["url"] == "https://x.org" and first["date"] == "2026-11-28"
    got = fdr_command("report", "new.json", *RECORD, "--source-url", "https://x.org", "--dataset", "org/reals")
    assert got.code == 0, got.err
    found = json.loads(got.out)
    source = found["source_metadata"]
    assert found["model_info"]["id"] == "org/net" and source["source_organization_name"] == "Ours"
    assert source["evaluator_relationship"] == "third_party"
    assert source["additional_details"]["source_url"] == "https://x.org"
    assert found["evaluation_results"][0]["source_data"]["hf_repo"] == "org/reals"
    assert found["retrieved_timestamp"] == "1795824000"


def test_the_reports_as_one_file_are_read_back(fdr_command, tmp_path: Path) -> None:
    reports(tmp_path)
    assert fdr_command("report", "base.json", "new.json", "-o", "both.json").code == 0
    wanted = [one.to_dict() for name in ("base", "new") for one in load_reports(tmp_path / f"{name}.json")]
    assert [one.to_dict() for one in load_reports(tmp_path / "both.json")] == wanted
    assert fdr_command("check", "both.json", "--max", "fd:inception=9").code == 0


@pytest.mark.parametrize(("out", "begins"), [("fid.yaml", "- dataset:"), ("fid.yml", "- dataset:")])
def test_the_suffix_yaml_is_the_format_of_the_hub(fdr_command, tmp_path: Path, out: str, begins: str) -> None:
    reports(tmp_path)
    assert fdr_command("report", "new.json", *HUB[2:], "-o", out).code == 0
    text = (tmp_path / out).read_bytes()
    assert text.decode().startswith(begins)
    assert fdr_command("report", "new.json", *HUB[2:], "-o", out).code == 0 and (tmp_path / out).read_bytes() == text


def test_absolute_paths_stay_out_unless_asked_for(fdr_command, tmp_path: Path) -> None:
    write(tmp_path / "r.json", report(number("fd", 1.0), samples="/home/ada/a.npz"))
    assert "/home/ada" not in fdr_command("report", "r.json", *RECORD).out
    assert "/home/ada" in fdr_command("report", "r.json", *RECORD, "--with-paths").out
    assert "/home/ada" not in fdr_command("report", "r.json", "--format", "json").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new.json", "--format", "hf"), "needs --dataset ORG/NAME"),
        (("new.json", "--format", "eee"), "needs --model ORG/NAME"),
        (("base.json", "new.json", *HUB), "2 sample sets were given"),
        (
            ("new.json", "--format", "md", "--model", "a/b"),
            "--model is an option of --format eee, and the format is md",
        ),
        (("new.json", *RECORD, "--task", "fd=t"), "--task is an option of --format hf, and the format is eee"),
        (("new.json", *HUB[:4], "--task", "fid"), "'fid' is not NUMBER=TASK"),
        (("new.json", *HUB, "--task", "fd_debiased=other"), "fd_debiased was given two tasks"),
        (("new.json", *RECORD[:-1], "28 November"), "is not in ISO 8601"),
        (("new.json", *HUB, "-o", "notes.yaml"), "is there and is no YAML"),
        (("new.json", *RECORD, "-o", "new.json"), "is an input of this command"),
        (("fresh", "--format", "json"), "There is no report to write"),
        (("new.json", "pairs.json", "--format", "json"), "holds no comparisons"),
    ],
)
def test_one_sentence_for_what_cannot_be_exported(fdr_command, tmp_path: Path, arguments: tuple, words: str) -> None:
    reports(tmp_path)
    (tmp_path / "notes.yaml").write_text("mine: true\n")
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "train.json").write_text('{"options": {}}')
    (tmp_path / "pairs.json").write_text('{"schema": "fdr-compare/1", "rankings": []}')
    got = fdr_command("report", *arguments)
    assert got.code == 2 and words in " ".join(got.err.split()) and "Traceback" not in got.err, got.err
