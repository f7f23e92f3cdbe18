"""Checkpoints, programs and run folders become generators; what cannot is told in one sentence."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_worlds import Classes, Plain, Scripted, generator, seeded, weights
from safetensors.torch import load_file, save_file

import fdr
from fdr.errors import FdrError, FdrWarning, InputError, WeightsError
from fdr.generators import noise_of, save_generator

NOISE = noise_of(0, range(3), (8,))


def exported(path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.export.export(seeded(), (torch.zeros(2, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def scripted(path: Path, network: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(path))
    return path


@pytest.fixture
def plain(tmp_path):
    return weights(tmp_path / "plain.safetensors")


def test_safetensors_with_an_architecture(plain):
    loaded = fdr.load_generator(plain, arch="generator_worlds:Plain", device="cpu")
    assert (loaded.noise_shape, loaded.num_classes, loaded.training) == ((8,), None, False)
    torch.testing.assert_close(loaded(NOISE), seeded()(NOISE).expand(-1, 3, -1, -1), rtol=0, atol=0)


def test_arguments_reach_the_architecture(tmp_path):
    save_file(Plain(9).state_dict(), tmp_path / "a.safetensors")
    loaded = fdr.load_generator(tmp_path / "a.safetensors", "generator_worlds:build", arch_args={"width": 9})
    assert loaded.network.first.out_features == 9
    with pytest.raises(WeightsError, match=r"does not fit the architecture .* first.bias \(9 for 6\) and 1 more"):
        fdr.load_generator(tmp_path / "a.safetensors", "generator_worlds:build")


def test_a_conditional_generator_maps_its_range(tmp_path):
    path = weights(tmp_path / "a.safetensors", Classes)
    loaded = fdr.load_generator(path, "generator_worlds:Classes")
    assert (loaded.noise_shape, loaded.num_classes, loaded.spec.value_range) == ((2, 4, 4), 5, (-1.0, 1.0))
    noise, labels = noise_of(0, range(3), (2, 4, 4)), torch.tensor([0, 4, 4])
    torch.testing.assert_close(loaded(noise, labels), (seeded(Classes)(noise, labels) + 1) / 2)
    with pytest.raises(InputError, match="class-conditional; give labels"):
        loaded(noise)


def test_images_carry_the_gradient(plain):
    loaded = fdr.load_generator(plain, "generator_worlds:Plain")
    loaded(NOISE)[:, 1].sum().backward()
    network = seeded()
    network(NOISE).sum().backward()
    for found, expected in zip(loaded.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_overshoot_is_not_clamped():
    made = generator(Classes)
    made.network.colour.weight.data.fill_(0)
    made.network.forward = lambda noise, labels: 1.1 + 0 * made.network.conv(noise)
    assert made(torch.zeros(1, 2, 4, 4), torch.tensor([0])).max().item() == pytest.approx(1.05)


def test_torchscript_is_trained_and_sampled(tmp_path):
    loaded = fdr.load_generator(scripted(tmp_path / "a.pt", seeded(Scripted)))
    assert (loaded.noise_shape, loaded.num_classes) == ((2, 3), 4)
    noise, labels = noise_of(0, range(3), (2, 3)), torch.tensor([1, 2, 3])
    torch.testing.assert_close(loaded(noise, labels)[:, :1], seeded(Scripted)(noise, labels))
    loaded.train()
    loaded(noise, labels).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_an_export_is_trained_and_sampled(tmp_path):
    path = exported(tmp_path / "a.pt2")
    with pytest.raises(InputError, match=r"which noise a.pt2 takes; give noise_shape"):
        fdr.load_generator(path)
    (tmp_path / "a.pt2.json").write_text(json.dumps({"noise_shape": [8]}))
    loaded = fdr.load_generator(path)
    torch.testing.assert_close(loaded(NOISE)[:, :1], seeded()(NOISE))
    loaded.train()
    loaded(NOISE).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    assert not loaded.eval().training


@pytest.mark.parametrize(
    ("ema", "seed"),
    [
        (None, 1),
        ("online", 0),
        ("none", 0),
        ("model", 0),
        ("edm_250", 1),
        ("edm_250.0", 1),
        ("edm_500", 2),
        ("ema1", 3),
    ],
)
def test_weights_of_a_checkpoint_by_label(tmp_path, ema, seed):
    states = [{f"net.{name}": value for name, value in seeded(seed=s).state_dict().items()} for s in range(4)]
    shadows = {"edm_250.0": states[1], "edm_500": states[2]}
    torch.save(
        {"model": states[0], "model_ema": {"shadows": shadows, "steps": 3}, "model_ema1": states[3], "epoch": 7},
        tmp_path / "a.pt",
    )
    loaded = fdr.load_generator(tmp_path / "a.pt", "generator_worlds:Plain", ema=ema)
    torch.testing.assert_close(loaded(NOISE)[:, :1], seeded(seed=seed)(NOISE))


@pytest.mark.parametrize("kind", ["factory", "torchscript", "export"])
def test_a_run_folder_gives_the_generator_back(tmp_path, kind):
    if kind == "factory":
        loaded = fdr.load_generator(weights(tmp_path / "a.safetensors"), "generator_worlds:Plain")
    elif kind == "torchscript":
        loaded = fdr.load_generator(scripted(tmp_path / "a.pt", seeded()))
    else:
        loaded = fdr.load_generator(exported(tmp_path / "a.pt2"), noise_shape=(8,))
    averages = {name: value * 0.5 for name, value in loaded.state_dict().items()}
    save_generator(tmp_path / "run", loaded, {"online": loaded.state_dict(), "edm_250": averages})
    again = fdr.load_generator(tmp_path / "run", ema="none", trust=kind == "factory")
    assert (again.spec, again.digest()) == (loaded.spec, loaded.digest())
    assert torch.equal(again(NOISE), loaded(NOISE))
    with pytest.warns(FdrWarning, match="trained weights and the average edm_250; measured: edm_250, as papers do"):
        halved = fdr.load_generator(tmp_path / "run", trust=True)
    assert (halved.weights.label, halved.weights.held) == ("edm_250", ("online", "edm_250"))
    assert all(torch.equal(value, averages[name]) for name, value in halved.state_dict().items())


def test_saving_again_replaces_the_weights_in_one_step(plain, tmp_path, monkeypatch):
    loaded = fdr.load_generator(plain, "generator_worlds:Plain")
    save_generator(tmp_path / "run", loaded)
    old = loaded.digest()
    with torch.no_grad():
        loaded.network.last.bias += 1
    with monkeypatch.context() as broken:
        broken.setattr("fdr.generators.run_folder.write_atomically", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_generator(tmp_path / "run", loaded)
    assert fdr.load_generator(tmp_path / "run", trust=True).digest() == old
    save_generator(tmp_path / "run", loaded)
    assert fdr.load_generator(tmp_path / "run", trust=True).digest() == loaded.digest() != old
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_digest_is_of_weights_code_and_spec(plain):
    def load(**more):
        return fdr.load_generator(plain, "generator_worlds:build", **more)

    assert load().digest() == load().digest()
    assert load(value_range=(-1.0, 1.0)).digest() != load().digest()
    other = load()
    with torch.no_grad():
        other.network.last.bias[3] += 1e-6
    assert other.digest() != load().digest()


def test_a_network_without_source_has_no_digest():
    space: dict = {"torch": torch}
    exec("class Typed(torch.nn.Module):\n    def forward(self, noise): return noise", space)
    made = generator()
    made.network = space["Typed"]()
    assert made.digest() is None


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors", "a.ts", "a.pt2", "run"])
def test_nothing_is_unpickled(tmp_path, name):
    path, trace = tmp_path / name, tmp_path / "ran"
    if name == "run":
        path.mkdir()
        (path / "w.safetensors").write_bytes(pickle.dumps({"a": Payload(trace)}))
        index = {"schema": "fdr-generator/1", "noise_shape": [8], "num_classes": None, "value_range": [0, 1]}
        index |= {"architecture": {"kind": "factory", "target": "generator_worlds:Plain", "arguments": {}}}
        (path / "generator.json").write_text(json.dumps(index | {"weights": {"online": "w.safetensors"}}))
    elif name == "a.pt":
        torch.save({"a": Payload(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Payload(trace)}))
    with pytest.raises(FdrError):
        fdr.load_generator(path, **({} if name in ("run", "a.pt2") else {"arch": "generator_worlds:Plain"}))
    assert not trace.exists()


def asks_for(run: Path, target: str, **arguments: Any) -> Path:
    """The run folder, whose file now names another architecture."""
    path = run / "generator.json"
    index = json.loads(path.read_text())
    index["architecture"] |= {"target": target, "arguments": arguments}
    path.write_text(json.dumps(index))
    return run


@pytest.fixture
def run(plain, tmp_path) -> Path:
    save_generator(tmp_path / "run", fdr.load_generator(plain, "generator_worlds:Plain"))
    return tmp_path / "run"


FOREIGN = ("os:system", "torch.hub:load", "builtins:exec", "this:s", "numpy.testing:runstring", "torch.nn:Linear")


@pytest.mark.parametrize(
    "target", [*FOREIGN, "generator_worlds:build", "fdr.cli:main", "trap:Net", "trap", "pkg.trap:Net"]
)
def test_a_run_folder_names_no_code(run, tmp_path, target, monkeypatch):
    """Nothing of it is imported, wherever it lies: not what makes networks, nor what is in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pkg").mkdir()
    for path in (tmp_path / "trap.py", tmp_path / "pkg" / "__init__.py", tmp_path / "pkg" / "trap.py"):
        path.write_text("open('ran', 'w')\nfrom generator_worlds import Plain as Net\n")
    with pytest.raises(InputError, match=rf"'.*run' asks for '{target}', .* add trust=True, .*: arch {target}"):
        fdr.load_generator(asks_for(run, target))
    assert not (tmp_path / "ran").exists() and not {"this", "trap", "pkg"} & sys.modules.keys()


