"""Checks and writes the outputs of commands: none is an input, and none replaces a file of another format."""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._config import NO_PATHS, Config, config_of, is_configured, path_exists
from fdr.errors import FdrError, InputError, as_utf8

if TYPE_CHECKING:
    from fdr.reports import Report


class Output(click.Path):
    """A path that the command writes.

    `kind` is the format of a file, such as "json"; "plot" for a picture whose suffix is its format; "new" for a file or
    folder that the command itself checks before it writes; or "store" for a folder that takes files beside those it
    has. A text format also takes "-", for stdout.
    """

    def __init__(self, kind: str, path_type: type = Path) -> None:
        is_text = kind not in ("png", "plot", "new", "store")
        super().__init__(path_type=path_type, allow_dash=is_text, file_okay=kind != "store")
        self.kind = kind


def check_outputs(ctx: click.Context) -> None:
    """Raise an error now for an output that cannot, or must not, be written later."""
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
    """Raise `InputError` if the output `parameter` must not write `path`, a file of `kind`."""
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
    if kind == "png" and path.suffix.lower() not in ("", ".png"):
        raise InputError(f"{label} writes a PNG, and {str(path)!r} ends in {path.suffix}; name it {path.stem}.png.")


def check_written(name: str, path: Path, kind: str) -> None:
    """`check_output` for the parameter `name` of the running command, which is an output in some of its modes."""
    ctx = click.get_current_context()
    check_output(ctx, next(p for p in ctx.command.params if p.name == name), path, kind)


def _check_no_input(ctx: click.Context, label: str, path: Path, *, is_image: bool = False, but: str = "") -> None:
    """Raise `InputError` if the command reads `path`, or would read it as one of its images."""
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
    """Every existing path that the command reads: those on the command line, and the configuration files."""
    yield from config_of(ctx).files
    for parameter in ctx.command.params:
        value = ctx.params.get(str(parameter.name))
        if isinstance(parameter.type, Output) or parameter.name in (but, *NO_PATHS):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, str | Path):
                yield from filter(path_exists, map(Path, _spelled(str(item))))
    for text in (ctx.params.get(name) for name in ("reps", "monitor")):
        yield from filter(path_exists, map(Path, re.findall(r"(?:torchscript|export):([^,]+)", str(text))))


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


def _is_same(place: Path, source: Path) -> bool:
    """True if both are one file or folder, as through links."""
    return place == source.resolve() or (place.exists() and place.samefile(source))


def _check_within(path: Path, config: Config, label: str) -> None:
    if str(path) != "-" and config.folder.resolve() not in path.resolve().parents:
        raise InputError(
            f"{config.name} asks for {label} {str(path)!r}, which is not in the folder of that file; a configuration "
            f"writes nowhere else: name it on the command line."
        )


def _label(parameter: click.Parameter, ctx: click.Context) -> str:
    return parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.make_metavar(ctx)


@dataclass(frozen=True)
class ReportFiles:
    """Where to write reports: the values of --json, --csv and --markdown."""

    json_path: Path | None
    csv_path: Path | None = None
    markdown_path: Path | None = None

    def write(self, reports: Sequence[Report], show: Callable[[], None]) -> None:
        """Write the files that were asked for, and `show` where none of them is stdout.

        What was measured is shown even where a file cannot be written.
        """
        from fdr.reports import reports_to_csv, reports_to_json, reports_to_markdown

        writers = (
            (self.json_path, reports_to_json),
            (self.csv_path, reports_to_csv),
            (self.markdown_path, reports_to_markdown),
        )
        texts = {path: to_text(reports) for path, to_text in writers if path is not None}
        writes = [functools.partial(write_text, path, text) for path, text in texts.items()]
        all_of(*writes, *((show,) if self.spares_stdout else ()))

    @property
    def spares_stdout(self) -> bool:
        """True when no file is stdout."""
        return not any(map(is_stdout, (self.json_path, self.csv_path, self.markdown_path)))


def all_of(*actions: Callable[[], object]) -> None:
    """Do all actions even when one fails; raise the first failure at the end."""
    failures = []
    for action in actions:
        try:
            action()
        except FdrError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def is_stdout(path: Path | None) -> bool:
    """True for "-"."""
    return str(path) == "-"


def write_text(path: Path, text: str) -> None:
    """Write to a file (atomically), or to stdout for "-"."""
    if is_stdout(path):
        click.echo(as_utf8(text), nl=False)
        return
    from fdr.runtime import write_atomically

    write_atomically(path, text)


