"""The influence of images on FD: leave-one-out recomputation is the oracle, written here without fdr.frechet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
from generator_worlds import Classes, generator
from PIL import Image
from worlds import DIM, TinyEncoder, folder, images, npz

import fdr
from fdr.errors import InputError
from fdr.explanation import Explanation, write_picture
from fdr.frechet import Moments
from fdr.generators import GeneratorSource
from fdr.images import tiles_at
from fdr.reports import format_number

COUNT = 300


def features_of(array: np.ndarray) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch in fdr.extract(list(array), TinyEncoder())]).astype(np.float64)


def fd_of(samples: np.ndarray, reference: np.ndarray) -> float:
    """FD by SciPy's square root of a matrix."""
    a, b = (np.cov(side, rowvar=False) for side in (samples, reference))
    shift = samples.mean(0) - reference.mean(0)
    return float(shift @ shift + np.trace(a + b) - 2 * np.trace(scipy.linalg.sqrtm(a @ b)).real)


def drawn() -> np.ndarray:
    """Samples with two images that are far from all others."""
    found = images(COUNT, seed=1)
    found[7], found[8] = 255, 0
    return found


@pytest.fixture(scope="module")
def explained() -> Explanation:
    return fdr.explain(list(drawn()), list(images(400)), TinyEncoder())


@pytest.mark.filterwarnings("default:.*one colour:fdr.errors.FdrWarning")
class TestInfluences:
    def test_they_are_how_much_fd_falls_without_the_image(self, explained: Explanation) -> None:
        own, other = features_of(drawn()), features_of(images(400))
        (found,) = explained.encoders
        whole = fd_of(own, other)
        assert found.fd == pytest.approx(whole, rel=1e-9)
        places = [*found.ranking[:6], *found.ranking[140:160:4], *found.ranking[-6:]]
        exact = np.array([whole - fd_of(np.delete(own, place, 0), other) for place in places])
        size = np.abs(exact).max()
        assert np.abs(found.influences[places] - exact).max() < 0.15 * size
        assert (np.sign(exact[:6]) == 1).all() and (np.sign(exact[-6:]) == -1).all()

    def test_the_error_falls_as_the_square_of_the_number_of_images(self) -> None:
        """To first order in 1 / N: four times the images, a sixteenth of the error of each influence."""
        generator = np.random.default_rng(3)
        reference = generator.normal(size=(4000, 6)) * 1.3 + 0.2
        own = generator.normal(size=(2000, 6))
        errors = []
        for count in (500, 2000):
            part = own[:count]
            moments = Moments.from_features(part)
            found = fdr_influences(moments, part, reference)
            exact = np.array(
                [fd_of(part, reference) - fd_of(np.delete(part, place, 0), reference) for place in range(0, 40)]
            )
            errors.append(np.abs(found[:40] - exact).max())
        assert errors[1] < errors[0] / 8

    def test_they_add_up_to_nothing(self, explained: Explanation) -> None:
        (found,) = explained.encoders
        assert found.influences.sum() == pytest.approx(0, abs=1e-12 * COUNT)

    def test_the_worst_percent(self, explained: Explanation) -> None:
        (found,) = explained.encoders
        worst = found.ranking[:3]
        above = found.influences[found.influences > 0]
        assert found.worst_count == 3
        assert found.worst_share == pytest.approx(found.influences[worst].sum() / above.sum())
        rest = np.delete(features_of(drawn()), worst, 0)
        assert found.fd_without_worst == pytest.approx(fd_of(rest, features_of(images(400))), rel=1e-9)

    def test_moments_as_the_reference_give_the_same(self, explained: Explanation) -> None:
        moments = Moments.from_features(features_of(images(400)).astype(np.float32))
        found = fdr.explain(list(drawn()), moments, TinyEncoder()).encoders[0]
        np.testing.assert_allclose(found.influences, explained.encoders[0].influences, rtol=1e-9, atol=1e-15)

    def test_a_small_set_keeps_its_ends_apart(self, explained: Explanation) -> None:
        worst, best = explained.encoders[0].ends(COUNT)
        assert len(worst) == len(best) == COUNT // 2 and not set(worst) & set(best)


