"""Every option of every command has an effect, and a test that sees it.

Most options are handed on to an object of the library, whose own tests show what its fields do: here each of them
arrives where it belongs, with a value that is not the default. The others are listed with the test that shows their
effect. A new option fails this file until it is in `options_handed_on.py` or `options_shown_by.py`.
"""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from gate_worlds import report, row, write
from generator_worlds import weights
from option_recorder import Recorder
from options_handed_on import HANDED_ON
from options_shown_by import SHOWN_BY
from worlds import images, npz

from fdr.cli import COMMANDS, cli
from fdr.errors import RunError
from fdr.gate import GateOptions
from fdr.ifid import IfidOptions
from fdr.images import ImageOptions
from fdr.reports import load_reports
from fdr.training import RunOptions, TrainOptions

TESTS = Path(__file__).parents[1]


def options_of_commands() -> Iterator[tuple[str, str]]:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        several = command.commands if isinstance(command, click.Group) else {"": command}
        for inner, one in several.items():
            for parameter in one.params:
                if isinstance(parameter, click.Option):
                    yield f"{name} {inner}".strip(), parameter.opts[-1]


def cases() -> Iterator[Any]:
    for command, bases in HANDED_ON.items():
        for base, options in bases:
            for option, (value, place, expected) in options.items():
                yield pytest.param(command, base, option, value, place, expected, id=f"{command} {option}")


def without(base: list[str], option: str) -> list[str]:
    """The base without the value that it gives to the option."""
    short = {"--out": "-o", "--num-images": "-n"}.get(option, option)
    for name in (option, short):
        if name in base:
            at = base.index(name)
            return [*base[:at], *base[at + 2 :]]
    return base


@pytest.mark.parametrize(("command", "base", "option", "value", "place", "expected"), list(cases()))
def test_an_option_reaches_the_library(
    fdr_command, recorded: Recorder, command: str, base: list[str], option: str, value: str, place: str, expected: Any
) -> None:
    before = fdr_command(*command.split(), *base)
    assert "the library was called" in before.err, before.err
    assert recorded.get(place.split(".")[0]) is None or recorded.at(place) != expected
    recorded.clear()
    given = [] if value is None else value.split(" ") if value.startswith("--") else [value]
    rest = base if option in ("--max",) else without(base, option)
    got = fdr_command(*command.split(), *rest, option, *given)
    assert "the library was called" in got.err, got.err
    assert recorded.at(place) == expected


def test_every_field_of_the_library_has_an_option() -> None:
    """A field that is added to an object of options is either on the command line or named here."""
    places = {place for bases in HANDED_ON.values() for _, options in bases for _, place, _ in options.values()}
    for prefix, options, without_option in (
        ("images", ImageOptions, {"quantize"}),
        ("ifid", IfidOptions, {"seed"}),  # that of --seed of the images
        ("train", TrainOptions, set()),
        ("run_options", RunOptions, {"is_arch_named"}),
        ("gate", GateOptions, set()),
    ):
        named = {place.split(".")[1] for place in places if place.startswith(f"{prefix}.")}
        assert named == {field.name for field in fields(options)} - without_option


def test_every_option_of_every_command_has_a_test_of_its_effect() -> None:
    handed_on = {(command, name) for command, bases in HANDED_ON.items() for _, names in bases for name in names}
    shown = {(command, name) for name, tests in SHOWN_BY.items() for command in tests}
    assert handed_on | shown == set(options_of_commands()) and not handed_on & shown
    for test in {test for tests in SHOWN_BY.values() for test in tests.values()}:
        file, _, name = test.partition("::")
        functions = {node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")}
        assert name in functions, f"{test} shows the effect of an option, and is gone"


@pytest.fixture
def world(fdr_command, tmp_path: Path) -> Path:
    """Two sample sets, a report, a statistics file, a table and an entry of the cache."""
    npz(tmp_path / "a.npz", images(24, seed=1))
    npz(tmp_path / "b.npz", images(30))
    (tmp_path / "t.csv").write_text("a,b\n1,1\n2,3\n3,2\n4,5\n5,4\n6,6\n")
    np.savez(tmp_path / "s.npz", mu=np.ones(3), sigma=np.diag([4.0, 3, 1]))
    write(tmp_path / "r.json", report(row(value=2.0)))
    return tmp_path


MEASURED = ["--reps", "random", "--no-cache", "-q"]
JSON_COMMANDS = {
    "eval": ["a.npz", "--ref", "b.npz", *MEASURED],
    "ifid": ["--vae", "haar", "--images", "a.npz", *MEASURED],
    "recon": ["a.npz", "a.npz", *MEASURED],
    "check": ["r.json", "--max", "fd=3"],
    "compare": ["r.json", "r.json"],
    "panel": ["--model", "m=r.json"],
    "correlate": ["t.csv", "--x", "a", "--y", "b"],
    "stats": ["b.npz", "-o", "new.h5", *MEASURED],
    "show": ["s.npz"],
    "convert": ["s.npz", "c.npz", "--to", "fdloss", "-q"],
    "references list": [],
    "encoders": [],
    "weights list": [],
    "weights fetch": ["inception", "--dry-run"],
    "weights verify": [],
    "cache list": [],
    "env": [],
}


@pytest.mark.parametrize("command", JSON_COMMANDS)
def test_json_in_a_file_and_on_stdout(fdr_command, world: Path, command: str) -> None:
    beside = fdr_command(*command.split(), *JSON_COMMANDS[command], "--json", "out.json")
    for name in ("new.h5", "c.npz"):
        (world / name).unlink(missing_ok=True)
    alone = fdr_command(*command.split(), *JSON_COMMANDS[command], "--json", "-")
    assert (beside.code, alone.code) == (0, 0), (beside.err, alone.err)
    assert beside.out and not beside.out.startswith(("{", "["))
    assert json.loads(alone.out).__class__ is json.loads((world / "out.json").read_text()).__class__


def test_csv_of_ifid(fdr_command, world: Path) -> None:
    got = fdr_command("ifid", *JSON_COMMANDS["ifid"], "--csv", "out.csv", "--json", "out.json")
    assert got.code == 0, got.err
    lines = (world / "out.csv").read_text().splitlines()
    assert len(lines) == 1 + len(json.loads((world / "out.json").read_text())["results"])


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["stats", "b.npz", "-o", "new.h5", *MEASURED], "new.h5"),
        (["convert", "s.npz", "new.npz", "--to", "fdloss"], "new.npz"),
        (["sample", "--gen", "g.safetensors", "--arch", "generator_worlds:Plain", "-n", 3, "-o", "new.npz"], "new.npz"),
    ],
)
def test_a_dry_run_writes_nothing(fdr_command, world: Path, arguments: list[Any], written: str) -> None:
    weights(world / "g.safetensors")
    planned = fdr_command(*arguments, "--dry-run")
    assert planned.code == 0 and "would write" in planned.out and written in planned.out, planned.err
    assert not (world / written).exists()
    assert fdr_command(*arguments).code == 0 and (world / written).exists()


