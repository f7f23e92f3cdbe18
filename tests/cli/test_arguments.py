"""What holds for the arguments of every command: no empty text, no option twice, lists that add up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from worlds import folder, images, npz

from fdr.cli import COMMANDS, cli


def all_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from (((name, sub), one) for sub, one in command.commands.items())
        else:
            yield (name,), command


def texts() -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every option and argument of every command that takes a text."""
    for path, command in all_commands():
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                yield path, []
            elif not parameter.is_flag:
                yield path, [parameter.opts[-1]]


def needed(path: tuple[str, ...], but: list[str]) -> list[str]:
    """What the command cannot do without."""
    required = [parameter for parameter in dict(all_commands())[path].params if parameter.required]
    options = [p.opts[-1] for p in required if isinstance(p, click.Option) and p.opts[-1] not in but]
    arguments = len(required) - sum(isinstance(p, click.Option) for p in required)
    return [part for option in options for part in (option, "x")] + ["x"] * (arguments if but else arguments - 1)


@pytest.mark.parametrize(("path", "option"), [pytest.param(*row, id=" ".join((*row[0], *row[1]))) for row in texts()])
def test_an_empty_text_is_refused_everywhere(fdr_command, path: tuple[str, ...], option: list[str]) -> None:
    for empty in ("", "  "):
        got = fdr_command(*path, *option, empty, *needed(path, option))
        assert got.code == 2 and "is empty, as by a variable" in got.err, (got.out, got.err)


def test_an_empty_variable_or_list_is_refused(fdr_command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("stray.png").write_bytes(b"")
    for given in (["a.npz", "--reps", "random,"], ["a.npz", "--reps", ",random"], ["a.npz", "--metrics", "fd,,is"]):
        got = fdr_command("eval", *given)
        assert got.code == 2 and "has an empty name in it" in got.err
    for name in ("FDR_EVAL_REF", "FDR_EVAL_JSON", "FDR_EVAL_REPS", "FDR_EVAL_CACHE", "FDR_EVAL_COUNT"):
        with monkeypatch.context() as one:
            one.setenv(name, " ")
            got = fdr_command("eval", "a.npz")
            assert got.code == 2 and f"The environment variable {name} is empty" in got.err
            if name == "FDR_EVAL_REF":  # what is typed is what counts
                assert "variable" not in fdr_command("eval", "a.npz", "--ref", "b.npz").err
    for text in ('ref = ""', 'reps = ["random", " "]', 'weights = {inception = ""}', 'json = " "'):
        Path("fdr.toml").write_text(f"[eval]\n{text}\n")
        got = fdr_command("eval", "a.npz")
        assert got.code == 2 and f"{text.partition(' ')[0]} of fdr eval is empty" in got.err


def test_an_option_given_twice(fdr_command, tmp_path: Path) -> None:
    a, b = npz(tmp_path / "a.npz", images(40)), npz(tmp_path / "b.npz", images(50, seed=1))
    eval_a = ["eval", a, "--reps", "random", "-q"]
    for more, sentence in (
        (["--ref", a, "--ref", b], f"--ref was given several times, as '{a}' and '{b}'; it takes one value."),
        (["--count", 5, "--count", 6], "--count was given several times, as '5' and '6'"),
        (["--json", "x", "--json=y"], "--json was given several times, as 'x' and 'y'"),
        (["--weights", "random=x", "--weights", "random=y"], "random was given two files, 'x' and 'y'"),
    ):
        got = fdr_command(*eval_a, *more)
        assert got.code == 2 and sentence in got.err, got.err
    got = fdr_command(*eval_a, "--ref", b, "--ref", b, "-q")  # the same value is no contradiction
    assert got.code == 0, got.err
    got = fdr_command("sample", "--gen", "g", "-o", "o", "-n", 3, "--num-images", 4)
    assert "--num-images was given several times, as '3' and '4'" in got.err
    got = fdr_command(
        *["sample", "--gen", "g", "-o", "o", "--arch", "m:f", "--arch-args", "w=1", "--arch-args"], "w=2 d=1"
    )
    assert got.code == 2 and "w was given two values, 1 and 2" in got.err


def test_lists_add_up(fdr_command, tmp_path: Path) -> None:
    a = folder(tmp_path / "a", images(40))
    b = npz(tmp_path / "b.npz", images(50, seed=1))
    together = fdr_command("eval", a, "--ref", b, "--reps", "random", "--reps", "random:1,random:2", "-q", "--csv", "-")
    apart = fdr_command("eval", a, "--ref", b, "--reps", "random,random:1,random:2", "-q", "--csv", "-")
    assert together.code == 0 and together.out == apart.out and together.out.count("\n") > 3
    Path("fdr.toml").write_text('[eval]\nreps = ["random", "random:1", "random:2"]\n')
    assert fdr_command("eval", a, "--ref", b, "-q", "--csv", "-").out == apart.out
    got = fdr_command("ifid", "--vae", "haar", "--images", a, "--alpha", "0", "--alpha", "0.25,x", "--reps", "random")
    assert got.code == 2 and "'0,0.25,x' is no alpha" in got.err