def test_a_name_is_trusted_when_the_user_says_so(run):
    asks_for(run, "generator_worlds:build", width=12)
    with pytest.raises(InputError, match=r": arch generator_worlds:build arch_args width=12\."):
        fdr.load_generator(run)
    with pytest.raises(FdrError, match="does not fit"):  # it is called, and makes another network
        fdr.load_generator(run, trust=True)
    assert fdr.load_generator(run, arch="generator_worlds:build").digest() is not None
    assert fdr.load_generator(asks_for(run, "generator_worlds:build"), trust=True).digest() is not None


def declare(site: Path, group: str, line: str) -> None:
    """The metadata of an installed package with one entry point."""
    metadata = site / "plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


def test_an_installed_package_declares_networks(run, plain, tmp_path, monkeypatch):
    site, here = tmp_path / "site", tmp_path / "here"
    declare(site, "fdr.generators", "plain-net = declared_nets:make")
    code = "from generator_worlds import Plain as make\n"
    (site / "declared_nets.py").write_text(code)
    here.mkdir()
    (here / "declared_nets.py").write_text("open('ran', 'w')\n" + code)  # which does not take its place
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(here))
    for target in ("plain-net", "declared_nets:make"):
        assert fdr.load_generator(asks_for(run, target)).digest() is not None
    assert fdr.load_generator(plain, "plain-net").digest() is not None
    assert not (here / "ran").exists()
    with pytest.raises(InputError, match="asks for 'declared_nets:Plain'"):
        fdr.load_generator(asks_for(run, "declared_nets:Plain"))
    with pytest.raises(InputError, match="Unknown architecture 'plane-net'; did you mean 'plain-net'"):
        fdr.load_generator(plain, "plane-net")


