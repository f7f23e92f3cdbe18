"""Options of fdr.toml and pyproject.toml: which file counts, what a mistake in it says, what it may not do."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from generator_worlds import Scripted, seeded, weights
from worlds import images, npz

import fdr
from fdr.cli._config import find_config
from fdr.generators import save_generator

PROGRAM = """
import sys
open("ran", "w").write("1")
def make():
    return lambda images: images.flatten(1)[:, :4]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with data, and a module that leaves a trace when it is imported."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    npz(tmp_path / "a.npz", images(40))
    npz(tmp_path / "b.npz", images(40, seed=1))
    (tmp_path / "trap.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("trap", None)


EVAL = ("eval", "a.npz", "--ref", "b.npz", "--reps", "random", "--no-cache", "-q")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"pyproject.toml": "[tool.fdr.check]\nmax = {fd:random = 3}\n"},
            'quote names with a colon: "fd:random" = 3.0',
        ),
        ({"pyproject.toml": "[tool.fdr.check.max]\nfd:random = 3.0\n"}, 'quote names with a colon: "fd:random" = 3.0'),
        ({"fdr.toml": "[check.max]\n  is:adm:inception = 3.0\n"}, 'quote names with a colon: "is:adm:inception" = 3.0'),
        ({"pyproject.toml": "[tool.ruff\n"}, "pyproject.toml is not valid TOML"),
        ({"pyproject.toml": "[tool.fdr\n", "fdr.toml": "[eval]\n"}, "pyproject.toml is not valid TOML"),
        ({"fdr.toml": "[check\n", "pyproject.toml": "[tool.fdr.eval]\n"}, "fdr.toml is not valid TOML"),
        ({"fdr.toml": "[check\n"}, "fdr.toml is not valid TOML"),
        ({"pyproject.toml": "[tool]\nfdr = 3\n"}, "tool.fdr must hold tables of options"),
        ({"pyproject.toml": "[tool.fdr]\nmax = 3\n"}, "Unknown section '[max]'"),
        ({"fdr.toml": "max = 3\n"}, "Unknown section '[max]'"),
        ({"fdr.toml": "check = 3\n"}, "[check] must be a table of options; got int"),
        ({"fdr.toml": "[check]\nmax = {fd.random = 3.0}\n"}, "has a dict under 'fd'"),
        ({"fdr.toml": "[check]\nbaseline = ['a', 'b']\n"}, "baseline of fdr check takes one value; got a list"),
        (
            {"fdr.toml": "[check]\nmax = ['fd=1']\n", "pyproject.toml": "[tool.fdr.check]\nmax = ['fd=9']\n"},
            "max of [check] is set twice, in ",
        ),
        (
            {"fdr.toml": "[eval]\nbatch-size = 3\n", "pyproject.toml": "[tool.fdr.eval]\nbatch_size = 3\n"},
            "batch_size of [eval] is set twice",
        ),
    ],
)
def test_a_configuration_that_cannot_be_read_is_no_configuration_without_limits(
    fdr_command, place: Path, files: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (place / name).write_text(text)
    for folder in (place, place / "sub" / "deep"):
        monkeypatch.chdir(folder)
        got = fdr_command("check", place / "a.npz")
        assert got.code == 2 and sentence in got.err and len(got.err.splitlines()) == 1, got.err
    assert fdr_command("check", "--help").code == 0


def test_the_commands_of_a_group_have_sections_of_their_own(fdr_command, place: Path) -> None:
    (place / "fdr.toml").write_text('[weights]\nweights-dir = "usb"\n')
    got = fdr_command("weights", "list", "random")
    assert got.code == 2 and "Unknown option in [weights] 'weights_dir'" in got.err and "[weights.list]" in got.err
    (place / "fdr.toml").write_text('[weights.list]\njson = "w.json"\n')
    assert fdr_command("weights", "list", "random").code == 0 and (place / "w.json").is_file()


def test_bytes_that_are_no_text_and_a_mark_of_order(fdr_command, place: Path) -> None:
    (place / "fdr.toml").write_bytes(b"\xff\xfe[check]")
    got = fdr_command("check", "a.npz")
    assert got.code == 2 and "fdr.toml cannot be read" in got.err
    (place / "fdr.toml").write_bytes(b"\xef\xbb\xbf[check]\nmaxx = 3\n")
    assert "did you mean 'max'" in fdr_command("check", "a.npz").err


def test_limits_hold_from_a_subfolder_and_beside_an_fdr_toml(
    fdr_command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fdr_command(*EVAL, "--json", "r.json").code == 0
    (place / "pyproject.toml").write_text("[project]\nname = 'x'\n[tool.fdr.check]\nmax = {\"fd:random\" = 1e-9}\n")
    (place / "fdr.toml").write_text("[eval]\nreps = 'random'\n")
    (place / "sub" / "pyproject.toml").write_text("[project]\nname = 'of something else'\n")
    report = place / "r.json"
    for folder in (place, place / "sub", place / "sub" / "deep"):
        monkeypatch.chdir(folder)
        got = fdr_command("check", report, "--json", "-")
        assert got.code == 1 and json.loads(got.out)["result"] == "fail", got.err
    (place / "sub" / "fdr.toml").write_text("")  # nearer, and of the same rank
    assert "Nothing to check" in fdr_command("check", report).err or fdr_command("check", report).code == 2
    assert fdr_command("check", report, "--max", "fd=1e9").code == 0


def test_paths_are_those_of_the_file(fdr_command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "x-0.npz").write_bytes((place / "b.npz").read_bytes())
    (place / "fdr.toml").write_text('[eval]\nref = "x-{0..0}.npz"\nreps = "random"\njson = "out/r.json"\ncache = "c"\n')
    (place / "random").mkdir()  # a name stays a name
    monkeypatch.chdir(place / "sub")
    got = fdr_command("eval", "../a.npz", "-q")
    assert got.code == 0, got.err
    assert json.loads((place / "out" / "r.json").read_text())["reference"]["source"].endswith("x-{0..0}.npz")
    assert (place / "c").is_dir() and [path.name for path in (place / "sub").iterdir()] == ["deep"]
    got = fdr_command("eval", "../a.npz", "--dry-run")
    options, _, file = got.err.splitlines()[0].removeprefix("fdr: ").partition(" from ")
    assert set(options.split(", ")) == {"--ref", "--reps", "--cache", "--json"} and file == str(place / "fdr.toml")
    assert f"configuration: {place / 'fdr.toml'}" in fdr_command("env").out


def test_the_walk_ends_at_the_first_folder_with_options(place: Path) -> None:
    assert find_config(place / "sub" / "deep") == {}
    (place / "pyproject.toml").write_text("[tool.fdr.eval]\n")
    (place / "sub" / "pyproject.toml").write_text("[tool.other]\n")
    assert find_config(place / "sub" / "deep") == {place / "pyproject.toml": {"eval": {}}}
    (place / "sub" / "pyproject.toml").write_text("[tool.fdr]\n")
    assert find_config(place / "sub" / "deep") == {place / "sub" / "pyproject.toml": {}}


@pytest.mark.parametrize(
    ("command", "text", "asked"),
    [
        ("eval a.npz", 'reps = "py:trap:make"', "--reps py:trap:make"),
        ("eval a.npz", 'reps = ["random", "py:trap:make"]', "--reps py:trap:make"),
        ("eval a.npz --dry-run", 'reps = " random , py:trap:make"', "--reps py:trap:make"),
        ("eval a.npz", 'reps = "PY:trap:make"', "--reps PY:trap:make"),
        ("eval a.npz", 'reps = "Export:p.pt2"', "a program in a file"),
        ("eval a.npz", 'reps = "torchscript:p.pt"', "a program in a file"),
        ("eval a.npz", 'reps = "export:p.pt2"', "a program in a file"),
        ("eval --gen g.safetensors", 'arch = "trap:make"', "--arch trap:make"),
        ("eval --gen g.safetensors", 'arch = "numpy.testing:runstring"\narch-args = "a=1"', "--arch numpy.testing"),
        ("eval", 'gen = "p.pt"', "a program in a file"),
        ("eval a.npz", "trust = true", "say --trust yourself"),
        ("check a.npz --max fd=1", 'reps = "py:trap:make"', "--reps py:trap:make"),
        ("stats a.npz -o ref", 'reps = "py:trap:make"', "--reps py:trap:make"),
        ("sample --gen g.safetensors -o s.npz", 'arch = "trap:make"', "--arch trap:make"),
        (
            "train --gen g.safetensors -o run --reps random",
            'monitor = "py:trap:make"',
            "--monitor py:trap",
        ),
        ("train --gen g.safetensors -o run", 'arch = "trap:make"', "--arch trap:make"),
        ("train -o run", 'gen = "p.pt"', "a program in a file"),
        ("ifid --images a.npz", 'vae = "trap:make"', "--vae trap:make"),
        ("ifid --images a.npz", 'vae = "py:trap:make"', "--vae py:trap:make"),
        ("ifid --images a.npz", 'vae = "p.pt"', "a program in a file"),
        ("ifid --images a.npz --vae haar", 'reps = "py:trap:make"', "--reps py:trap:make"),
    ],
)
def test_a_configuration_names_no_code(fdr_command, place: Path, command: str, text: str, asked: str) -> None:
    weights(place / "g.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(seeded(Scripted)).save(place / "p.pt")
    name = command.split()[0]
    for file, head in (("fdr.toml", f"[{name}]"), ("pyproject.toml", f"[tool.fdr.{name}]")):
        (place / file).write_text(f"{head}\n{text}\n")
        got = fdr_command(*command.split())
        assert got.code == 2 and asked in got.err and "Traceback" not in got.err, got.err
        assert not (place / "ran").exists()
        (place / file).unlink()


def test_a_report_is_checked_whatever_would_measure_samples(fdr_command, place: Path) -> None:
    assert fdr_command(*EVAL, "--json", "r.json").code == 0
    (place / "fdr.toml").write_text('[check]\nreps = "py:trap:make"\nmax = {"fd:random" = 1e9}\n')
    assert fdr_command("check", "r.json").code == 0 and not (place / "ran").exists()


def test_trust_and_typing_make_it_the_users_own(fdr_command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "fdr.toml").write_text('[eval]\nreps = "py:trap:make"\nref = "b.npz"\n')
    for more in (["--trust"], ["--reps", "py:trap:make"]):
        assert fdr_command("eval", "a.npz", "-q", *more).code == 0
        assert (place / "ran").exists()
    monkeypatch.setenv("FDR_EVAL_REPS", "py:trap:make")
    assert fdr_command("eval", "a.npz", "-q").code == 0


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("eval a.npz", 'json = "{out}"'),
        ("eval a.npz", 'csv = "../{name}"'),
        ("eval a.npz", 'markdown = "link/{name}"'),
        ("eval a.npz", 'cache = "{out}"'),
        ("check r.json", 'junit = "{out}"'),
        ("check r.json", 'report = "{out}"'),
        ("check r.json", 'openmetrics = "{out}"'),
        ("check r.json", 'baseline = "{out}"\nupdate-baseline = true'),
        ("stats a.npz", 'out = "{out}"'),
        ("convert a.npz", 'target = "{out}"'),
        ("sample --gen g", 'out = "{out}"'),
        ("train --gen g", 'out = "{out}"'),
        ("train", 'resume = "{out}"'),
        ("correlate t.csv --x a --y b", 'plot = "{out}.png"'),
        ("ifid --vae haar --images a.npz", 'picture = "{out}"'),
        ("demo", 'out = "{out}"'),
        ("show a.npz", 'json = "{out}"'),
    ],
)
def test_a_configuration_writes_in_its_own_folder_alone(
    fdr_command, place: Path, tmp_path_factory: pytest.TempPathFactory, command: str, text: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (place / "link").symlink_to(outside)
    (place / "r.json").write_text("{}")
    out = outside / "precious"
    relative = f"{outside.name}/precious"
    name = command.split()[0]
    (place / "fdr.toml").write_text(f"[{name}]\n" + text.replace("{out}", str(out)).replace("{name}", relative) + "\n")
    got = fdr_command(*command.split())
    assert got.code == 2 and "a configuration writes nowhere else" in got.err, got.err
    assert not any(outside.iterdir())


def test_a_run_folder_of_elsewhere_is_measured_with_trust(fdr_command, place: Path) -> None:
    loaded = fdr.load_generator(weights(place / "g.safetensors"), "generator_worlds:Plain")
    save_generator(place / "run", loaded)
    base = ["--gen", "run", "--num-images", 20, "--ref", "b.npz", "--reps", "random", "-q", "--no-cache"]
    got = fdr_command("eval", *base)
    assert got.code == 2 and "add --trust" in got.err and "--arch generator_worlds:Plain" in got.err
    values = []
    for more in (["--trust"], ["--arch", "generator_worlds:Plain"]):
        got = fdr_command("eval", *base, *more, "--json", "-")
        assert got.code == 0, got.err
        values.append(json.loads(got.out)["results"][0]["value"])
    assert values[0] == values[1]
    assert fdr_command("sample", "--gen", "run", "-n", 3, "-o", "s.npz", "-q").code == 2
    assert fdr_command("sample", "--gen", "run", "-n", 3, "-o", "s.npz", "-q", "--trust").code == 0
    assert fdr_command("check", *base, "--max", "fd=1e9").code == 2
    assert fdr_command("check", *base, "--max", "fd=1e9", "--trust").code == 0
