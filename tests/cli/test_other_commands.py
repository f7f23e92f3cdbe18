"""The small commands, the group itself, and what happens on interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from processes import PATIENCE, ended
from worlds import images, npz

from fdr.cli import COMMANDS, cli
from fdr.encoders import list_encoders


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example(fdr_command, name: str) -> None:
    got = fdr_command(name, "--help")
    assert got.code == 0
    assert "Example" in got.out and f"fdr {name}" in got.out
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def leaves() -> dict[str, click.Command]:
    """Every command that runs something, by what is typed after fdr."""
    found = {}
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {one}": leaf for one, leaf in inner.items()} or {name: command}
    return found


def options_of(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option)]


def help_of(name: str, command: click.Command) -> str:
    # click keeps the help option of a command's first context, so this one must have the names that users have
    names = cli.context_settings["help_option_names"]
    context = click.Context(command, info_name=f"fdr {name}", terminal_width=80, help_option_names=names)
    return command.get_help(context)


def test_help_shows_every_option_once_and_long_lists_under_headings() -> None:
    for name, command in leaves().items():
        heading, placed = "", {}
        for line in help_of(name, command).partition("\n  Example")[0].splitlines():
            heading = line if re.fullmatch(r"[A-Z][a-z ]+:", line) else heading
            found = re.match(r"  (?:-\w, )?--([a-z0-9-]+)", line)
            if found and heading:
                assert found[1] not in placed, (name, found[1])
                placed[found[1]] = heading
        assert set(placed) == {option.opts[-1][2:] for option in options_of(command)} | {"help"}, name
        without_theme = {option for option, at in placed.items() if at == "General:"}
        assert without_theme <= {"dry-run", "quiet", "trust", "help"}, (name, without_theme)
        assert len(set(placed.values())) > 1 or len(placed) <= 11, name


def test_the_first_screen_of_eval_has_what_most_people_need() -> None:
    screen = help_of("eval", leaves()["eval"]).splitlines()[:40]
    for option in ("--gen", "--count", "--ref", "--reps", "--metrics", "--json"):
        assert any(re.match(rf"  {option}\b", line) for line in screen), option


def test_an_option_of_several_commands_has_one_spelling() -> None:
    for name in ("eval", "check", "stats", "ifid"):
        (option,) = (one for one in options_of(leaves()[name]) if "--transparency" in one.opts)
        assert option.type.choices == ("drop", "white", "black"), name  # type: ignore[attr-defined]


def test_shared_options_are_spelled_once() -> None:
    shared = {"device", "batch-size", "num-workers", "dtype", "seed", "count", "cache", "no-cache", "offline"}
    shared |= {"weights-dir", "json", "quiet"}
    for name in ("eval", "stats"):
        flags = {flag for option in cli.get_command(None, name).params for flag in option.opts}  # type: ignore[arg-type]
        assert {f"--{flag}" for flag in shared} <= flags


def test_no_command_shows_help_and_an_unknown_one_is_2(fdr_command) -> None:
    assert fdr_command().code in (0, 2)
    got = fdr_command("evaluate")
    assert got.code == 2 and "evaluate" in got.err
    assert fdr_command("--version").out.startswith("fdr, version")


def test_encoders_lists_all_with_licences(fdr_command, tmp_path: Path) -> None:
    data = json.loads(fdr_command("encoders", "--json", "-").out)
    assert [row["name"] for row in data["encoders"]] == [row.name for row in list_encoders()]
    by_name = {row["name"]: row for row in data["encoders"]}
    assert "non-commercial" in by_name["mae"]["licence"] and "non-commercial" in by_name["convnext"]["licence"]
    assert by_name["inception"]["weights"] == "missing" and by_name["random"]["weights"] == "none needed"
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"x")
    data = json.loads(fdr_command("encoders", "--weights-dir", tmp_path / "w", "--json", "-").out)
    assert {row["weights"] for row in data["encoders"] if row["name"].startswith("inception")} == {"found"}
    table = fdr_command("encoders").out
    assert "2048" in table and "299" in table and "95.6 MB" in table


def test_env_is_markdown_to_paste(fdr_command) -> None:
    out = fdr_command("env").out
    assert "- python: " in out and "- torch: " in out and "- weights found: random" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(fdr_command, shell: str) -> None:
    assert "_FDR_COMPLETE" in fdr_command("completion", shell).out


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"\x80\x04junk"), "pickle|not"),
        (lambda path: np.savez(path, mu=np.zeros(3)), "sigma"),
        (lambda path: np.savez(path, mu=np.zeros(3), sigma=np.ones((3, 2))), r"\[3, 2\]"),
        (lambda path: np.savez(path, mu=np.zeros(2), sigma=np.array([[1.0, 5], [0, 1]])), "symmetric"),
        (lambda path: np.savez(path, mu=np.zeros(2), sigma=np.array([[1.0, 3], [3, 1]])), "semidefinite"),
        (lambda path: np.savez(path, mu=np.array([np.nan, 0]), sigma=np.eye(2)), "NaN"),
    ],
)
def test_show_refuses_what_is_no_statistics(fdr_command, tmp_path: Path, write, sentence: str) -> None:
    import re

    path = tmp_path / "s.npz"
    write(path)
    got = fdr_command("show", path)
    assert got.code == 2 and re.search(sentence, got.err) and "Traceback" not in got.err


def test_show_tells_rank_and_trace(fdr_command, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.ones(4), sigma=np.diag([4.0, 3, 2, 0]))
    facts = json.loads(fdr_command("show", tmp_path / "s.npz", "--json", "-").out)
    assert (facts["dim"], facts["rank"], facts["trace"], facts["count"], facts["mu sum"]) == (4, 3, 9.0, None, 4.0)
    assert "condition" not in facts


def test_show_tells_the_spectrum_when_asked(fdr_command, tmp_path: Path) -> None:
    for name, smallest, condition in (("full", 0.5, 8.0), ("singular", 0.0, None)):
        np.savez(tmp_path / f"{name}.npz", mu=np.ones(3), sigma=np.diag([4.0, 3, smallest]))
        facts = json.loads(fdr_command("show", tmp_path / f"{name}.npz", "--spectrum", "--json", "-").out)
        found = facts["largest eigenvalue"], facts["smallest eigenvalue"], facts["condition"]
        assert found == (4, smallest, condition)


def test_stats_refusals(fdr_command, tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(20, side=16))
    (tmp_path / "file").write_text("")
    assert "is not a folder" in fdr_command("stats", source, "--reps", "random", "-o", tmp_path / "file").err
    assert fdr_command("stats", source, "--reps", "random").code == 2
    got = fdr_command("stats", source, "--reps", "random", "-o", tmp_path / "s", "--dry-run")
    assert got.code == 0 and "would write moments of 20 images" in got.out and not (tmp_path / "s").exists()


def test_interruption_is_130_and_one_line(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(64, side=64))
    code = (
        "import time, sys\nfrom fdr.encoders import random_net\n"
        "from fdr.cli import main\n"
        "import fdr.features.pipeline as e\n"
        "def slow(*a):\n    print('computing', file=sys.stderr, flush=True)\n"
        "    while True: time.sleep(0.1)\n"  # a signal just before one long sleep would be seen after it only
        "e.Pipeline._launch = slow\n"
        f"main(['eval', {str(source)!r}, '--ref', {str(source)!r}, '--reps', 'random', '--batch-size', '1'])"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    with ended(process):
        while "computing" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert "Traceback" not in rest and "interrupted" in rest


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--reps", "dinov2"], "is of the encoder inception; leave out --reps dinov2"),
        (["--val", "x.npz"], "no place for validation FDs; leave out --val"),
        (["-o", "folder"], r"one npz file, but the output is 'folder'; name a file \*\.npz"),
        (["--num-images", "0"], "num-images"),
        (["--offline"], "pt_inception-2015-12-05"),
    ],
)
def test_adm_references_that_cannot_be(fdr_command, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    real = npz(tmp_path / "real.npz", images(8))
    out = [] if "-o" in arguments else ["-o", "ref.npz"]
    got = fdr_command("stats", real, "--format", "adm", *out, *arguments, "-q")
    assert got.code == 2 and "Traceback" not in got.err
    assert re.search(sentence, got.err), got.err
    assert not Path("ref.npz").exists()
