"""Sets of captions by name: the same ones on every machine, from the published files, and warnings for other files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fdr.errors import FdrWarning, InputError
from fdr.images import CAPTION_SETS, read_captions, select_captions
from fdr.images import caption_sets as sets

GOLDEN_IMAGES, GOLDEN_CAPTIONS = [1, 2, 3, 4, 7], [0, 1, 2, 1, 0]


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in COCO's format with 3 captions of each of 8 images, of which a set takes 5 images."""
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "height": 4, "width": 6} for i in range(8, 0, -1)]
    annotations = [
        {"id": 100 * i + j, "image_id": i, "caption": f"image {i}, caption {j}. "}
        for j in range(3)
        for i in range(1, 9)
    ]
    monkeypatch.setitem(sets.CAPTION_SETS, "coco-30k", replace(CAPTION_SETS["coco-30k"], count=5, total=8))
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps({"info": {}, "licenses": [], "images": images, "annotations": annotations}))
    return path


def test_coco_takes_one_caption_of_each_drawn_image(coco: Path) -> None:
    found = select_captions(f"coco-30k:{coco}")
    assert len(found) == len(set(found.names)) == 5 and found.names == sorted(found.names)
    assert found.images == [f"{name}.jpg" for name in found.names]
    for name, prompt in zip(found.names, found.prompts, strict=True):
        assert prompt.startswith(f"image {int(name[-3:])}, caption ")
    # the draw is the same in every version: NumPy's PCG64 promises its stream
    assert [int(name[-1]) for name in found.names] == GOLDEN_IMAGES
    assert [int(prompt[-2]) for prompt in found.prompts] == GOLDEN_CAPTIONS


def test_the_draw_depends_on_the_seed_alone_and_reaches_every_caption(coco: Path) -> None:
    data = json.loads(coco.read_text())
    data["annotations"].reverse()
    data["images"].reverse()
    first = select_captions(f"coco-30k:{coco}")
    coco.write_text(json.dumps(data))
    assert select_captions(f"coco-30k:{coco}").digest == first.digest
    drawn = [select_captions(f"coco-30k:{coco}", seed) for seed in range(40)]
    assert len({one.digest for one in drawn}) > 30
    times = Counter(prompt for one in drawn for prompt in one.prompts)
    assert len(times) == 24 and max(times.values()) < 4 * min(times.values()) + 8


def test_fewer_images_would_be_a_part_of_the_draw(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = select_captions(f"coco-30k:{coco}")
    monkeypatch.setitem(sets.CAPTION_SETS, "coco-30k", replace(sets.CAPTION_SETS["coco-30k"], count=3))
    part = select_captions(f"coco-30k:{coco}")
    assert set(part.prompts) < set(whole.prompts)


def test_mjhq_takes_every_prompt_with_its_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sets.CAPTION_SETS, "mjhq-30k", replace(CAPTION_SETS["mjhq-30k"], count=2, total=2))
    path = tmp_path / "meta_data.json"
    path.write_text(
        json.dumps({"ff0a": {"category": "logo", "prompt": "a fox"}, "01b2": {"category": "art", "prompt": "x"}})
    )
    found = select_captions(f"mjhq-30k:{path}")
    assert (found.names, found.prompts, found.categories) == (["ff0a", "01b2"], ["a fox", "x"], ["logo", "art"])
    assert found.digest == read_captions(path).digest


@pytest.mark.filterwarnings("default:.*:fdr.errors.FdrWarning")
def test_other_files_are_one_sentence(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "own.csv"
    table.write_text("file_name,prompt\na.jpg,a dog\n")
    assert select_captions(table).prompts == ["a dog"]
    with pytest.raises(InputError, match=r"own\.csv does not name the images of its captions, as COCO's"):
        select_captions(f"coco-30k:{table}")
    with pytest.raises(InputError, match="Unknown set of captions 'coco-3k'; did you mean 'coco-30k'"):
        select_captions(f"coco-3k:{coco}")
    with pytest.raises(InputError, match="does not exist"):
        select_captions("coco-30k:nowhere.json")
    monkeypatch.setitem(sets.CAPTION_SETS, "coco-30k", replace(sets.CAPTION_SETS["coco-30k"], count=9))
    with pytest.raises(InputError, match="has captions of 8 images, fewer than the 9 of the captions of COCO-30k"):
        select_captions(f"coco-30k:{coco}")
    monkeypatch.setitem(sets.CAPTION_SETS, "coco-30k", replace(sets.CAPTION_SETS["coco-30k"], count=5, total=40_504))
    with pytest.warns(FdrWarning, match="has captions of 8 images, and .* are chosen from 40,504"):
        select_captions(f"coco-30k:{coco}")


def test_a_csv_of_captions_is_the_same_captions(coco: Path, tmp_path: Path) -> None:
    found = select_captions(f"coco-30k:{coco}")
    (tmp_path / "p.csv").write_text(found.to_csv())
    assert read_captions(tmp_path / "p.csv").digest == found.digest
    assert found.to_csv().splitlines()[0] == "file_name,prompt,real_image"
