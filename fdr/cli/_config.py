"""Defaults from `fdr.toml` or `[tool.fdr]` of pyproject.toml: flag beats environment beats file beats default."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fdr.errors import InputError, unknown


def load_default_map(commands: Iterable[str], folder: Path | None = None) -> dict[str, Any]:
    """The click default map: {"eval": {"batch_size": 64}}. Raises `InputError` for a section that is no command."""
    found = _read(folder or Path.cwd())
    if found is None:
        return {}
    path, sections = found
    defaults: dict[str, Any] = {}
    for section, options in sections.items():
        if section not in commands:
            raise unknown("section", f"[{section}]", [f"[{name}]" for name in commands], f"({path})")
        if not isinstance(options, dict):
            raise InputError(f"{path}: [{section}] must be a table of options; got {type(options).__name__}.")
        defaults[section] = {name.replace("-", "_"): value for name, value in options.items()}
    return defaults


def check_known(defaults: dict[str, Any] | None, names: Iterable[str], command: str) -> None:
    """Raise for a configured option that the command does not have."""
    known = list(names)
    for name in defaults or {}:
        if name not in known:
            raise unknown(f"option in the configuration of fdr {command}", name, known)


def _read(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    own, project = folder / "fdr.toml", folder / "pyproject.toml"
    for path in (own, project):
        if path.is_file():
            try:
                data = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                if path == project:
                    return None  # not ours to complain about
                raise InputError(f"{path} is not valid TOML: {error}.") from error
            sections = data if path == own else data.get("tool", {}).get("fdr")
            if sections is not None:
                return path, sections
    return None
