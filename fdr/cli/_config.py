"""Reads defaults from `fdr.toml` or `[tool.fdr]` of pyproject.toml: flag beats environment beats file beats default.

The first folder counts, from the current one upwards, that has an fdr.toml or a pyproject.toml with [tool.fdr]. A file
may have come with somebody else's project, so it may name no code, and no output outside of its own folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from fdr.errors import InputError, unknown

_META = "fdr.config"
OWN, PROJECT = "fdr.toml", "pyproject.toml"
NO_PATHS = frozenset(
    {"name", "names", "reps", "monitor", "metrics", "protocol", "labels", "arch", "arch_args", "vae_args", "ema"}
    | {"ema_kimg", "betas", "entry", "encoder", "x_name", "y_name", "label", "population", "wandb", "maxima", "minima"}
    | {"tolerances", "allow", "cache", "weights_dir", "device", "shell", "trained_on", "pipeline_args"}
)
"""Parameters whose text is never a path, even if a file has that name, and folders that are only searched."""


@dataclass(frozen=True)
class Config:
    """The configuration files that set the defaults."""

    folder: Path
    files: tuple[Path, ...] = ()
    """The files in `folder` that have options of fdr."""

    @property
    def name(self) -> str:
        """The files, as part of a sentence."""
        return " and ".join(map(str, self.files))


def load_config(ctx: click.Context, commands: Collection[str]) -> None:
    """Make what the configuration says the defaults of all commands under `ctx`.

    Raises `InputError` for a file that is not valid, a section that is no command, and an option that two files set.
    """
    files = find_config(Path.cwd())
    sections: dict[str, Any] = {}
    for path, content in files.items():
        for section, options in content.items():
            if section not in commands:
                raise unknown("section", f"[{section}]", [f"[{name}]" for name in commands], f"({path})")
            if not isinstance(options, dict):
                raise InputError(f"{path}: [{section}] must be a table of options; got {type(options).__name__}.")
            merged = sections.setdefault(section, {})
            for name, value in options.items():
                key = name.replace("-", "_")
                if key in merged:
                    both = " and ".join(map(str, files))
                    raise InputError(f"{name} of [{section}] is set twice, in {both}; keep one.")
                merged[key] = value
    ctx.default_map = sections
    ctx.meta[_META] = Config(next(iter(files)).parent, tuple(files)) if files else Config(Path.cwd())


def config_of(ctx: click.Context) -> Config:
    """The configuration that `ctx` takes its defaults from."""
    found: Config = ctx.meta.get(_META) or Config(Path.cwd())
    return found


def find_config(start: Path) -> dict[Path, dict[str, Any]]:
    """The sections of the first folder from `start` upwards that has any, by file."""
    for folder in (start, *start.parents):
        found = dict(_sections(folder))
        if found:
            return found
    return {}


def _sections(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    own = _parsed(folder / OWN)
    if own is not None:
        yield folder / OWN, own
    project = _parsed(folder / PROJECT)
    tools = {} if project is None else project.get("tool", {})
    if isinstance(tools, dict) and "fdr" in tools:
        if not isinstance(tools["fdr"], dict):
            raise InputError(f"{folder / PROJECT}: tool.fdr must hold tables of options, such as [tool.fdr.check].")
        yield folder / PROJECT, tools["fdr"]


_BARE = re.compile(r"(?:^|[{,])[ \t]*([A-Za-z_][\w.-]*:[\w:.@/-]+)[ \t]*=", re.MULTILINE)


def _parsed(path: Path) -> dict[str, Any] | None:
    """The content of a TOML file; None if there is none. Raises `InputError` for one that is not valid."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        if not path.exists():  # in a folder that may not be looked into
            return None
        raise InputError(f"{path} cannot be read ({error}), and may hold options of fdr; mend it.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        bare = _BARE.search(text)
        hint = "" if bare is None else f'; quote names with a colon: "{bare[1]}" = 3.0'
        raise InputError(f"{path} is not valid TOML ({error}), and may hold options of fdr{hint}.") from error


def apply_config(parent: click.Context, parameters: Sequence[click.Parameter], command: str) -> None:
    """Rewrite one command's section for click, in place: options by any of their spellings, tables as KEY=VALUE.

    `max = {"fd:inception" = 3.0}` is `--max fd:inception=3.0`; a single value does for a repeatable option. Paths are
    relative to the file. Raises `InputError` for an option that the command does not have, and for an empty value.
    """
    _check_subcommands(parent)
    defaults = parent.lookup_default(command) or {}
    folder = config_of(parent).folder
    by_name = {spelling: parameter for parameter in parameters for spelling in spellings(parameter)}
    for name in list(defaults):
        if name not in by_name:
            raise unknown(f"option in the configuration of fdr {command}", name, by_name)
        value, parameter = defaults.pop(name), by_name[name]
        where = f"{name} of fdr {command}"
        if name == "trust":
            raise InputError(f"In the configuration, {where} is refused: say --trust yourself, on the command line.")
        values = _several(value, where)
        for text in values:
            if not text.strip() or text.endswith("="):
                raise InputError(f"In the configuration, {where} is empty; give it a value, or leave it out.")
        values = [_from(folder, text, parameter) if isinstance(value, str | list | dict) else text for text in values]
        if parameter.multiple if isinstance(parameter, click.Option) else parameter.nargs != 1:
            defaults[str(parameter.name)] = values
        elif isinstance(value, list | dict):
            raise InputError(f"In the configuration, {where} takes one value; got a {type(value).__name__}.")
        else:
            defaults[str(parameter.name)] = values[0] if isinstance(value, str) else value


def _check_subcommands(parent: click.Context) -> None:
    """Raise `InputError` for an option in the section of a group, such as [weights]: only its commands have options."""
    group = parent.command
    if parent.parent is not None and isinstance(group, click.Group):
        for name in parent.default_map or {}:
            if name not in group.commands:
                sections = [f"[{group.name}.{command}]" for command in group.commands]
                raise unknown(
                    f"option in [{group.name}]", str(name), sections, "Its commands have sections of their own."
                )


def spellings(parameter: click.Parameter) -> set[str]:
    """The names of a parameter, with underscores: its name in the code, and its long options."""
    long = [option[2:].replace("-", "_") for option in parameter.opts if option.startswith("--")]
    return {name for name in (parameter.name, *long) if name}


def _several(value: Any, where: str) -> list[str]:
    """The values of an option, as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                raise InputError(
                    f"In the configuration, {where} has a {type(item).__name__} under {key!r}; expected a value "
                    '(quote names with a colon or a dot: "fd:inception" = 3.0).'
                )
        return [f"{key}={item}" for key, item in value.items()]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _from(folder: Path, text: str, parameter: click.Parameter) -> str:
    """Resolve a path against the folder of the file. A text that may be a path is one only if the file exists."""
    is_path = isinstance(parameter.type, click.Path)
    if folder == Path.cwd() or text == "-" or (parameter.name in NO_PATHS and not is_path):
        return text
    if "," in text and "=" in text:
        return ",".join(_from(folder, part, parameter) for part in text.split(","))
    head, separator, path = text.rpartition("=")
    place = folder / Path(path).expanduser()
    if is_path or re.search(r"[*{]", path) or path_exists(place):
        return f"{head}{separator}{place}"
    return text


def path_exists(path: Path) -> bool:
    """True for a path that is there; False for a text that cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # as of one that is too long
        return False


def is_configured(ctx: click.Context, name: str) -> bool:
    """True when a configuration file set the value of a parameter."""
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def check_origins(ctx: click.Context, is_trusting: bool) -> None:
    """Raise `InputError` for code that a configuration file names, unless the user trusts it."""
    configured = {name: value for name, value in ctx.params.items() if value and is_configured(ctx, name)}
    if is_trusting or not configured:
        return
    from fdr.weights import GENERATORS, check_encoders, find_declared, untrusted

    where = config_of(ctx).name
    for name in ("reps", "monitor"):
        if name in configured:
            check_encoders([configured[name]], where, f"--{name}")
    arch = configured.get("arch")
    if arch is not None and ":" in arch and find_declared(GENERATORS, arch) is None:
        raise untrusted(where, arch, f"--arch {arch}")
    if "gen" in configured:
        from fdr.generators import check_not_program, names_object

        if names_object(str(configured["gen"])):
            raise untrusted(where, str(configured["gen"]), f"--gen {configured['gen']}")
        check_not_program(Path(configured["gen"]).expanduser(), where)
    if "vae" in configured:
        from fdr.ifid import check_named_by_file

        check_named_by_file(configured["vae"], where)


def announce_origins(ctx: click.Context) -> None:
    """Say on stderr which options come from which file."""
    options = {p.name: p.opts[-1] for p in ctx.command.params if isinstance(p, click.Option)}
    names = [options.get(name, name) for name in ctx.params if is_configured(ctx, name)]
    if names:
        click.echo(f"fdr: {', '.join(names)} from {config_of(ctx).name}", err=True)
