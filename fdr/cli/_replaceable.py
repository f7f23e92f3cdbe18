"""What a file that is there is, by its first bytes: a result replaces only its own kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fdr.errors import InputError


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
"""Suffixes of text that is no result, whatever it begins with."""

_READ_BY_NAME = frozenset(
    {"generator.json", "train.json", "reference.json", "samples.json", "dataset.json", "manifest.json", "config.json"}
    | {"model_index.json", "preprocessor_config.json", "package.json"}
)
"""JSON files that say what the files beside them are."""
_RESULT = re.compile(r'"schema"\s*:\s*"fdr-(report|reports|check|baseline|compare|correlation)/')
_HEAD_BYTES = 4096


def check_replaceable(path: Path, kind: str) -> None:
    """Raise `InputError` where a new file of `kind` would replace one of another kind.

    Kinds are json, csv, markdown, junit, openmetrics, png, svg and pdf. An empty file may be replaced by any; JSON that
    says what the files beside it are (generator.json, PATH.json) by none.
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
    """The name of the format, and whether the file is of it."""
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
    """The first bytes of a file as text; None where they are none."""
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
