"""Writes the page: one HTML file with its style, script, figures, pictures and data, which loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdr._version import __version__
from fdr.comparison import CONFIDENCE
from fdr.errors import InputError
from fdr.pages.charts import Chart, charts_of
from fdr.pages.class_tables import ClassTable, class_tables
from fdr.pages.contents import cards_of, differences_of, lines_of, origins
from fdr.pages.explained import Explained, with_explained
from fdr.pages.formats import table_to_latex, table_to_markdown
from fdr.pages.image_sets import ImageSet, open_samples_shown
from fdr.pages.pairs import class_influences, pair_sections, picture_count, subjects_of
from fdr.pages.paths import without_folders
from fdr.pages.pictures import NUM_SAMPLES, Picture, PictureSize, grid_pictures, sample_pictures
from fdr.pages.run_folder import RunHistory
from fdr.pages.spectra import spectra_charts
from fdr.pages.table import NumberTable, number_table
from fdr.pages.training_charts import thinned, training_charts
from fdr.pages.words import notes, verdict
from fdr.reports import Report, embedded_json, reports_from_dict, unique_names

TEMPLATES = Path(__file__).with_name("templates")
EXTRA = ("jinja2", "matplotlib")
"""The libraries that a page needs."""


@dataclass(frozen=True)
class PageOptions:
    """How a page is written."""

    title: str = "fdr report"
    confidence: float = CONFIDENCE
    """The confidence of intervals and verdicts."""
    with_paths: bool = False
    """Keep absolute paths, which may tell names of users and machines; False keeps their last part."""
    refresh: int | None = None
    """Seconds after which a browser loads the page again, for a run that goes on; None for never."""
    images: Sequence[str] = ()
    """Sample sets, as `fdr.images.open_images` takes them, of which the page shows some images. They need torch."""
    reference_images: Sequence[str] = ()
    """References in the same way, of which it shows those beside the images of explanations."""
    explained: Sequence[Explained] = ()
    """Explanations of sets, which `read_inputs` read."""
    compared: Sequence[Mapping[str, Any]] = ()
    """Comparisons of the same sets that `load_compared` read, whose differences are paired."""


@dataclass(frozen=True)
class RunSection:
    """What the page shows of one training run."""

    name: str
    state: str
    remarks: Sequence[tuple[int, str, str]]
    charts: Sequence[Chart]
    pictures: Sequence[Picture]
    more: Sequence[Chart] = ()
    """Charts that are folded away."""
    options: Mapping[str, Any] = field(default_factory=dict)


def check_extra(user: str = "An HTML page") -> None:
    """Raise `InputError` if a library that a page needs is not installed; `user` is what needs it."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{user} needs {' and '.join(missing)}, which is not installed: pip install 'fdr-eval[report]'; "
            "fdr report --format md and --format latex work without."
        )


def without_paths(sets: Mapping[str, Report]) -> dict[str, Report]:
    """The sets with absolute paths in their names and reports cut to the last part."""
    names = unique_names([str(without_folders(name)) for name in sets])
    reports = (reports_from_dict(without_folders(report.to_dict()))[0] for report in sets.values())
    return dict(zip(names, reports, strict=True))


def names_of_sets(files: Mapping[str, Sequence[Report]]) -> dict[str, Report]:
    """The sets of several report files by the name of their samples; a name that repeats is followed by its file."""
    rows = [(path, str(report.samples["source"]), report) for path, reports in files.items() for report in reports]
    sources = [source for _, source, _ in rows]
    names = [f"{source} ({path})" if sources.count(source) > 1 else source for path, source, _ in rows]
    return dict(zip(unique_names(names), (report for _, _, report in rows), strict=True))


def render_page(sets: Mapping[str, Report], runs: Sequence[RunHistory] = (), options: PageOptions | None = None) -> str:
    """The page of reports, by the name of their set, and of training runs; the first set is the one compared with.

    Equal input gives equal bytes. Raises `InputError` without the libraries of the extra `report`, and if there is
    neither a report nor a run.
    """
    options = options or PageOptions()
    check_extra()
    sets = with_explained(sets, options.explained)
    if not sets and not runs:
        raise InputError("A page needs a report or a run folder; none was given.")
    shown = dict(sets) if options.with_paths else without_paths(sets)
    samples = open_samples_shown(options.images, sets)
    names = dict(zip(sets, shown, strict=True))
    subjects = subjects_of(options.explained, sets, names, samples, options.reference_images)
    compared = options.compared if options.with_paths else without_folders(options.compared)
    size = PictureSize.of_many(NUM_SAMPLES * len(samples) + picture_count(subjects))
    table = number_table(shown, options.confidence, compared)
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        options=options,
        percent=f"{100 * options.confidence:g} %",
        version=__version__,
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_of_sets(table, class_influences(subjects)),
        galleries=[_gallery(one, size, options) for one in samples],
        harmful=pair_sections(subjects, size, options.with_paths),
        runs=[_section(run, f"r{number}", options) for number, run in enumerate(runs)],
        data=embedded_json(_data(list(shown.values()))) if shown else "",
        run_data=embedded_json([_run_data(run) for run in runs]) if runs else "",
    )


def _gallery(images: ImageSet, size: PictureSize, options: PageOptions) -> tuple[str, str, list[Picture]]:
    keep = (lambda text: text) if options.with_paths else without_folders
    return keep(images.path), keep(images.remark), sample_pictures(images, size)


def _of_sets(table: NumberTable, influences: Sequence[ClassTable]) -> dict[str, Any]:
    """The parts of the page about sample sets."""
    lines = lines_of(table)
    is_empty = not table.names
    return {
        "names": table.names,
        "reports": table.sets,
        "sentences": verdict(table),
        "cards": cards_of(table, lines),
        "lines": lines,
        "charts": [] if is_empty else [*charts_of(table), *spectra_charts(table.sets)],
        "differences": [[(text, None) for text in row] for row in differences_of(table)],
        "classes": [*class_tables(table), *influences],
        "origins": origins(table.sets),
        "notes": notes(table) if not is_empty else [],
        "markdown": "" if is_empty else table_to_markdown(table),
        "latex": "" if is_empty else table_to_latex(table),
    }


def _section(run: RunHistory, prefix: str, options: PageOptions) -> RunSection:
    done = max((entry["step"] for entry in run.entries), default=0)
    of = f" of {run.total_steps:,}" if run.total_steps else ""
    state = f"step {done:,}{of}" + (", going on or stopped" if run.is_going_on else ", finished")
    keep = (lambda data: data) if options.with_paths else without_folders
    remarks = [(step, kind, keep(text)) for step, kind, text in run.remarks]
    charts, more = training_charts(run, prefix)
    return RunSection(run.name, state, remarks, charts, grid_pictures(run), more, keep(dict(run.options)))


def _data(reports: Sequence[Report]) -> Any:
    if len(reports) == 1:
        return reports[0].to_dict()
    return {"schema": "fdr-reports/1", "reports": [report.to_dict() for report in reports]}


def _run_data(run: RunHistory) -> dict[str, Any]:
    """The curves that the charts draw."""
    curves = {c.name: {key: thinned(points) for key, points in c.points.items()} for c in run.curves()}
    return {"name": run.name, "curves": curves}
