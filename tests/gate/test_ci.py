"""docs/ci.md and action.yml do what they say: their commands run here, on procedural images, passing and failing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gate_worlds import report, row, write
from generator_worlds import Classes, weights
from processes import PATIENCE

from fdr.images import procedural

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOW = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)[0])
COUNT = 64
CHECK = ("check", "report.json", "--max", "fd=4", "--junit", "j.xml", "--markdown", "m.md", "--openmetrics", "o.txt")


def draw(path: Path, is_good: bool) -> None:
    """The samples of a generator; a bad one blurs."""
    images = procedural.draw_set(2, COUNT)
    np.savez(path, arr_0=images if is_good else procedural.blurred(images))


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


@pytest.fixture
def runner(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a hosted runner after the installation, in an empty folder."""
    bin = tmp_path / "runner" / "fdr" / "bin"
    executable(bin / "fdr", f'exec "{sys.executable}" -m fdr "$@"\n')
    executable(bin / "python", f'exec "{sys.executable}" "$@"\n')
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    runner = {
        "PATH": f"{bin}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RUNNER_TEMP": str(tmp_path / "runner"),
        "FDR_CACHE": str(own_home / "fdr"),
        "OMP_NUM_THREADS": "1",
        "GITHUB_ACTIONS": "true",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    for name in ("OUTPUT", "STEP_SUMMARY", "PATH"):
        runner[f"GITHUB_{name}"] = str(tmp_path / "runner" / name)
        Path(runner[f"GITHUB_{name}"]).touch()
    return runner


def bash(script: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """As a runner starts a step."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=dict(environment), timeout=PATIENCE)


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def run_job(name: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Every `run:` of a documented job but the installation, until one fails; the last one that ran."""
    for step in WORKFLOW["jobs"][name]["steps"]:
        if "run" in step and step["name"] != "Install":
            done = bash(step["run"], environment)
            if done.returncode:
                break
    return done


def test_the_documented_workflow_passes_on_a_good_generator_and_fails_on_a_bad_one(runner: dict[str, str]) -> None:
    Path("generate.py").write_text("import shutil, sys\nshutil.copy('drawn.npz', sys.argv[1])\n")
    draw(Path("drawn.npz"), is_good=True)
    measured = run_job("measure", runner)
    assert measured.returncode == 0, measured.stderr
    first = bash("fdr check report.json --baseline fdr.json --update-baseline", runner)
    assert first.returncode == 0, first.stderr
    git("init", "-q", "-b", "main")
    git("add", "fdr.json")
    git("commit", "-qm", "numbers")
    git("update-ref", "refs/remotes/origin/main", "main")
    Path("fdr.json").unlink()

    good = run_job("check", runner)
    assert good.returncode == 0 and good.stdout.rstrip().endswith("result: pass"), good.stderr
    assert "result=pass\n" in Path(runner["GITHUB_OUTPUT"]).read_text()

    draw(Path("drawn.npz"), is_good=False)
    assert run_job("measure", runner).returncode == 0
    bad = run_job("check", runner)
    assert bad.returncode == 1
    assert bad.stderr.count("::error title=fd%3Arandom of samples.npz fails") == 2
    assert "| samples.npz | `fd:random` |" in Path(runner["GITHUB_STEP_SUMMARY"]).read_text()
    assert 'failures="3"' in Path("fdr.xml").read_text(), "the limit, and FD and FDr against the baseline"


def steps() -> list[dict[str, Any]]:
    return ACTION["runs"]["steps"] + [
        step for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step
    ]


@pytest.mark.parametrize("step", steps(), ids=lambda step: step["name"])
def test_scripts_are_bash_and_take_inputs_by_environment_only(step: dict[str, Any]) -> None:
    done = subprocess.run(["bash", "-n", "-c", step["run"]], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "${{" not in step["run"], "an expression in a script is an injection"


def test_every_input_of_the_action_is_used_and_described() -> None:
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.(\w+)", text)) == set(ACTION["inputs"])
    assert all(entry["description"] and "default" in entry for entry in ACTION["inputs"].values())
    for step in ACTION["runs"]["steps"]:
        assert set(re.findall(r"INPUT_\w+", step["run"])) == set(step["env"])
        assert step["shell"] == "bash"


def test_the_light_installation_has_the_bounds_of_the_package() -> None:
    bounds = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    light = re.findall(r"'([a-z-]+>=[^']*)'", ACTION["runs"]["steps"][0]["run"])
    assert set(light) <= bounds
    names = [re.split("[<>=]", bound)[0] for bound in light]
    assert f"pip install {' '.join(names)}\n" in (ROOT / "docs" / "ci.md").read_text()


def test_a_check_of_a_report_imports_nothing_but_the_light_installation(tmp_path: Path) -> None:
    """Any other distribution would be missing on the runner of docs/ci.md."""
    code = (
        "import sys, importlib.metadata as metadata\nfrom fdr.cli import run\n"
        f"codes = [run({[*CHECK]!r}), run(['compare', 'report.json', 'report.json'])]\n"
        "modules = {name.partition('.')[0] for name in sys.modules}\n"
        "found = {one for name, many in metadata.packages_distributions().items() if name in modules for one in many}\n"
        "print(codes, sorted(found - {'setuptools', 'fdr-eval'}), file=sys.stderr)"
    )
    write(tmp_path / "report.json", report(row("fd", 3.0)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    light = re.findall(r"'([a-z-]+)[<>=]", ACTION["runs"]["steps"][0]["run"])
    assert done.stderr.splitlines()[-1] == f"[0, 0] {sorted(light)}"
    assert (tmp_path / "j.xml").is_file()


def run_action(runner: Mapping[str, str], **inputs: str) -> subprocess.CompletedProcess[str]:
    step = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "check")
    given = {f"INPUT_{name.upper()}": inputs.get(name, entry["default"]) for name, entry in ACTION["inputs"].items()}
    return bash(step["run"], {**runner, **{name: given[name] for name in step["env"]}})


@pytest.fixture
def seen(runner: dict[str, str], tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments that a fake `fdr` on a path with blanks gets from the action."""
    temporary = tmp_path / "a runner's temp"
    executable(temporary / "fdr" / "bin" / "fdr", 'printf "%s\\0" "$@" > arguments\n')

    def run(**inputs: str) -> list[str]:
        done = run_action({**runner, "RUNNER_TEMP": str(temporary)}, **inputs)
        assert done.returncode == 0, done.stderr
        return [text.replace(str(temporary), "TEMP") for text in Path("arguments").read_text().split("\0")[:-1]]

    return run


def test_an_input_that_is_not_set_is_no_argument(seen: Callable[..., list[str]]) -> None:
    assert seen(report="r.json") == ["check", "--", "r.json"]
    assert seen(report="\n  \n r.json \n\n", max="\n", args="  \n ", allow_missing="false") == ["check", "--", "r.json"]


def test_every_input_reaches_fdr_whole(seen: Callable[..., list[str]]) -> None:
    """With blanks, quotes, dollars, stars and a leading dash."""
    nasty = 'a b\'s "$HOME" `x` *.npz'
    found = seen(
        report=f"{nasty}\n-dash.json", max="fd:inception=3.0\nfdr_k=4", min="is=2", baseline=f"origin/main:{nasty}",
        tolerance="1%\nfd=2%", allow="n\nref", allow_missing="true", inconclusive="fail",
        confidence="0.9", null="n 1.json\nn2.json", junit="out dir/a b.xml",
        markdown="a b.md", args="--openmetrics 'my metrics.txt' --json \"a b.json\"\n-q",
    )  # fmt: skip
    assert found == [
        "check", "--max", "fd:inception=3.0", "--max", "fdr_k=4", "--min", "is=2", "--baseline", f"origin/main:{nasty}",
        "--tolerance", "1%", "--tolerance", "fd=2%", "--allow", "n", "--allow", "ref", "--allow-missing",
        "--inconclusive", "fail", "--confidence", "0.9", "--null", "n 1.json", "--null", "n2.json",
        "--junit", "out dir/a b.xml", "--markdown", "a b.md", "--openmetrics",
        "my metrics.txt", "--json", "a b.json", "-q", "--", nasty, "-dash.json",
    ]  # fmt: skip


def test_samples_leave_a_report_each_time(seen: Callable[..., list[str]], tmp_path: Path) -> None:
    first = seen(samples="a b.npz", gen="my run", ref="s t.npz", reps="random", metrics="fd")
    assert first == [
        "check", "--gen", "my run", "--report", "TEMP/fdr-report.json", "--ref", "s t.npz", "--reps", "random",
        "--metrics", "fd", "--", "a b.npz",
    ]  # fmt: skip
    (tmp_path / "a runner's temp" / "fdr-report.json").touch()
    assert "TEMP/fdr-report-2.json" in seen(samples="c.npz")
    assert seen(samples="c.npz", args="--report own.json") == ["check", "--report", "own.json", "--", "c.npz"]


def test_an_open_quote_is_one_sentence(runner: dict[str, str]) -> None:
    done = run_action(runner, report="r.json", args="--junit 'a b.xml")
    assert done.returncode == 2 and "::error title=fdr check::The input args has a quote" in done.stdout


def test_the_action_has_the_outputs_that_the_page_names() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("Its outputs are"))
    outputs = re.findall(r"`(\w+)`", page[page.index(row) :].partition("\n\n")[0])
    assert [name for name in outputs if name in ACTION["outputs"]] == list(ACTION["outputs"])
    for entry in ACTION["outputs"].values():
        assert entry["description"]
        assert set(re.findall(r"steps\.(\w+)\.", entry["value"])) <= {"check"}


def test_the_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("report.json"), report(row(value=2.9)))
    write(Path("main.json"), report(row(value=2.8)))
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    exec(block, {})
    assert capsys.readouterr().out.startswith("fail False [('fd:inception', 'pass', -0.1")


def test_the_action_measures_samples_and_passes(runner: dict[str, str]) -> None:
    draw(Path("a b.npz"), is_good=True)
    done = run_action(
        runner, samples="a b.npz", ref="demo", reps="random", max="fd:random=0.4\nfdr=30\n", args="--device cpu -q"
    )
    assert done.returncode == 0, done.stderr
    output = Path(runner["GITHUB_OUTPUT"]).read_text()
    assert "result=pass\n" in output
    assert f"report={runner['RUNNER_TEMP']}/fdr-report.json\n" in output
    assert (Path(runner["RUNNER_TEMP"]) / "fdr-report.json").is_file()


def test_the_action_measures_a_generator(runner: dict[str, str]) -> None:
    weights(Path("a b.safetensors"), Classes)
    args = "--arch generator_worlds:Classes --num-images 20 --device cpu -q"
    done = run_action(runner, gen="a b.safetensors", ref="demo", reps="random", max="fd:random=1e-9", args=args)
    assert done.returncode == 1 and "fd%3Arandom of a b.safetensors fails" in done.stderr, done.stderr
    assert (Path(runner["RUNNER_TEMP"]) / "fdr-report.json").is_file()


def test_the_action_fails_on_a_report(runner: dict[str, str], tmp_path: Path) -> None:
    write(Path("r.json"), report(row(value=3.3)))
    done = run_action(runner, report="r.json", max="fd:inception=3.0")
    assert done.returncode == 1 and "::error" in done.stderr
    output = Path(runner["GITHUB_OUTPUT"]).read_text()
    assert "result=fail\n" in output and 'numbers={"fd_inception": 3.3}\n' in output
    assert run_action(runner, report="r.json", max="fd:inception=4", tolerance="; touch hacked").returncode == 2
    assert run_action(runner, report="r.json", max="fd:inception=4\n$(touch hacked)").returncode == 2
    assert not Path("hacked").exists()
    assert run_action(runner, max="fd:inception=4").returncode == 2