def test_metadata_in_the_current_folder_declares_nothing(run, tmp_path, monkeypatch):
    declare(tmp_path, "fdr.generators", "plain-net = generator_worlds:Plain")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="asks for 'plain-net'"):
        fdr.load_generator(asks_for(run, "plain-net"))


@pytest.mark.parametrize("vae", ["/models/vae", "../vae", "there/vae", "~/vae", "a/../b"])
def test_a_run_folder_names_no_autoencoder_of_this_machine(run, tmp_path, vae, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "vae").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"asks for '{vae}', .*: arch imf-b arch_args"):
        fdr.load_generator(asks_for(run, "imf-b", vae=vae))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"holds weights alone; name their network with arch"),
        ({"arch_args": {"width": 3}}, r"need the architecture itself"),
        ({"arch": "generator_worlds"}, r"nor of the form module:factory"),
        ({"arch": "no_such_module:f"}, r"importing 'no_such_module' failed"),
        ({"arch": "generator_worlds:Plane"}, r"did you mean 'Plain'"),
        ({"arch": "generator_worlds:broken"}, r"with no arguments raised RuntimeError: no luck; check arch_args"),
        ({"arch": "generator_worlds:no_network"}, r"made a int; expected an nn.Module"),
        ({"arch": "generator_worlds:Plain", "arch_args": {"depth": 3}}, r"called with depth=3 raised TypeError"),
        ({"arch": "generator_worlds:Plain", "ema": "edm_1"}, r"Unknown weights in .* 'edm_1'; known: online"),
        ({"arch": "generator_worlds:Plain", "noise_shape": (9,)}, r"failed on noise of shape \[4, 9\]"),
        ({"arch": "generator_worlds:Plain", "noise_shape": (0,)}, r"noise shape is the sizes .* got \(0,\)"),
        ({"arch": "generator_worlds:Plain", "num_classes": 10}, r"failed on noise and labels .*TypeError"),
        ({"arch": "generator_worlds:Plain", "num_classes": -1}, r"whole number above 0; got -1"),
        ({"arch": "generator_worlds:Plain", "value_range": (0, 255)}, r"0:1 or -1:1; got \(0.0, 255.0\)"),
        ({"arch": "generator_worlds:Classes"}, r"does not fit the architecture .* without"),
        ({"arch": "generator_worlds:Plain", "device": "gpu"}, r"Unknown device"),
    ],
)
def test_options_that_make_no_sense(plain, options, sentence):
    with pytest.raises(InputError, match=sentence):
        fdr.load_generator(plain, **options)


