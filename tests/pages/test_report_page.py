"""The page of `fdr report`: what stands on it, what may not, and that it is its own data."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from gate_worlds import report, row, write
from PIL import Image
from report_worlds import model, number, reports, run_folder

from fdr.errors import InputError
from fdr.pages import PageOptions, check_extra, names_of_sets, read_run, render_page
from fdr.pages.figures import plain, svg_of
from fdr.pages.page import TEMPLATES
from fdr.pages.pictures import MAX_SIDE, picture, spread
from fdr.pages.training_charts import thinned
from fdr.reports import Report, load_reports

SETS = {"base.npz": model("base.npz", 1.0), "new.npz": model("new.npz", 0.8)}


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the nesting of those that must be closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside of {self.open[-3:]}"
        self.open.pop()


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(SETS)


def test_equal_input_gives_equal_bytes(page: str) -> None:
    assert render_page(dict(SETS)) == page


def test_every_element_is_closed_and_nothing_is_loaded(page: str) -> None:
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/")), (tag, name, address)
        assert not any(name.startswith("on") for name in attributes), tag
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "url(http" not in page and "@import" not in page


def test_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_every_picture_has_a_text(page: str, tmp_path: Path) -> None:
    both = page + render_page({}, [read_run(run_folder(tmp_path / "run"))])
    for tag, attributes in Elements(both).found:
        if tag == "img" and "src" in attributes:
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]


def test_the_page_is_also_the_data(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)
    assert load_reports(tmp_path / "page.html") == list(SETS.values())
    (tmp_path / "other.html").write_text("<!doctype html><p>no report")
    with pytest.raises(InputError, match=r"is an HTML page without the data of a report"):
        load_reports(tmp_path / "other.html")


def test_texts_of_others_are_escaped_also_in_the_data(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--\u2028.npz"
    one = report(number("fd", 1.0, notes=(evil,)), samples=evil)
    text = render_page({evil: one}, options=PageOptions(title=evil))
    assert "<script>alert" not in text and text.count("<script") == 2
    (tmp_path / "page.html").write_text(text)
    assert load_reports(tmp_path / "page.html")[0].samples["source"] == evil


def test_absolute_paths_stay_out_unless_they_are_asked_for() -> None:
    secret = Report(
        {**report().samples, "source": "/home/ada/x/a.npz"},
        {**report().reference, "source": "/home/ada/ref.h5"},
        (row(notes=("see '/home/ada/b c/d.txt'",)),),
        warnings=("/home/ada/e.png is flat",),
    )
    assert "/home/ada" not in render_page({"/home/ada/x/a.npz": secret})
    assert "/home/ada/x/a.npz" in render_page({"a": secret}, options=PageOptions(with_paths=True))


def test_every_number_unfolds_to_its_signature(page: str) -> None:
    for report_ in SETS.values():
        for result in report_:
            assert page.count(result.signature) >= 2  # in the table and in the data
            assert repr(result.value) in page


def test_verdict_first_then_numbers_then_charts(page: str) -> None:
    places = [page.index(text) for text in ("better in 8 of 8 numbers", "<h2>Numbers", "<h2>Charts", "<h2>Differences")]
    assert places == sorted(places)


def test_the_chart_has_a_line_at_the_validation_set_and_every_value(page: str) -> None:
    chart = next(text for text in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if "validation set" in text)
    assert 'aria-label="FDr by encoder. ' in chart and "dinov2 (held out): base.npz 4.000, new.npz 3.200" in chart
    assert "held out" in chart and "trained on" in chart


def spectra(scale: float, dim: int = 40) -> dict[str, object]:
    ranks = list(range(1, dim + 1))
    sides = {"samples": scale, "reference": 1.0}
    return {name: {"rank": ranks, "eigenvalue": [much / rank**2 for rank in ranks]} for name, much in sides.items()}


def test_eigenvalues_of_samples_and_the_reference_once() -> None:
    sets = {
        name: report(number("fd", 2.0, details={"spectra": spectra(much)}), number("fd", 3.0, "clip"), samples=name)
        for name, much in (("a.npz", 0.5), ("b.npz", 2.0))
    }
    text = render_page(sets)
    (chart,) = [svg for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL) if "Eigenvalues" in svg]
    (label,) = re.findall(r'aria-label="([^"]+)"', chart)
    assert label == (
        "Eigenvalues of the covariance, inception. reference from 1.00 at rank 1 to 0.000625 at rank 40; "
        "a.npz from 0.500 at rank 1 to 0.000313 at rank 40; b.npz from 2.00 at rank 1 to 0.00125 at rank 40."
    )
    assert "vary too little in directions of that rank" in text


@pytest.mark.parametrize(
    "found",
    [
        None,
        3,
        {},
        {"samples": {}},
        {"samples": {"rank": [1], "eigenvalue": [-1.0]}, "reference": {"rank": [1], "eigenvalue": [1.0]}},
    ],
)
def test_without_eigenvalues_there_is_no_chart_of_them(found: object) -> None:
    details = {} if found is None else {"spectra": found}
    assert "Eigenvalues" not in render_page({"a.npz": report(number("fd", 2.0, details=details))})


def test_values_that_a_logarithm_does_not_have_are_named(page: str) -> None:
    one = report(number("fd_debiased", -0.5, "dinov2", 0.7), number("fd_debiased", 0.5))
    assert "not on this axis: dinov2 of a (-0.500)" in render_page({"a": one})
    assert "FD by encoder" not in render_page({"a": report(number("fd", 0.0))})  # samples that are the reference


def test_without_a_value_above_0_the_other_metric_is_drawn_or_none() -> None:
    debiased = [number("fd_debiased", -0.5, "dinov2", 0.7), number("fd_debiased", 0.0, stderr=0.1)]
    assert "by encoder" not in render_page({"a": report(*debiased)})
    text = render_page({"a": report(*debiased, number("fd", 0.5, "dinov2"))})
    assert "FD by encoder" in text and "FD (debiased) by encoder" not in text


def test_classes_with_the_worst_first_and_small_ones_marked() -> None:
    alone = render_page({"base.npz": SETS["base.npz"]})
    section = alone[alone.index("by class</h2>") :]
    assert section.index(">cat<") < section.index(">dog<") < section.index(">eel<")
    assert re.search(r"7\.000 ± 0\.50\*", section) and re.search(r"4\.000 ± 0\.10<", section)


def test_classes_of_several_sets_stand_side_by_side(page: str) -> None:
    assert page.count("by class</h2>") == 1
    section = page[page.index("by class</h2>") :]
    assert section.index(">dog<") < section.index(">cat<") < section.index(">eel<")
    assert ">new.npz − base.npz<" in section and "−1.40 ± 0.71*" in section


def test_of_many_classes_the_worst_and_the_best_are_shown() -> None:
    classes = {f"c{index:03d}": {"accuracy": index / 300, "n": 500} for index in range(300)}
    one = report(row("cas_linear", 0.5, lower_is_better=False, details={"classes": classes}))
    text = render_page({"a": one})
    table = text[text.index("by class</h2>") : text.index("</table>", text.index("by class</h2>"))]
    shown = re.findall(r'data-sort="(c\d+)"', table)
    assert len(shown) == 40 and shown[0] == "c000" and shown[-1] == "c299"
    assert "The 20 worst and the 20 best of 300 classes" in table


def test_charts_of_extrapolation_and_of_prd() -> None:
    fit = {"sizes": [100, 200, 400], "curve": [3.0, 2.5, 2.2, 2.2], "slope": 110.0}
    curve = {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.8, 0.0]}
    rows = (
        number("fd_inf", 1.9, details=fit),
        number("fd_debiased", 2.0),
        row("prd_f8", 0.9, lower_is_better=False, details={"curve": curve}),
    )
    text = render_page({"a": report(*rows)})
    assert "FID against the number of images, inception" in text and "Dashed lines are the debiased FD" in text
    assert "Precision against recall (PRD), inception" in text


@pytest.mark.parametrize("details", [{"sizes": [1], "curve": []}, {"sizes": "x", "curve": "x"}, {"curve": {}}])
def test_details_of_another_form_give_no_chart(details: dict) -> None:
    rows = (row("fd_inf", details=details), row("prd_f8", 0.9, lower_is_better=False, details=details))
    assert "against the number" not in render_page({"a": report(*rows)})


def test_a_page_needs_something_to_show() -> None:
    with pytest.raises(InputError, match="needs a report or a run folder"):
        render_page({})


def test_a_missing_library_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_extra()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(InputError, match=r"needs matplotlib, which is not installed: pip install 'fdr-eval\[report\]'"):
        render_page(SETS)


def test_sets_of_one_name_are_told_apart_by_their_file() -> None:
    found = names_of_sets({"x.json": [report()], "y.json": [report(), report(samples="b")]})
    assert list(found) == ["samples.npz (x.json)", "samples.npz (y.json)", "b"]


# Runs


def test_a_run_has_curves_warnings_grids_and_its_last_state(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "run", total=90))
    text = render_page({}, [run], PageOptions(refresh=7))
    for words in ("FD in the loss", "FDr in the loss", "Gradient norm", "fresh", "step 60 of 90, going on or stopped"):
        assert words in text
    assert "random (trained on)" in text and "clip (watched)" in text and "random (evaluation)" in text
    assert "random (fresh images)" in text and "Sensitivity to noise" in text and "regime" not in text
    assert "step 30: watch &lt;/script&gt;" in text and "/home/ada" not in text
    assert text.count("data:image/webp;base64,") == 3 and ">reference</figcaption>" in text
    assert '<meta http-equiv="refresh" content="7">' in text
    assert 'http-equiv="refresh"' not in render_page({}, [run])
    data = json.loads(re.search(r'id="fdr-runs">(.*?)</script>', text)[1])
    assert data[0]["curves"]["fd"]["random"][0] == [10, 9.0]


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    whole = len(read_run(folder).entries)
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"kind": "step", "st')
    assert len(read_run(folder).entries) == whole
    with open(folder / "log.jsonl", "a") as log:
        log.write("\n")
    with pytest.raises(InputError, match=r"Line 10 of '.*log.jsonl' is damaged"):
        read_run(folder)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"options": {"steps": 5}}))
    assert "step 0 of 5" in render_page({}, [read_run(tmp_path)])
    with pytest.raises(InputError, match="is no run of fdr train"):
        read_run(tmp_path / "other")


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = [(step, float(step)) for step in range(12_345)]
    found = thinned(points)
    assert len(found) <= 401 and found[0] == points[0] and found[-1] == points[-1]
    assert thinned([]) == [] and thinned(points[:3]) == points[:3]


def test_of_many_grids_some_are_chosen_with_the_first_and_the_last() -> None:
    assert spread(list(range(0, 1000, 10))) == [0, 200, 400, 590, 790, 990]
    assert spread([1, 2]) == [1, 2]


def test_a_large_picture_becomes_smaller_and_a_small_one_keeps_its_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    large = picture(tmp_path / "large.png", "t", "a")
    assert max(large.width, large.height) == MAX_SIDE
    Image.fromarray(noise[:64, :64]).save(tmp_path / "small.png")
    import base64
    import io

    data = base64.b64decode(picture(tmp_path / "small.png", "t", "a").source.partition(",")[2])
    assert (np.asarray(Image.open(io.BytesIO(data))) == noise[:64, :64]).all()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="Cannot read the picture"):
        picture(tmp_path / "bad.png", "t", "a")


# Figures


def test_a_figure_takes_the_colours_of_the_page_and_keeps_its_letters() -> None:
    def draw(figure) -> None:
        axes = figure.add_subplot()
        axes.plot([1, 2], [1, 2], color="#0000a1")
        axes.set_title(plain("a $ b < c"))

    svg = svg_of((3, 2), draw, 'x < "y"', "p")
    assert svg.startswith("<svg ") and "var(--c1)" in svg and "currentColor" in svg and "#0000" not in svg
    assert "a $ b &lt; c" in svg and 'aria-label="x &lt; &quot;y&quot;"' in svg
    assert "<metadata" not in svg and "<style" not in svg and svg == svg_of((3, 2), draw, 'x < "y"', "p")


def test_reports_are_read_in_the_order_of_the_command_line(tmp_path: Path) -> None:
    base, new = reports(tmp_path)
    sets = names_of_sets({str(base): load_reports(base), str(new): load_reports(new)})
    assert list(sets) == ["base.npz", "new.npz"]
    text = render_page(sets)
    assert "better in 7 of 8 numbers, worse in 1" in text and "kid:inception of new.npz" in text
    assert "a &lt;b&gt;warning&lt;/b&gt;" in text


def test_a_report_of_another_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", report())
    path.write_text(path.read_text().replace("fdr-report/1", "fdr-report/9"))
    with pytest.raises(InputError, match="another version of fdr wrote it"):
        load_reports(path)


# Colours


def _luminance(colour: str) -> float:
    """The relative luminance of "#rrggbb" (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_letters_and_marks_have_the_contrast_of_wcag(scheme: int) -> None:
    """4.5 for letters, 3 for marks, on paper and on cards."""
    colours = dict(re.findall(r"--(\w+): (#\w{6})", (TEMPLATES / "page.css").read_text().split("@media")[scheme]))
    for back in ("paper", "card"):
        for name in colours.keys() - {"paper", "card", "line", "grid"}:
            light, dark = sorted((_luminance(colours[name]), _luminance(colours[back])), reverse=True)
            least = 3.0 if name.startswith("c") else 4.5
            assert (light + 0.05) / (dark + 0.05) >= least, (name, back)
