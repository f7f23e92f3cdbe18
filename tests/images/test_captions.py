"""Captions: every format is read alike, prompts find their images, and wrong files are one clear sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fdr.errors import InputError
from fdr.images import Captions, read_captions

PROMPTS = ["a red bus", 'two dogs, "asleep"', "ein grünes Haus"]
NAMES = ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
CATEGORIES = ["cars", "animals", "houses"]


def coco(captions: list[tuple[int, int, str]]) -> dict[str, Any]:
    """A file of COCO's captions, with (id, image_id, caption) for each."""
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in sorted({image for _, image, _ in captions})]
    return {
        "info": {},
        "images": images,
        "annotations": [{"id": i, "image_id": image, "caption": text} for i, image, text in captions],
    }


def records() -> list[dict[str, str]]:
    return [{"file_name": n, "caption": p, "category": c} for n, p, c in zip(NAMES, PROMPTS, CATEGORIES, strict=True)]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def table(delimiter: str) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    rows = [["category", "file_name", "prompt"], *zip(CATEGORIES, NAMES, map(quoted, PROMPTS), strict=True)]
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.jsonl", "\n".join(json.dumps(record) for record in records()) + "\n"),
        ("captions.json", records()),
        ("captions.csv", table(",")),
        ("captions.csv", "\ufeff" + table(",").replace("\n", "\r\n")),
        ("captions.tsv", table("\t")),
        ("meta_data.json", {r["file_name"]: {"category": r["category"], "prompt": r["caption"]} for r in records()}),
    ],
)
def test_every_format_says_the_same(tmp_path: Path, name: str, content: Any) -> None:
    found = read_captions(write(tmp_path / name, content))
    assert (found.prompts, found.names, found.categories) == (PROMPTS, NAMES, CATEGORIES)
    assert found.has_names
    assert found.digest == Captions("other", PROMPTS, NAMES, CATEGORIES).digest


def test_a_text_has_one_prompt_a_line(tmp_path: Path) -> None:
    found = read_captions(write(tmp_path / "prompts.txt", " a bus \r\na dog\n\n"))
    assert (found.prompts, found.names, found.categories) == (["a bus", "a dog"], ["0", "1"], None)
    assert not found.has_names


def test_coco_is_in_the_order_of_ids_and_knows_the_images(tmp_path: Path) -> None:
    data = coco([(9, 42, " a cat\n"), (3, 73, "a bus"), (5, 42, "a grey cat")])
    found = read_captions(write(tmp_path / "captions_val2014.json", data))
    assert found.names == ["3", "5", "9"]
    assert found.prompts == ["a bus", "a grey cat", "a cat"]
    assert found.images == [f"COCO_val2014_{i:012d}.jpg" for i in (73, 42, 42)]


@pytest.mark.parametrize("field", ["names", "prompts", "categories"])
def test_digest_covers_the_contents(field: str) -> None:
    fields = {"prompts": PROMPTS, "names": NAMES, "categories": CATEGORIES}
    other = fields | {field: [*fields[field][:2], "other"]}
    assert Captions("x", **fields).digest != Captions("x", **other).digest


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("c.jsonl", '{"text": "a"}\n{"text": 3}', "Line 2 of .* has 3 as its text, where a text is expected"),
        ("c.jsonl", '{"text": "a"}\n{"text"', "Line 2 of .* is not JSON"),
        ("c.jsonl", '{"prompt": "a", "text": "b"}', "has both prompt and text, where exactly one"),
        ("c.jsonl", '{"label": "a"}', "has none of prompt, caption or text"),
        ("c.jsonl", '["a"]', "Line 1 of .* is \\['a'\\], where an object with a prompt is expected"),
        ("c.jsonl", '{"text": "a", "id": 1}\n{"text": "b"}', "Line 2 of .* has no name of its image, unlike"),
        ("c.jsonl", '{"text": "a"}\n{"text": "b", "category": "x"}', "Line 2 of .* has a category, unlike"),
        ("c.jsonl", '{"text": "a", "id": 1}\n{"text": "b", "id": 1}', "several prompts for each of 1 names \\(1\\)"),
        ("c.jsonl", "", "has no prompts"),
        ("c.jsonl", '{"text": "\\ud800"}', "The prompt '0' of .* is no Unicode text; expected"),
        ("c.txt", "x" * 20_001, "The prompt '0' of .* has 20,001 characters; expected a text of up to 20,000"),
        ("c.txt", "a\n\nb\n", "1 of 3 prompts of .* are empty \\(1\\)"),
        ("c.csv", "a bus\na dog\n", "has no column prompt, caption or text, but 'a bus'"),
        ("c.csv", "prompt,id\na bus,1,2\n", "Record 2 of .* has 3 fields, and its header 2"),
        ("c.csv", "prompt,prompt\na,b\n", "two columns of one name"),
        ("c.csv", 'prompt\n"a\n', "is not a table of captions"),
        ("c.csv", "", "is empty; its first line names the columns"),
        ("c.json", {"info": 3}, "holds no captions: expected a list"),
        ("c.json", {"annotations": [{"id": "x", "image_id": 1, "caption": "a"}]}, "has 'x' as its id, where a whole"),
        ("c.json", {"annotations": [{"id": 1, "image_id": 1}]}, "Annotation 0 of .* has None as its caption"),
        ("c.json", coco([(1, 2, "a")]) | {"images": [{"id": 7, "file_name": "x"}]}, "names the image 2, which"),
        ("c.json", coco([(1, 2, "a"), (1, 3, "b")]), "several prompts for each of 1 names \\(1\\)"),
        ("c.parquet", "", "Captions are read from .jsonl, .ndjson, .json, .csv, .tsv, .txt"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path: Path, name: str, content: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        read_captions(write(tmp_path / name, content))
    assert re.fullmatch(r"[^\n]+\.", str(error.value))


def test_missing_files_and_other_encodings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_captions(tmp_path / "captions.txt")
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "folder.txt").mkdir()
        read_captions(tmp_path / "folder.txt")
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 \(byte 2\)"):
        read_captions(tmp_path / "latin.txt")


