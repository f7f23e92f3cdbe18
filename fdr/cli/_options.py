"""Options that several commands share, with one spelling, help text and default; and how a command gets them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fdr.cli import completion
from fdr.cli._command import Command as Command
from fdr.cli._command import ListOption
from fdr.cli._command import trust as trust
from fdr.cli._command import trusts as trusts
from fdr.cli._outputs import Output, ReportFiles

if TYPE_CHECKING:
    from fdr.images import ImageOptions

Function = Callable[..., object]
Decorator = Callable[[Function], Function]


def option(declaration: str, text: str, name: str | None = None, **settings: Any) -> Decorator:
    """An option, declared as help shows it ("-n, --num-images N"), with its help `text`.

    `name` is its parameter where that is not its flag; `settings` are those of `click.option`.
    """
    *flags, last = declaration.split()
    if last.startswith("-"):
        flags.append(last)
    else:
        settings["metavar"] = last
    names = [flag.rstrip(",") for flag in flags] + ([] if name is None else [name])
    return click.option(*names, help=text, **settings)


switch = functools.partial(option, is_flag=True, default=False)
"""An option without a value."""
listed = functools.partial(option, cls=ListOption)
"""An option that takes a list, with commas or given several times."""


def stack(*options: Decorator) -> Decorator:
    """Apply option decorators so that help shows them in the order given."""

    def decorate(command: Function) -> Function:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def names_of(options: Decorator) -> list[str]:
    """The names of the parameters that a decorator adds to a command."""
    parameters: list[click.Parameter] = options(lambda: None).__click_params__  # type: ignore[attr-defined]
    return [str(parameter.name) for parameter in parameters if parameter.expose_value]


def theme(argument: str, build: Function, *options: Decorator) -> Decorator:
    """Give a command `options`, and hand it their values as one `argument`, the object that `build` makes of them."""
    return stack(*options, gather(argument, build, names_of(stack(*options))))


def _num_bytes(ctx: click.Context, option: click.Parameter, text: str) -> int:
    """A callback that reads a number of bytes from "4GB", "24 GiB" or "500MB"."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no amount of memory; expected one such as 4GB or 512MiB.")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("", "K", "M", "G", "T").index(unit))


def memory(user: str) -> Decorator:
    """--memory, the memory that `user` may hold at once."""
    return option(
        "--memory SIZE",
        f"Memory that {user} may use; the result does not depend on it.",
        callback=_num_bytes,
        default="4GiB",
    )


def gather(argument: str, build: Function, names: Sequence[str]) -> Decorator:
    """Hand a command the arguments `names` as one `argument`, the object that `build` makes of them."""

    def decorate(command: Function) -> Function:
        @functools.wraps(command)
        def run(**values: object) -> object:
            given = {name: values.pop(name) for name in names}
            return command(**{argument: build(**given)}, **values)

        return run

    return decorate


def is_typed(option: str) -> bool:
    """True when the option is on the command line, not in a file or in the environment."""
    return source_of(option) is ParameterSource.COMMANDLINE


def source_of(option: str) -> ParameterSource | None:
    """Where the value of a parameter of the running command comes from."""
    return click.get_current_context().get_parameter_source(option)


def flag(option: str) -> str:
    """A parameter of the running command as it is typed: "num_images" -> "--num-images"."""
    parameters = click.get_current_context().command.params
    return next(parameter.opts[-1] for parameter in parameters if parameter.name == option)


def key_values(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> Mapping[str, object]:
    """A callback that reads ("width=256 act=relu", "deep=true") as {"width": 256, "act": "relu", "deep": True}."""
    import json

    found: dict[str, object] = {}
    for text in (part for several in given for part in several.split()):
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint=option.opts[-1])
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        if found.get(key, read) != read:
            sentence = f"{key} was given two values, {found[key]!r} and {read!r}."
            raise click.BadParameter(sentence, param_hint=option.opts[-1])
        found[key] = read
    return found


def value_range(default: str, of: str) -> Decorator:
    """--value-range, which becomes the values of black and white."""
    ranges = {"0:1": (0.0, 1.0), "-1:1": (-1.0, 1.0)}
    return option(
        "--value-range",
        f"The values of black and white in the images of the {of}.  [default: what it declares, else {default}]",
        type=click.Choice(list(ranges)),
        callback=lambda ctx, option, text: ranges.get(text),
    )


