"""`fdr report`: formats, titles, paths, what it reads, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from explained_worlds import explanation, measured, write_explanation
from gate_worlds import report, row, write
from processes import PATIENCE
from report_worlds import number, reports, run_folder
from worlds import images, npz


def test_the_page_of_two_reports_and_what_reads_it_back(fdr_command, tmp_path: Path) -> None:
    reports(tmp_path)
    made = fdr_command("report", "base.json", "new.json", "-o", "out.html")
    assert (made.code, made.err) == (0, "") and made.out.startswith("wrote out.html: ")
    assert "new.npz against base.npz: better in 7" in (tmp_path / "out.html").read_text()
    shown = fdr_command("show", "out.html")
    assert shown.code == 0 and "base.npz" in shown.out and "new.npz" in shown.out
    assert fdr_command("compare", "out.html").code == 1  # a failed number, as with the reports themselves
    checked = fdr_command("check", "out.html", "--max", "fd:inception=2")
    assert checked.code == 1 and "base.npz" in checked.out


def test_a_page_is_replaced_and_nothing_else_is(fdr_command, tmp_path: Path) -> None:
    write(tmp_path / "r.json", report())
    (tmp_path / "notes.html").write_text("my notes")
    assert fdr_command("report", "r.json", "-o", "out.html").code == 0
    first = (tmp_path / "out.html").read_bytes()
    assert fdr_command("report", "r.json", "-o", "out.html").code == 0
    assert (tmp_path / "out.html").read_bytes() == first
    for refused in ("r.json", "notes.html"):
        got = fdr_command("report", "r.json", "--format", "html", "-o", refused)
        assert got.code == 2 and "name another" in got.err and (tmp_path / refused).exists()


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (("--format", "md"), "**"),
        (("--format", "latex"), r"% \usepackage"),
        (("-o", "out.md"), "**"),
        (("-o", "out.tex"), r"% \usepackage"),
        (("-o", "out.html"), "<!doctype html>"),
        (("-o", "out", "--format", "html"), "<!doctype html>"),
        (("-o", "-", "--format", "md"), "**"),
    ],
)
def test_the_format_is_the_option_or_the_suffix(fdr_command, tmp_path: Path, arguments: tuple, begins: str) -> None:
    write(tmp_path / "r.json", report(number("fdr", 2.0)))
    got = fdr_command("report", "r.json", *arguments)
    assert got.code == 0, got.err
    names = [name for name in arguments if name.startswith("out")]
    text = (tmp_path / names[0]).read_text() if names else got.out
    assert text.startswith(begins)


def test_the_title_the_confidence_and_the_paths(fdr_command, tmp_path: Path) -> None:
    write(tmp_path / "r.json", report(number("fd", 1.0), samples="/home/ada/a.npz"))
    for options, there, absent in (
        ((), ("<title>fdr report</title>", "95 % interval"), ("/home/ada",)),
        (("--title", "Ours & theirs"), ("<title>Ours &amp; theirs</title>",), ()),
        (("--confidence", "0.9"), ("90 % interval",), ("95 %",)),
        (("--with-paths",), ("/home/ada/a.npz",), ()),
    ):
        assert fdr_command("report", "r.json", "-o", "out.html", *options).code == 0
        text = (tmp_path / "out.html").read_text()
        assert all(words in text for words in there) and not any(words in text for words in absent), options
    assert "/home/ada" not in fdr_command("report", "r.json", "--format", "md").out
    assert "/home/ada" in fdr_command("report", "r.json", "--format", "md", "--with-paths").out


def test_a_run_alone_takes_the_numbers_of_its_last_evaluation(fdr_command, tmp_path: Path) -> None:
    run_folder(tmp_path / "a run")
    assert fdr_command("report", "a run", "-o", "out.html").code == 0
    text = (tmp_path / "out.html").read_text()
    assert "Training run a run" in text and "a run at step 50" in text
    assert "a run at step 50" in fdr_command("report", "a run", "--format", "md").out


def test_a_run_beside_reports(fdr_command, tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    write(tmp_path / "r.json", report())
    assert fdr_command("report", "r.json", "run", "-o", "out.html").code == 0
    text = (tmp_path / "out.html").read_text()
    assert "samples.npz" in text and "Training run run" in text and "run at step 50" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("r.json",), "Name the file of the page with -o"),
        (("missing.json", "-o", "x.html"), "The report missing.json does not exist"),
        (("other.json", "-o", "x.html"), "Not a report: schema is 'fdr-report/2'"),
        (("text.txt", "-o", "x.html"), "is not JSON"),
        (("empty", "-o", "x.html"), "is a folder and no run of fdr train"),
        (("fresh", "--format", "md"), "There is no number for a table"),
    ],
)
def test_one_sentence_for_what_cannot_be_shown(fdr_command, tmp_path: Path, arguments: tuple, words: str) -> None:
    write(tmp_path / "r.json", report())
    (tmp_path / "other.json").write_text('{"schema": "fdr-report/2"}')
    (tmp_path / "text.txt").write_text("no report")
    (tmp_path / "empty").mkdir()
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "train.json").write_text('{"options": {}}')
    got = fdr_command("report", *arguments)
    assert got.code == 2 and words in got.err and "Traceback" not in got.err
    assert not (tmp_path / "x.html").exists()


def test_without_the_extra_tables_of_text_are_still_written(
    fdr_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "r.json", report())
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jinja2" else find(name, *a))
    got = fdr_command("report", "r.json", "-o", "out.html")
    assert got.code == 2 and "pip install 'fdr-eval[report]'" in got.err
    assert fdr_command("report", "r.json", "--format", "latex").code == 0


@pytest.mark.parametrize("style", ["html", "md"])
def test_it_needs_no_torch(tmp_path: Path, style: str) -> None:
    write(tmp_path / "r.json", report(row(), number("fdr", 2.0)))
    run_folder(tmp_path / "run")
    code = (
        "import sys; from fdr.cli import run\n"
        f"assert run(['report', 'r.json', 'run', '-o', 'out', '--format', '{style}']) == 0\n"
        "print(sorted({'torch', 'scipy', *(['numpy'] if sys.argv[1] == 'md' else [])} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, style], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr + done.stdout


def test_an_explanation_with_its_images(fdr_command, tmp_path: Path) -> None:
    sets = [npz(tmp_path / "s.npz", images(24, seed=1)), "--ref", npz(tmp_path / "real.npz", images(30))]
    made = fdr_command("explain", *sets, "--reps", "random", "--closest", 3, "--show", 4, "--json", "e.json", "-q")
    assert made.code == 0, made.err
    own, real = ("--images", tmp_path / "s.npz"), ("--reference-images", tmp_path / "real.npz")
    for options, pictures in (((), (0, 0)), (own, (7, 0)), (real, (0, 7)), ((*own, *real), (7, 7))):
        got = fdr_command("report", "e.json", "-o", "out.html", *options)
        assert (got.code, got.err) == (0, "")
        text = (tmp_path / "out.html").read_text()
        assert (text.count('alt="Sample arr_0'), text.count('alt="Reference image arr_0')) == pictures
        assert str(tmp_path) not in text and "Images that raise FD most" in text
    assert fdr_command("report", "e.json", "--format", "md").code == 0


def test_reports_of_two_versions_are_one_sentence(fdr_command, tmp_path: Path) -> None:
    write(tmp_path / "now.json", report())
    (tmp_path / "later.json").write_text(json.dumps(report().to_dict() | {"schema": "fdr-report/2"}))
    got = fdr_command("report", "now.json", "later.json", "-o", "x.html")
    assert got.code == 2 and got.err.count("\n") == 1 and not (tmp_path / "x.html").exists()
    assert (
        "schema is 'fdr-report/2' in 'later.json', expected 'fdr-report/1'; another version of fdr wrote it" in got.err
    )


@pytest.mark.parametrize("option", ["--images", "--reference-images"])
def test_images_that_have_moved(fdr_command, tmp_path: Path, option: str) -> None:
    write_explanation(tmp_path / "e.json", explanation(measured(tmp_path)))
    got = fdr_command("report", "e.json", "-o", "x.html", option, "gone/real.npz")
    assert got.code == 2 and got.err.count("\n") == 1 and not (tmp_path / "x.html").exists()
    assert f"The images of {option} cannot be shown: gone/real.npz does not exist" in got.err
    assert f"if they have moved since they were measured, name the place where they are now with {option}." in got.err


def test_images_of_a_sample_set(fdr_command, tmp_path: Path) -> None:
    write(tmp_path / "r.json", report())
    npz(tmp_path / "many.npz", images(60, side=12))
    npz(tmp_path / "few.npz", images(3, side=300))
    got = fdr_command("report", "r.json", "-o", "out.html", "--images", tmp_path / "many.npz", "--images", "few.npz")
    assert got.code == 0, got.err
    text = (tmp_path / "out.html").read_text()
    assert text.count("data:image/webp;base64,") == 24 + 3 and str(tmp_path) not in text
    assert 'alt="Image 24 of 24 of many.npz" width="12"' in text and 'alt="Image 1 of 3 of few.npz" width="256"' in text
    before = (tmp_path / "out.html").read_bytes()
    assert fdr_command("report", "r.json", "-o", "out.html", "--images", "many.npz", "--images", "few.npz").code == 0
    assert (tmp_path / "out.html").read_bytes() == before
    gone = fdr_command("report", "r.json", "-o", "out.html", "--images", "gone.npz")
    assert gone.code == 2 and "gone.npz" in gone.err and (tmp_path / "out.html").read_bytes() == before
