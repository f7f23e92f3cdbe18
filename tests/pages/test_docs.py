"""Documentation stays true: generated pages are current, README commands are real, links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from processes import PATIENCE
from worlds import TinyEncoder, images, npz

import fdr
from fdr.cli import COMMANDS, cli
from fdr.comparison import load_effects
from fdr.comparison.effects import TABLE
from fdr.evaluation import sanity

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli", "encoders", "references"])
def test_generated_pages_are_current(page: str) -> None:
    expected = getattr(generator(), f"{page}_page")()
    found = (ROOT / "docs" / f"{page}.md").read_text()
    assert found.split() == expected.split(), "run python docs/generate.py"  # click's versions differ in layout


def test_every_metric_is_described() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert all(f"`{name}`" in text for name in generator().metric_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def commands_in(text: str) -> list[list[str]]:
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(("fdr ", "$ fdr "))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_parse(page: Path) -> None:
    for arguments in commands_in(page.read_text()):
        assert arguments[0] in COMMANDS, arguments
        command = cli.get_command(None, arguments[0])  # type: ignore[arg-type]
        rest = arguments[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        if "--help" not in rest:
            command.make_context(arguments[0], rest, help_option_names=cli.context_settings["help_option_names"])


def test_readme_has_the_commands_that_ci_runs() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    match = re.search(r"```bash\n(python3 -m venv \.venv && .*pytest)\n```", readme)
    assert match is not None
    assert match.group(1) in ci


def test_the_notebook_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "samples.npz", images(30, seed=1, side=32))
    npz(tmp_path / "real.npz", images(30, side=32))
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_public_names_are_documented() -> None:
    for name in fdr.__all__:
        value = getattr(fdr, name)
        assert name == "__version__" or (value.__doc__ and value.__doc__.strip()), name


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "arguments", ["--help", "show {path}", "encoders", "cache list", "completion bash", "show --help"]
)
def test_light_commands_import_no_torch(arguments: str, tmp_path: Path) -> None:
    moments = fdr.Moments.from_features(next(iter(fdr.extract(list(images(20)), TinyEncoder()))))
    moments.save(tmp_path / "m.npz")
    split = arguments.format(path=tmp_path / "m.npz").split()
    code = (
        f"import sys; from fdr.cli import run; code = run({split!r}); assert code == 0, code; sys.stdout = sys.stderr\n"
    )
    heavy = python(
        code + "print(sorted({'torch', 'timm', 'scipy'} & set(sys.modules)), file=sys.__stdout__)"
    ).splitlines()[-1]
    assert heavy == "[]"


def test_import_fdr_is_light() -> None:
    assert (
        python("import sys, fdr; print([m for m in ('torch', 'numpy', 'click', 'rich') if m in sys.modules])") == "[]"
    )


def test_the_table_of_footguns_is_the_data_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("footguns")
    effects = tomllib.loads(TABLE.read_text())["effect"]
    assert script.markdown(effects) in (ROOT / "docs" / "footguns.md").read_text()
    assert len(load_effects()) == len(effects) == len({(e["field"], e["from"], e["to"], e["sides"]) for e in effects})
    for effect in effects:
        assert effect["low"] <= effect["median"] <= effect["high"]
        kinds = [effect[kind] for kind in script.KINDS]
        assert min(k[1] for k in kinds) == effect["low"] and max(k[2] for k in kinds) == effect["high"]


def test_the_documented_thresholds_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "footguns.md").read_text()
    thresholds = dict(re.findall(r"^\| (.+?) \| ([\d.]+) (?:%|images)", page, flags=re.MULTILINE))
    found = {words.split()[1]: float(number) for words, number in thresholds.items()}
    assert found == {
        "of": 100 * sanity.FLAT_SHARE,
        "that": 100 * sanity.REPEATED_SHARE,
        "in": 100 * sanity.COPIED_SHARE,
        "files": 100 * sanity.JPEG_SHARE,
        "values": sanity.NARROW_COUNT,
    }
