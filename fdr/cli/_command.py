"""Checks of every command before it runs: no option is empty or given twice, and no output is an input."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from fdr.cli._config import announce_origins, apply_config, check_origins, spellings
from fdr.cli._help import write_options
from fdr.cli._outputs import check_outputs
from fdr.metrics import peer_name
from fdr.runtime import synonyms

_TRUST = "fdr.weights.trust"
_EVERY = {"store": "append", "store_const": "append_const"}


class Command(click.Command):
    """A command whose options have one name in the configuration file, in the environment and as flags."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any):
        if parent is not None:
            apply_config(parent, self.params, info_name or "")
            self._name_variables(f"{parent.auto_envvar_prefix}_{info_name}")
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # that of shell completion
            return super().parse_args(ctx, args)
        try:
            given = self._given(ctx, list(args))
        except click.NoSuchOption as error:
            hint = self._hint(error.option_name.lstrip("-"))
            if hint is None:
                raise
            raise click.UsageError(f"No such option {error.option_name!r}; {hint}", ctx) from None
        for parameter in self.params:
            _check_given(parameter, given.get(str(parameter.name)), ctx)
        return super().parse_args(ctx, args)

    def _hint(self, word: str) -> str | None:
        """The option or metric that a word of another tool means here; None where it means none."""
        spelt = {spelling: parameter for parameter in self.params for spelling in spellings(parameter)}
        found = list(dict.fromkeys(spelt[name] for name in synonyms(word, spelt)))
        if found:
            return f"did you mean {' or '.join(map(_typed, found))}?"
        meaning = peer_name(word) if "metrics" in spelt else None
        return None if meaning is None else f"as a metric, {word} {meaning}."

    def invoke(self, ctx: click.Context) -> Any:
        if self.measures(ctx):
            check_origins(ctx, is_trusting=trusts(ctx))
        check_outputs(ctx)
        if ctx.params.get("dry_run") and not ctx.params.get("quiet"):
            announce_origins(ctx)
        return super().invoke(ctx)

    def measures(self, ctx: click.Context) -> bool:
        """True when the command may run code that a configuration file names."""
        return True

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)

    def _given(self, ctx: click.Context, args: list[str]) -> Mapping[str, Any]:
        """All values on the command line by parameter; click itself keeps only the last one of an option."""
        parser = self.make_parser(ctx)
        for option in {**parser._short_opt, **parser._long_opt}.values():
            option.action = _EVERY.get(option.action, option.action)
        return parser.parse_args(args)[0]

    def _name_variables(self, prefix: str) -> None:
        """Let $FDR_CHECK_MAX set --max, whatever the parameter is called in the code."""
        for option in self.params:
            if isinstance(option, click.Option) and option.opts[-1].startswith("--"):
                option.envvar = f"{prefix}_{option.opts[-1][2:]}".upper().replace("-", "_")


def _typed(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return parameter.opts[-1]
    return f"{parameter.metavar or parameter.name} without an option"


class ListOption(click.Option):
    """A list, given with commas, several times, or both. The command gets a text with commas, or `of` of that text."""

    def __init__(
        self, names: Sequence[str], *, default: Any = None, of: Callable[[str], Any] | None = None, **more: Any
    ):
        self.of = of
        more |= {"multiple": True, "default": () if default is None else (default,), "callback": self._joined}
        super().__init__(names, **more)

    def _joined(self, ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
        text = ",".join(values) if values else None
        return text if self.of is None or text is None else self.of(text)


def _keep_trust(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_TRUST] = value


trust = click.option(
    "--trust",
    is_flag=True,
    default=False,
    expose_value=False,
    callback=_keep_trust,
    help="Allow code that run folders and configuration files name to run. Without this option, only code that you "
    "name on the command line or that installed packages declare is run (docs/trust.md).",
)


def trusts(ctx: click.Context | None = None) -> bool:
    """True when --trust was given."""
    return bool((ctx or click.get_current_context()).meta.get(_TRUST, False))


def _check_given(parameter: click.Parameter, value: Any, ctx: click.Context) -> None:
    """Raise `UsageError` for an empty text, and for an option that is given twice and takes one value."""
    if isinstance(parameter, click.Option):
        name = parameter.opts[-1]
        values = list(value or ())
        if not parameter.multiple and not parameter.count and len(set(map(str, values))) > 1:
            raise _twice(parameter, values, ctx)
        if parameter.is_flag:
            return
        if not values:
            _check_variables(parameter, ctx)
    else:
        name = parameter.make_metavar(ctx)
        values = list(value) if isinstance(value, tuple | list) else [value]
    for text in values:
        if isinstance(text, str) and any(not part.strip() for part in _parts(parameter, text)):
            raise click.UsageError(_empty(name, text), ctx)


def _parts(parameter: click.Parameter, text: str) -> list[str]:
    return text.split(",") if isinstance(parameter, ListOption) else [text]


def _empty(name: str, text: str) -> str:
    what = f"{name} is empty" if not text.strip() else f"{name} {text!r} has an empty name in it"
    return f"{what}, as by a variable of the shell that is not set; give it a value, or leave it out."


def _twice(option: click.Option, values: list[Any], ctx: click.Context) -> click.UsageError:
    if option.is_flag:
        return click.UsageError(f"{' and '.join((*option.opts, *option.secondary_opts))} exclude each other.", ctx)
    shown = " and ".join(repr(text) for text in dict.fromkeys(values))
    return click.UsageError(f"{option.opts[-1]} was given several times, as {shown}; it takes one value.", ctx)


def _check_variables(option: click.Option, ctx: click.Context) -> None:
    for name in _variables(option, ctx):
        text = os.environ.get(name)
        if text is not None and any(not part.strip() for part in _parts(option, text)):
            raise click.UsageError(f"The environment variable {_empty(name, text)}", ctx)


def _variables(option: click.Option, ctx: click.Context) -> Iterator[str]:
    if isinstance(option.envvar, str):
        yield option.envvar
    if ctx.auto_envvar_prefix is not None:
        yield f"{ctx.auto_envvar_prefix}_{option.name}".upper()