def reference(meaning: str, more: str = "") -> Decorator:
    """--ref, with the meaning that it has for a command."""
    return option(
        "--ref NAME|FILE|IMAGES",
        f"{meaning}: the name of a known reference (see fdr references list), a statistics file of any tool, or "
        f"real images.{more}",
        name="reference",
        default="imagenet256",
        shell_complete=completion.references_and_files,
    )


def announce_default_reference(name: str) -> None:
    """Say on the terminal which reference is used if --ref was not given, unless --quiet was."""
    if source_of("reference") is ParameterSource.DEFAULT and not click.get_current_context().params.get("quiet"):
        click.echo(f"fdr: note: no --ref was given; the reference is {name}.", err=True)


reps = listed(
    "--reps NAMES",
    "Encoders that turn images into features, separated by commas: inception, dinov2, fdr6 (six at once), "
    "timm:NAME, ... fdr encoders lists them.",
    shell_complete=completion.encoders,
    default="inception",
)


def text_file(kind: str, what: str) -> Decorator:
    """--KIND FILE, which writes `what` to a file or to stdout."""
    return option(f"--{kind} FILE", f"Write {what} to FILE (- for stdout).", name=f"{kind}_path", type=Output(kind))


json_out = text_file("json", "the result as JSON")
csv_out = text_file("csv", "the result as CSV")
markdown_out = text_file("markdown", "the result as a Markdown table")


def confidence(what: str, default: float = 0.95) -> Decorator:
    """--confidence, with what it is the confidence of."""
    return option(
        "--confidence P",
        f"Confidence of {what}.",
        type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
        default=default,
    )


quiet = switch("-q, --quiet", "Print no progress and no warnings, only errors.")
dry_run = switch("--dry-run", "Check the inputs and say what would be done, without doing it.")
weights_dir = option(
    "--weights-dir DIR",
    "Folder in which to look first for weight files.",
    type=click.Path(path_type=Path, file_okay=False),
)
offline = switch("--offline", "Never use the network; a file that is missing ends the run.")
cache_dir = option("--cache DIR", "Folder of cached features.  [default: ~/.cache/fdr/features]", type=Output("store"))


def report_files(*options: Decorator) -> Decorator:
    """These of the three options above, as the argument `files` of a command."""
    return theme("files", ReportFiles, *options)


@dataclass(frozen=True)
class Images:
    """Which images are measured, and how they become pixels."""

    count: int | None
    seed: int
    crop: str
    size: int | None
    transparency: str
    on_bad: str
    max_bad: float
    max_pixels: int

    def options(self) -> ImageOptions:
        """The options for the library. Raises `InputError` for values that no image can have."""
        from fdr.images import ImageOptions

        values = asdict(self)
        return ImageOptions(alpha=values.pop("transparency"), **values)


def images_of(seed_for: str) -> Decorator:
    """The options of `Images`, as the argument `images` of a command. `seed_for` says what the seed is for."""
    return theme(
        "images",
        Images,
        option("--count N", "Measure a random subset of N images instead of all.", type=int),
        option("--seed N", f"Seed for {seed_for}.", type=int, default=0),
        option(
            "--crop",
            "How to crop images before any encoder sees them: the centre square of guided-diffusion (adm), or of COCO "
            "evaluations (lanczos), or the centre after a bicubic or bilinear resize.",
            type=click.Choice(["none", "center", "center-bilinear", "lanczos", "adm"]),
            default="none",
        ),
        option(
            "--size PX",
            "Side of the square images after cropping. Without --crop, images are resized to a square, which may "
            "change their proportions.",
            type=int,
        ),
        option(
            "--transparency",
            "What to do with transparent pixels: drop ignores the alpha channel, as other tools do; white and "
            "black put the image on a background of that colour.",
            type=click.Choice(["drop", "white", "black"]),
            default="drop",
        ),
        option(
            "--on-bad",
            "What to do with unreadable images: stop (fail), or leave them out and list them in the report (skip).",
            type=click.Choice(["fail", "skip"]),
            default="fail",
        ),
        option(
            "--max-bad SHARE",
            "Largest share of the images that may be left out, because they are unreadable (with --on-bad skip) "
            "or of an unsupported format.",
            type=float,
            default=0.01,
        ),
        option(
            "--max-pixels N",
            "Treat an image of more than N pixels as unreadable. This protects against small files that decode to "
            "huge images.",
            type=int,
            default=89_478_485,
        ),
    )
