"""The numbers and lists that docs/ci.md, docs/references.md and docs/correlate.md state are those of the code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from gate_worlds import report, row
from statistics_worlds import write as write_statistics

from fdr.comparison import comparability, correlate, intervals, scatter, significance, student
from fdr.comparison.coefficients import MIN_ROWS, MIN_ROWS_FOR_INTERVALS
from fdr.comparison.tables import BLANK, DELIMITERS
from fdr.frechet import covariance, moments
from fdr.gate import GateOptions, baseline_of, judge, verdict_to_json
from fdr.gate.verdict import DEFAULT_TOLERANCE
from fdr.references import open_statistics, registry
from fdr.reports import checks

ROOT = Path(__file__).parents[2]
PAGES = {
    name: " ".join((ROOT / "docs" / f"{name}.md").read_text().split())
    for name in ("ci", "compare", "references", "correlate")
}


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("ci", f"worse by more than the tolerance, which is {100 * DEFAULT_TOLERANCE.amount:g} % by default"),
        ("ci", f"may differ by {checks.RELATIVE:g} of it".replace("e-09", "e-9")),
        ("ci", f"by {100 * comparability.SAME_SHARE:g} % in float32 and by {100 * comparability.SAME_SHARE_SHORT:g} %"),
        ("ci", f"with the confidence of `--confidence` ({significance.CONFIDENCE:g})"),
        ("compare", f"(`--confidence`, {significance.CONFIDENCE:g})"),
        ("ci", f"({student.t_quantile(significance.CONFIDENCE, 1e9):.2f} for {significance.CONFIDENCE:g})"),
        ("ci", " and ".join(f"{student.t_quantile(significance.CONFIDENCE, k - 1):.2f}" for k in (4, 5))),
        ("references", f"asymmetric by more than {covariance.MAX_ASYMMETRY:g} of".replace("e-06", "e-6")),
        ("references", f"asymmetric by more than {moments.NOTABLE_ASYMMETRY:g},".replace("e-09", "e-9")),
        ("correlate", f"needs at least {MIN_ROWS} rows; there are intervals from {MIN_ROWS_FOR_INTERVALS} rows on"),
        ("correlate", f"with {intervals.NUM_RESAMPLES:,} seeded resamples"),
        ("correlate", f"Above {intervals.MAX_BOOTSTRAP_ROWS} rows"),
        ("correlate", f"each of {intervals.NUM_GROUPS} random groups"),
        ("correlate", f"their names (up to {scatter.MAX_LABELS})"),
        ("correlate", f"writes {', '.join(f'`{one}`' for one in scatter.SUFFIXES[:-1])} or `{scatter.SUFFIXES[-1]}`"),
    ],
)
def test_a_number_in_a_sentence_is_that_of_the_code(page: str, sentence: str) -> None:
    assert sentence in PAGES[page]


def test_the_exit_codes_of_the_gate() -> None:
    limit = GateOptions.parse(maxima=["fd=3"])
    codes = [judge([report(row(value=value))], limit).exit_code for value in (3.0, 3.001)]
    missing = judge([report(row())], GateOptions(), baseline_of([report(row(), row("is", 100.0))], "b"))
    undecided = GateOptions.parse(maxima=["fd=3"], inconclusive="exit-3")
    codes += [missing.exit_code, judge([report(row(stderr=0.1))], undecided).exit_code]
    assert codes == [0, 1, 2, 3]
    found = dict(re.findall(r"- \*\*(\d)\*\*: (.*?\.)", PAGES["ci"]))
    assert found == {
        "0": "every limit holds.", "1": "a number misses its limit.", "2": "the check could not be made.",
        "3": "with `--inconclusive exit-3`, the noise is too large for a verdict.",
    }  # fmt: skip


def test_the_json_of_a_check_has_the_keys_of_the_page() -> None:
    before = baseline_of([report(row(), row("is", 100.0))], "main.json")
    data = json.loads(verdict_to_json(judge([report(row())], GateOptions.parse(maxima=["fd=3"]), before)))
    page = PAGES["ci"]
    listed = {
        name: re.findall(r"`(\w+)`", text) for name, text in re.findall(r"`(checks|missing)` with (.*?)[;)]", page)
    }
    assert set(listed["checks"]) <= set(data["checks"][0]) and set(listed["missing"]) == set(data["missing"][0])
    assert len(listed["checks"]) == 12
    rest = re.findall(r"`(\w+)`", page[page.index("; then `unchecked`") :].partition(")")[0])
    assert set(rest) | {
        "schema",
        "result",
        "outcome",
        "passes",
        "exit_code",
        "confidence",
        "checks",
        "missing",
        "inconclusive_is",
        "fdr_version",
    } == set(data)
    assert f"schema `{data['schema']}`" in page


def test_the_json_of_a_correlation_has_the_keys_of_the_page() -> None:
    data = correlate([1, 2, 3, 4, 5.5], [1, 3, 2, 5, 4]).to_dict()
    keys = re.findall(r"`(\w+)`", PAGES["correlate"][PAGES["correlate"].index("| `schema`") :].partition("`--plot`")[0])
    assert set(data) <= set(keys) and set(data["pearson"]) <= set(keys)


def test_the_cells_that_count_as_empty() -> None:
    assert {"", "-", "nan", "n/a"} <= BLANK and DELIMITERS == (",", "\t", ";")


CASES = {
    "pytorch-fid, TTUR, EDM, clean-fid, torch-fidelity forks": "pytorch-fid",
    "ADM's evaluator (guided-diffusion)": "adm",
    "EDM2": "edm2",
    "dgm-eval": "dgm",
    "clean-fid's KID": "kid",
    "CMMD": "npy",
    "StyleGAN2-ADA, StyleGAN3": "stylegan-features",
    "LSGM, denoising-diffusion-gan": "dict",
    "score_sde": "score-sde",
}
TABLE = re.findall(
    r"^\| (.*?) \| (.*?) \| (.*?) \| (yes|no|features) \|$", (ROOT / "docs/references.md").read_text(), re.M
)


@pytest.mark.parametrize("tool", CASES)
def test_the_table_says_which_files_record_their_count(tool: str, tmp_path: Path) -> None:
    ((_, _, what, records),) = [found for found in TABLE if found[0] == tool]
    (entry, *_) = open_statistics(write_statistics(CASES[tool], tmp_path)).entries
    assert (entry.count is not None) == (records == "yes")
    assert f"`{entry.name}`" in what or entry.name == "features"


def test_the_manifest_is_read_field_by_field() -> None:
    """From the file itself, with nothing of the reader."""
    raw = tomllib.loads((ROOT / "reference_stats" / "manifest.toml").read_text())
    for name, entry in raw.items():
        read = registry()[name]
        assert (read.name, read.title, read.images, read.provenance) == (
            name, entry["title"], entry["images"], entry["provenance"],
        )  # fmt: skip
        assert (read.count, read.samples) == (entry.get("count"), entry.get("samples"))
        assert all(registry()[alias] is read for alias in entry.get("aliases", ()))
        rows = {encoder: {"file": file} for encoder, file in entry.get("files", {}).items()} | entry.get("encoders", {})
        assert set(read.encoders) == set(rows)
        for encoder, stated in rows.items():
            found = read.encoders[encoder]
            base = entry.get("base_url")
            assert found.url == stated.get("url", base and base + stated["file"])
            assert (found.file, found.sha256, found.size) == (stated["file"], stated.get("sha256"), stated.get("size"))
            assert (found.dim, found.entry) == (stated.get("dim", entry.get("dim")), stated.get("entry"))
            assert found.outputs == tuple(stated.get("outputs", ())) and list(found.sums or []) == stated.get(
                "sums", []
            )
            val_fd = None if found.val_fd is None else (found.val_fd.value, found.val_fd.decimals)
            assert val_fd == (None if "val_fd" not in stated else (stated["val_fd"], stated.get("decimals")))
            assert bool(found.digest_by) is ("sha256" in stated)
