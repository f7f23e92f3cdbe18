"""`fdr captions`, and prompts and protocols of text-to-image models on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import folder, images

from fdr.images import CAPTION_SETS, read_captions
from fdr.images import caption_sets as sets


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sets.CAPTION_SETS, "coco-30k", replace(CAPTION_SETS["coco-30k"], count=3, total=6))
    names = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in range(6)]
    annotations = [{"id": 10 * i + j, "image_id": i, "caption": f"{i} {j}"} for i in range(6) for j in range(5)]
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": names, "annotations": annotations}))
    return tmp_path / "captions_val2014.json"


def test_the_captions_of_a_set_are_written_as_csv(fdr_command, coco: Path, tmp_path: Path) -> None:
    got = fdr_command("captions", f"coco-30k:{coco}", "-o", "p.csv")
    assert got.code == 0 and got.out.startswith("wrote p.csv: 3 prompts, digest ")
    found = read_captions(tmp_path / "p.csv")
    assert found.digest.startswith(got.out.split()[-1]) and len(found) == 3
    printed = fdr_command("captions", f"coco-30k:{coco}", "-o", "-")
    assert printed.out == (tmp_path / "p.csv").read_text()


def test_the_seed_decides_the_draw(fdr_command, coco: Path) -> None:
    draws = {fdr_command("captions", f"coco-30k:{coco}", "-o", "-", "--seed", str(seed)).out for seed in range(3)}
    assert len(draws) == 3
    assert fdr_command("captions", f"coco-30k:{coco}", "-o", "-").out in draws


def test_a_wrong_file_is_one_sentence_and_an_input_is_not_replaced(fdr_command, coco: Path, tmp_path: Path) -> None:
    got = fdr_command("captions", "nowhere.csv", "-o", "p.csv")
    assert got.code == 2 and "nowhere.csv does not exist" in got.err
    (tmp_path / "own.csv").write_text("prompt\na\n")
    got = fdr_command("captions", "own.csv", "-o", "own.csv")
    assert got.code == 2 and "is an input of this command" in got.err


def test_eval_says_what_a_metric_or_protocol_misses(fdr_command, tmp_path: Path) -> None:
    folder(tmp_path / "s", images(4))
    got = fdr_command("eval", "s", "--metrics", "clip_score", "--reps", "random")
    assert got.code == 2 and "give them with --prompts, a file of captions" in got.err
    (tmp_path / "p.txt").write_text("a\nb\nc\nd\n")
    got = fdr_command("eval", "s", "--metrics", "clip_score", "--reps", "random", "--prompts", "p.txt")
    assert got.code == 2 and "needs an encoder with a text tower, and random has none" in got.err
    got = fdr_command("eval", "s", "--protocol", "coco-30k", "--prompts", "p.txt", "--reps", "random")
    assert got.code == 2 and "compares with all 40,504 images of COCO val2014; give these images with --ref" in got.err
    for own in (("--size", "8"), ("--crop", "none")):  # no crop at all is a choice, too
        got = fdr_command("eval", "s", "--protocol", "coco-30k", "--ref", "s", "--reps", "random", *own)
        assert got.code == 2 and "sets --size and --crop" in got.err
