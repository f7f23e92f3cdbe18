"""The demo: what it claims is true of its own numbers, and it resumes nothing it should not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fdr
from fdr.evaluation import demo as demo_module
from fdr.evaluation import run_demo
from fdr.frechet import Moments
from fdr.images import procedural
from fdr.references import registered_reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def small_demo(folder: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "REFERENCE_COUNT", 640)
        patch.setattr(demo_module, "SAMPLE_COUNT", 320)
        patch.setattr(demo_module, "_self_check", lambda *_: 0.0)
        return run_demo(folder)


def test_what_the_demo_says_of_its_table_is_true(small_demo) -> None:
    rows = {row.name: row for row in small_demo.rows}
    fd = {name: row.report["fd", "random"] for name, row in rows.items()}
    for degraded in ("blurred", "noisy", "two-modes"):
        assert fd[degraded].value > 3 * fd["fresh"].value
    for moved_mean in ("blurred", "noisy"):
        assert fd[moved_mean].details["mean_term"] > fd[moved_mean].details["trace_term"]
    assert fd["two-modes"].details["trace_term"] > fd["two-modes"].details["mean_term"]
    assert fd["copies"].value < fd["fresh"].value
    assert {name: row.copied for name, row in rows.items()} == {
        "fresh": 0, "blurred": 0, "noisy": 0, "two-modes": 0, "copies": 1
    }  # fmt: skip


def test_fresh_images_are_about_as_far_as_validation_images(small_demo) -> None:
    fresh = next(row for row in small_demo.rows if row.name == "fresh")
    assert 0.7 < fresh.report["fdr", "random"].value < 1.4


def test_every_set_is_what_its_description_says(small_demo, folder: Path) -> None:
    sets = {path.stem: np.load(path)["arr_0"] for path in folder.glob("*.npz")}
    assert set(sets) == {"reference", "validation", *demo_module.SETS}
    for name, seed, count in (("reference", 0, 640), ("validation", 1, 320), ("fresh", 2, 320)):
        np.testing.assert_array_equal(sets[name], procedural.draw_set(seed, count))
    fresh = sets["fresh"]
    np.testing.assert_array_equal(sets["two-modes"], procedural.draw_set(2, 320, modes=2))
    np.testing.assert_array_equal(sets["copies"], sets["reference"][:320])
    np.testing.assert_array_equal(sets["blurred"], procedural.blurred(fresh))
    is_inside = (fresh > 80) & (fresh < 175)  # where little noise is clipped
    noise = (sets["noisy"].astype(float) - fresh)[is_inside]
    assert abs(noise.mean()) < 0.2 and noise.std() == pytest.approx(20, rel=0.02)
    assert [row.description for row in small_demo.rows] == list(demo_module.SETS.values())


def test_the_self_check_is_the_distance_to_the_shipped_moments_as_a_share_of_their_trace(tmp_path: Path) -> None:
    shipped = registered_reference("demo", "random").moments
    Moments(shipped.mu + 0.01, shipped.sigma, shipped.count).save(tmp_path / "moved.npz")
    expected = 0.01**2 * len(shipped.mu) / np.trace(shipped.sigma)
    found = demo_module._self_check(tmp_path / "moved.npz", fdr.load_encoder("random", device="cpu"))
    assert found == pytest.approx(expected, rel=1e-6) and found > demo_module.SELF_CHECK_TOLERANCE


def test_the_contact_sheet_has_a_row_for_the_reference_and_one_for_each_set(tmp_path: Path) -> None:
    names = ["reference", *demo_module.SETS]
    for number, name in enumerate(names):
        demo_module.save_images(tmp_path / f"{name}.npz", np.full((5, 4, 6, 3), number, np.uint8))
    demo_module.contact_sheet(tmp_path, tmp_path / "sheet.png", per_row=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    np.testing.assert_array_equal(sheet, np.repeat(range(len(names)), 4)[:, None, None] * np.ones((1, 18, 3)))


def test_an_image_depends_on_seed_and_index_alone() -> None:
    np.testing.assert_array_equal(procedural.draw_set(3, 10)[7], procedural.draw(3, 7))
    assert not np.array_equal(procedural.draw(3, 7), procedural.draw(4, 7))


def test_two_modes_are_two_modes() -> None:
    drawn = procedural.draw_set(0, 6, modes=2)
    for at, index in enumerate((0, 1, 8, 9, 16, 17)):
        np.testing.assert_array_equal(drawn[at], procedural.draw(0, index))


def test_blur_keeps_the_mean_and_removes_detail() -> None:
    drawn = procedural.draw_set(0, 8)
    blurred = procedural.blurred(drawn)
    assert abs(blurred.mean() - drawn.mean()) < 1
    assert (
        np.abs(np.diff(blurred.astype(float), axis=2)).mean()
        < 0.6 * np.abs(np.diff(drawn.astype(float), axis=2)).mean()
    )
