"""Reports: nothing is lost on the way to JSON and back, errors are sentences, values are rounded only for reading."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fdr.errors import InputError
from fdr.reports import (
    Report,
    Result,
    format_number,
    json_text,
    load_reports,
    metric_label,
    reports_to_csv,
    reports_to_json,
    unique_names,
)


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


def test_csv_and_markdown_to_the_letter(report: Report) -> None:
    """Written out by hand, so that a changed order, rounding or quoting is seen."""
    mean = report["fdr_k"]
    lines = (
        replace(report, results=(report["is"], replace(mean, spec_hash="ab", reference_count=9))).to_csv().split("\n")
    )
    assert lines == [
        "samples,metric,encoder,output,value,stderr,interval_low,interval_high,count,reference,reference_count,"
        "lower_is_better,spec_hash,signature",
        "a|b.npz,is,inception,pool,9.87,0.1,,,500,imagenet256,,False,,is|enc:inception|n:500",
        "a|b.npz,fdr_k,inception+dinov2,,2.5,,2.4,2.6,500,imagenet256,9,True,ab,"
        "fdr_k|enc:inception@11111111+dinov2@22222222|n:500",
        "",
    ]
    assert report.to_markdown() == (
        "| samples | metric | encoder | value | n | signature |\n|---|---|---|---:|---:|---|\n"
        "| a\\|b.npz | FID | inception | 1.2346 | 500 | `fd\\|enc:inception\\|n:500` |\n"
        "| a\\|b.npz | FD | dinov2 | 1.0000e-17 | 500 | `fd\\|enc:dinov2\\|n:500` |\n"
        "| a\\|b.npz | IS | inception | 9.8700 ± 0.10 | 500 | `is\\|enc:inception\\|n:500` |\n"
        "| a\\|b.npz | FDr^2 | inception, dinov2 | 2.5000 [2.4000, 2.6000] | 500 | "
        "`fdr_k\\|enc:inception@11111111+dinov2@22222222\\|n:500` |\n"
        "\n- 500 samples for 2048 dimensions: FD is biased upward\n- careful\n"
    )
    assert replace(report, results=(report["is"],), warnings=()).to_markdown().endswith("n:500` |\n")


def test_json_to_the_letter(report: Report) -> None:
    data = json.loads(report.to_json())
    assert set(data) == {"schema", "fdr_version", "samples", "reference", "run", "warnings", "results"}
    assert data["warnings"] == ["careful"] and data["samples"]["skipped"] == [{"id": "x.png", "reason": "cut"}]
    assert data["results"][2] == {
        "metric": "is", "value": 9.87, "encoder": "inception", "output": "pool", "count": 500,
        "lower_is_better": False, "signature": "is|enc:inception|n:500", "stderr": 0.1, "reference_count": None,
        "spec_hash": None, "details": {}, "notes": [],
    }  # fmt: skip
    assert data["results"][3].items() >= {"k": 2, "encoders": ["inception", "dinov2"], "interval": [2.4, 2.6]}.items()


def test_what_is_read_is_the_object_that_was_written(report: Report, tmp_path: Path) -> None:
    whole = replace(report, run={"seed": 3}, fdr_version="0.0.7")
    whole.to_json(tmp_path / "r.json")
    assert Report.from_json(tmp_path / "r.json") == whole
    reports_to_json([whole], tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text())["schema"] == "fdr-report/1"
    assert load_reports(tmp_path / "one.json") == [whole]


@pytest.mark.parametrize("reports", ["[]", "{}", "null"])
def test_a_file_of_several_reports_without_one(tmp_path: Path, reports: str) -> None:
    (tmp_path / "r.json").write_text(f'{{"schema": "fdr-reports/1", "reports": {reports}}}')
    with pytest.raises(InputError, match="without a list of reports"):
        load_reports(tmp_path / "r.json")


def test_names_that_repeat_are_numbered() -> None:
    assert unique_names(["a", "b", "a", "a", "a (2)"]) == ["a", "b", "a (2)", "a (3)", "a (2) (2)"]


def test_texts_that_are_no_utf8_are_written_so_that_they_can_be_read(report: Report, tmp_path: Path) -> None:
    odd = "x\udcff.png"
    samples = {"source": odd, "count": 500, "skipped": [{"id": odd, "reason": odd}], odd: "key"}
    made = replace(report, samples=samples, warnings=(odd,), results=(result(notes=(odd,)),))
    for text in (made.to_json(tmp_path / "r.json"), made.to_csv(), made.to_markdown()):
        text.encode("utf-8")
    assert Report.from_json(tmp_path / "r.json") == made
    assert "\udcff" not in "".join([made.samples["source"], *made.samples, *made.warnings, *made.results[0].notes])
    json_text({"plain": [odd], odd: (odd,)}).encode("utf-8")


def test_lookups_name_what_other_tools_call_it(report: Report) -> None:
    with pytest.raises(InputError, match=r"'fid'.*it is the metric fd of the encoder inception"):
        report["fid"]
    with pytest.raises(InputError, match="not offered yet"):
        report["ppl", "inception"]


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
        ('{"schema": "other"}', "schema is 'other' in '.*r.json', expected 'fdr-report/1'"),
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
        (1e-4, "0.00010000"),
        (0.99994e-4, "9.9994e-05"),
        (9999994.0, "9999994"),
        (1e7, "1.0000e+07"),
        (float("inf"), "inf"),
        (-2, "-2.0000"),
    ],
)
def test_numbers_show_five_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_only_inception_has_a_fid() -> None:
    labels = {
        (metric, encoder): metric_label(result(metric, encoder=encoder))
        for metric in ("fd", "sfid", "is", "ifd", "ifd:0.25", "rfd", "nfd", "new")
        for encoder in ("inception:clean", "dinov2")
    }
    assert labels == {
        ("fd", "inception:clean"): "FID", ("fd", "dinov2"): "FD",
        ("sfid", "inception:clean"): "sFID", ("sfid", "dinov2"): "sFID",
        ("is", "inception:clean"): "IS", ("is", "dinov2"): "IS",
        ("ifd", "inception:clean"): "iFID", ("ifd", "dinov2"): "iFD",
        ("ifd:0.25", "inception:clean"): "iFID (0.25)", ("ifd:0.25", "dinov2"): "iFD (0.25)",
        ("rfd", "inception:clean"): "rFID", ("rfd", "dinov2"): "rFD",
        ("nfd", "inception:clean"): "neighbour FID", ("nfd", "dinov2"): "neighbour FD",
        ("new", "inception:clean"): "new", ("new", "dinov2"): "new",
    }  # fmt: skip
    assert metric_label(result("fd", encoder="inception")) == "FID"
    assert metric_label(result("fd", encoder="inceptionist")) == "FD"


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_report_that_is_nested_too_deeply_is_refused(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    path = tmp_path / "r.json"
    path.write_text(f'{{"schema": "fdr-report/1", "fdr_version": "0", "samples": {{"source": {deep}}}, "results": []}}')
    with pytest.raises(InputError, match=r"Damaged report|is not JSON"):
        load_reports(path)
