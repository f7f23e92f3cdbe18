"""Defaults from `fdr.toml` or `[tool.fdr]` of pyproject.toml: flag beats environment beats file beats default."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

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


def apply_config(defaults: dict[str, Any], parameters: Sequence[click.Parameter], command: str) -> None:
    """Make one command's section fit click, in place: options by any of their spellings, tables as KEY=VALUE.

    `max = {"fd:inception" = 3.0}` is `--max fd:inception=3.0`; a single value does for a repeatable option. Raises
    `InputError` for an option that the command does not have.
    """
    by_name = {spelling: parameter for parameter in parameters for spelling in spellings(parameter)}
    for name in list(defaults):
        if name not in by_name:
            raise unknown(f"option in the configuration of fdr {command}", name, by_name)
        value, parameter = defaults.pop(name), by_name[name]
        if isinstance(parameter, click.Option) and parameter.multiple:
            value = _several(value, f"{name} of fdr {command}")
        defaults[str(parameter.name)] = value


def spellings(parameter: click.Parameter) -> set[str]:
    """The names of a parameter, with underscores: that of the function, and those of its long options."""
    long = [option[2:].replace("-", "_") for option in parameter.opts if option.startswith("--")]
    return {name for name in (parameter.name, *long) if name}


def _several(value: Any, where: str) -> list[str]:
    """The values of a repeatable option."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                raise InputError(
                    f"In the configuration, {where} has a {type(item).__name__} under {key!r}; expected a value "
                    '(quote names with a colon or a dot: "fd:inception" = 3.0).'
                )
        return [f"{key}={item}" for key, item in value.items()]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


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
