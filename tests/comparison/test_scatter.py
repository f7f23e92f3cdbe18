"""The scatter plot: the same bytes each time, names that do not cover each other, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fdr.comparison import Scatter, check_plot, correlate, save_scatter, scatter
from fdr.comparison.scatter import _name_points as name_points
from fdr.errors import FdrWarning, InputError

X = [59.91, 67.41, 30.58, 37.13, 47.51, 8.14, 7.68]
Y = [25.91, 34.06, 23.62, 26.38, 20.81, 4.65, 4.25]
NAMES = ["SD-VAE", "FLUX", "Qwen", "SD3", "EQ $x_1$", "DM-VAE", "RAE"]


def save(path: Path, **settings) -> Path:
    save_scatter(path, Scatter(X, Y, "iFID", "gFID", NAMES, **settings), correlate(X, Y))
    return path


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_one_table_gives_the_same_bytes(tmp_path, suffix):
    import matplotlib

    first = save(tmp_path / f"a{suffix}").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):  # the user's settings are not ours
        assert save(tmp_path / f"b{suffix}").read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_the_picture_holds_points_line_names_and_coefficients(tmp_path):
    text = save(tmp_path / "a.svg").read_text()
    comments = re.findall(r"<!-- (.*?) -->", text)  # matplotlib notes every text that it draws as paths
    assert set(NAMES) - {"EQ $x_1$"} <= set(comments)
    assert any("Pearson r = 0.91" in one and "n = 7, 95 % intervals" in one for one in comments)
    assert {"iFID", "gFID"} <= set(comments)
    assert len(re.findall(r"<use [^>]*fill: #1f5a92", text)) == len(X)
    assert "stroke: #b5482a" in text
    assert "<dc:date>" not in text


def test_logarithmic_axes_have_plain_numbers_and_a_straight_line(tmp_path):
    text = save(tmp_path / "a.svg", log_x=True, log_y=True).read_text()
    comments = re.findall(r"<!-- (.*?) -->", text)
    assert {"5", "10", "20", "50"} <= set(comments)
    assert any("Pearson r of log x and log y" in one for one in comments)
    path = re.search(r'<path d="M ([^"]*)"[^>]*stroke: #b5482a', text)
    assert path is not None
    numbers = np.array(re.findall(r"-?[\d.]+", path.group(1)), dtype=float).reshape(-1, 2)
    ends = numbers[-1] - numbers[0]
    assert (
        np.abs(np.cross(np.append(ends, 0), np.c_[numbers - numbers[0], np.zeros(len(numbers))])).max()
        < 0.01 * (ends @ ends) ** 0.5
    )


def test_names_cover_neither_each_other_nor_points(tmp_path, monkeypatch):
    """Thirty names of several lengths at random places on a page that has room for them."""
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 100, (2, 30))
    names = ["n" * (1 + index % 9) for index in range(30)]
    drawn = []
    monkeypatch.setattr(scatter, "INCHES", (10, 10))
    monkeypatch.setattr(scatter, "_name_points", lambda axes, data: drawn.append((name_points(axes, data), axes)))
    save_scatter(tmp_path / "a.png", Scatter(x, y, "x", "y", names), correlate(x, y))
    axes = drawn[0][1]
    pixels, frame = axes.transData.transform(np.column_stack([x, y])), axes.get_window_extent()
    boxes = [note.get_window_extent() for note in axes.texts]
    assert len(boxes) == 30
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert box.count_contains(pixels) == 0
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        gaps = np.maximum(0, [box.x0 - pixels[index][0], pixels[index][0] - box.x1])
        assert gaps.max() <= 9 * scatter.DPI / 72 + 1  # each name stays beside its own point


def test_too_many_names_are_not_drawn(tmp_path):
    x = np.linspace(1, 2, 70)
    names = [f"name{index}" for index in range(70)]
    with pytest.warns(FdrWarning, match="70 labels are too many"):
        save_scatter(tmp_path / "a.svg", Scatter(x, x**2, "a", "b", names), correlate(x, np.sin(9 * x)))
    assert "name7" not in (tmp_path / "a.svg").read_text()


def test_no_names_are_wanted(tmp_path):
    save_scatter(tmp_path / "a.svg", Scatter(X, Y, "a", "b"), correlate(X[:4], Y[:4]))
    assert "Pearson r = 0." in (tmp_path / "a.svg").read_text()


def test_what_cannot_be_saved_is_told_first(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"saved as \.svg, \.pdf, \.png; got .*a\.gif"):
        check_plot(tmp_path / "a.gif")
    with pytest.raises(InputError, match="it is a folder"):
        (tmp_path / "d.svg").mkdir()
        check_plot(tmp_path / "d.svg")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs matplotlib, which is not installed: pip install matplotlib"):
        check_plot(tmp_path / "a.svg")