def fdr_influences(moments: Moments, rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The same formula on features that no encoder made."""
    from dataclasses import replace

    from fdr.frechet import fd_influence

    found = fd_influence(replace(moments, rows=rows), Moments.from_features(reference))
    return found.samples / (len(rows) - 1)


@pytest.mark.filterwarnings("default:.*one colour:fdr.errors.FdrWarning")
def test_bad_images_are_left_out_and_rows_stay(tmp_path: Path) -> None:
    place = folder(tmp_path / "s", images(40, seed=1))
    (place / "0003.png").write_bytes(b"no image")
    options = fdr.ImageOptions(on_bad="skip", max_bad=0.5)
    found = fdr.explain(place, list(images(50)), TinyEncoder(), image_options=options)
    rows = sorted(line["row"] for line in found.ranked(found.encoders[0]))
    assert rows == [row for row in range(40) if row != 3]
    assert all(line["id"] == f"{line['row']:04d}.png" for line in found.ranked(found.encoders[0]))


@pytest.mark.filterwarnings("default:.*one colour:fdr.errors.FdrWarning")
def test_the_table_as_csv_and_json(explained: Explanation) -> None:
    lines = list(csv.DictReader(io.StringIO(explained.to_csv())))
    data = json.loads(json.dumps(explained.to_dict(), allow_nan=False))
    assert data["schema"] == "fdr-explain/1" and fdr.Report.from_dict(data["report"])["fd", "tiny"].value
    (one,) = data["encoders"]
    assert [int(line["row"]) for line in lines] == [image["row"] for image in one["images"]]
    assert [float(line["influence"]) for line in lines] == [image["influence"] for image in one["images"]]
    assert [image["rank"] for image in one["images"]] == list(range(1, COUNT + 1))
    assert lines[0]["class"] == "" and one["classes"] is None and "no labels" in one["notes"][0]


@pytest.mark.filterwarnings("default:.*one colour:fdr.errors.FdrWarning")
def test_a_notebook_shows_the_worst_images(explained: Explanation) -> None:
    (found,) = explained.encoders
    text = explained._repr_html_()
    first, *_ = explained.ranked(found)
    assert text.count("<tr>") == 11 and f"<td>{first['id']}</td>" in text and "script" not in text
    assert repr(explained).startswith("<Explanation of ") and len(repr(explained)) < 200
    assert repr(found) == f"<EncoderInfluences {found.encoder}: FD {format_number(found.fd)}, {len(found.rows)} images>"


@pytest.mark.filterwarnings("default:.*one colour:fdr.errors.FdrWarning")
def test_a_data_frame_has_a_row_for_each_image(explained: Explanation) -> None:
    pytest.importorskip("pandas")
    frame = explained.to_pandas()
    lines = list(csv.DictReader(io.StringIO(explained.to_csv())))
    assert list(frame.columns) == list(lines[0]) and frame.id.tolist() == [line["id"] for line in lines]
    assert frame.influence.tolist() == [float(line["influence"]) for line in lines]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Class 1 of the samples is darker than that of the reference; class 2 is small."""
    place = tmp_path_factory.mktemp("sets")
    labels = np.array([0, 1] * 120 + [2] * 10)
    own = images(250, seed=1)
    own[labels == 1] //= 2
    return npz(place / "s.npz", own, arr_1=labels), npz(place / "r.npz", images(250), arr_1=labels)


class TestClasses:
    def test_the_class_that_raises_fd_comes_first(self, sets: tuple[Path, Path]) -> None:
        found = fdr.explain(*sets, TinyEncoder())
        one = found.encoders[0]
        assert one.classes is not None and found.labels is not None
        assert one.classes[0].name == "1" and one.classes[0].influence > 0
        by_name = {row.name: row for row in one.classes}
        for name, row in by_name.items():
            rows = [line["influence"] for line in found.ranked(one) if line["class"] == name]
            assert row.influence == pytest.approx(sum(rows)) and row.count == len(rows) == row.reference_count

    def test_debiased_fd_of_large_classes_is_that_of_the_metric(self, sets: tuple[Path, Path]) -> None:
        one = fdr.explain(*sets, TinyEncoder()).encoders[0]
        assert one.classes is not None
        report = fdr.evaluate(*sets, TinyEncoder(), "fd_per_class_debiased", stderr=False)
        expected = report["fd_per_class_debiased", "tiny"].details["classes"]
        values = {row.name: row.fd_debiased for row in one.classes}
        assert values == {"0": expected["0"]["fd"], "1": expected["1"]["fd"], "2": None}
        assert values["1"] > values["0"]  # type: ignore[operator]
        assert "1 of 3 classes have too few images" in one.notes[0] and f"{DIM} dimensions" in one.notes[0]

    def test_a_reference_without_labels_says_so(self, sets: tuple[Path, Path]) -> None:
        one = fdr.explain(sets[0], list(images(250)), TinyEncoder()).encoders[0]
        assert one.classes is not None and {row.reference_count for row in one.classes} == {None}
        assert "the reference is not images with labels" in one.notes[0]


def test_several_encoders(tmp_path: Path) -> None:
    encoders = [TinyEncoder(), TinyEncoder("other", dim=5, weights="abc")]
    found = fdr.explain(list(images(60, seed=1)), list(images(50)), encoders)
    assert [one.encoder for one in found.encoders] == ["tiny", "other"]
    assert not np.array_equal(found.encoders[0].ranking, found.encoders[1].ranking)


def test_too_few_images_is_one_sentence() -> None:
    with pytest.raises(InputError, match="at least 2"):
        fdr.explain(list(images(1)), list(images(50)), TinyEncoder())
    with pytest.raises(InputError, match="has 2 images; an influence needs at least 3"):
        fdr.explain(list(images(2, seed=1)), list(images(50)), TinyEncoder())


def test_numbers_of_images_that_are_none() -> None:
    for name, value in (("ends", 0), ("ends", "a"), ("closest", -1)):
        with pytest.raises(InputError, match=f"{name} is {value!r}; it must be a whole number"):
            fdr.explain(list(images(20, seed=1)), list(images(50)), TinyEncoder(), **{name: value})


def test_prompts_are_those_of_a_pipeline() -> None:
    def painted(prompt: list[str], generator: list[torch.Generator]) -> list[np.ndarray]:
        return [images(1, seed=len(text))[0] for text in prompt]

    texts = ["a" * length for length in range(1, 31)]
    found = fdr.explain(painted, list(images(50)), TinyEncoder(), prompts=texts)
    assert len(found.encoders[0].influences) == 30
    with pytest.raises(InputError, match="Only a pipeline makes images of prompts"):
        fdr.explain(list(images(30)), list(images(50)), TinyEncoder(), prompts=texts)


def test_features_that_were_not_kept_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.metrics.base.MAX_ROWS_BYTES", 100)
    with pytest.raises(InputError, match=r"too large to keep in memory; explain fewer"):
        fdr.explain(list(images(60, seed=1)), list(images(50)), TinyEncoder())


class TestNearest:
    def test_it_is_the_least_distance_between_features(self, explained: Explanation) -> None:
        own, other = features_of(drawn()), features_of(images(400))
        (found,) = explained.encoders
        assert set(found.nearest) == set(np.concatenate(found.ends(8)).tolist())
        for place, near in found.nearest.items():
            squared = np.square(other - own[place]).sum(1)
            assert near.row == squared.argmin() and near.distance == pytest.approx(squared.min() ** 0.5)
        first = found.nearest[int(found.ranking[0])]
        line = explained.ranked(found)[0]
        assert (line["nearest"], line["distance"]) == (f"item[{first.row}]", first.distance)
        assert "nearest" not in explained.ranked(found)[COUNT // 2]

    @pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
    def test_rows_of_the_reference_count_its_bad_images(self, tmp_path: Path) -> None:
        place = folder(tmp_path / "r", images(40))
        (place / "0000.png").write_bytes(b"no image")
        options = fdr.ImageOptions(on_bad="skip", max_bad=0.5)
        found = fdr.explain(list(images(40)[1:]), place, TinyEncoder(), image_options=options).encoders[0]
        assert all(near.row == own + 1 and near.distance == 0 for own, near in found.nearest.items())

    def test_a_reference_of_moments_has_none_and_says_so(self) -> None:
        moments = Moments.from_features(features_of(images(50)).astype(np.float32))
        found = fdr.explain(list(images(40, seed=1)), moments, TinyEncoder()).encoders[0]
        assert not found.nearest and "the reference gives no features of images" in found.notes[-1]

    def test_the_closest_are_those_of_all_pairs(self) -> None:
        samples = images(60, seed=1)
        samples[9] = images(50)[3]
        samples[9, 0, 0] ^= 1
        found = fdr.explain(list(samples), list(images(50)), TinyEncoder(), closest=4)
        (one,) = found.encoders
        pairs = scipy.spatial.distance.cdist(features_of(samples), features_of(images(50)))
        assert list(one.closest) == pairs.min(1).argsort(kind="stable")[:4].tolist() and one.closest[0] == 9
        assert one.median_distance == pytest.approx(np.median(pairs.min(1)))
        data = found.to_dict()["encoders"][0]
        assert [image["id"] for image in data["closest"]["images"]] == [f"item[{place}]" for place in one.closest]
        assert data["closest"]["images"][0]["nearest"] == "item[3]"
        ends = fdr.explain(list(samples), list(images(50)), TinyEncoder())
        assert "closest" not in ends.to_dict()["encoders"][0]
        assert {place: one.nearest[place] for place in ends.encoders[0].nearest} == ends.encoders[0].nearest

    def test_the_closest_need_reference_images(self) -> None:
        moments = Moments.from_features(features_of(images(50)).astype(np.float32))
        with pytest.raises(InputError, match="the reference is statistics; give images"):
            fdr.explain(list(images(40, seed=1)), moments, TinyEncoder(), closest=2)


@pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
def test_a_sheet_of_images_of_all_sizes(tmp_path: Path) -> None:
    place = tmp_path / "s"
    place.mkdir()
    for index, (width, height) in enumerate([(16, 16), (40, 20), (300, 150), (500, 20)] * 5):
        Image.fromarray(np.full((height, width, 3), 10 * index, np.uint8)).save(place / f"{index}.png")
    source = fdr.open_images(place)
    tiles = tiles_at(source, np.arange(4), 128, ["caption"] * 4)
    assert tiles.shape == (4, 142, 128, 3)
    is_image = [(tile[:128] < 250).all(2) for tile in tiles]
    sizes = [(found.any(0).sum(), found.any(1).sum()) for found in is_image]
    assert sizes == [(128, 128), (120, 60), (128, 64), (128, 5)]
    found = fdr.explain(place, list(images(50)), TinyEncoder())
    for reference in (None, fdr.open_images(list(images(50)))):
        write_picture(found, source, reference, tmp_path / "p.png", 3)
        with Image.open(tmp_path / "p.png") as picture:
            columns = 2 if reference is None else 4
            assert picture.size == (columns * 132 + 4, 18 + 3 * 146 + 4)


def test_a_generator_is_explained_as_its_samples(tmp_path: Path) -> None:
    network = generator(Classes)
    found = fdr.explain(network, list(images(40, side=4)), TinyEncoder(), num_images=30, seed=5, heat_maps=False)
    same = fdr.explain(GeneratorSource(network, 30, seed=5), list(images(40, side=4)), TinyEncoder())
    assert found.encoders[0].influences.tolist() == same.encoders[0].influences.tolist()
    assert found.labels is not None and found.encoders[0].classes is not None
    with pytest.raises(InputError, match="num_images: only a generator has this"):
        fdr.explain(list(images(40)), list(images(40)), TinyEncoder(), num_images=30)
