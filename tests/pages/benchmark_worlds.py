"""Result files of GenEval, DPG-Bench and HPSv3 as their own scripts write them, made by hand for the tests."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def geneval_rows(prompts: int = 5, images: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for at, tag in enumerate(TAGS):
        for number in range(prompts + at):
            prompt = f"a photo of {tag} {number}"
            chance = draw.random()
            for image in range(images):
                correct = draw.random() < chance
                rows.append(
                    {
                        "filename": f"/home/ada/out/{at}{number:04d}/samples/{image:04d}.png", "tag": tag,
                        "prompt": prompt, "correct": correct, "reason": "" if correct else "expected cat>=1, found 0",
                        "metadata": json.dumps({"tag": tag, "prompt": prompt, "include": []}), "details": "{}",
                    }
                )  # fmt: skip
    draw.shuffle(rows)
    return rows


def write_geneval(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As `evaluate_images.py` does."""
    with open(path, "w") as file:
        pandas.DataFrame(rows).to_json(file, orient="records", lines=True)
    return path


def dpg_answers(count: int = 30, seed: int = 1) -> dict[str, list[tuple[str, float]]]:
    """For each prompt the categories of its questions with their answers."""
    draw = random.Random(seed)
    kinds = ("entity - whole", "entity - part", "attribute - color", "relation - spatial", "global - ", "other - count")
    return {
        f"partiprompts{number}": [(draw.choice(kinds), float(draw.random() < 0.8)) for _ in range(draw.randint(2, 9))]
        for number in range(count)
    }


def write_dpg(path: Path, answers: dict[str, list[tuple[str, float]]], folder: str = "/home/ada/a, b/net") -> Path:
    """As `compute_dpg_bench.py` does for one image a prompt and no dependent questions."""
    lines, scores, by_category = [], [], {}
    for prompt, found in answers.items():
        score = sum(value for _, value in found) / len(found)
        lines.append(f"{folder}/{prompt}.png, {score}, {sum([score]) / 1}")
        scores.append(score)
        for category, value in found:
            by_category.setdefault(category, []).append(value)
    level1: dict[str, list[float]] = {}
    for category in by_category:
        level1.setdefault(category.split("-")[0].strip(), []).extend(by_category[category])
    output = f"Model: {folder.rpartition('/')[2]}\nL1 category scores:\n"
    output += "".join(f"\t{name}: {np.mean(found) * 100}\n" for name, found in level1.items())
    output += "L2 category scores:\n"
    output += "".join(f"\t{name}: {np.mean(by_category[name]) * 100}\n" for name in sorted(by_category))
    output += f"Image path: {folder}\nSave results to: {path}\nDPG-Bench score: {np.mean(scores) * 100}"
    path.write_text("\n".join([*lines, output]) + "\n")
    return path


def hps_rewards(count: int = 20, seed: int = 2, root: str = "/home/ada/out/") -> dict[str, list[dict[str, Any]]]:
    draw = random.Random(seed)
    return {
        f"{root}{name}": [
            {"image_path": f"{root}{name}/{at}.png", "reward": draw.gauss(mean, 2.0), "prompt": f"{name} {at}"}
            for at in range(count + number)
        ]
        for number, (name, mean) in enumerate((("Animals", 9.0), ("Food", 11.0), ("Science", 8.0)))
    }


def hps_file(rewards: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What `evaluate/benchmark.py` writes for one machine, with its formulas."""
    statistics = {}
    for name, rows in rewards.items():
        found = [row["reward"] for row in rows]
        statistics[name] = {
            "count": len(found), "mean": float(np.mean(found)), "std": float(np.std(found)),
            "min": float(np.min(found)), "max": float(np.max(found)),
        }  # fmt: skip
    means = [part["mean"] for part in statistics.values()]
    statistics["OVERALL"] = {
        "count": sum(part["count"] for part in statistics.values()), "mean": float(np.mean(means)),
        "std": float(np.std(means)), "min": -5.0, "max": 20.0,
    }  # fmt: skip
    return {"statistics": statistics, "data": rewards}


def write_hps(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data, indent=4))
    return path
