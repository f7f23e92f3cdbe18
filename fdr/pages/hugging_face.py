"""Numbers of a report as a file for the folder `.eval_results/` of a model on the Hugging Face Hub.

The format is that of the Hub's documentation ("Evaluation Results") and of `huggingface_hub.EvalResultEntry`: a list of
entries with `dataset` (`id` and `task_id`), `value`, and optional `date`, `source` and `notes`. `verifyToken` is never
written, because only the Hub's own jobs can sign a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fdr.errors import InputError
from fdr.pages.export_options import ExportOptions, check_stated, meant, only_set
from fdr.pages.table import bounds
from fdr.reports import Report, Result, metric_label

_WHAT = "A file of .eval_results"


def hugging_face_yaml(sets: Mapping[str, Report], options: ExportOptions) -> str:
    """The YAML text of the numbers that `options.tasks` names, in full precision.

    Raises `InputError` for several sets, for a number that is not in the report, and if something is not stated.
    """
    import yaml

    report = only_set(sets, _WHAT)
    check_stated(options, _WHAT, ("dataset", "tasks"))
    repeated = {task for task in options.tasks.values() if list(options.tasks.values()).count(task) > 1}
    if repeated:
        raise InputError(f"Two numbers are given for the task {', '.join(sorted(repeated))}; a task has one value.")
    entries = [_entry(meant(report, name), task, options) for name, task in options.tasks.items()]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=2**31)


def _entry(row: Result, task: str, options: ExportOptions) -> dict[str, Any]:
    source = {"url": options.source_url, "name": "fdr report"}
    return {
        "dataset": {"id": options.dataset, "task_id": task},
        "value": float(row.value),
        **({"date": options.date} if options.date else {}),
        **({"source": source} if options.source_url else {}),
        "notes": _notes(row, options.confidence),
    }


def _notes(row: Result, confidence: float) -> str:
    """The number in one line for its readers: its name, its uncertainty, and its signature."""
    of = f" of {row.encoder or ', '.join(row.encoders or ())}" if row.encoder or row.encoders else ""
    parts = [f"{metric_label(row)}{of}, {'lower' if row.lower_is_better else 'higher'} is better"]
    limits = bounds(row, confidence)
    if limits is not None:
        parts.append(f"standard error {row.stderr!r}, {100 * confidence:g} % interval {limits[0]!r} to {limits[1]!r}")
    if row.interval is not None:
        parts.append(f"range by the rounding of published constants {row.interval[0]!r} to {row.interval[1]!r}")
    return "; ".join([*parts, f"{row.count} images", f"signature {row.signature}"])
