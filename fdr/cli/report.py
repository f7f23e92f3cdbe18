"""`fdr report`: reports and training runs as one page, a comment or a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _export, _options
from fdr.cli._outputs import Output, check_written, is_stdout, write_text
from fdr.errors import InputError
from fdr.runtime import human_bytes

if TYPE_CHECKING:
    from fdr.pages import ExportOptions
    from fdr.reports import Report

FORMATS = {"html": "html", "md": "markdown", "latex": "latex", "json": "json", "hf": "yaml", "eee": "json"}
"""Each format with the kind of file that it is."""
_SUFFIXES = {
    ".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".tex": "latex", ".json": "json", ".yaml": "hf",
    ".yml": "hf",
}  # fmt: skip


@click.command(
    "report",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr report out.json --images samples.npz -o report.html\n\n"
    "  fdr report base.json new.json -o compared.html\n\n"
    "  fdr report new.json explained.json --images new.npz --reference-images real/ -o report.html\n\n"
    "  fdr report runs/a -o run.html\n\n  fdr report base.json new.json --format md",
)
@click.argument("inputs", nargs=-1, required=True, metavar="REPORT|RUN|COMPARISON|EXPLANATION...")
@_options.option(
    "-o, --out FILE", "File to write. All formats but HTML go to stdout if none is named.", type=Output("new")
)
@_options.option(
    "--format FORMAT",
    "html for a page, md for a comment on a pull request, latex for a table in a paper, json for the reports as one "
    "file, hf for the .eval_results of a model on the Hugging Face Hub, eee for a record of Every Eval Ever.  "
    "[default: as the suffix of FILE says, else html]",
    name="style",
    type=click.Choice(list(FORMATS)),
)
@_options.option(
    "--images SAMPLES",
    "Show some images of this sample set, drawn with a fixed seed, and those that an explanation names; may be given "
    "several times. This needs torch.",
    multiple=True,
)
@_options.option(
    "--reference-images REF",
    "Show the nearest reference images beside those of an explanation; may be given several times. This needs torch.",
    multiple=True,
)
@_export.added
@_options.option("--title TEXT", "Title of the page.", default="fdr report")
@_options.confidence("intervals, ties and verdicts")
@_options.switch("--with-paths", "Keep absolute paths, which tell names of folders and users.")
@_export.options
def command(
    inputs: tuple[str, ...],
    out: Path | None,
    style: str | None,
    images: tuple[str, ...],
    reference_images: tuple[str, ...],
    add: tuple[str, ...],
    title: str,
    confidence: float,
    with_paths: bool,
    export: Callable[[str, float], ExportOptions | None],
) -> None:
    """Write reports of fdr eval, and folders of fdr train, as one self-contained HTML page: the verdict, all numbers
    with intervals, charts, differences, classes, and the curves, warnings and sample grids of a run.

    The first sample set is the one that the others are compared with. Differences take the noise of two sets as
    independent, unless the file of fdr compare SAMPLES --json is given as well, which pairs them. The file of fdr
    explain --json adds the images that raise FD most, and those nearest to the reference.

    The page loads nothing from elsewhere and holds its data: fdr show, fdr compare and fdr check read it as a report.
    An HTML page needs the extra "report" (pip install 'fdr-eval[report]'); nothing but images needs torch.
    """
    from fdr.pages import (
        PageOptions,
        add_all,
        check_extra,
        names_of_sets,
        read_inputs,
        render_page,
        with_explained,
        without_paths,
    )

    chosen = style or _SUFFIXES.get("" if out is None else out.suffix.lower(), "html")
    _check_out(out, chosen)
    exported = export(chosen, confidence)
    if chosen == "html":
        check_extra()
    given = read_inputs(inputs)
    runs, compared = given.runs, given.compared
    sets = with_explained(names_of_sets(given.files), given.explained)
    sets = sets or {name: one for run in runs for name, one in run.last_evaluation().items()}
    sets = add_all(sets, _export.files_of(add))
    if chosen == "html":
        page = PageOptions(
            title,
            confidence,
            with_paths,
            images=images,
            reference_images=reference_images,
            compared=compared,
            explained=given.explained,
        )
        text = render_page(sets, runs, page)
    elif chosen in ("md", "latex"):
        text = _table_text(sets, chosen, confidence, compared, with_paths)
    else:
        text = _export.text_of(sets if with_paths else without_paths(sets), chosen, exported, compared)
    write_text(Path("-") if out is None else out, text)
    if out is not None and not is_stdout(out):
        click.echo(f"wrote {out}: {human_bytes(len(text.encode()))}")


def _check_out(out: Path | None, style: str) -> None:
    if out is None and style == "html":
        raise click.UsageError("Name the file of the page with -o, for example -o report.html.")
    if out is not None and not is_stdout(out):
        check_written("out", out, FORMATS[style])


def _table_text(
    sets: dict[str, Report], style: str, confidence: float, compared: Sequence[Mapping[str, Any]], with_paths: bool
) -> str:
    from fdr.pages import number_table, table_to_latex, table_to_markdown, without_paths

    if not sets:
        raise InputError("There is no number for a table: name a report, or a run that was trained with --eval-every.")
    table = number_table(sets if with_paths else without_paths(sets), confidence, compared)
    return table_to_markdown(table) if style == "md" else table_to_latex(table)
