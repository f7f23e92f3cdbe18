"""The schema of a report as JSON: what each field must be, and a sentence for each field that is something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fdr.errors import InputError
from fdr.reports.signature import parse_signature
from fdr.runtime import COUNT, NUMBER, TABLE, TABLES, TEXT, TEXTS, Kind, are_texts, field_problems, is_count, is_number


def _is_interval(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def _are_skipped(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, Mapping) and all(isinstance(item.get(key), str) for key in ("id", "reason")) for item in value
    )


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(is_count(many) for many in value.values())


def _is_signature(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(parse_signature(value))
    except InputError:
        return False


SPREAD = Kind(lambda value: is_number(value) and value >= 0, "a finite number of 0 or more")
INTERVAL = Kind(_is_interval, "two finite numbers, the smaller first")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
DIGEST = Kind(lambda value: isinstance(value, str) or (isinstance(value, Mapping) and are_texts([*value.values()])),
              "a text, or a text by encoder")  # fmt: skip

REPORT = {
    "fdr_version": TEXT, "samples": TABLE, "reference": TABLE.or_nothing, "run": TABLE.or_nothing,
    "warnings": TEXTS.or_nothing, "results": TABLES, "failed": TABLES.or_nothing, "training_set": TABLE.or_nothing,
}  # fmt: skip
SAMPLES = {
    "source": TEXT, "count": COUNT, "digest": TEXT.or_nothing, "policy": TABLE.or_nothing, "subset": TABLE.or_nothing,
    "skipped": Kind(_are_skipped, "a list of {id, reason}"),
    "left_out": Kind(_are_counts, "whole numbers of 1 or more by kind of file").or_nothing,
    "labels_from": TEXT.or_nothing,
}  # fmt: skip
REFERENCE = {
    "name": TEXT,
    "source": Kind(lambda value: isinstance(value, str), "a text"),
    "digest": DIGEST.or_nothing,
    "count": COUNT.or_nothing,
}
FAILED = {
    "metric": TEXT, "encoder": TEXT.or_nothing, "sentence": TEXT,
    "signature": Kind(_is_signature, "a signature as fdr writes it"),
}  # fmt: skip
RUN = dict.fromkeys(("encoders", "versions", "autoencoder", "ifid"), TABLE.or_nothing)
RESULT = {
    "metric": TEXT, "value": NUMBER, "encoder": TEXT.or_nothing, "output": TEXT.or_nothing, "count": COUNT,
    "lower_is_better": FLAG, "signature": Kind(_is_signature, "a signature as fdr writes it"),
    "stderr": SPREAD.or_nothing, "reference_count": COUNT.or_nothing, "k": COUNT.or_nothing,
    "encoders": TEXTS.or_nothing, "interval": INTERVAL.or_nothing, "spec_hash": TEXT.or_nothing,
    "details": TABLE.or_nothing, "notes": TEXTS.or_nothing,
}  # fmt: skip


def schema_problems(data: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each field that is missing or is not what it must be; after wrong outer fields it stops."""
    found = list(field_problems("the report", data, REPORT))
    yield from found
    if found:
        return
    yield from field_problems("the samples", data["samples"], SAMPLES)
    if data.get("reference") is not None:
        yield from field_problems("the reference", data["reference"], REFERENCE)
    if data.get("training_set") is not None:
        yield from field_problems("the training set", data["training_set"], REFERENCE)
    yield from field_problems("the run", data.get("run") or {}, RUN)
    if not data["results"]:
        yield "results is an empty list, where a report has at least one number"
    for index, row in enumerate(data["results"]):
        metric, encoder = row.get("metric"), row.get("encoder")
        named = isinstance(metric, str) and isinstance(encoder, str | None)
        yield from field_problems(result_key(metric, encoder) if named else f"result {index + 1}", row, RESULT)
    for index, row in enumerate(data.get("failed") or ()):
        yield from field_problems(f"failed number {index + 1}", row, FAILED)


def result_key(metric: str, encoder: str | None) -> str:
    """The name of a number in limits, baselines and outputs: "fd:inception", "is:adm:inception", "fdr_k"."""
    return metric if encoder is None else f"{metric}:{encoder}"
