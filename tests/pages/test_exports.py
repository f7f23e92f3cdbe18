"""Exports to the formats of the Hugging Face Hub and of Every Eval Ever, against schemas and readers of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import jsonschema
import pytest
import yaml
from gate_worlds import report, row
from report_worlds import failed, model, number

from fdr.errors import InputError
from fdr.pages import ExportOptions, every_eval_ever_json, hugging_face_yaml
from fdr.reports import Report

SCHEMAS = Path(__file__).parent / "schemas"
SETS = {"new.npz": model("new.npz", 0.8)}
HUB = ExportOptions(dataset="org/fid-bench", tasks={"fd_debiased:inception": "fid", "fdr:clip": "fdr-clip"})
RECORD = ExportOptions(model="org/net", organization="Ours", relationship="first_party", date="2026-11-28")


def schema(name: str) -> Any:
    found = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def hub(options: ExportOptions = HUB, sets: dict[str, Report] = SETS) -> list[dict[str, Any]]:
    found = yaml.safe_load(hugging_face_yaml(sets, options))
    jsonschema.validate(found, schema("eval_results"))
    return found


def record(options: ExportOptions = RECORD, sets: dict[str, Report] = SETS) -> dict[str, Any]:
    found = json.loads(every_eval_ever_json(sets, options))
    jsonschema.validate(found, schema("every_eval_ever"))
    return found


# --------------------------------------------------------------------------------------------------- Hugging Face


def test_the_hub_library_reads_the_file_back() -> None:
    stated = replace(HUB, date="2026-11-28", source_url="https://example.org/report.html")
    written = hub(stated)
    entries = huggingface_hub.parse_eval_result_entries(written)
    assert huggingface_hub.eval_result_entries_to_yaml(entries) == written
    first = entries[0]
    assert (first.dataset_id, first.task_id) == ("org/fid-bench", "fid")
    assert (first.date, first.source_url) == ("2026-11-28", "https://example.org/report.html")


@pytest.mark.parametrize("value", [2.5, 1 / 3, 1e-17, 123456789.123456789, 3.0])
def test_values_keep_their_full_precision(value: float) -> None:
    sets = {"a": report(number("fd", value))}
    assert hub(replace(HUB, tasks={"fd": "t"}), sets)[0]["value"] == value
    assert record(sets=sets)["evaluation_results"][0]["score_details"]["score"] == value


def test_notes_have_direction_uncertainty_and_signature() -> None:
    result = SETS["new.npz"]["fd_debiased"]
    notes = hub()[0]["notes"]
    assert result.signature in notes and "lower is better" in notes and f"standard error {result.stderr!r}" in notes
    low, high = result.value - 1.959963984540054 * result.stderr, result.value + 1.959963984540054 * result.stderr
    found = [float(text) for text in notes.partition("interval ")[2].partition(";")[0].split(" to ")]
    assert found == pytest.approx([low, high], rel=1e-12)
    assert "\n" not in notes


def test_a_number_without_a_standard_error_and_a_ratio_with_a_range() -> None:
    sets = {"a": report(row("fd", 2.0), row("fdr", 1.5, interval=(1.4, 1.6)))}
    plain, ratio = hub(replace(HUB, tasks={"fd": "a", "fdr": "b"}), sets)
    assert "standard error" not in plain["notes"] and "1.4 to 1.6" in ratio["notes"]
    found = record(sets=sets)["evaluation_results"]
    assert set(found[0]["score_details"]["uncertainty"]) == {"num_samples"}
    assert found[1]["score_details"]["details"] == {"range_low": "1.4", "range_high": "1.6"}


def test_what_cannot_be_proven_is_not_claimed() -> None:
    assert all(not {"verifyToken", "evaluation_framework"} & set(entry) for entry in hub())


# ------------------------------------------------------------------------------------------------ Every Eval Ever


def test_a_record_has_every_number_with_its_signature() -> None:
    report_ = SETS["new.npz"]
    found = record()
    rows = found["evaluation_results"]
    assert [one["score_details"]["score"] for one in rows] == [result.value for result in report_]
    details = [one["metric_config"]["additional_details"]["signature"] for one in rows]
    assert details == [result.signature for result in report_]
    assert len({one["metric_config"]["metric_id"] for one in rows}) == len(report_)
    assert found["model_info"]["developer"] == "org" and found["model_info"]["name"] == "net"
    assert found["eval_library"] == {"name": "fdr", "version": "0.1.0", "additional_details": {}}


def test_an_unbounded_metric_says_so_and_no_value_lies_outside_its_bounds() -> None:
    sets = {"a": report(number("fd", -1e-9, stderr=0.1), number("fd_debiased", -0.5), number("precision", 1.0))}
    bounds = [one["metric_config"] for one in record(sets=sets)["evaluation_results"]]
    assert [(one["min_score"], one["max_score"]) for one in bounds] == [
        (-1e-9, "Infinity"), ("-Infinity", "Infinity"), (0.0, 1.0),
    ]  # fmt: skip


def test_the_date_is_the_only_time_in_a_record() -> None:
    seconds = 20785 * 86400  # days from 1970-01-01 to 2026-11-28
    assert record()["retrieved_timestamp"] == str(seconds) and record()["evaluation_timestamp"] == "2026-11-28"
    assert record(replace(RECORD, date="2026-11-28T01:00:00+01:00"))["retrieved_timestamp"] == str(seconds)
    assert record(replace(RECORD, date="2026-11-28T00:00:01Z"))["retrieved_timestamp"] == str(seconds + 1)


def test_the_real_images_are_the_reference_or_the_dataset_that_is_named() -> None:
    named = record(replace(RECORD, dataset="ilsvrc/imagenet-1k"))["evaluation_results"][0]
    assert named["source_data"] == {
        "dataset_name": "imagenet-1k", "source_type": "hf_dataset", "hf_repo": "ilsvrc/imagenet-1k",
    }  # fmt: skip
    own = record()["evaluation_results"][0]
    assert own["source_data"]["dataset_name"] == "imagenet256" and own["evaluation_name"] == "imagenet256.fd.inception"
    assert own["source_data"]["source_id"] == SETS["new.npz"].reference["digest"]
    several = replace(SETS["new.npz"], reference={"name": "r", "source": "x", "digest": {"inception:pool": "ab"}})
    assert "inception:pool" in record(sets={"a": several})["evaluation_results"][0]["source_data"]["source_id"]
    alone = replace(report(row("is", 9.0)), reference=None)
    assert record(sets={"a": alone})["evaluation_results"][0]["source_data"]["source_type"] == "other"


def test_failures_and_warnings_are_in_the_record_as_texts() -> None:
    base = SETS["new.npz"]
    sets = {"a": replace(base, failed=(failed("it broke"),), warnings=("few images",))}
    details = record(replace(RECORD, source_url="https://x.org"), sets)["source_metadata"]["additional_details"]
    assert details["failed"] == "kid:inception: it broke" and details["warnings"] == "few images"
    assert details["source_url"] == "https://x.org" and details["samples_count"] == "50000"


def test_two_sets_of_samples_of_one_model_are_two_records() -> None:
    digests = [replace(SETS["new.npz"], samples=SETS["new.npz"].samples | {"digest": c * 64}) for c in "ab"]
    names = {record(sets={"a": one})["evaluation_id"] for one in digests}
    assert len(names) == 2 and all(name.endswith("/org/net/1795824000") for name in names)


def test_the_schemas_refuse_what_is_not_documented() -> None:
    good, entries = record(), hub()
    good["evaluation_results"][0]["metric_config"]["max_score"] = "unbounded"
    for found, name in ((good, "every_eval_ever"), ([{**entries[0], "score": 1.0}], "eval_results")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found, schema(name))


# ------------------------------------------------------------------------------------------------- both, and errors


@pytest.mark.parametrize(("write", "options"), [(hugging_face_yaml, HUB), (every_eval_ever_json, RECORD)])
def test_equal_input_gives_equal_bytes(write: Any, options: ExportOptions) -> None:
    again = {"new.npz": Report.from_dict(SETS["new.npz"].to_dict())}
    assert write(SETS, options) == write(again, options)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_intervals_have_the_confidence_that_is_asked_for(confidence: float) -> None:
    assert f"{100 * confidence:g} % interval" in hub(replace(HUB, confidence=confidence))[0]["notes"]
    found = record(replace(RECORD, confidence=confidence))["evaluation_results"][0]["score_details"]["uncertainty"]
    assert found["confidence_interval"]["confidence_level"] == confidence


@pytest.mark.parametrize(
    ("write", "options", "sets", "words"),
    [
        (hugging_face_yaml, ExportOptions(), SETS, "needs --dataset ORG/NAME.*--task NUMBER=TASK"),
        (hugging_face_yaml, replace(HUB, tasks={}), SETS, "needs --task NUMBER=TASK"),
        (hugging_face_yaml, replace(HUB, tasks={"fd": "t"}), SETS, "'fd' may mean fd:inception, fd:dinov2, fd:clip"),
        (hugging_face_yaml, replace(HUB, tasks={"fdd": "t"}), SETS, "Unknown number 'fdd'; did you mean"),
        (hugging_face_yaml, replace(HUB, tasks={"fd:clip": "t", "fd:dinov2": "t"}), SETS, "a task has one value"),
        (hugging_face_yaml, HUB, {"a": report(), "b": report()}, r"2 sample sets were given \(a, b\); name the report"),
        (hugging_face_yaml, HUB, {}, "no numbers were given"),
        (every_eval_ever_json, ExportOptions(), SETS, "--model ORG/NAME.*--organization.*--relationship.*--date"),
        (every_eval_ever_json, replace(RECORD, date=""), SETS, "needs --date YYYY-MM-DD"),
    ],
)
def test_what_is_missing_is_asked_for_in_one_sentence(write: Any, options: Any, sets: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write(sets, options)


def test_a_number_that_failed_cannot_be_exported() -> None:
    sets = {"a": replace(SETS["new.npz"], failed=(failed("it broke"),))}
    with pytest.raises(InputError, match="kid:inception could not be computed: it broke"):
        hugging_face_yaml(sets, replace(HUB, tasks={"kid:inception": "t"}))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dataset": "imagenet"}, "is not ORG/NAME of the Hugging Face Hub"),
        ({"dataset": "a/b c"}, "is not ORG/NAME"),
        ({"model": "net"}, "such as stabilityai/sd-turbo"),
        ({"relationship": "self"}, "Unknown relationship 'self'"),
        ({"source_url": "report.html"}, "is no address"),
        ({"date": "yesterday"}, "is not in ISO 8601"),
    ],
)
def test_wrong_statements_are_one_sentence(wrong: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExportOptions(**wrong)
