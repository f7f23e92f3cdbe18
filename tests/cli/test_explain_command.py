"""`fdr explain`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from generator_worlds import Classes, weights
from PIL import Image
from worlds import images, npz


@pytest.fixture
def plain(tmp_path: Path) -> list[object]:
    labels = np.arange(24) % 2
    samples = npz(tmp_path / "s.npz", images(24, seed=1, side=32), arr_1=labels)
    return [samples, "--ref", npz(tmp_path / "real.npz", images(30, side=32)), "--reps", "random", "-q"]


def test_csv_and_json(fdr_command, plain: list[object], tmp_path: Path) -> None:
    got = fdr_command("explain", *plain, "--csv", "i.csv", "--json", "e.json")
    assert got.code == 0, got.err
    lines = list(csv.DictReader((tmp_path / "i.csv").read_text().splitlines()))
    data = json.loads((tmp_path / "e.json").read_text())
    assert [line["id"] for line in lines] == [image["id"] for image in data["encoders"][0]["images"]]
    assert len(lines) == 24 and {line["class"] for line in lines} == {"0", "1"}
    values = [float(line["influence"]) for line in lines]
    assert values == sorted(values, reverse=True) and values[0] > 0 > values[-1]
    assert {row["name"]: row["count"] for row in data["encoders"][0]["classes"]} == {"0": 12, "1": 12}
    assert fdr_command("eval", *plain, "--json", "eval.json").code == 0
    assert data["report"]["results"] == json.loads((tmp_path / "eval.json").read_text())["results"]
    alone = fdr_command("explain", *plain, "--json", "-")
    assert json.loads(alone.out) == data


def test_the_terminal_shows_both_ends(fdr_command, plain: list[object]) -> None:
    got = fdr_command("explain", *plain, "--show", 2)
    assert got.code == 0 and "random: FD " in got.out
    assert "The worst 1 % (1 image) carry" in got.out
    ranks = [line.split()[0] for line in got.out.splitlines() if "arr_0[" in line]
    assert ranks == ["1", "2", "23", "24"]
    assert "note: random: the reference is not images with labels" in got.out
    assert "24 samples for" in got.out


def test_the_closest_images_are_listed_and_written(fdr_command, plain: list[object], tmp_path: Path) -> None:
    got = fdr_command("explain", *plain, "--closest", 3)
    assert got.code == 0, got.err
    assert "closest image" in got.out and "The median distance of all images" in got.out
    assert fdr_command("explain", *plain, "--closest", 3, "--json", "e.json").code == 0
    closest = json.loads((tmp_path / "e.json").read_text())["encoders"][0]["closest"]
    distances = [image["distance"] for image in closest["images"]]
    assert distances == sorted(distances) and len(distances) == 3 and distances[-1] <= closest["median_distance"]
    planned = fdr_command("explain", *plain, "--closest", 3, "--dry-run")
    assert "distances of all 24 images to all reference images" in planned.out


def test_several_encoders_have_a_part_each(fdr_command, plain: list[object]) -> None:
    got = fdr_command("explain", *plain, "--reps", "random:1,random:2")
    assert got.code == 0 and "random:1: FD" in got.out and "random:2: FD" in got.out, got.err


def test_dry_run_measures_nothing(fdr_command, plain: list[object], own_home: Path) -> None:
    got = fdr_command("explain", *plain, "--dry-run", "--heat-maps", "--picture", "p.png")
    assert got.code == 0 and "influence of each of 24 images on FD" in got.out
    assert "from last_map of random (8 x 8)" in got.out
    assert not (own_home / "fdr" / "features").exists()


def test_a_generator_is_explained_as_its_samples(fdr_command, tmp_path: Path) -> None:
    """The classes of its samples are known, and an image is made again for the picture and its heat-map."""
    real = npz(tmp_path / "real.npz", images(30, side=4))
    made = ["--gen", weights(tmp_path / "g.safetensors", Classes), "--arch", "generator_worlds:Classes", "-n", 20]
    options = ["--ref", real, "--reps", "random", "-q", "--seed", 3]
    got = fdr_command("explain", *made, *options, "--show", 2, "--heat-maps", "--picture", "p.png", "--json", "e.json")
    assert got.code == 0, got.err
    assert fdr_command("sample", *made, "--seed", 3, "-o", "s.npz", "-q").code == 0
    same = fdr_command("explain", "s.npz", *options, "--json", "same.json")
    assert same.code == 0, same.err
    (one,), (other,) = (json.loads((tmp_path / name).read_text())["encoders"] for name in ("e.json", "same.json"))
    assert [image["row"] for image in one["images"]] == [image["row"] for image in other["images"]]
    assert sum(row["count"] for row in one["classes"]) == 20 and len(one["classes"]) > 1
    assert "heat_map" in one["images"][0] and (tmp_path / "p.png").exists()


def test_no_set_or_several_are_refused(fdr_command, plain: list[object]) -> None:
    nothing = fdr_command("explain")
    assert nothing.code == 2 and "Name a sample set, or a generator with --gen" in nothing.err
    several = fdr_command("explain", "other.npz", *plain)
    assert several.code == 2 and "explains one sample set, and 2 were named" in several.err
    prompts = fdr_command("explain", *plain, "--prompts", "p.txt")
    assert prompts.code == 2 and "--prompts goes with --gen" in prompts.err
    assert "No such option" in fdr_command("explain", "a.npz", "--metrics", "kid").err


def test_the_picture_pairs_images_with_their_nearest(fdr_command, plain: list[object], tmp_path: Path) -> None:
    got = fdr_command("explain", *plain, "--show", 3, "--picture", "p.png", "--json", "e.json")
    assert got.code == 0, got.err
    assert "picture: p.png" in got.out
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (4 * 132 + 4, 18 + 3 * 146 + 4)
    listed = json.loads((tmp_path / "e.json").read_text())["encoders"][0]["images"]
    assert [("nearest" in image) for image in listed] == [True] * 3 + [False] * 18 + [True] * 3


def test_heat_maps_are_in_the_picture_and_in_json(fdr_command, plain: list[object], tmp_path: Path) -> None:
    got = fdr_command("explain", *plain, "--show", 3, "--heat-maps", "--picture", "p.png", "--json", "e.json")
    assert got.code == 0, got.err
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (6 * 132 + 4, 18 + 3 * 146 + 4)
    (one,) = json.loads((tmp_path / "e.json").read_text())["encoders"]
    assert one["heat_map_layer"] == "last_map"
    maps = [np.array(image["heat_map"]["values"]) for image in one["images"] if "heat_map" in image]
    assert {array.shape for array in maps} == {(8, 8)} and len(maps) == 6
    assert all(array.min() == 0 and array.max() == 1 for array in maps)
    several = fdr_command("explain", *plain, "--reps", "random:1", "--heat-maps", "--picture", "q.png")
    assert several.code == 0, several.err
    with Image.open(tmp_path / "q.png") as picture:
        assert picture.size == (12 * 132 + 4, 18 + 13 + 8 * 146 + 4)


def test_heat_maps_that_nothing_shows_or_that_no_encoder_has_are_refused(
    fdr_command, plain: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = fdr_command("explain", *plain, "--heat-maps")
    assert alone.code == 2 and "--heat-maps goes with --picture, which shows them, or --json" in alone.err
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flat.py").write_text("def make():\n    return lambda images: images.flatten(1)[:, :4]\n")
    flat = fdr_command("explain", *plain, "--reps", "py:flat:make", "--heat-maps", "--picture", "p.png")
    assert flat.code == 2 and "Encoder 'py:flat:make' has no spatial output for heat-maps" in flat.err
    assert len(flat.err.strip().splitlines()) == 1
