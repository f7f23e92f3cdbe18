"""The page of `fdr report` in a real browser, Chromium of the system; without it these tests are skipped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from explained_worlds import explanation, measured
from report_worlds import model, reports, run_folder

from fdr.pages import PageOptions, names_of_sets, read_run, render_page
from fdr.pages.explained import explained_from
from fdr.reports import load_reports

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with two sets of a long name, a failure, classes, charts and a run."""
    folder = tmp_path_factory.mktemp("page")
    files = {str(path): load_reports(path) for path in reports(folder)}
    sets = names_of_sets(files) | {"a-very-long-name-" * 6 + ".npz": model("x", 1.1)}
    of = measured(folder)
    paths = {"images": [str(folder / "samples.npz")], "reference_images": [str(folder / "real.npz")]}
    options = PageOptions(title="Ours", explained=[explained_from(explanation(of), "e")], **paths)
    text = render_page(sets | {"samples.npz": of}, [read_run(run_folder(folder / "run"))], options)
    (folder / "page.html").write_text(text)
    return (folder / "page.html").as_uri()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Open the page with given settings. Nothing may be said on the console, and nothing requested but the page."""
    contexts, said, asked = [], [], []

    def go(**settings: Any) -> Any:
        context = browser.new_context(**({"viewport": DESK} | settings))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition(",")[0] for url in asked} <= {address, "data:image/webp;base64"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_in_both_colour_schemes(opened: Any, scheme: str, viewport: dict[str, int]) -> None:
    page = opened(viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    back, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    levels = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (back, ink)]
    assert (levels[0] > levels[1]) == (scheme == "light")
    axis = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert axis == ink  # the letters of a chart have the colour of the page's


def test_verdict_and_first_numbers_are_seen_without_scrolling(opened: Any) -> None:
    page = opened()
    for what in (".verdict p", ".card .big"):
        assert page.locator(what).first.bounding_box()["y"] < DESK["height"]


def test_a_column_sorts_by_number_both_ways_and_by_name(opened: Any) -> None:
    page = opened()
    table = page.locator("table.numbers")
    values = "rows => rows.map(row => Number(row.cells[2].dataset.sort)).filter(value => value)"

    def column() -> list[float]:
        return table.locator("tbody tr").evaluate_all(values)

    button = table.locator("thead th").nth(2).locator("button")
    before = column()
    assert before != sorted(before)
    button.click()
    assert column() == sorted(before)
    assert table.locator("thead th").nth(2).get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert column() == sorted(before, reverse=True)
    table.locator("thead th").nth(1).locator("button").click()
    names = table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.cells[1].dataset.sort)")
    assert names == sorted(names) and table.locator("th[aria-sort]").count() == 1


def test_a_number_unfolds_to_its_signature(opened: Any) -> None:
    page = opened()
    one = page.locator("details.number").first
    signature = one.locator("dd.code")
    assert not signature.is_visible()
    one.locator("summary").click()
    assert signature.is_visible() and signature.inner_text().startswith("fdr|enc:inception|")


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_an_image_stands_beside_its_nearest_and_opens_in_full_size(opened: Any, viewport: dict[str, int]) -> None:
    page = opened(viewport=viewport)
    pair = page.locator("figure.pair").first
    own, near = (pair.locator("img").nth(index) for index in range(2))
    boxes = [each.bounding_box() for each in (own, near)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"] and boxes[0]["width"] >= 60
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    near.click()
    large = page.locator("dialog img")
    assert large.is_visible() and large.get_attribute("alt") == "Reference image arr_0[0]"
    assert large.bounding_box()["width"] > 2 * boxes[1]["width"]


def test_a_grid_opens_in_full_size_and_closes(opened: Any) -> None:
    page = opened()
    tile = page.locator("figure.tile img[alt^='Samples at step']").first
    small = tile.bounding_box()["width"]
    tile.click()
    large = page.locator("dialog img")
    assert large.is_visible() and large.get_attribute("alt") == "Samples at step 0"
    assert large.bounding_box()["width"] > 2 * small
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


@pytest.mark.parametrize(
    ("label", "begins"), [("Markdown", "**"), ("LaTeX", "% \\usepackage"), ("JSON", '{\n  "schema": "fdr-reports/1"')]
)
def test_the_table_is_copied(opened: Any, label: str, begins: str) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=f"Copy as {label}").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith(begins)


def test_without_scripts_the_numbers_and_charts_are_there_and_no_dead_buttons(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("table.numbers tbody tr").first.is_visible() and page.locator("svg").first.is_visible()
    assert not page.locator(".buttons").is_visible() and page.locator("th button").count() == 0


def test_it_prints(opened: Any) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator(".buttons").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