@pytest.mark.parametrize(
    "command",
    [
        "stats a.npz -o new.h5",
        "ifid --vae haar --images a.npz",
        "recon a.npz a.npz",
        "panel --model m=a.npz --ref b.npz",
        "explain a.npz --ref b.npz",
    ],
)
def test_trust_lets_a_configuration_name_code(
    fdr_command, world: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.syspath_prepend(world)
    (world / "trusted.py").write_text("def make():\n    return lambda images: images.flatten(1)[:, :4]\n")
    (world / "fdr.toml").write_text(f'[{command.split()[0]}]\nreps = "py:trusted:make"\n')
    refused = fdr_command(*command.split(), "--no-cache", "-q")
    assert refused.code == 2 and "py:trusted:make" in refused.err
    assert fdr_command(*command.split(), "--no-cache", "-q", "--trust").code == 0


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("encoders inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("weights list inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("weights verify inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("weights path inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("references list --json -", "VIRTUAL_imagenet256_labeled.npz"),
        ("references verify imagenet256:adm", "VIRTUAL_imagenet256_labeled.npz"),
    ],
)
def test_files_are_searched_in_the_folder_of_weights(fdr_command, tmp_path: Path, command: str, file: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / file).write_bytes(b"x")
    place = str(Path("mine") / file)
    assert place not in fdr_command(*command.split()).out
    assert place in fdr_command(*command.split(), "--weights-dir", "mine").out


@pytest.mark.parametrize("command", SHOWN_BY["--quiet"])
def test_quiet_reaches_what_shows_progress(
    fdr_command, recorded: Recorder, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked: list[bool] = []

    def progress(quiet: bool, *_: Any, **__: Any) -> Any:
        asked.append(quiet)
        raise RunError("progress was asked for")

    arguments = [*(HANDED_ON[command][0][0] if command in HANDED_ON else [])]
    module = importlib.import_module(f"fdr.cli.{command.split()[0].replace('references', 'weights')}")
    name = "view_for" if command == "train" else "progress_for"
    shared = importlib.import_module("fdr.cli._inputs")
    monkeypatch.setattr(module if hasattr(module, name) else shared, name, progress)
    monkeypatch.setattr("fdr.features.CacheStore", lambda root: SimpleNamespace(verify=lambda *_: ()))
    for quiet in ([], ["--quiet"]):
        got = fdr_command(*command.split(), *arguments, *quiet)
        assert "progress was asked for" in got.err, got.err
    assert asked == [False, True]


def test_quiet_shows_neither_progress_nor_warnings(fdr_command, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.runtime.bars.PLAIN_INTERVAL", 0.0)
    arguments = ["eval", "a.npz", "--ref", "a.npz", "--reps", "random", "--no-cache"]
    loud = fdr_command(*arguments)
    assert "warning" in loud.err and "24/24 images" in loud.err
    assert fdr_command(*arguments, "--quiet").err == ""


def test_the_folder_of_the_demo(fdr_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (measured,) = load_reports(write(tmp_path / "r.json", report(row(value=2.0))))
    seen: list[Path] = []

    def drawn(out: Path, progress: Any) -> Any:
        seen.append(out)
        out.mkdir(exist_ok=True)
        (out / "reference.npz").touch()
        return SimpleNamespace(rows=[SimpleNamespace(report=measured)], self_check=0.0)

    monkeypatch.setattr("fdr.evaluation.run_demo", drawn)
    monkeypatch.setattr("fdr.evaluation.contact_sheet", lambda *_: None)
    for more in ([], ["--out", "mine"]):
        got = fdr_command("demo", "-q", "--json", "-", *more)
        assert got.code == 0, got.err
        assert json.loads(got.out)["results"][0]["value"] == 2.0
    assert seen == [Path("fdr-demo"), Path("mine")]
    assert json.loads((tmp_path / "mine" / "demo.json").read_text())["results"][0]["value"] == 2.0