def test_files_that_are_none(tmp_path, plain):
    with pytest.raises(InputError, match=r"The generator .* does not exist"):
        fdr.load_generator(tmp_path / "nothing.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no generator: it has no generator\.json"):
        fdr.load_generator(tmp_path / "empty")
    with pytest.raises(InputError, match=r"whole program.*drop arch"):
        fdr.load_generator(scripted(tmp_path / "a.pt", seeded()), arch="generator_worlds:Plain")
    (tmp_path / "plain.safetensors.json").write_text('{"noise": [8]}')
    with pytest.raises(InputError, match=r"Unknown setting .* 'noise'; did you mean 'noise_shape'"):
        fdr.load_generator(plain, "generator_worlds:Plain")
    (tmp_path / "plain.safetensors.json").write_text('{"noise_shape": "8"')
    with pytest.raises(InputError, match="is not readable JSON"):
        fdr.load_generator(plain, "generator_worlds:Plain")


def test_labels_that_nobody_declared(tmp_path):
    network = seeded(Scripted)
    network.num_classes = None
    with pytest.raises(InputError, match="takes labels beside noise; say how many classes"):
        fdr.load_generator(scripted(tmp_path / "a.pt", network))


@pytest.mark.parametrize(
    ("scale", "shift", "options", "sentence"),
    [
        (2.0, -1.0, {}, r"from -\d.*, \d+% of them outside of its value range 0:1; declare -1:1"),
        (255.0, 0.0, {"value_range": (-1.0, 1.0)}, r"outside of its value range -1:1; end it in a sigmoid"),
        (float("nan"), 0.0, {}, r"not finite; check its weights"),
    ],
)
def test_images_outside_of_the_declared_range(tmp_path, scale, shift, options, sentence):
    class Scaled(Plain):
        def forward(self, noise):
            return super().forward(noise) * scale + shift

    made = generator()
    made.network = Scaled()
    made.spec = fdr.generators.base.GeneratorSpec((8,), None, options.get("value_range", (0.0, 1.0)))
    with pytest.raises(InputError, match=sentence):
        fdr.generators.first_images.check_first_images(made)


@pytest.mark.parametrize("shape", [(3, 64), (3, 2, 8, 8), (2, 3, 8, 8)])
def test_what_is_no_image(shape):
    made = generator()
    made.network.forward = lambda noise: torch.zeros(shape)
    with pytest.raises(InputError, match=r"must make images \[B, 3, H, W\].* of 3 samples it made \["):
        made(NOISE)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": "fdr-generator/9"}, "is of the schema 'fdr-generator/9'"),
        ({"weights": {"online": "../secret.safetensors"}}, "is no file name"),
        ({"weights": {"online": "gone.safetensors"}}, "which is not there"),
        ({"weights": 3}, "is not what fdr writes"),
        ({"architecture": {"kind": "python", "target": "a", "arguments": {}}}, "is not what fdr writes"),
        ({"architecture": {"kind": "export", "target": "/etc/a.pt2", "arguments": {}}}, "is no file name"),
        ({"noise_shape": "8x8"}, "noise shape is the sizes"),
    ],
)
def test_a_run_folder_that_was_tampered_with(run, change, sentence):
    path = run / "generator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=sentence):
        fdr.load_generator(run, trust=True)


@pytest.mark.parametrize("kind", ["weights", "program"])
def test_a_file_that_is_not_what_its_name_says_is_refused(kind, plain, tmp_path):
    source = exported(tmp_path / "net.pt2") if kind == "program" else plain
    arch = {} if kind == "program" else {"arch": "generator_worlds:Plain"}
    save_generator(tmp_path / "run", fdr.load_generator(source, noise_shape=8, num_classes=0, **arch))
    path = next((tmp_path / "run").glob(f"{kind}-*"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"{kind}-.* is damaged: its sha256 does not begin with "):
        fdr.load_generator(tmp_path / "run", **arch)


def test_a_generator_made_in_python_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="names no architecture"):
        save_generator(tmp_path / "run", generator())


def test_a_folder_that_cannot_be_written(plain):
    loaded = fdr.load_generator(plain, "generator_worlds:Plain")
    with pytest.raises(InputError, match="is not a folder"):
        save_generator(plain / "run", loaded)


def test_weights_keep_the_names_of_the_network(plain, tmp_path):
    """So that they load into the architecture without fdr, too."""
    save_generator(tmp_path / "run", fdr.load_generator(plain, "generator_worlds:Plain"))
    (file,) = (tmp_path / "run").glob("*.safetensors")
    Plain().load_state_dict(load_file(file))
