"""Encoders of the user's own: py:MODULE:FACTORY, register_encoder, and entry points of installed packages."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
from worlds import images, npz

import fdr
from fdr.cli import run
from fdr.encoders import (
    AbstractEncoder,
    EncoderOptions,
    EncoderSpec,
    load_encoder,
    parse_encoders,
    plugin_encoders,
    register_encoder,
    registry,
)
from fdr.errors import FdrWarning, InputError

IMAGES = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))

MODULE = """
import torch
import fdr

SCALE = {scale}

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 2.0))
    def forward(self, x):
        return x.mean((2, 3)) * self.weight * SCALE

def make_module():
    return Net()

def make_function():
    return lambda x: x.mean((2, 3))

def make_with_options(options):
    assert isinstance(options, fdr.EncoderOptions)
    return fdr.load_encoder("random", device=options.device)

def make_nothing():
    return 3

def make_error():
    raise KeyError("no such\\nthing")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder, as a user has it; gives its name."""

    def write(text: str = MODULE.format(scale=1), name: str = "my_encoder") -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        sys.modules.pop(name, None)
        return name

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    sys.modules.pop("my_encoder", None)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


# --- py: -----------------------------------------------------------------------------------------------------------


def test_a_module_is_an_encoder_known_by_its_source_and_weights(module):
    name = f"py:{module()}:make_module"
    encoder = load_encoder(name, device="cpu")
    torch.testing.assert_close(encoder(IMAGES)["features"], IMAGES.mean((2, 3)) * 2)
    assert encoder.spec.name == name
    assert encoder.is_cacheable
    assert load_encoder(name, device="cpu").spec.hash == encoder.spec.hash
    module(MODULE.format(scale=3))  # a constant of the file, outside of the class
    assert load_encoder(name, device="cpu").spec.hash != encoder.spec.hash


def test_a_function_is_recorded_and_never_cached(module):
    encoder = load_encoder(f"py:{module()}:make_function", device="cpu")
    assert encoder.spec.weights.startswith("source:")
    assert not encoder.is_cacheable


def test_a_factory_may_take_the_options_and_make_a_whole_encoder(module):
    encoder = load_encoder(f"py:{module()}:make_with_options", device="cpu")
    assert encoder.spec.family == "random"


def test_it_is_measured_from_the_command_line(module, tmp_path, capsys):
    module()
    npz(tmp_path / "a.npz", images(20, seed=1, side=16))
    npz(tmp_path / "b.npz", images(20, side=16))
    command = ["eval", "a.npz", "--ref", "b.npz", "--no-cache", "-q", "--reps", "py:my_encoder:make_module"]
    assert run(command) == 0
    assert "|enc:py:my_encoder:make_module|" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("py:my_encoder", "is not of the form py:MODULE:FACTORY"),
        ("py:my_encoder:", "is not of the form py:MODULE:FACTORY"),
        ("py:no_such_module_x:make", "importing 'no_such_module_x' failed with ModuleNotFoundError"),
        ("py:my_encoder:make_modul", "Unknown factory of module my_encoder 'make_modul'; did you mean 'make_module'"),
        ("py:my_encoder:make_nothing", "made int; expected an AbstractEncoder"),
        ("py:my_encoder:make_error", "raised KeyError: 'no such"),
    ],
)
def test_what_fails_is_one_sentence(name, sentence, module):
    module()
    with pytest.raises(InputError, match=sentence) as error:
        load_encoder(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("body", ["raise SystemExit(3)", "1/0", "def broken(:"])
def test_a_module_that_cannot_be_imported_is_one_sentence(module, body):
    with pytest.raises(InputError, match=r"importing 'my_encoder' failed with (SystemExit|ZeroDivision|SyntaxError)"):
        load_encoder(f"py:{module(body)}:make")


def test_weights_go_only_to_a_factory_that_takes_options(module, tmp_path):
    with pytest.raises(InputError, match="takes no options, so it cannot use weights"):
        load_encoder(f"py:{module()}:make_module", weights=tmp_path / "w.pth")


# --- register_encoder ----------------------------------------------------------------------------------------------


def test_a_registered_name_works_like_any_other(registered, tmp_path):
    fdr.register_encoder("colour", lambda: lambda x: x.mean((2, 3)))
    assert parse_encoders("colour,random") == ["colour", "random"]
    assert load_encoder("colour", device="cpu").spec.name == "colour"
    assert "colour" in plugin_encoders()
    samples, real = (npz(tmp_path / f"{seed}.npz", images(20, seed=seed, side=16)) for seed in (0, 1))
    report = fdr.evaluate(samples, reference=real, encoders=["colour"])
    assert report["fd", "colour"].value > 0
    with pytest.raises(InputError, match="did you mean 'colour'"):
        parse_encoders("color")


@pytest.mark.parametrize("name", ["dinov2", "fdr6", "timm:mine", "py:x:y", "a,b", "a b", ""])
def test_taken_and_unwritable_names_are_refused(name, registered):
    with pytest.raises(InputError, match=r"Cannot register encoder .*; choose another"):
        register_encoder(name, lambda: None)


def test_a_name_is_registered_once_and_by_a_callable(registered):
    register_encoder("mine", lambda: None)
    with pytest.raises(InputError, match="it is registered already"):
        register_encoder("mine", lambda: None)
    with pytest.raises(InputError, match="its factory is int, not a callable"):
        register_encoder("yours", 3)


def test_a_class_is_a_factory(registered):
    class Whole(AbstractEncoder):
        outputs = stored_outputs = ("features",)

        def __init__(self, options: EncoderOptions) -> None:
            self.device = torch.device("cpu")
            self.spec = EncoderSpec("whole", "callable", "m", "v1", "features", 3, 0, "none", (0.0,) * 3, (1.0,) * 3)

        def preprocess(self, images):
            return images

        def forward(self, inputs, outputs):
            return {"features": inputs.mean((2, 3))}

    register_encoder("whole", Whole)
    assert load_encoder("whole")(IMAGES)["features"].shape == (4, 3)


# --- entry points --------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution with entry points."""

    def install(points: str, source: str = MODULE.format(scale=1), name: str = "fdr-colours") -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fdr.encoders]\n{points}\n")
        (tmp_path / "colours_pkg.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("colours_pkg", None)


def test_an_entry_point_is_an_encoder_and_is_imported_only_when_used(package):
    package("colours = colours_pkg:make_module")
    assert plugin_encoders() == {"colours": "colours_pkg:make_module (fdr-colours)"}
    assert parse_encoders("colours") == ["colours"]
    assert "colours_pkg" not in sys.modules
    encoder = load_encoder("colours", device="cpu")
    torch.testing.assert_close(encoder(IMAGES)["features"], IMAGES.mean((2, 3)) * 2)
    assert encoder.spec.name == "colours"


def test_a_broken_plugin_costs_only_its_encoder(package):
    package("broken = colours_pkg:make_module", source="import nothing_like_this")
    assert load_encoder("random", device="cpu").spec.name == "random"
    with pytest.raises(InputError, match=r"'broken' of package fdr-colours failed to load.*ModuleNotFoundError"):
        load_encoder("broken")


def test_a_plugin_cannot_take_a_name_of_fdr(package):
    package("dinov2 = colours_pkg:make_module\ngood = colours_pkg:make_module")
    with pytest.warns(
        FdrWarning, match=r"'dinov2' of package fdr-colours is left out: fdr has an encoder of that name"
    ):
        assert list(plugin_encoders()) == ["good"]


def test_two_packages_with_one_name_are_told(package):
    package("same = colours_pkg:make_module")
    package("same = colours_pkg:make_function", name="fdr-others")
    with pytest.warns(FdrWarning, match=r"'same' of package fdr-(colours|others) is left out: fdr-\w+ provides it too"):
        assert list(plugin_encoders()) == ["same"]
