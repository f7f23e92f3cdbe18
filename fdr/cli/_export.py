"""The options of `fdr report` for results of other tools, and for shared formats: what they need beside a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options
from fdr.errors import InputError

if TYPE_CHECKING:
    from fdr.pages import ExportOptions
    from fdr.reports import Report

_FORMATS_OF = {
    "dataset": ("hf", "eee"),
    "tasks": ("hf",),
    "model": ("eee",),
    "organization": ("eee",),
    "relationship": ("eee",),
    "source_url": ("hf", "eee"),
    "date": ("hf", "eee"),
}
"""The formats that use each option."""


def _tasks(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> Mapping[str, str]:
    """A callback that reads ("fd:inception=fid", "is=is") as a table; a number that repeats is an error."""
    tasks: dict[str, str] = {}
    for text in given:
        number, separator, task = text.rpartition("=")
        if not separator or not number.strip() or not task.strip():
            raise click.BadParameter(f"{text!r} is not NUMBER=TASK, such as fd_debiased:dinov2=fd-dinov2.")
        if tasks.get(number.strip(), task.strip()) != task.strip():
            raise click.BadParameter(f"{number.strip()} was given two tasks.")
        tasks[number.strip()] = task.strip()
    return tasks


def _build(**values: Any) -> Callable[[str, float], ExportOptions | None]:
    """Makes the options of a format; raises `UsageError` for an option that the format does not use."""

    def options(style: str, confidence: float) -> ExportOptions | None:
        given = {name: value for name, value in values.items() if value}
        for name in given:
            if style not in _FORMATS_OF[name]:
                formats = " and ".join(f"--format {one}" for one in _FORMATS_OF[name])
                raise click.UsageError(f"{_options.flag(name)} is an option of {formats}, and the format is {style}.")
        if style not in ("hf", "eee"):
            return None
        from fdr.pages import ExportOptions

        return ExportOptions(**given, confidence=confidence)

    return options


options = _options.theme(
    "export",
    _build,
    _options.option(
        "--dataset ORG/NAME",
        "Dataset on the Hugging Face Hub: the benchmark that lists the results (hf), the real images (eee).",
    ),
    _options.option(
        "--task NUMBER=TASK",
        "Write this number of the report as this task of the dataset, such as fd_debiased:dinov2=fd-dinov2 (hf).",
        name="tasks",
        multiple=True,
        callback=_tasks,
    ),
    _options.option("--model ORG/NAME", "The model (eee)."),
    _options.option("--organization NAME", "Who reports the results (eee)."),
    _options.option(
        "--relationship WHO",
        "How those who evaluated stand to the developer of the model: first_party, third_party, collaborative or other "
        "(eee).",
    ),
    _options.option("--source-url URL", "Where the report, the images or the paper can be found (hf, eee)."),
    _options.option("--date DATE", "When the model was evaluated, such as 2026-11-28 (eee; may be left out for hf)."),
)


added = _options.option(
    "--add BENCHMARK=FILE",
    "Add the results that another tool wrote: geneval (evaluate_images.py), dpg_bench (compute_dpg_bench.py) or hpsv3 "
    "(evaluate/benchmark.py). Of several sets, give one for each in their order, or - for none.",
    multiple=True,
)


def files_of(given: Sequence[str]) -> Mapping[str, list[str]]:
    """("geneval=a.jsonl", "geneval=b.jsonl") as {"geneval": ["a.jsonl", "b.jsonl"]}."""
    files: dict[str, list[str]] = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or not name.strip() or not path.strip():
            raise click.UsageError(f"--add {text!r} is not BENCHMARK=FILE, such as geneval=results.jsonl.")
        files.setdefault(name.strip(), []).append(path.strip())
    return files


def text_of(
    sets: Mapping[str, Report], style: str, export: ExportOptions | None, compared: Sequence[Mapping[str, Any]]
) -> str:
    """The sets as the JSON of reports, or in one of the shared formats; neither has a place for comparisons."""
    from fdr.pages import every_eval_ever_json, hugging_face_yaml
    from fdr.reports import reports_to_json

    if compared:
        raise InputError(f"--format {style} holds no comparisons; leave the file of fdr compare out.")
    if export is None:
        if not sets:
            raise InputError("There is no report to write: name one, or a run that was trained with --eval-every.")
        return reports_to_json(list(sets.values()))
    return (hugging_face_yaml if style == "hf" else every_eval_ever_json)(sets, export)
