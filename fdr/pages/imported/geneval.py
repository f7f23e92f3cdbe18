"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): the JSON lines that `evaluate_images.py` writes, one an image.

The score is that of `summary_scores.py`: the share of correct images of each task (the field `tag`), and the mean of
those shares over the tasks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdr.pages.imported.scores import Scores, no_result, prompts_field, stderr_of_means
from fdr.runtime import decode_json

NUM_PROMPTS, NUM_TASKS = 553, 6
"""The prompts and the tasks of the whole benchmark."""
_EXPECTED = "the JSON lines of evaluate_images.py, each with tag, correct, and metadata or prompt"


@dataclass(frozen=True)
class _Image:
    task: str
    prompt: str
    is_correct: bool


def read(text: str) -> Scores:
    """The scores in the text of a result file. Raises `InputError` if it is none."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise no_result("GenEval", "it is empty", _EXPECTED)
    images = [_image(number, line) for number, line in lines]
    tasks: dict[str, list[_Image]] = {}
    for image in images:
        tasks.setdefault(image.task, []).append(image)
    shares = {task: sum(one.is_correct for one in found) / len(found) for task, found in tasks.items()}
    errors = {task: _stderr(found, shares[task]) for task, found in tasks.items()}
    by_prompt = _by_prompt(images)
    return Scores(
        value=math.fsum(shares.values()) / len(shares),
        count=len(images),
        classes={task: {"correct": shares[task], "stderr": errors[task], "n": len(tasks[task])} for task in tasks},
        settings={"tasks": "+".join(sorted(tasks)), "prompts": prompts_field(by_prompt)},
        stderr=stderr_of_means(list(errors.values())),
        details={
            "prompts": len(by_prompt),
            "images_correct": sum(image.is_correct for image in images) / len(images),
            "prompts_correct": sum(any(one.is_correct for one in found) for found in by_prompt.values())
            / len(by_prompt),
        },
        notes=_notes(len(by_prompt), len(tasks)),
    )


def _image(number: int, line: str) -> _Image:
    try:
        data = decode_json(line.encode())
    except ValueError:
        raise no_result("GenEval", f"line {number} is not JSON", _EXPECTED) from None
    if not isinstance(data, Mapping):
        raise no_result("GenEval", f"line {number} is no table", _EXPECTED)
    prompt = data.get("metadata", data.get("prompt"))
    if not isinstance(data.get("tag"), str) or data.get("correct") not in (True, False) or prompt is None:
        absent = [name for name in ("tag", "correct", "metadata") if name not in data]
        why = f"line {number} has no {', '.join(absent)}" if absent else f"tag or correct of line {number} is no answer"
        raise no_result("GenEval", why, _EXPECTED)
    return _Image(data["tag"], _text(prompt), bool(data["correct"]))


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def _by_prompt(images: Sequence[_Image]) -> dict[str, list[_Image]]:
    found: dict[str, list[_Image]] = {}
    for image in images:
        found.setdefault(image.prompt, []).append(image)
    return found


def _stderr(images: Sequence[_Image], share: float) -> float | None:
    """The standard error of a share whose images of one prompt depend on each other: C/(C-1) sum_c r_c² / N², with the
    C prompts as clusters and r_c the sum of (correct - share) over the images of one."""
    clusters = [math.fsum(one.is_correct - share for one in found) for found in _by_prompt(images).values()]
    count = len(clusters)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * math.fsum(rest**2 for rest in clusters)) / len(images)


def _notes(num_prompts: int, num_tasks: int) -> tuple[str, ...]:
    if (num_prompts, num_tasks) == (NUM_PROMPTS, NUM_TASKS):
        return ()
    return (f"{num_prompts} prompts of {num_tasks} tasks; the whole benchmark has {NUM_PROMPTS} of {NUM_TASKS}",)
