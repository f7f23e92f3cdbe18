"""DPG-Bench (Hu et al. 2024, arXiv 2403.05135): the text file that `compute_dpg_bench.py` writes.

A line for each image holds its path, its scores by crop, and their mean. The summary below has the mean of the images
times 100 ("DPG-Bench score"), and the mean answer of each category of questions times 100.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fdr.pages.imported.scores import Scores, last_part, mean_stderr, no_result, prompts_field

NUM_PROMPTS = 1065
"""The prompts of the whole benchmark."""
_EXPECTED = "the text that compute_dpg_bench.py writes to --res-path, with a line 'DPG-Bench score: NUMBER' at its end"
_SCORE = re.compile(r"DPG-Bench score:\s*(\S+)")
_HEADING = re.compile(r"(L[12]) category scores:")
_CATEGORY = re.compile(r"\t(.+):\s*(\S+)")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Image:
    prompt: str
    score: float


def read(text: str) -> Scores:
    """The scores in the text of a result file. Raises `InputError` if it is none."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    value = _score(lines)
    images = list(_images(lines))
    if not images:
        raise no_result("DPG-Bench", "it has no line of an image", _EXPECTED)
    mean = math.fsum(image.score for image in images) / len(images)
    is_whole = abs(100 * mean - value) <= _ROUNDING * max(1.0, abs(value))
    error = mean_stderr([image.score for image in images]) if is_whole else None
    return Scores(
        value=value,
        count=len(images),
        classes={name: {"score": score} for name, score in _categories(lines, "L1").items()},
        settings={"prompts": prompts_field(image.prompt for image in images)},
        stderr=None if error is None else 100 * error,
        details={"prompts": len({image.prompt for image in images}), "subcategories": _categories(lines, "L2")},
        notes=tuple(_notes(images, None if is_whole else 100 * mean)),
    )


def _score(lines: list[str]) -> float:
    found = [match[1] for line in lines if (match := _SCORE.fullmatch(line.strip()))]
    if not found:
        raise no_result("DPG-Bench", "it has no line 'DPG-Bench score: NUMBER', so that the run did not end", _EXPECTED)
    value = _number(found[-1])
    if value is None:
        raise no_result("DPG-Bench", f"its score is {found[-1]}", _EXPECTED)
    return value


def _images(lines: list[str]) -> Iterator[_Image]:
    """The lines PATH, SCORE, ..., MEAN above the summary; a path may hold commas."""
    for line in lines:
        if line.startswith("Model: "):
            return
        path, separator, mean = line.rpartition(", ")
        score = _number(mean)
        if separator and score is not None:
            while _number(path.rpartition(", ")[2]) is not None and ", " in path:
                path = path.rpartition(", ")[0]
            yield _Image(_stem(path), score)


def _stem(path: str) -> str:
    """The name of the prompt, which is the name of its image up to the first dot."""
    return last_part(path).split(".")[0]


def _categories(lines: list[str], level: str) -> dict[str, float]:
    found: dict[str, float] = {}
    current = ""
    for line in lines:
        heading, category = _HEADING.fullmatch(line.strip()), _CATEGORY.fullmatch(line)
        current = heading[1] if heading else current if category else ""
        value = _number(category[2]) if category else None
        if category and value is not None and current == level:
            found[category[1]] = value
    return dict(sorted(found.items()))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _notes(images: list[_Image], mean: float | None) -> Iterator[str]:
    if mean is not None:
        yield f"the lines of single images have the mean {mean:g}, so some are missing, and there is no standard error"
    count = len({image.prompt for image in images})
    if count != NUM_PROMPTS:
        yield f"{count:,} prompts; the whole benchmark has {NUM_PROMPTS:,}"
