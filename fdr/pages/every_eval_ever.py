"""A report as a record of Every Eval Ever (arXiv 2606.14516), schema 0.3.0, file `eval.schema.json` of the project.

Text maps (`additional_details`, `details`) hold texts only, an unbounded metric has the bound "Infinity", and a record
without scores of single images is of the source type "documentation", all as that schema says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from fdr.metrics import OF_OTHER_TOOLS, metric_info
from fdr.pages.export_options import ExportOptions, check_stated, only_set
from fdr.pages.table import bounds
from fdr.reports import Report, Result, json_text, metric_label

SCHEMA_VERSION = "0.3.0"
"""The version of the schema that records follow."""
_WHAT = "A record of Every Eval Ever"
_NEEDED = ("model", "organization", "relationship", "date")


def every_eval_ever_json(sets: Mapping[str, Report], options: ExportOptions) -> str:
    """The JSON text of all numbers of one sample set, in full precision.

    Raises `InputError` for several sets, and if something is not stated.
    """
    report = only_set(sets, _WHAT)
    check_stated(options, _WHAT, _NEEDED)
    return json_text(_record(report, options), allow_nan=False)


def _record(report: Report, options: ExportOptions) -> dict[str, Any]:
    developer, _, name = options.model.rpartition("/")
    samples = report.samples.get("digest") or hashlib.sha256(str(report.samples["source"]).encode()).hexdigest()
    identity = f"fdr-{samples[:16]}/{options.model}/{options.seconds}"
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "evaluation_timestamp": options.date,
        "retrieved_timestamp": str(options.seconds),
        "source_metadata": {
            "source_name": "fdr",
            "source_type": "documentation",
            "source_organization_name": options.organization,
            "evaluator_relationship": options.relationship,
            "additional_details": _about(report, options),
        },
        "eval_library": {
            "name": "fdr",
            "version": report.fdr_version,
            "additional_details": _texts(report.run.get("versions") or {}),
        },
        "model_info": {
            "name": name,
            "id": options.model,
            "developer": developer,
            "additional_details": {"deployment_type": "unknown", "model_availability": "unknown"},
        },
        "evaluation_results": [_result(row, report, options, identity) for row in report],
    }


def _about(report: Report, options: ExportOptions) -> dict[str, str]:
    """Facts without a field of their own: the samples, the address of the report, and numbers that failed."""
    samples = report.samples
    return _texts(
        {
            "source_url": options.source_url or None,
            "samples": samples["source"],
            "samples_count": samples["count"],
            "samples_digest": samples.get("digest"),
            "samples_skipped": len(samples["skipped"]) or None,
            "warnings": "; ".join(report.warnings) or None,
            "failed": "; ".join(f"{one.key}: {one.sentence}" for one in report.failed) or None,
        }
    )


def _result(row: Result, report: Report, options: ExportOptions, identity: str) -> dict[str, Any]:
    source = _source_data(row, report, options)
    return {
        "evaluation_result_id": f"{identity}#{row.key}",
        "evaluation_name": f"{source['dataset_name']}.{_dotted(row)}",
        "source_data": source,
        "metric_config": _metric_config(row),
        "score_details": _score_details(row, options.confidence),
    }


def _source_data(row: Result, report: Report, options: ExportOptions) -> dict[str, Any]:
    """The real images that the samples are compared with; the repository of a benchmark of another tool."""
    if row.metric in OF_OTHER_TOOLS:
        address = f"https://github.com/{row.details.get('tool', '')}"
        return {"dataset_name": metric_label(row), "source_type": "url", "url": [address]}
    if options.dataset:
        name = options.dataset.rpartition("/")[2]
        return {"dataset_name": name, "source_type": "hf_dataset", "hf_repo": options.dataset}
    if report.reference is None:
        return {"dataset_name": "no reference", "source_type": "other"}
    digest = report.reference.get("digest")
    return {
        "dataset_name": str(report.reference["name"]),
        "source_type": "other",
        **({"source_id": digest if isinstance(digest, str) else json_text(digest).strip()} if digest else {}),
    }


def _metric_config(row: Result) -> dict[str, Any]:
    info = metric_info(row.metric)
    low, high = (-math.inf, math.inf) if info is None else (info.low, info.high)
    label, of = metric_label(row), f" of {row.encoder}" if row.encoder else ""
    parameters = {
        "encoder": row.encoder,
        "encoders": ",".join(row.encoders) if row.encoders else None,
        "output": row.output,
    }
    return {
        "evaluation_description": f"{label}{of} of generated images, {_better(row)}",
        "metric_id": row.metric if row.metric in OF_OTHER_TOOLS else f"fdr.{_dotted(row)}",
        "metric_name": label,
        "metric_kind": "frechet_distance" if info is not None and info.is_distance else row.metric.partition(":")[0],
        "metric_parameters": {name: value for name, value in parameters.items() if value is not None},
        "lower_is_better": row.lower_is_better,
        "score_type": "continuous",
        "min_score": _bound(min(low, row.value)),  # rounding may put a value just outside
        "max_score": _bound(max(high, row.value)),
        "additional_details": _texts({"signature": row.signature, "spec_hash": row.spec_hash} | _of_file(row)),
    }


def _of_file(row: Result) -> dict[str, Any]:
    """The file in which the number of another tool was read."""
    return {name: row.details.get(name) for name in ("tool", "file", "sha256")} if row.metric in OF_OTHER_TOOLS else {}


def _dotted(row: Result) -> str:
    """The metric and its encoder as one name, so that FD of one encoder is never joined with FD of another."""
    return row.key.replace(":", ".")


def _better(row: Result) -> str:
    return f"{'lower' if row.lower_is_better else 'higher'} is better"


def _bound(value: float) -> float | str:
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _score_details(row: Result, confidence: float) -> dict[str, Any]:
    details = {
        "range_low": row.interval[0] if row.interval else None,
        "range_high": row.interval[1] if row.interval else None,
        "reference_images": row.reference_count,
        "notes": "; ".join(row.notes) or None,
    }
    uncertainty: dict[str, Any] = {"num_samples": row.count}
    limits = bounds(row, confidence)
    if limits is not None:
        uncertainty["standard_error"] = {"value": row.stderr}
        uncertainty["confidence_interval"] = {
            "lower": limits[0],
            "upper": limits[1],
            "confidence_level": confidence,
            "method": "normal approximation, within the possible values",
        }
    return {"score": float(row.value), "details": _texts(details), "uncertainty": uncertainty}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """The values as texts, without those that are None."""
    return {
        str(name): value if isinstance(value, str) else repr(value)
        for name, value in values.items()
        if value is not None
    }
