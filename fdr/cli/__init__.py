"""The `fdr` command: one file per subcommand, loaded when it is called, so that `--help` needs no torch."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from fdr._version import __version__
from fdr.cli._config import load_config
from fdr.errors import FdrError, FdrWarning, PeerError, command_line
from fdr.runtime import COMMANDS as WORDS
from fdr.runtime import as_fdr_error

COMMANDS = {
    "eval": ("fdr.cli.eval", "Measure samples against a reference: FD, FDr, FDr^k, Inception Score."),
    "sample": ("fdr.cli.sample", "Generate samples and write them as npz or PNG files; resumable."),
    "captions": ("fdr.cli.captions", "Select the prompts of an evaluation, such as COCO-30k, and write them as CSV."),
    "train": ("fdr.cli.train", "Post-train a generator with FD as its loss; resumable."),
    "recon": ("fdr.cli.recon", "Measure reconstructions against their originals: rFID, PSNR, SSIM, LPIPS."),
    "ifid": ("fdr.cli.ifid", "Measure an autoencoder: iFID, rFID, PSNR, SSIM."),
    "cas": ("fdr.cli.cas", "Train classifiers on samples and test them on real images: CAS, NAS; resumable."),
    "check": ("fdr.cli.check", "Check numbers against limits and a baseline; the exit code is the verdict."),
    "compare": (
        "fdr.cli.compare",
        "Compare numbers of sample sets: are they comparable, and is the difference noise?",
    ),
    "explain": ("fdr.cli.explain", "Say which images and which classes of a sample set raise FD most."),
    "audit": ("fdr.cli.audit", "Measure how much of an FD is won by matching class frequencies alone."),
    "panel": ("fdr.cli.panel", "Compare models over training seeds and sampling seeds: which gaps mean something?"),
    "report": ("fdr.cli.report", "Write reports and training runs as an HTML page, Markdown or LaTeX."),
    "correlate": ("fdr.cli.correlate", "Correlate two columns of a table, with intervals and a scatter plot."),
    "stats": ("fdr.cli.stats", "Compute the moments of images, as a reference for fdr eval."),
    "show": ("fdr.cli.show", "Show what is in a statistics file, a reference folder or a report."),
    "convert": ("fdr.cli.convert", "Convert a statistics file into the layout of another tool."),
    "references": ("fdr.cli.references", "List, fetch or verify the references known by name."),
    "encoders": ("fdr.cli.encoders", "List the encoders, and which of their weights are on this machine."),
    "weights": ("fdr.cli.weights", "List, fetch or verify weight files, or collect them for another machine."),
    "cache": ("fdr.cli.cache", "List, verify or remove cached features."),
    "env": ("fdr.cli.env", "Print versions, devices and folders, to paste into a bug report."),
    "demo": ("fdr.cli.demo", "See fdr work in two minutes, without data or network."),
    "completion": ("fdr.cli.completion", "Print the script for shell completion."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and knows its one-line help before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            meant = next((name for name, words in WORDS.items() if cmd_name.lower() in words.split()), None)
            near = [meant] if meant else difflib.get_close_matches(cmd_name.lower(), COMMANDS, n=1)
            if near:
                raise click.UsageError(f"No such command {cmd_name!r}; did you mean fdr {near[0]}?", ctx)
            return None
        return importlib.import_module(COMMANDS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _dashes(name: str) -> str:
    return name.replace("_", "-")


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": _dashes,
        "auto_envvar_prefix": "FDR",
        "max_content_width": 110,
        "show_default": True,
    },
    epilog="Example: fdr eval samples.npz --reps inception,dinov2",
)
@click.version_option(__version__, prog_name="fdr")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Measure image generators with numbers that can be trusted.

    Encoders turn images into features, the features of a set give moments (mean and covariance), and two sets of
    moments give a Fréchet distance.
    """
    if not {"-h", "--help"} & set(ctx.obj or ()):  # help is there when the configuration is broken, too
        load_config(ctx, COMMANDS)


def main(args: list[str] | None = None) -> None:
    """Run the command line, turn every expected error into one line, and exit."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run the command line; its exit code is 0 (good), 1 (failed check or run), 2 (wrong use) or 130 (interrupted)."""
    with command_line():
        return _run(args)


def _run(args: list[str] | None) -> int:
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", FdrWarning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal lacks ends no run
    try:
        given = sys.argv[1:] if args is None else args
        with _check_says_how_it_ended(given):
            result = cli.main(args=list(given), prog_name="fdr", standalone_mode=False, obj=list(given))
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return error.exit_code
    except PeerError as error:
        return error.exit_code  # the rank that failed has said why
    except FdrError as error:
        click.echo(f"fdr: error: {error}", err=True)
        return error.exit_code
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "fdr":
            raise
        click.echo(
            f"fdr: error: this needs {error.name.partition('.')[0]}, which is not installed; install fdr-eval with its "
            "dependencies (fdr check, fdr compare and fdr panel of reports work without).",
            err=True,
        )
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("fdr: interrupted; what was cached stays, the same command resumes.", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError, OSError) as error:
        sentence = as_fdr_error(error)
        if sentence is None:
            raise
        click.echo(f"fdr: error: {sentence}", err=True)
        return sentence.exit_code


@contextlib.contextmanager
def _check_says_how_it_ended(arguments: Sequence[str]) -> Iterator[None]:
    """Make sure that an error of `fdr check` before its options were read reaches the files that it was to write."""
    try:
        yield
    except BaseException as error:
        if next((text for text in arguments if not text.startswith("-")), None) == "check":
            from fdr.cli._verdict_outputs import outputs_in

            outputs_in(arguments).report_error(error)
        raise


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, FdrWarning):
        click.echo(f"fdr: warning: {message}", err=True)
