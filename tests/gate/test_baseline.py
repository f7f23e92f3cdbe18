"""Baselines: reports and the small file, from disk and from git; everything else is one sentence."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from gate_worlds import report, row, write
from hypothesis import given
from hypothesis import strategies as st

from fdr.errors import InputError
from fdr.gate import Baseline, baseline_of, load_baseline, save_baseline
from fdr.gate.baseline import BaselineValue

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A repository in the working folder, untouched by the user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout

    run("init", "-q", "-b", "main")
    return run


@given(st.floats(0, allow_nan=False, allow_infinity=False), st.none() | st.floats(0, 1e300))
def test_the_small_file_is_exact(tmp_path_factory: pytest.TempPathFactory, value: float, stderr: float | None) -> None:
    path = tmp_path_factory.mktemp("baseline") / "b.json"
    sets = {"a|b.npz": {"fd:inception": BaselineValue(value, row().signature, stderr)}}
    save_baseline(Baseline("x", sets), path)
    assert load_baseline(str(path)).sets == sets


def test_the_small_file_reads_in_a_diff(tmp_path: Path) -> None:
    rows = (row(value=3.0), row("fdr", value=1.5, interval=(1, 2)), row("is", 200.0, stderr=2.0))
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    save_baseline(baseline_of([report(*rows), report(samples="b")], "x"), one)
    save_baseline(baseline_of([report(samples="b"), report(*reversed(rows))], "x"), two)
    text = one.read_text()
    assert text == two.read_text() and text.endswith("}\n")
    assert json.loads(text)["schema"] == "fdr-baseline/1"
    assert sum('"value"' in line for line in text.splitlines()) == 4


def test_a_report_is_a_baseline(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", [report(row(value=3.0)), report(row(value=4.0), samples="b")])
    found = load_baseline(str(path))
    assert found.is_report
    assert {name: rows["fd:inception"].value for name, rows in found.sets.items()} == {"samples.npz": 3.0, "b": 4.0}


def test_a_baseline_at_a_git_revision(git: Git, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    for value in (3.0, 2.0):
        save_baseline(baseline_of([report(row(value=value))], "x"), folder / "fdr.json")
        git("add", "."), git("commit", "-qm", "numbers")
    git("tag", "-a", "v1", "HEAD~1", "-m", "release")
    (folder / "fdr.json").unlink()

    def value(where: str) -> float:
        return load_baseline(where).sets["samples.npz"]["fd:inception"].value

    commit = git("rev-parse", "HEAD").strip()
    assert [value(f"{rev}:sub/fdr.json") for rev in ("main", "HEAD~1", "v1", commit[:9])] == [2.0, 3.0, 3.0, 2.0]
    assert value("main:./sub/fdr.json") == 2.0


@pytest.mark.parametrize("where, sentence", [
    ("man:fdr.json", r"knows no revision 'man'.*fetch-depth: 0.*origin/man"),
    ("main:fdr2.json", r"revision 'main' has no file 'fdr2\.json'"),
    ("main:text.json", r"has no file 'text\.json' .*; did you mean 'sub/text\.json'\?"),
    ("main:sub/txt.json", r"has no file 'sub/txt\.json' .*; did you mean 'sub/text\.json'"),
    ("HEAD~5:fdr.json", r"knows no revision 'HEAD~5' here; .* \(fetch-depth: 0 in CI\)\."),
    ("main:sub/lfs.json", r"is a Git LFS pointer .*; run git lfs pull"),
    ("https://example.org/fdr.json", "no file and not REV:PATH"),
    ("main:sub", r"revision 'main' has no file 'sub'"),
    ("--help:fdr.json", "no file and not REV:PATH"),
    (":fdr.json", "no file and not REV:PATH"),
    ("main:", "no file and not REV:PATH"),
    ("nothing.json", "The baseline nothing.json does not exist"),
    ("sub", "Cannot read baseline 'sub'"),
    ("main:sub/text.json", "is not JSON"),
])  # fmt: skip
def test_what_git_cannot_give_is_one_sentence(git: Git, tmp_path: Path, where: str, sentence: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "text.json").write_bytes(b"\xff\xfe not json")
    (tmp_path / "sub" / "lfs.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    git("add", "."), git("commit", "-qm", "x")
    with pytest.raises(InputError, match=sentence):
        load_baseline(where)


def test_a_file_whose_name_is_not_utf8_does_not_hide_what_was_meant(git: Git, tmp_path: Path) -> None:
    for name in (b"caf\xe9.json", b"sub.json"):
        (tmp_path / os.fsdecode(name)).write_text("{}")
    git("add", "."), git("commit", "-qm", "x")
    with pytest.raises(InputError, match=r"has no file 'sbu\.json' .*; did you mean 'sub\.json'\?"):
        load_baseline("main:sbu.json")


def test_a_shallow_clone_says_what_to_do(git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (3.0, 2.0):
        save_baseline(baseline_of([report(row(value=value))], "x"), tmp_path / "fdr.json")
        git("add", "."), git("commit", "-qm", "numbers")
    git("clone", "-q", "--depth", "1", f"file://{tmp_path}", "shallow")
    (tmp_path / "shallow" / "fdr.json").unlink()
    monkeypatch.chdir(tmp_path / "shallow")
    assert load_baseline("origin/main:fdr.json").sets["samples.npz"]["fd:inception"].value == 2.0
    with pytest.raises(InputError, match=r"knows no revision 'HEAD~1' here; a shallow clone .*fetch-depth: 0"):
        load_baseline("HEAD~1:fdr.json")


def test_a_repository_of_another_user_says_what_to_do(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container job, where the checkout belongs to another user."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(InputError, match=r"another user owns it; run git config --global --add safe.directory"):
        load_baseline("main:fdr.json")


def test_outside_a_repository_and_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(InputError, match="no git repository is here"):
        load_baseline("main:fdr.json")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="git, which could look it up, did not start"):
        load_baseline("main:fdr.json")


def small(**row: object) -> dict[str, object]:
    """The small file with one number of one set, fd:a."""
    found = {"value": 3, "signature": "fd|enc:a|v:1", **row}
    return {"schema": "fdr-baseline/1", "sets": {"a": {"fd:a": {k: v for k, v in found.items() if v != "left out"}}}}


@pytest.mark.parametrize("data, sentence", [
    ([], "schema None"), ({"schema": "fdr-check/1"}, "schema 'fdr-check/1'"), ({"schema": "fdr-baseline/1"}, "damaged"),
    ({"schema": "fdr-baseline/0", "sets": {}}, "schema 'fdr-baseline/0'; another version of fdr wrote it"),
    ({"schema": "fdr-baseline/1", "sets": []}, "sets of the file is .., where an object with at least one entry"),
    ({"schema": "fdr-baseline/1", "sets": {}}, "sets of the file is {}, where an object with at least one entry"),
    ({"schema": "fdr-baseline/1", "sets": {"a": {}}}, "a of sets is {}"),
    ({"schema": "fdr-baseline/1", "sets": {"a": {"fd": 3}}}, "fd of a is 3, where an object"),
    (small(value="3"), "value of fd:a of a is '3', where a finite number"),
    (small(value=None), "value of fd:a of a is None"), (small(value="left out"), "fd:a of a has no value"),
    (small(value=True), "value of fd:a of a is True"), (small(value=10**400), "value of fd:a of a is 1000"),
    (small(value=float("nan")), "NaN is no number of JSON"), (small(value=-1), "fd:a of a is -1, and FD is 0 or more"),
    (small(stderr=-5), "stderr of fd:a of a is -5"), (small(signature="?"), "signature of fd:a of a is '.'"),
    (small(signature="is|enc:a|v:1"), "fd:a of a has the signature of is:a"),
    ({"schema": "fdr-report/1"}, "Damaged report"), ({"schema": "fdr-reports/1"}, "Damaged report"),
])  # fmt: skip
def test_damaged_baselines(tmp_path: Path, data: object, sentence: str) -> None:
    (tmp_path / "b.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=sentence):
        load_baseline(str(tmp_path / "b.json"))
