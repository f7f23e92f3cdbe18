"""The benchmark of HPSv3 (Ma et al. 2025, arXiv 2508.03789): the JSON file that its `evaluate/benchmark.py` writes.

`statistics` has count, mean and standard deviation of the rewards of each category (a folder of images), and under
"OVERALL" the mean of the means of the categories; `data` has the reward of each image. The file does not say which
reward model was asked for (`--mode`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fdr.errors import InputError
from fdr.pages.imported.scores import Scores, last_part, no_result, prompts_field, stderr_of_means
from fdr.runtime import decode_json, is_count, is_number

NUM_CATEGORIES = 12
"""The categories of the whole benchmark."""
_EXPECTED = (
    "the JSON that evaluate/benchmark.py writes to --output_path, with statistics of each category and of OVERALL"
)
_ROUNDING = 1e-6


def read(text: str) -> Scores:
    """The scores in the text of a result file. Raises `InputError` if it is none or contradicts itself."""
    try:
        data = decode_json(text.encode())
    except ValueError as error:
        raise no_result("HPSv3", f"it is not JSON ({error})", _EXPECTED) from None
    overall, categories = _statistics(data)
    names = _names(list(categories))
    errors = {key: _stderr(part) for key, part in categories.items()}
    count = sum(part["count"] for part in categories.values())
    return Scores(
        value=overall,
        count=count,
        classes={
            names[key]: {"reward": part["mean"], "stderr": errors[key], "n": part["count"]}
            for key, part in categories.items()
        },
        settings={"tasks": "+".join(sorted(names.values()))} | _prompts(data.get("data")),
        stderr=stderr_of_means(list(errors.values())),
        notes=_notes(len(categories)),
    )


def _statistics(data: Any) -> tuple[float, dict[str, Mapping[str, Any]]]:
    """The overall mean, and the statistics of every category that has images."""
    found = data.get("statistics") if isinstance(data, Mapping) else None
    if not isinstance(found, Mapping):
        is_part = isinstance(data, Mapping) and bool(data) and all(isinstance(part, list) for part in data.values())
        why = "it is the part of one machine" if is_part else "it has no statistics"
        raise no_result("HPSv3", why, _EXPECTED)
    parts = {str(key): part for key, part in found.items() if key != "OVERALL"}
    for key, part in {**parts, "OVERALL": found.get("OVERALL")}.items():
        if not isinstance(part, Mapping) or not is_number(part.get("mean")):
            raise no_result("HPSv3", f"{key} has no mean", _EXPECTED)
    counted = {key: part for key, part in parts.items() if is_count(part.get("count"))}
    overall = float(found["OVERALL"]["mean"])
    if not counted:
        raise no_result("HPSv3", "no category has images", _EXPECTED)
    mean = math.fsum(part["mean"] for part in counted.values()) / len(counted)
    if abs(mean - overall) > _ROUNDING * max(1.0, abs(mean)):
        raise InputError(
            f"contradicts itself: OVERALL is {overall:g}, and the mean of its categories is {mean:g}; write it again "
            "with evaluate/benchmark.py."
        )
    return overall, counted


def _stderr(part: Mapping[str, Any]) -> float | None:
    """The standard error of the mean of a category; `std` divides by the number of images."""
    count, spread = part["count"], part.get("std")
    return spread / math.sqrt(count - 1) if count > 1 and is_number(spread) and spread is not None else None


def _names(keys: list[str]) -> dict[str, str]:
    """The categories by the last part of their folder, or by all of it where last parts repeat."""
    last = {key: last_part(key) or key for key in keys}
    often = Counter(last.values())
    return {key: key if often[name] > 1 else name for key, name in last.items()}


def _prompts(data: Any) -> dict[str, str]:
    """The prompts of the single images as a field of the signature, where the file has them all."""
    parts = data.values() if isinstance(data, Mapping) else ()
    rows = [row for part in parts if isinstance(part, list) for row in part]
    prompts = [row["prompt"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("prompt"), str)]
    return {"prompts": prompts_field(prompts)} if prompts and len(prompts) == len(rows) else {}


def _notes(num_categories: int) -> tuple[str, ...]:
    if num_categories == NUM_CATEGORIES:
        return ()
    return (f"{num_categories} categories; the whole benchmark has {NUM_CATEGORIES}",)
