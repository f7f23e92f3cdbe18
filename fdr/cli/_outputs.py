"""The files that a command was asked to write: none is an input, none replaces a file of another format."""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli._config import NO_PATHS, config_of, is_configured
from fdr.cli._render import write_text
from fdr.errors import FdrError, InputError

if TYPE_CHECKING:
    from fdr.reports import Report

Paths = Mapping[str, Path | None]
"""By option, without its dashes; None where it was not given."""


class Output(click.Path):
    """A path that the command writes: a file of the format `kind` ("plot" is of its suffix), "-" being stdout; or

    "new", a file or folder that the command itself looks at before it writes; or "store", a folder that takes files
    beside those it has.
    """

    def __init__(self, kind: str, path_type: type = Path) -> None:
        is_text = kind not in ("png", "plot", "new", "store")
        super().__init__(path_type=path_type, allow_dash=is_text, file_okay=kind != "store")
        self.kind = kind


def check_outputs(ctx: click.Context) -> None:
    """Raise now for what cannot, or must not, be written later."""
    kinds = {p: p.type.kind for p in ctx.command.params if isinstance(p.type, Output)}
    outputs = {p: ctx.params.get(str(p.name)) for p in kinds}
    named = {p: Path(path) for p, path in outputs.items() if path is not None}
    if sum(str(path) == "-" for path in named.values()) > 1:
        names = ", ".join(_label(p, ctx) for p, path in named.items() if str(path) == "-")
        raise click.UsageError(f"Only one of {names} can be stdout.", ctx)
    files = {p: path for p, path in named.items() if str(path) != "-"}
    seen: dict[Path, str] = {}
    for parameter, path in files.items():
        label, place = _label(parameter, ctx), path.resolve()
        if kinds[parameter] != "store" and place in seen:
            raise InputError(f"{seen[place]} and {label} are one file, {str(path)!r}; give each its own.")
        seen[place] = label
        check_output(ctx, parameter, path, kinds[parameter])


def check_output(ctx: click.Context, parameter: click.Parameter, path: Path, kind: str) -> None:
    """Raise `InputError` when `parameter` is to write `path`, a file of `kind`, and must not."""
    from fdr.cli._replaceable import check_replaceable
    from fdr.runtime import check_writable

    label = _label(parameter, ctx)
    if is_configured(ctx, str(parameter.name)):
        _check_within(path, config_of(ctx), label)
    if kind == "store":
        return
    _check_no_input(ctx, label, path, is_image=kind in ("png", "plot"), but=str(parameter.name))
    if kind != "new":
        check_writable(path)
        check_replaceable(path, path.suffix.lower().removeprefix(".") if kind == "plot" else kind)


def check_written(name: str, path: Path, kind: str) -> None:
    """`check_output` for the parameter `name` of the running command, which is an output in some of its modes."""
    ctx = click.get_current_context()
    check_output(ctx, next(p for p in ctx.command.params if p.name == name), path, kind)


def _check_no_input(ctx: click.Context, label: str, path: Path, *, is_image: bool = False, but: str = "") -> None:
    """Raise `InputError` when `path` is something that the command reads, or an image among its images."""
    place = path.resolve()
    for source in _inputs(ctx, but):
        if _is_same(place, source):
            raise InputError(f"{label} {str(path)!r} is an input of this command, and would be replaced; name another.")
        if is_image and source.is_dir() and source.resolve() in place.parents:
            raise InputError(
                f"{label} {str(path)!r} lies in the folder {str(source)!r}, an input of this command, and would be one "
                "of its images; name a place outside of it."
            )


def _inputs(ctx: click.Context, but: str) -> Iterator[Path]:
    """Every path on the command line that the command reads, as far as it exists, and the configuration."""
    yield from config_of(ctx).files
    for parameter in ctx.command.params:
        value = ctx.params.get(str(parameter.name))
        if isinstance(parameter.type, Output) or parameter.name in (but, *NO_PATHS):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, str | Path):
                yield from filter(_exists, map(Path, _spelled(str(item))))
    for text in (ctx.params.get(name) for name in ("reps", "monitor")):
        yield from filter(_exists, map(Path, re.findall(r"(?:torchscript|export):([^,]+)", str(text))))


def _spelled(text: str) -> Iterator[str]:
    """The paths that a text may name: itself, FILE of NAME=FILE,..., FILE of FILE:key, a range of shards, a pattern."""
    for one in (text, text.rpartition(":")[0], *(part.partition("=")[2] for part in text.split(","))):
        if not one:
            continue
        home = str(Path(one).expanduser()) if one.startswith("~") else one
        yield home
        if re.search(r"\{\d+\.\.\d+\}", home):
            from fdr.images import expand_braces

            yield from map(str, expand_braces(Path(home)))
        elif glob.has_magic(home):
            yield from glob.iglob(home)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text too long to be a path
        return False


def _is_same(place: Path, source: Path) -> bool:
    """True for one file or folder under two names: links of every kind."""
    return place == source.resolve() or (place.exists() and place.samefile(source))


def _check_within(path: Path, config: Any, label: str) -> None:
    if str(path) != "-" and config.folder.resolve() not in path.resolve().parents:
        raise InputError(
            f"{config.name} asks for {label} {str(path)!r}, which is not in the folder of that file; a configuration "
            f"writes nowhere else: name it on the command line."
        )


def _label(parameter: click.Parameter, ctx: click.Context) -> str:
    return parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.make_metavar(ctx)


def take_stdout(paths: Paths) -> bool:
    """True when stdout is one of the files."""
    return any(str(path) == "-" for path in paths.values())


def write_reports(paths: Paths, reports: Sequence[Report], show: Callable[[], None]) -> None:
    """The files "json", "csv" and "markdown" of `paths`, as far as they are asked for; `show` where none is stdout.

    What was measured is shown even where a file cannot be written.
    """
    from fdr.reports import reports_to_csv, reports_to_json, reports_to_markdown

    renderers = {"json": reports_to_json, "csv": reports_to_csv, "markdown": reports_to_markdown}
    asked = {path: renderers[name] for name, path in paths.items() if name in renderers and path is not None}
    writes = [functools.partial(write_text, path, render(reports)) for path, render in asked.items()]
    all_of(*writes, *(() if take_stdout(paths) else (show,)))


def all_of(*actions: Callable[[], None]) -> None:
    """Do all of them, also when one fails; the first failure is raised at the end."""
    failures = []
    for action in actions:
        try:
            action()
        except FdrError as error:
            failures.append(error)
    if failures:
        raise failures[0]
