"""What the README and docs/training.md state is what the code does: tables, defaults, sizes, signature, console."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from worlds import images, npz

import fdr
from fdr.cli import cli
from fdr.encoders import ROWS
from fdr.metrics.registry import DERIVED, METRICS, OF_AUTOENCODERS, OF_OTHER_TOOLS, metric_info
from fdr.references import find_reference, registry
from fdr.training import TrainOptions

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table whose first line is `header`."""
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_metrics() -> None:
    named = {}
    for names, _, better in rows(README, "| name | what | better |"):
        for name in re.findall(r"`([a-z0-9:_.]+)`", names):
            named[name] = "lower" in better if better in ("lower", "higher") else name == "lpips"
    found = METRICS.keys() | DERIVED.keys() | OF_AUTOENCODERS.keys() | OF_OTHER_TOOLS.keys()
    variants = {f"{name}:{variant}" for name in ("precision", "recall") for variant in ("adm", "prdc")}
    assert named.keys() == found - variants, "the row of precision speaks of :adm and :prdc"
    for name, lower_is_better in named.items():
        info = metric_info(name)
        assert info is not None and info.lower_is_better == lower_is_better, name


def test_the_table_of_encoders() -> None:
    licences = {row.name: row.licence for row in ROWS}
    stated = {
        name: licence
        for names, _, licence in rows(README, "| name | what | licence of the weights |")
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert licences.keys() <= stated.keys()
    for name in licences.keys() - {"random"}:
        assert licences[name].split()[0] in stated[name], name
        assert ("non-commercial" in licences[name]) == ("non-commercial" in stated[name]), name


def test_the_size_that_a_dry_run_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npz(tmp_path / "a.npz", images(3))
    from fdr.cli import run

    run(["eval", str(tmp_path / "a.npz"), "--ref", str(tmp_path / "a.npz"), "--reps", "inception", "--dry-run"])
    stated = re.search(r"lists (\d+) MB of weights", README)
    listed = re.search(r"\(([\d.]+) MB\)", capsys.readouterr().out)
    assert stated is not None and listed is not None and int(stated[1]) == round(float(listed[1]))


def test_the_signature_is_one_of_today() -> None:
    line = next(line for line in README.splitlines() if line.startswith("fd|"))
    signature = dict(field.split(":", 1) for field in line.split("|")[1:])
    encoder = fdr.load_encoder("random")
    demo = find_reference("demo", encoder)
    assert signature["s"] == encoder.spec.hash[: len(signature["s"])]
    assert signature["ref"].split(":")[1] == demo.digest[: len(signature["ref"].split(":")[1])]
    assert signature["v"] == fdr.__version__
    assert demo.moments.count == int(re.search(r"demo \((\d+) images\)", README)[1])  # type: ignore[index]
    assert "imagenet256" in registry()


def test_the_version_of_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sentence = re.search(r"You need (Python 3.*?)\.\s", README)
    assert sentence is not None
    first, *_ = versions = re.findall(r"3\.\d+", sentence[1])
    classifiers = project["project"]["classifiers"]
    assert [line.rpartition(" ")[2] for line in classifiers if "Python :: 3." in line] == versions
    assert project["project"]["requires-python"] == f">={first}"
    assert project["tool"]["mypy"]["python_version"] == first
    assert project["tool"]["ruff"]["target-version"] == "py" + first.replace(".", "")


def test_the_defaults_of_training() -> None:
    command = cli.get_command(click.Context(cli), "train")
    assert command is not None
    defaults = {parameter.opts[-1]: parameter.default for parameter in command.params}
    options = TrainOptions.__dataclass_fields__
    cells = {option: default for option, default, _ in rows(TRAINING, "| option | default | meaning |")}
    steps, batch, lr = cells["`--steps`, `--batch-size`, `--lr`"].split(", ")
    assert int(steps.replace(",", "")) == options["steps"].default == defaults["--steps"]
    assert int(batch.replace(",", "")) == options["batch_size"].default == defaults["--batch-size"]
    assert float(lr) == options["lr"].default == defaults["--lr"]
    betas, decay, clip = cells["`--betas`, `--weight-decay`, `--clip`"].split("; ")
    assert tuple(map(float, betas.split(","))) == options["betas"].default
    assert float(decay) == options["weight_decay"].default == defaults["--weight-decay"]
    assert clip == "none" and options["clip"].default is None
    assert tuple(map(float, cells["`--ema-kimg`"].split(","))) == options["ema_kimg"].default
    population, fill = cells["`--population`, `--fill`"].split(", ")
    assert population == defaults["--population"] and int(fill.replace(",", "")) == options["fill"].default
    solver, gradient, eps = cells["`--solver`, `--gradient`, `--eps`"].split(", ")
    loss = fdr.LossOptions()
    assert (solver, gradient, float(eps)) == (loss.solver, loss.gradient, loss.eps)
    assert int(cells["`--max-skipped`"]) == defaults["--max-skipped"]


@pytest.mark.slow
def test_the_console_block(tmp_path: Path) -> None:
    """The README's first run, on the sets that `fdr demo` draws."""
    block = re.search(r"```console\n\$ fdr (.*?)\n(.*?)```", README, flags=re.DOTALL)
    assert block is not None

    def output(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", "fdr", *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output("demo", "--out", "fdr-demo")
    found = output(*block[1].split()).split("\nfd|")[0]  # without the signatures below the table

    def numbers(text: str) -> list[float]:
        return [float(number) for number in re.findall(r"\d+\.?\d*", text.replace("fdr-demo/", ""))]

    assert numbers(found) == pytest.approx(numbers(block[2]), rel=1e-3)
    assert re.sub(r"[\d.\s─]+", " ", found).split() == re.sub(r"[\d.\s─]+", " ", block[2]).split()
