"""File and folder names that are not UTF-8: every command works, and all that it writes is UTF-8."""

from __future__ import annotations

import io
import json
import os
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator_worlds import weights
from PIL import Image
from worlds import images, npz

from fdr.errors import FdrWarning, InputError, printable

ODD = os.fsdecode(b"\xff")
"""How Python spells the byte \\xff in a name."""
Run = Callable[..., Any]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names are text there")


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def odd_folder(path: Path, kind: str = "PNG", bad: int = 0) -> Path:
    path.mkdir()
    for index, image in enumerate(images(12)):
        (path / f"{ODD}{index:02d}.png").write_bytes(b"xx" if index < bad else encoded(image, kind))
    return path


def odd_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for index, image in enumerate(images(12)):
            data = encoded(image)
            member = tarfile.TarInfo(f"{ODD}{index:02d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def odd_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in enumerate(images(12)):
            archive.writestr(f"A{index:02d}.png", encoded(image))
    path.write_bytes(path.read_bytes().replace(b"A0", b"\xff0").replace(b"A1", b"\xff1"))  # no flag: code page 437
    return path


@pytest.fixture
def call(fdr_command: Run) -> Run:
    """A command that must end with 0; its outcome."""

    def one(*arguments: object) -> Any:
        done = fdr_command(*arguments)
        assert done.code == 0, done.err
        for text in (done.out, done.err):
            text.encode()  # no lone surrogate reaches the terminal
        return done

    return one


@pytest.mark.parametrize(
    "make",
    [
        lambda: odd_folder(Path(f"s{ODD}")),
        lambda: odd_folder(Path("jpeg"), "JPEG"),
        lambda: odd_tar(Path(f"s{ODD}.tar")),
        lambda: odd_zip(Path(f"s{ODD}.zip")),
        lambda: npz(Path(f"s{ODD}.npz"), images(12)),
    ],
    ids=["folder", "jpeg", "tar", "zip", "npz"],
)
def test_samples(call: Run, tmp_path: Path, make: Callable[[], Path]) -> None:
    npz(tmp_path / "ref.npz", images(20, seed=3))
    samples = make()
    files = ("--json", "a.json", "--csv", "a.csv", "--markdown", "a.md")
    done = call("eval", samples, "--ref", "ref.npz", "--reps", "random", "--cache", f"c{ODD}", *files)
    assert " 12 " in done.out
    source = json.loads(Path("a.json").read_bytes())["samples"]["source"]
    assert source == samples.name.replace(ODD, "\\xff") and source in done.out
    assert source in Path("a.csv").read_text("utf-8") and source in Path("a.md").read_text("utf-8")
    entries = json.loads(call("cache", "list", "--cache", f"c{ODD}", "--json", "-").out)
    assert {entry["source"] for entry in entries} == {source, "ref.npz"}
    call("cache", "verify", "--cache", f"c{ODD}")
    call("eval", samples, "--ref", "ref.npz", "--reps", "random", "--cache", f"c{ODD}", "--json", "b.json")
    assert json.loads(Path("b.json").read_bytes())["results"] == json.loads(Path("a.json").read_bytes())["results"]


def test_skipped_images_are_named(call: Run, tmp_path: Path) -> None:
    npz(tmp_path / "ref.npz", images(20, seed=3))
    odd_folder(tmp_path / "s", bad=1)
    options = ("--reps", "random", "--on-bad", "skip", "--max-bad", "0.5")
    done = call("eval", "s", "--ref", "ref.npz", *options, "--json", "a.json")
    assert json.loads(Path("a.json").read_bytes())["samples"]["skipped"][0]["id"] == "\\xff00.png"
    assert "\\xff00.png" in done.out


def test_a_bad_image_is_named(fdr_command: Run, tmp_path: Path) -> None:
    npz(tmp_path / "ref.npz", images(20, seed=3))
    done = fdr_command("eval", odd_folder(tmp_path / f"s{ODD}", bad=1), "--ref", "ref.npz", "--reps", "random")
    assert done.code == 2 and "s\\xff: \\xff00.png cannot be used" in done.err


def test_references_reports_and_verdicts(call: Run, tmp_path: Path) -> None:
    samples, real = odd_folder(tmp_path / f"s{ODD}"), npz(tmp_path / f"real{ODD}.npz", images(20, seed=3))
    made, report, other = f"made{ODD}", f"r{ODD}.json", f"r2{ODD}.json"
    call("stats", real, "--reps", "random", "-o", made, "--json", f"stats{ODD}.json")
    call("show", made)
    call("show", f"{made}/random.h5", "--json", "-")
    call("show", f"{made}/random.h5")
    for kind in ("npz", "h5", "pt"):
        call("convert", f"{made}/random.h5", f"c{ODD}.{kind}")
    for target in (report, other):
        call("eval", samples, "--ref", made, "--reps", "random", "--json", target)
    call("show", report)
    call("compare", report, other, "--json", f"c{ODD}.json")
    outputs = ("--json", f"v{ODD}.json", "--junit", f"v{ODD}.xml", "--markdown", f"v{ODD}.md")
    outputs += ("--openmetrics", f"v{ODD}.txt")
    call("check", report, "--baseline", other, *outputs)
    verdict = json.loads(Path(f"v{ODD}.json").read_bytes())
    assert verdict["checks"][0]["samples"] == "s\\xff"
    assert verdict["checks"][0]["baseline"]["name"] == "r2\\xff.json"
    assert ET.parse(f"v{ODD}.xml").getroot()[0].get("name") == "s\\xff"
    call("check", report, "--update-baseline", "--baseline", f"b{ODD}.json")
    call("check", report, "--baseline", f"b{ODD}.json")


def test_generators_and_autoencoders(call: Run, tmp_path: Path) -> None:
    npz(tmp_path / "ref.npz", images(20, seed=3))
    made = weights(tmp_path / f"g{ODD}.safetensors")
    arch = ("--arch", "generator_worlds:Plain", "--device", "cpu")
    call("sample", "--gen", made, *arch, "-n", 8, "-o", f"x{ODD}.npz", "-q")
    call("sample", "--gen", made, *arch, "-n", 8, "-o", f"y{ODD}", "-q")
    call("eval", "--gen", made, *arch, "--num-images", 16, "--ref", "ref.npz", "--reps", "random", "--json", "g.json")
    call("ifid", "--vae", "haar:2", "--images", odd_folder(tmp_path / f"q{ODD}"), "--reps", "random", "--top-k", 3,
         "--json", f"i{ODD}.json", "--picture", f"p{ODD}.png")  # fmt: skip
    run = f"run{ODD}"
    call(
        "train", "--gen", made, *arch, "--ref", "ref.npz", "--reps", "random", "--population", "ema:0.9", "--fill", 16,
        "--batch-size", 4, "--lr", "1e-3", "--steps", 2, "-o", run,
    )  # fmt: skip
    call("train", "--resume", run)
    call(
        "eval", "--gen", run, "--trust", "--num-images", 16, "--ref", "ref.npz", "--reps", "random", "--json", "t.json"
    )


def test_a_table_of_an_odd_name(call: Run, tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{i * i}" for i in range(8))
    (tmp_path / f"t{ODD}.csv").write_text(f"a,b\n{rows}\n")
    call("correlate", f"t{ODD}.csv", "--x", "a", "--y", "b", "--json", f"t{ODD}.json", "--plot", f"t{ODD}.png")
    assert json.loads((tmp_path / f"t{ODD}.json").read_bytes())["schema"] == "fdr-correlation/1"


def test_what_is_printable() -> None:
    assert printable(f"a{ODD}\ud800\x1b[2J\r\n\tß") == "a\\xff\\ud800\\x1b[2J\\x0d\n\tß"
    assert str(InputError(ODD)) == str(FdrWarning(ODD)) == "\\xff"
    assert str(InputError(f"{ODD!r} is missing.")) == "'\\xff' is missing."


def test_brackets_in_a_name_are_no_markup(call: Run, tmp_path: Path) -> None:
    npz(tmp_path / "ref.npz", images(20, seed=3))
    done = call("eval", npz(tmp_path / "[bold]x.npz", images(12)), "--ref", "ref.npz", "--reps", "random")
    assert "[bold]x.npz" in done.out


def test_a_name_that_is_too_long_is_an_error_of_input(fdr_command: Run) -> None:
    for arguments in (
        ("eval", "n" * 300),
        ("show", "n" * 300),
        ("check", "n" * 300),
        ("eval", "a.npz", "--ref", "n" * 300),
    ):
        done = fdr_command(*arguments)
        assert done.code == 2 and done.err.count("fdr: error: ") == 1, done.err