def named(names: list[str]) -> Captions:
    return Captions("captions.csv", [f"prompt {name}" for name in names], names)


def test_images_find_their_prompts_by_name() -> None:
    captions = named(NAMES)
    assert captions.rows_of(["b/1.png", "a/1.png", "a/2.png"], "samples") == [2, 0, 1]
    hashes = named(["cd34", "ab12.v2"])
    assert hashes.rows_of(["animals/ab12.v2.png", "logo/cd34.png"], "samples") == [1, 0]


def test_rows_of_arrays_have_the_prompt_at_their_place() -> None:
    assert named(NAMES).rows_of(["arr_0[0]", "arr_0[1]", "arr_0[2]"], "samples.npz") == [0, 1, 2]
    unnamed = Captions("prompts.txt", ["a", "b"], ["0", "1"], has_names=False)
    assert unnamed.rows_of(["x.png", "y.png"], "samples") == [0, 1]


def test_numbers_in_names_count_as_numbers() -> None:
    assert named(["17", "4", "100"]).rows_of(["000004.png", "000017.png", "000100.png"], "samples") == [1, 0, 2]
    unnamed = Captions("prompts.txt", ["a", "b", "c"], ["0", "1", "2"], has_names=False)
    assert unnamed.rows_of(["10.png", "2.png", "9.png"], "samples") == [2, 0, 1]


def test_partners_that_are_missing_are_counted_and_named() -> None:
    captions = named(NAMES)
    with pytest.raises(InputError, match=r"1 of 3 images of samples have no prompt in captions.csv \(c/9.png\)"):
        captions.rows_of(["a/1.png", "b/1.png", "c/9.png"], "samples")
    with pytest.raises(InputError, match=r"2 of 3 prompts of captions.csv have no image in samples \(a/2.jpg, b/1"):
        captions.rows_of(["a/1.png"], "samples")
    with pytest.raises(InputError, match=r"captions\.csv has 3 prompts and samples.npz 2 images, which are matched by"):
        captions.rows_of(["arr_0[0]", "arr_0[1]"], "samples.npz")
    with pytest.raises(InputError, match=r"several images for the prompt called 'x\.png'"):
        named(["x.png"]).rows_of(["x.jpg", "x.png"], "samples")
    with pytest.raises(InputError, match=r"several names that are 'x' but for their ending"):
        named(["x.png", "x.jpg"]).rows_of(["x.jpg"], "samples")


def test_taking_captions_keeps_all_their_fields() -> None:
    found = Captions("x", PROMPTS, NAMES, CATEGORIES, images=NAMES).take([2, 0])
    assert found == Captions(
        "x", [PROMPTS[2], PROMPTS[0]], ["b/1.jpg", "a/1.jpg"], ["houses", "cars"], images=["b/1.jpg", "a/1.jpg"]
    )
    assert Captions("x", PROMPTS, ["0", "1", "2"], has_names=False).take([2, 0]).names == ["0", "1"]
