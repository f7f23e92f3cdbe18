"""Reports in a notebook: numbers, HTML, data frames."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from worlds import TinyEncoder, images

import fdr
from fdr.errors import InputError
from fdr.reports import Report, reports_to_pandas


@pytest.fixture(scope="module")
def report() -> Report:
    return fdr.evaluate(images(40, side=8), images(50, seed=1, side=8), TinyEncoder(), "fd,precision,recall")


def test_a_result_is_a_number_and_reads_like_one(report: Report) -> None:
    fd = report["fd"]
    assert float(fd) == fd.value and np.float64(fd) == fd.value
    assert str(fd).startswith("fd:tiny ") and "±" in str(fd)
    assert str(report).startswith(f"{report.samples['source']}: fd:tiny ")


def test_reports_and_results_are_readable_at_a_prompt(report: Report) -> None:
    assert repr(report["fd"]) == f"<Result {report['fd']}, 40 images>"
    assert repr(report) == f"<Report {report}>" and "signature" not in repr(report)
    assert float(fdr.Report(report.samples, None, report.results[:1])) == report["fd"].value
    with pytest.raises(InputError, match=r"holds 3 numbers \(fd:tiny, precision:tiny, recall:tiny\); name one"):
        float(report)


def test_a_data_frame_has_the_columns_and_the_numbers_of_the_csv(report: Report) -> None:
    pandas = pytest.importorskip("pandas")
    frame = report.to_pandas()
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert list(frame.columns) == list(rows[0]) and len(frame) == len(rows) == 3
    assert frame.value.tolist() == [float(row["value"]) for row in rows] == [result.value for result in report]
    assert frame.set_index("metric").loc["fd", "stderr"] == report["fd"].stderr
    assert len(reports_to_pandas([report, report])) == 6 and isinstance(frame, pandas.DataFrame)


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_a_table(report: Report) -> None:
    found = Cells(report._repr_html_())
    assert found.tags.count("tr") == 4 and "script" not in found.tags
    assert {"FD ↓", "tiny", "Precision ↑", "40"} <= set(found.texts)


def test_names_of_files_are_escaped(report: Report) -> None:
    data = report.to_dict()
    data["samples"]["source"] = "<b>x</b>.npz"
    text = Report.from_dict(data)._repr_html_()
    assert "<b>" not in text and "&lt;b&gt;x&lt;/b&gt;.npz" in text
