"""Reports: nothing is lost on the way to JSON and back, errors are sentences, values are rounded only for reading."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fdr.errors import InputError
from fdr.reports import Report, Result, format_number, load_reports, metric_label, reports_to_csv, reports_to_json


def result(metric: str = "fd", value: float = 1.2345678901234567, encoder: str | None = "inception", **more) -> Result:
    name = "inception@11111111+dinov2@22222222" if encoder is None else encoder
    return Result(metric, value, encoder, "pool", 500, metric != "is", f"{metric}|enc:{name}|n:500", **more)


@pytest.fixture
def report() -> Report:
    mean = replace(result("fdr_k", 2.5, None, k=2, encoders=("inception", "dinov2"), interval=(2.4, 2.6)), output=None)
    return Report(
        samples={"source": "a|b.npz", "count": 500, "digest": "0" * 64, "skipped": [{"id": "x.png", "reason": "cut"}]},
        reference={"name": "imagenet256", "source": "s", "digest": "1" * 64},
        results=(
            result(notes=("500 samples for 2048 dimensions: FD is biased upward",), details={"route": "thin"}),
            result(encoder="dinov2", value=1e-17),
            result("is", 9.87, stderr=0.1),
            mean,
        ),
        warnings=("careful",),
    )


def test_json_round_trip_is_exact(report: Report, tmp_path: Path) -> None:
    report.to_json(tmp_path / "r.json")
    assert Report.from_json(tmp_path / "r.json").to_dict() == report.to_dict()
    assert Report.from_json(tmp_path / "r.json")["fd", "inception"].value == 1.2345678901234567


def test_json_has_the_documented_fields(report: Report) -> None:
    data = json.loads(report.to_json())
    assert data["schema"] == "fdr-report/1"
    assert {"fdr_version", "samples", "reference", "results"} <= data.keys()
    row, mean = data["results"][0], data["results"][-1]
    expected = "metric encoder output value stderr count reference_count lower_is_better signature"
    assert set(expected.split()) <= row.keys()
    assert {"metric", "k", "encoders", "value", "signature"} <= mean.keys()


def test_lookup(report: Report) -> None:
    assert report["fdr_k"].k == 2
    assert report["is"].value == 9.87
    with pytest.raises(InputError, match="measured with several encoders"):
        report["fd"]
    with pytest.raises(InputError, match=r"did you mean 'fd, dinov2'"):
        report["fd", "dinov"]


def test_csv_keeps_full_precision_and_quotes(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [float(row["value"]) for row in rows] == [r.value for r in report]
    assert rows[0]["samples"] == "a|b.npz" and rows[0]["signature"].startswith("fd|enc:inception")


def test_markdown_has_a_signature_in_every_row(report: Report) -> None:
    lines = report.to_markdown().splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    assert len(table) == len(report)
    assert all(r.signature.replace("|", "\\|") in line for r, line in zip(report, table, strict=True))
    assert "- careful" in lines


def test_several_reports_share_one_file(report: Report, tmp_path: Path) -> None:
    reports_to_json([report, report], tmp_path / "r.json")
    assert [r.to_dict() for r in load_reports(tmp_path / "r.json")] == [report.to_dict()] * 2
    assert len(reports_to_csv([report, report]).splitlines()) == 1 + 2 * len(report)
    with pytest.raises(InputError, match="several reports"):
        Report.from_json(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "Not a report"),
        ('{"schema": "other"}', "schema is 'other', expected 'fdr-report/1'"),
        ('{"schema": "fdr-report/1"}', "Damaged report"),
    ],
)
def test_files_that_are_no_report(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        Report.from_json(tmp_path / "r.json")


def test_a_missing_file_and_an_unwritable_one(report: Report, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The report .* does not exist"):
        Report.from_json(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        report.to_json(tmp_path / "file" / "r.json")


def test_a_value_that_is_not_finite_is_never_written(report: Report) -> None:
    with pytest.raises(InputError, match="not finite"):
        replace(report, results=(result(value=float("nan")),)).to_json()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.23456789, "1.2346"),
        (123456.7, "123457"),
        (0.00123456, "0.0012346"),
        (1e-9, "1.0000e-09"),
        (-2, "-2.0000"),
    ],
)
def test_numbers_show_five_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_only_inception_has_a_fid() -> None:
    assert [metric_label(result(encoder=name)) for name in ("inception", "inception:clean", "dinov2")] == [
        "FID",
        "FID",
        "FD",
    ]


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_report_that_is_nested_too_deeply_is_refused(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    path = tmp_path / "r.json"
    path.write_text(f'{{"schema": "fdr-report/1", "fdr_version": "0", "samples": {{"source": {deep}}}, "results": []}}')
    with pytest.raises(InputError, match=r"Damaged report|is not JSON"):
        load_reports(path)