def write_json(path: Path | None, data: object) -> bool:
    """Write data where `--json` says. Return True if stdout is free for the same result in words."""
    from fdr.reports import json_text

    if path is not None:
        write_text(path, json_text(data))
    return not is_stdout(path)


@dataclass(frozen=True)
class _Text:
    """A format of text."""

    name: str
    begins: Callable[[str], bool]
    suffixes: frozenset[str]


_TEXTS = {
    "json": _Text("JSON", lambda head: head.startswith(("{", "[")), frozenset({".json"})),
    "csv": _Text("CSV", lambda head: "," in head.partition("\n")[0], frozenset({".csv", ".tsv"})),
    "markdown": _Text("Markdown", lambda head: True, frozenset({".md", ".markdown"})),
    "html": _Text(
        "HTML page", lambda head: head[:14].lower().startswith(("<!doctype html", "<html")), frozenset({".html"})
    ),
    "latex": _Text("LaTeX", lambda head: "\\" in head or head.startswith("%"), frozenset({".tex"})),
    "yaml": _Text("YAML", lambda head: head.startswith(("-", "#", "[]")), frozenset({".yaml", ".yml"})),
    "junit": _Text("JUnit XML", lambda head: head.startswith("<") and "<testsuite" in head, frozenset({".xml"})),
    "openmetrics": _Text("OpenMetrics", lambda head: head.startswith("#"), frozenset({".prom", ".om"})),
}
_MAGIC = {
    "png": ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    "svg": ("SVG", (b"<?xml", b"<svg")),
    "pdf": ("PDF", (b"%PDF",)),
}
_OTHERS = frozenset(
    {".jsonl", ".geojson", ".ipynb", ".html", ".svg", ".toml", ".yaml", ".yml", ".cfg", ".ini", ".tex", ".rst"}
    | {".py", ".sh", ".c", ".cpp", ".h", ".js", ".ts", ".rs", ".go", ".java", ".lock", ".cls"}
)
"""Suffixes of text files that are never results."""

_READ_BY_NAME = frozenset(
    {"generator.json", "train.json", "reference.json", "samples.json", "dataset.json", "manifest.json", "config.json"}
    | {"model_index.json", "preprocessor_config.json", "package.json"}
)
"""Names of JSON files that describe the files beside them."""
_RESULT = re.compile(r'"schema"\s*:\s*"fdr-(report|reports|check|baseline|compare|panel|correlation|explain)/')
_HEAD_BYTES = 4096


def check_replaceable(path: Path, kind: str) -> None:
    """Raise `InputError` if a new file of `kind` would replace one of another kind.

    Kinds are json, csv, markdown, junit, openmetrics, png, svg and pdf. Any kind may replace an empty
    file, and none may replace JSON that describes the files beside it (generator.json, PATH.json).
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"Cannot write {str(path)!r}: what is there cannot be read ({error.strerror}).") from error
    name, is_same = _judged(path, head, kind)
    if not is_same:
        raise InputError(f"{str(path)!r} is there and is no {name}, which would replace it; name another file.")
    if kind == "json" and _describes_others(path, head):
        raise InputError(f"{str(path)!r} says what the files beside it are, and would be replaced; name another file.")


def _judged(path: Path, head: bytes, kind: str) -> tuple[str, bool]:
    """The name of the format `kind`, and whether the file has it."""
    if kind in _MAGIC:
        name, starts = _MAGIC[kind]
        return name, head.startswith(starts)
    text, suffix = _TEXTS[kind], path.suffix.lower()
    foreign = _OTHERS.union(*(other.suffixes for other in _TEXTS.values())) - text.suffixes
    content = _text_of(head)
    if suffix in foreign or content is None:
        return text.name, False
    is_json = content.startswith(("{", "["))
    return text.name, text.begins(content) and (kind == "json" or not is_json)


def _text_of(head: bytes) -> str | None:
    """The first bytes of a file as text; None if they are not text."""
    if b"\0" in head:
        return None
    try:
        return (
            head.removeprefix(b"\xef\xbb\xbf").decode(errors="strict" if len(head) < _HEAD_BYTES else "ignore").lstrip()
        )
    except UnicodeDecodeError:
        return None


def _describes_others(path: Path, head: bytes) -> bool:
    if _RESULT.search(head.decode(errors="ignore")):
        return False  # of an earlier run, whatever it is called
    is_index = path.name in _READ_BY_NAME or path.name.endswith((".index.json", "_config.json"))
    is_sidecar = path.suffix == ".json" and path.with_suffix("").is_file()  # as model.pt.json beside model.pt
    return is_index or is_sidecar
