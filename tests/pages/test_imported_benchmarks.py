"""Results of GenEval, DPG-Bench and HPSv3: the numbers of their own summaries, standard errors, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from benchmark_worlds import (
    dpg_answers,
    geneval_rows,
    hps_file,
    hps_rewards,
    write_dpg,
    write_geneval,
    write_hps,
)
from gate_worlds import report
from report_worlds import number

from fdr.comparison import compare_reports
from fdr.errors import InputError
from fdr.metrics import OF_OTHER_TOOLS
from fdr.pages import BENCHMARKS, add_all, add_scores, number_table, render_page
from fdr.reports import Report, Result, parse_signature

POLICY = {"quantize": "uint8", "crop": "none", "alpha": "drop"}
BASE = report(number("fd", 2.0), facts={"policy": POLICY, "subset": {"count": 50000, "seed": 0}})


def added(name: str, path: Path) -> Result:
    return add_scores(BASE, name, path)[name]


def one(folder: Path, name: str) -> Path:
    if name == "geneval":
        return write_geneval(folder / "results.jsonl", geneval_rows())
    if name == "dpg_bench":
        return write_dpg(folder / "dpg.txt", dpg_answers())
    return write_hps(folder / "hps.json", hps_file(hps_rewards()))


# --------------------------------------------------------------------------------- the numbers of the tools' summaries


def test_geneval_is_what_summary_scores_prints(tmp_path: Path) -> None:
    path = write_geneval(tmp_path / "r.jsonl", geneval_rows())
    frame = pandas.read_json(path, orient="records", lines=True)
    shares = {tag: part["correct"].mean() for tag, part in frame.groupby("tag", sort=False)}
    result = added("geneval", path)
    assert result.value == pytest.approx(np.mean(list(shares.values())), rel=1e-14)
    assert {tag: part["correct"] for tag, part in result.details["classes"].items()} == pytest.approx(shares, rel=1e-14)
    assert result.details["images_correct"] == pytest.approx(frame["correct"].mean(), rel=1e-14)
    any_of = frame.groupby("metadata")["correct"].any().mean()
    assert result.details["prompts_correct"] == pytest.approx(any_of, rel=1e-14)
    assert result.count == len(frame) and result.details["prompts"] == len(frame.groupby("metadata"))


def test_dpg_bench_is_the_score_of_its_last_line(tmp_path: Path) -> None:
    path = write_dpg(tmp_path / "dpg.txt", dpg_answers())
    text = path.read_text()
    result = added("dpg_bench", path)
    assert result.value == float(re.search(r"DPG-Bench score: (.+)", text)[1])
    level1, level2 = text.partition("L2 category")[0], text.partition("L2 category")[2]
    for name, part in result.details["classes"].items():
        assert part["score"] == float(re.search(rf"\t{name}: (.+)", level1)[1])
    assert result.details["subcategories"]["entity - part"] == float(re.search(r"entity - part: (.+)", level2)[1])
    assert result.count == 30 and set(result.details["classes"]) <= {
        "entity",
        "attribute",
        "relation",
        "global",
        "other",
    }


def test_four_images_in_one_picture_are_one_image_of_dpg_bench(tmp_path: Path) -> None:
    crops = {"a": [0.25, 0.5, 1.0, 0.75], "b": [1.0, 1.0, 0.0, 0.5]}
    lines = [f"out, 4/{name}.png, {', '.join(map(str, found))}, {np.mean(found)}" for name, found in crops.items()]
    text = "\n".join([*lines, "Model: out, 4", "L1 category scores:", f"DPG-Bench score: {62.5}"])
    (tmp_path / "dpg.txt").write_text(text)
    result = added("dpg_bench", tmp_path / "dpg.txt")
    assert (result.value, result.count, result.stderr) == (62.5, 2, 0.0)
    assert result.details["classes"] == {}


def test_hpsv3_is_the_mean_of_the_means_of_the_categories(tmp_path: Path) -> None:
    data = hps_file(hps_rewards())
    result = added("hpsv3", write_hps(tmp_path / "hps.json", data))
    assert result.value == data["statistics"]["OVERALL"]["mean"]
    means = {name: part["reward"] for name, part in result.details["classes"].items()}
    assert means == {
        name: data["statistics"][f"/home/ada/out/{name}"]["mean"] for name in ("Animals", "Food", "Science")
    }
    assert result.count == data["statistics"]["OVERALL"]["count"]


# ------------------------------------------------------------------------------------------------- standard errors


def test_the_stderr_of_geneval_is_the_binomial_one_for_one_image_a_prompt(tmp_path: Path) -> None:
    rows = geneval_rows(prompts=12, images=1)
    result = added("geneval", write_geneval(tmp_path / "r.jsonl", rows))
    by_tag = pandas.DataFrame(rows).groupby("tag")["correct"]
    errors = [np.std(part, ddof=1) / np.sqrt(len(part)) for _, part in by_tag]
    assert result.stderr == pytest.approx(np.sqrt(np.sum(np.square(errors))) / len(errors), rel=1e-12)


def test_copies_of_an_image_do_not_make_geneval_more_certain(tmp_path: Path) -> None:
    rows = geneval_rows(prompts=12, images=1)
    once, often = (added("geneval", write_geneval(tmp_path / f"{k}.jsonl", rows * k)) for k in (1, 4))
    assert often.stderr == pytest.approx(once.stderr, rel=1e-12) and often.value == pytest.approx(once.value, rel=1e-14)


def test_the_stderr_of_dpg_bench_is_that_of_a_mean_of_images(tmp_path: Path) -> None:
    answers = dpg_answers()
    scores = [100 * np.mean([value for _, value in found]) for found in answers.values()]
    result = added("dpg_bench", write_dpg(tmp_path / "dpg.txt", answers))
    assert result.stderr == pytest.approx(np.std(scores, ddof=1) / np.sqrt(len(scores)), rel=1e-12)


def test_the_stderr_of_hpsv3_is_that_of_a_mean_of_means(tmp_path: Path) -> None:
    rewards = hps_rewards()
    errors = [np.std([row["reward"] for row in rows], ddof=1) / np.sqrt(len(rows)) for rows in rewards.values()]
    result = added("hpsv3", write_hps(tmp_path / "hps.json", hps_file(rewards)))
    assert result.stderr == pytest.approx(np.sqrt(np.sum(np.square(errors))) / 3, rel=1e-12)


def test_lost_lines_of_images_cost_dpg_bench_its_stderr_and_not_its_score(tmp_path: Path) -> None:
    path = write_dpg(tmp_path / "dpg.txt", dpg_answers())
    whole = added("dpg_bench", path)
    path.write_text(path.read_text().partition("\n")[2])
    result = added("dpg_bench", path)
    assert (result.value, result.stderr) == (whole.value, None) and "some are missing" in result.notes[0]


# ---------------------------------------------------------------------------------- provenance, direction, comparison


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_number_has_direction_file_digest_and_tool(tmp_path: Path, name: str) -> None:
    path = one(tmp_path, name)
    result = added(name, path)
    assert not result.lower_is_better and result.encoder is None and name in OF_OTHER_TOOLS
    assert result.details["file"] == path.name and len(result.details["sha256"]) == 64
    signature = parse_signature(result.signature)
    assert signature.metric == name and signature.value("tool") == BENCHMARKS[name].tool
    assert signature.value("n") == str(result.count) and "ada" not in result.signature
    path.write_text(path.read_text() + "\n")
    assert added(name, path).details["sha256"] != result.details["sha256"]
    assert added(name, path).signature == result.signature


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_report_with_a_benchmark_is_a_sound_report(tmp_path: Path, name: str) -> None:
    both = add_scores(BASE, name, one(tmp_path, name))
    assert Report.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    with pytest.raises(InputError, match=f"has {name} already"):
        add_scores(both, name, one(tmp_path, name))


def changed_prompts(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


@pytest.mark.parametrize(
    ("name", "old", "new", "field"),
    [
        ("geneval", "a photo of counting 0", "a photo of three cats", "prompts"),
        ("geneval", '"tag":"counting"', '"tag":"colors"', "tasks"),
        ("dpg_bench", "/partiprompts3.png", "/other.png", "prompts"),
        ("hpsv3", "Food 3", "Bread", "prompts"),
        ("hpsv3", "out/Food", "out/Bread", "tasks"),
    ],
)
def test_other_prompts_or_tasks_are_not_comparable(tmp_path: Path, name: str, old: str, new: str, field: str) -> None:
    first = add_scores(BASE, name, one(tmp_path, name))
    second = add_scores(BASE, name, changed_prompts(one(tmp_path, name), old, new))
    assert compare_reports(first, first).is_comparable
    pair = next(pair for pair in compare_reports(first, second).pairs if pair.a.metric == name)
    assert not pair.is_comparable and field in [difference.field for difference in pair.differences]


def test_more_images_of_the_same_prompts_are_comparable(tmp_path: Path) -> None:
    first = add_scores(BASE, "geneval", write_geneval(tmp_path / "a", geneval_rows(images=4)))
    second = add_scores(BASE, "geneval", write_geneval(tmp_path / "b", geneval_rows(images=2)))
    pair = next(pair for pair in compare_reports(first, second).pairs if pair.a.metric == "geneval")
    assert pair.is_comparable and [difference.field for difference in pair.differences] == ["n"]


def test_the_page_shows_two_models_with_their_differences_and_tasks(tmp_path: Path) -> None:
    sets = {"base": BASE, "new": report(number("fd", 1.5))}
    files = [str(write_geneval(tmp_path / f"{seed}", geneval_rows(prompts=40, seed=seed))) for seed in (0, 3)]
    both = add_all(sets, {"geneval": files})
    row = next(row for row in number_table(both).rows if row.key == "geneval")
    assert row.label == "GenEval" and row.arrow == "↑" and row.entries[1].verdict
    page = render_page(both)
    assert "GenEval: by class</h2>" in page and ">new − base<" in page and "djghosh13/geneval" in page
    assert "/home/ada" not in page


def test_a_part_of_a_benchmark_says_so(tmp_path: Path) -> None:
    words = {"geneval": "the whole benchmark has 553 of 6", "dpg_bench": "has 1,065", "hpsv3": "has 12"}
    for name, text in words.items():
        assert text in " ".join(added(name, one(tmp_path, name)).notes)


def test_a_whole_benchmark_needs_no_note(tmp_path: Path) -> None:
    rows = [row for row in geneval_rows(prompts=90, images=1) if not re.search(r"counting [01]$", row["prompt"])]
    assert len(rows) == 553 and added("geneval", write_geneval(tmp_path / "g", rows)).notes == ()
    assert added("dpg_bench", write_dpg(tmp_path / "d", dpg_answers(1065))).notes == ()


# ---------------------------------------------------------------------------------------------------- what is refused


def geneval_text(**changes: Any) -> str:
    row = {**geneval_rows()[0], **changes}
    return json.dumps({key: value for key, value in row.items() if value is not None})


def hps_text(change: Callable[[dict[str, Any]], Any]) -> str:
    data = hps_file(hps_rewards())
    return json.dumps(change(data) or data)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("geneval", "", "holds no results of GenEval: it is empty"),
        ("geneval", "a photo", "line 1 is not JSON"),
        ("geneval", "[1]", "line 1 is no table"),
        ("geneval", geneval_text() + "\n" + geneval_text(tag=None), "line 2 has no tag"),
        ("geneval", geneval_text(correct=None), "line 1 has no correct"),
        ("geneval", geneval_text(correct="yes"), "tag or correct of line 1 is no answer"),
        ("geneval", geneval_text(metadata=None, prompt=None), "line 1 has no metadata"),
        ("dpg_bench", "a.png, 0.5, 0.5\n", "so that the run did not end"),
        ("dpg_bench", "a.png, 0.5, 0.5\nModel: a\nDPG-Bench score: nan\n", "its score is nan"),
        ("dpg_bench", "Model: a\nDPG-Bench score: 80.0\n", "it has no line of an image"),
        ("hpsv3", "nothing", "holds no results of HPSv3: it is not JSON"),
        ("hpsv3", "[]", "it has no statistics"),
        ("hpsv3", hps_text(lambda data: data["data"]), "it is the part of one machine"),
        ("hpsv3", hps_text(lambda data: data["statistics"].pop("OVERALL") and None), "OVERALL has no mean"),
        ("hpsv3", hps_text(lambda data: {"statistics": {"OVERALL": {"mean": 1.0}}}), "no category has images"),
        ("hpsv3", hps_text(lambda data: data["statistics"]["OVERALL"].update(mean=3.0)), "contradicts itself"),
    ],
)
def test_another_file_is_one_sentence(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        added(name, tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("other", BENCHMARKS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_benchmark_is_read_as_another(tmp_path: Path, name: str, other: str) -> None:
    if name != other:
        with pytest.raises(InputError, match="holds no results of"):
            added(name, one(tmp_path, other))


def test_files_that_are_no_text_or_not_there_and_unknown_names(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    for path, words in ((tmp_path / "x", "is no text"), (tmp_path / "y", "does not exist"), (tmp_path, "Cannot read")):
        with pytest.raises(InputError, match=words):
            added("geneval", path)
    with pytest.raises(InputError, match="Unknown benchmark 'genevl'; did you mean 'geneval'"):
        added("genevl", tmp_path / "x")


def test_one_file_for_each_set_or_a_dash(tmp_path: Path) -> None:
    sets, path = {"a": BASE, "b": BASE}, str(one(tmp_path, "geneval"))
    found = add_all(sets, {"GenEval": ["-", path]})
    assert [len(report) for report in found.values()] == [1, 2]
    with pytest.raises(InputError, match=r"geneval has 1 file, and there are 2 sample sets \(a, b\)"):
        add_all(sets, {"geneval": [path]})
