"""Which names out of a file are taken: nothing is imported to find out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fdr.encoders import load_encoder
from fdr.errors import InputError
from fdr.weights import ENCODERS, GENERATORS, check_encoders, find_declared, load_declared


def declare(site: Path, package: str, line: str) -> Path:
    """A folder with the metadata of a package that has one entry point, and a module that leaves a trace."""
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{ENCODERS}]\n{line}\n")
    (site / "declared_code.py").write_text(f"WHERE = {str(site)!r}\ndef make():\n    return lambda x: x.flatten(1)\n")
    return site


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where a package is installed, and the current folder; Python looks into the latter first."""
    site = declare(tmp_path / "site", "mine", "Mine = declared_code:make")
    here = declare(tmp_path / "here", "theirs", "theirs = declared_code:make")
    monkeypatch.chdir(here)
    for folder in (site, here):
        monkeypatch.syspath_prepend(str(folder))
    yield site, here
    sys.modules.pop("declared_code", None)


NAMES = ("inception", "fdr6", "timm:resnet50", "hf:a/b", "random:3", "Mine", "mine", "no-such-encoder")


@pytest.mark.parametrize("name", [*NAMES, "py:fdr.training.demo_generator:pixels", "inception, Mine"])
def test_names_that_a_file_may_say(places: tuple[Path, Path], name: str) -> None:
    check_encoders([name], "A file")
    assert "declared_code" not in sys.modules


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("py:os:system", "code"),
        ("PY:os:system", "code"),
        ("inception, pY:os:system", "code"),
        ("py:declared_code:make", "code"),  # found in the current folder, whoever declares it
        ("py:declared_code:other", "code"),
        ("py:fdr.cli:main", "code"),
        ("py:", "code"),
        ("theirs", "code"),
        ("THEIRS", "code"),
        ("torchscript:a.pt", "a program"),
        ("Export:/a/b.pt2", "a program"),
    ],
)
def test_names_that_only_a_user_may_say(places: tuple[Path, Path], name: str, what: str) -> None:
    with pytest.raises(InputError, match=rf"^A file asks for .*, {what}.*; if you trust it, add trust=True"):
        check_encoders(["random", name], "A file")
    assert "declared_code" not in sys.modules


def test_the_generator_of_the_demo_is_declared() -> None:
    point = find_declared(GENERATORS, "fdr.training.demo_generator:Decoder")
    assert point is not None and load_declared(point, "Encoder").__name__ == "Decoder"
    assert find_declared(GENERATORS, "fdr.training.demo_generator:pretrain") is None


def test_what_is_declared_is_loaded_from_where_it_is_installed(places: tuple[Path, Path]) -> None:
    site, here = places
    point = find_declared(ENCODERS, "Mine")
    assert point is not None and load_declared(point, "Encoder").__globals__["WHERE"] == str(site)
    assert str(here) in sys.path
    assert find_declared(ENCODERS, "theirs") is None and find_declared(GENERATORS, "Mine") is None
    sys.modules.pop("declared_code")
    assert load_encoder("Mine").spec.name == "Mine"
    assert str(site) == sys.modules["declared_code"].WHERE
    sys.modules.pop("declared_code")
    load_encoder("theirs")  # which the user said
    assert str(here) == sys.modules["declared_code"].WHERE
