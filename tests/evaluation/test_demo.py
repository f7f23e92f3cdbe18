"""The demo: what it claims is true of its own numbers, and it resumes nothing it should not."""

from __future__ import annotations

import numpy as np
import pytest

from fdr.evaluation import demo as demo_module
from fdr.evaluation import run_demo
from fdr.images import procedural


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setattr(demo_module, "REFERENCE_COUNT", 640)
    patch.setattr(demo_module, "SAMPLE_COUNT", 320)
    patch.setattr(demo_module, "_self_check", lambda *_: 0.0)
    yield run_demo(tmp_path_factory.mktemp("demo") / "out")
    patch.undo()


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
