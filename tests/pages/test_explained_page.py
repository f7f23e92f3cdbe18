"""Explanations on the page: harmful images, images nearest to the reference, and the check that they are those."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained_worlds import COUNT, explanation, measured, write_explanation
from gate_worlds import report
from PIL import Image
from report_worlds import number
from worlds import folder, images, npz

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.pages import PageOptions, read_inputs, render_page
from fdr.pages.explained import NUM_SHOWN, explained_from
from fdr.pages.image_sets import open_samples_shown
from fdr.pages.pictures import LOSSLESS_BYTES, MANY, SAMPLE_SIDE, PictureSize
from fdr.reports import Report

HARMFUL, CLOSEST = "<h2>Images that raise FD most", "<h2>Images that lie nearest to a reference image"


@pytest.fixture
def of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.chdir(tmp_path)
    return measured(tmp_path)


def page_of(report_: Report, data: dict[str, Any], **options: Any) -> str:
    return render_page({"samples.npz": report_}, options=PageOptions(explained=[explained_from(data, "e")], **options))


def pictures(text: str, alt: str) -> list[np.ndarray]:
    """The pixels of the pictures of an alternative text."""
    found = re.findall(rf'<img src="data:image/webp;base64,([^"]+)" alt="{re.escape(alt)}"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def test_harmful_images_stand_beside_their_nearest_reference_image(of: Report) -> None:
    data = explanation(of)
    text = page_of(of, data, images=["samples.npz"], reference_images=["real.npz"])
    section = text[text.index(HARMFUL) : text.index(CLOSEST)]
    first = data["encoders"][0]["images"][0]
    (shown,) = pictures(section, f"Sample {first['id']}")
    np.testing.assert_array_equal(shown, images(COUNT, seed=1)[first["row"]])  # without loss
    (near,) = pictures(section, "Reference image arr_0[0]")
    np.testing.assert_array_equal(near, images(20)[0])
    assert section.count('<figure class="pair">') == 4  # those whose nearest reference image is known
    assert f"<b>1. {first['id']}</b><br>class {first['class']}<br>influence +0.45 (+22\u00a0%)" in section
    assert "<br>nearest arr_0[0]<br>distance 0.250</figcaption>" in section
    assert (
        "The worst 1 % (1 image of 30) carry 12.5 % of the influence that raises it; FD of the others is 1.50"
        in section
    )
    assert "To the right of each image stands its nearest reference image." in section


def test_heat_maps_stand_between_them(of: Report) -> None:
    data = explanation(of)
    for at, image in enumerate(data["encoders"][0]["images"][:4]):
        image["heat_map"] = {"box": [0.0, 0.0, 1.0, 1.0], "values": [[0.0, 0.25], [0.5, 1.0 - at / 10]]}
    text = page_of(of, data, images=["samples.npz"], reference_images=["real.npz"])
    section = text[text.index(HARMFUL) : text.index(CLOSEST)]
    first = data["encoders"][0]["images"][0]["id"]
    (heat,) = pictures(section, f"Heat-map of sample {first}")
    assert heat.shape[:2] == (SAMPLE_SIDE, SAMPLE_SIDE)  # the small image is enlarged
    assert heat[-20:, -20:].mean() > heat[:20, :20].mean() + 30  # light where the map is 1
    order = [section.index(f'alt="{alt}') for alt in (f"Sample {first}", f"Heat-map of sample {first}", "Reference")]
    assert order == sorted(order) and '<div class="pairs of-three">' in section
    assert "stands a heat-map of what FD looks at in it and its nearest reference image." in section
    assert "of-three" not in text[text.index(CLOSEST) :]


def test_images_nearest_to_the_reference_come_by_distance(of: Report) -> None:
    text = page_of(of, explanation(of), images=["samples.npz"], reference_images=["real.npz"])
    section = text[text.index(CLOSEST) :]
    places = [section.index(words) for words in ("<b>1. arr_0[7]</b>", "<b>2. arr_0[8]</b>")]
    assert places == sorted(places)
    assert "influence -0.25 (-12\u00a0%)<br>nearest arr_0[3]<br>distance 0.0100 (0.5\u00a0%)" in section
    assert "distance 5.00 (250\u00a0%)" in section and "nearest reference image, 2.000" in section
    np.testing.assert_array_equal(pictures(section, "Reference image arr_0[4]")[0], images(20)[4])


def test_classes_are_listed_by_their_influence(of: Report) -> None:
    text = page_of(of, explanation(of))
    section = text[text.index("Influence on FD of random: by class</h2>") :]
    assert section.index('data-sort="c0"') < section.index('data-sort="c1"')
    for words in ("0.7500*", "-0.7500", "3.500", ">400<"):
        assert words in section


def test_without_images_the_numbers_and_a_hint_are_shown(of: Report) -> None:
    text = page_of(of, explanation(of, closest=None))
    section = text[text.index(HARMFUL) :]
    assert CLOSEST not in text and "<img" not in section.replace('<img alt="">', "")
    assert '<details class="fold" open><summary>The 4 images as a table' in section
    for hint in ("--images SAMPLES shows", "--reference-images FOLDER shows", "--closest N finds", "a note</p>"):
        assert hint in section


def test_without_neighbours_the_first_images_are_shown(of: Report) -> None:
    data = explanation(of)
    for image in data["encoders"][0]["images"]:
        image.pop("nearest", None), image.pop("distance", None), image.pop("class", None)
    text = page_of(of, data, images=["samples.npz"])
    section = text[text.index(HARMFUL) : text.index(CLOSEST)]
    assert section.count('<figure class="pair">') == NUM_SHOWN
    assert "nearest" not in section and 'data-sort="c0"' not in section and "--reference-images" not in section


def test_an_explanation_of_no_report_brings_its_own(of: Report) -> None:
    other = {"other.npz": report(number("fd", 1.0, "random"), samples="other.npz")}
    text = render_page(other, options=PageOptions(explained=[explained_from(explanation(of), "e")]))
    assert "samples.npz</b>: 30 images" in text
    alone = render_page({}, options=PageOptions(explained=[explained_from(explanation(of), "e")]))
    assert "samples.npz</b>: 30 images" in alone and HARMFUL in alone


def test_names_are_escaped_paths_are_cut_and_equal_input_gives_equal_bytes(of: Report) -> None:
    data = explanation(of)
    data["encoders"][0]["images"][0] |= {"id": "/home/ada/<b>x.png", "nearest": "/home/ada/</script>.png"}
    chosen = {"images": ["samples.npz"], "reference_images": ["real.npz"]}
    text = page_of(of, data, **chosen)
    assert (
        "/home/ada" not in text and "<b>x.png" not in text and "&lt;b&gt;x.png" in text and text.count("<script") == 2
    )
    assert page_of(of, data, **chosen) == text
    assert "/home/ada/&lt;b&gt;x.png" in page_of(of, data, with_paths=True)


def test_many_pictures_are_smaller() -> None:
    assert PictureSize.of_many(0) == PictureSize.of_many(MANY) == PictureSize(SAMPLE_SIDE, LOSSLESS_BYTES // 10)
    assert PictureSize.of_many(4 * MANY) == PictureSize(SAMPLE_SIDE // 2, LOSSLESS_BYTES // 40)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            (
                {"schema": "fdr-explain/2"},
                "is an explanation of schema 'fdr-explain/2', expected 'fdr-explain/1'; another",
            ),
            (
                {"schema": "fdr-compare/2"},
                "is a comparison of schema 'fdr-compare/2', expected 'fdr-compare/1'; another",
            ),
            (
                {"schema": "fdr-report/2"},
                "schema is 'fdr-report/2' in 'e.json', expected 'fdr-report/1'; another version of fdr",
            ),
            (
                {"schema": "fdr-reports/2"},
                "schema is 'fdr-reports/2' in 'e.json', expected 'fdr-report/1'; another version of fdr",
            ),
            ({"encoders": [{}]}, "Damaged explanation 'e.json': an encoder has no encoder, which is a text"),
            (
                {"encoders": [{"heat": {"box": [0, 0, 1, 1], "values": [[0.5], [2.0]]}}]},
                "values of a heat-map is [[0.5], [2.0]]",
            ),
            ({"report": 3}, "Damaged explanation 'e.json': report of the explanation is 3"),
        ],
    )
    def test_other_versions_and_damage_are_one_sentence(self, of: Report, changed: dict, words: str) -> None:
        data = explanation(of)
        if (heat := (changed.get("encoders") or [{}])[0].get("heat")) is not None:
            data["encoders"][0]["images"][0]["heat_map"] = heat
            changed = {}
        write_explanation(Path("e.json"), data | changed)
        with pytest.raises(InputError) as caught:
            read_inputs(["e.json"])
        assert words in str(caught.value) and str(caught.value).endswith(".")

    def test_reference_images_without_an_explanation(self, of: Report) -> None:
        with pytest.raises(
            InputError, match="shows the nearest reference images of an explanation, and none was given"
        ):
            render_page({"samples.npz": of}, options=PageOptions(reference_images=["real.npz"]))


class TestImagesOfOthers:
    def test_those_of_the_report_are_known_by_their_digest_whatever_their_name(self, of: Report) -> None:
        Path("samples.npz").rename("moved.npz")
        others = {"first": report(samples="moved.npz"), "samples.npz": of}
        (found,) = open_samples_shown(["moved.npz"], others)
        assert found.name == "samples.npz" and found.remark == ""

    @pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
    @pytest.mark.parametrize(
        ("seed", "count", "words"),
        [
            (
                2,
                COUNT,
                "samples.npz does not hold the images that samples.npz was measured on, for their digests differ",
            ),
            (1, COUNT - 1, "samples.npz holds 29 images, and samples.npz was measured on 30: other images than those."),
        ],
    )
    def test_others_are_a_warning_and_no_pictures_of_them_stand_beside_numbers(
        self, of: Report, seed: int, count: int, words: str
    ) -> None:
        npz(Path("samples.npz"), images(count, seed=seed))
        with pytest.warns(FdrWarning, match=re.escape(words)):
            text = page_of(of, explanation(of), images=["samples.npz"])
        assert f'<p class="apart">⚠ {words}' in text
        assert "Image 1 of 24 of samples.npz" in text and 'alt="Sample arr_0' not in text

    @pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
    def test_another_reference_is_a_warning_and_is_not_shown(self, of: Report) -> None:
        npz(Path("real.npz"), images(20, seed=9))
        with pytest.warns(
            FdrWarning, match=r"does not hold the images that the reference of samples\.npz was measured on"
        ):
            text = page_of(of, explanation(of), reference_images=["real.npz"])
        assert 'alt="Reference image' not in text

    @pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")
    def test_images_of_none_of_several_reports(self, of: Report) -> None:
        npz(Path("new.npz"), images(5))
        with pytest.warns(FdrWarning, match="The images of new.npz are those of none of the reports"):
            (found,) = open_samples_shown(["new.npz"], {"samples.npz": of, "other": report(samples="other.npz")})
        assert found.name is None

    def test_a_report_without_digest_takes_the_images_of_its_name(self, of: Report) -> None:
        bare = Report({**of.samples, "digest": None}, of.reference, of.results)
        (found,) = open_samples_shown(["samples.npz"], {"samples.npz": bare})
        assert (found.name, found.remark) == ("samples.npz", "")

    def test_they_are_taken_with_the_crop_the_size_and_the_subset_of_the_report(self, of: Report) -> None:
        options = fdr.ImageOptions(count=9, seed=4, crop="center", size=8)
        source = fdr.open_images("samples.npz", options)
        facts = {
            "count": 9, "digest": source.digest, "policy": source.policy, "subset": {"count": 9, "seed": 4}
        }  # fmt: skip
        part = Report({**of.samples, **facts}, of.reference, of.results)
        (found,) = open_samples_shown(["samples.npz"], {"samples.npz": part})
        assert found.remark == "" and list(found.source.ids) == list(source.ids)
        name = source.ids[2]
        assert found.read([name, "no such"])[name].shape == (8, 8, 3)

    def test_of_a_folder_bad_images_are_left_out(self, tmp_path: Path) -> None:
        place = folder(tmp_path / "s", images(5))
        (place / "0003.png").write_bytes(b"no image")
        (found,) = open_samples_shown([str(place)], {})
        assert set(found.read(["0001.png", "0003.png"])) == {"0001.png"}
