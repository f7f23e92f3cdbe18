"""torchscript:PATH and export:PATH run a saved network on the images that its name or sidecar describes."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2.functional as vision

from fdr.encoders import EncoderOptions
from fdr.encoders.programs import SETTINGS, load
from fdr.encoders.resize import pil_bytes
from fdr.errors import InputError, WeightsError
from fdr.weights import load_archive

IMAGES = torch.randint(0, 256, (3, 3, 20, 26), generator=torch.Generator().manual_seed(0)).float() / 255
CPU = EncoderOptions(device="cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Net(torch.nn.Module):
    """Features that depend on every pixel."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = torch.nn.Conv2d(3, 6, 3)
        for parameter in self.conv.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.register_buffer("gain", torch.linspace(0.5, 2, 6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(images)).mean((2, 3)) * self.gain


class LikeNvidia(torch.nn.Module):
    """The signature of NVIDIA's Inception: bytes in, its own scale, class scores unless features are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False) -> torch.Tensor:
        features = self.net((img.to(torch.float32) - 128) / 128)
        if return_features:
            return features
        return torch.softmax(features, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("programs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net().eval()), str(root / "net.pt"))
        torch.jit.save(torch.jit.script(LikeNvidia().eval()), str(root / "inception.pt"))
    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 3, 16, 16)
    torch.export.save(torch.export.export(Net().eval(), (example,), dynamic_shapes=({0: batch},)), root / "net.pt2")
    torch.export.save(torch.export.export(Net().eval(), (example,)), root / "fixed.pt2")
    return root


def features(name: str) -> torch.Tensor:
    with torch.inference_mode():
        return load(name, CPU)(IMAGES)["features"]


def expected(inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return Net().eval()(inputs)


def antialiased(size: int) -> torch.Tensor:
    return vision.resize(IMAGES, [size, size], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)


@pytest.mark.parametrize("family", ["torchscript", "export"])
def test_size_mean_and_std_are_applied(family, folder):
    path = folder / ("net.pt" if family == "torchscript" else "net.pt2")
    found = features(f"{family}:{path}?size=16&mean=0.485:0.456:0.406&std=0.229:0.224:0.225")
    torch.testing.assert_close(found, expected(vision.normalize(antialiased(16), MEAN, STD)), rtol=1e-5, atol=1e-5)


def test_images_stay_as_they_are_unless_a_size_is_named(folder):
    torch.testing.assert_close(features(f"torchscript:{folder}/net.pt"), expected(IMAGES), rtol=1e-6, atol=1e-6)


def test_range_and_resize_are_applied(folder):
    found = features(f"torchscript:{folder}/net.pt?size=16&resize=pil-bicubic&range=-1:1")
    inputs = pil_bytes(IMAGES, (16, 16), "pil-bicubic") * 2 - 1
    torch.testing.assert_close(found, expected(inputs), rtol=1e-5, atol=1e-5)


def test_nvidias_inception_is_known_by_its_signature(folder):
    found = features(f"torchscript:{folder}/inception.pt")
    torch.testing.assert_close(found, expected((IMAGES * 255 - 128) / 128), rtol=1e-5, atol=1e-5)
    encoder = load(f"torchscript:{folder}/inception.pt", CPU)
    assert encoder.spec.extra == (("range", "0:255"),)
    assert torch.equal(encoder.preprocess(IMAGES), (IMAGES * 255).round())  # bytes, exactly


def test_batches_are_equal_from_the_first_on(folder):
    """TorchScript's optimiser would run other code from the second or third batch on."""
    encoder = load(f"torchscript:{folder}/net.pt", CPU)
    with torch.inference_mode():
        runs = [encoder(IMAGES)["features"] for _ in range(4)]
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_a_sidecar_says_the_same_and_the_name_wins(folder, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes((folder / "net.pt").read_bytes())
    sidecar = {"size": 16, "mean": list(MEAN), "std": list(STD)}
    (tmp_path / "net.pt.json").write_text(json.dumps(sidecar))
    query = "size=16&mean=0.485:0.456:0.406&std=0.229:0.224:0.225"
    by_sidecar, by_name = load(f"torchscript:{path}", CPU), load(f"torchscript:{folder}/net.pt?{query}", CPU)
    assert by_sidecar.spec.hash == by_name.spec.hash
    assert torch.equal(by_sidecar(IMAGES)["features"], by_name(IMAGES)["features"])
    assert load(f"torchscript:{path}?size=12", CPU).spec.input_size == 12


def test_the_spec_follows_the_file_and_the_settings(folder):
    def spec(text: str) -> str:
        return load(text, CPU).spec.hash

    name = f"torchscript:{folder}/net.pt"
    hashes = [
        spec(name + query) for query in ("", "?range=0:255", "?size=16", "?size=16&resize=pil-bicubic", "?mean=0.5")
    ]
    assert len({*hashes, spec(f"torchscript:{folder}/inception.pt")}) == 6


def test_gradients_flow_through_a_saved_network(folder):
    for name in (f"torchscript:{folder}/net.pt?size=16", f"export:{folder}/net.pt2?size=16"):
        images = IMAGES.clone().requires_grad_()
        load(name, CPU)(images)["features"].sum().backward()
        assert images.grad.abs().max() > 0


def test_loading_is_silent(folder, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_archive(folder / "net.pt")
        features(f"export:{folder}/net.pt2?size=16")
    assert capfd.readouterr() == ("", "")


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("sise=16", r"Unknown setting of .* 'sise'; did you mean 'size'"),
        ("size=", "expected each setting once, as size=VALUE"),
        ("size=16&size=17", "expected each setting once"),
        ("size=big", "size takes 1 number"),
        ("size=16&resize=bicubic", "Unknown resize 'bicubic'; known: none, tf1-bilinear"),
        ("resize=pil-bicubic", "size and resize go together"),
        ("size=16&resize=none", "size and resize go together"),
        ("range=0", r"range takes 2 number\(s\), the values of black and white"),
        ("mean=0.5:0.5", "mean takes 1 or 3"),
        ("std=0", "std must be positive"),
        ("range=0:255&mean=0.5", "range and mean/std exclude each other"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(query, sentence, folder):
    with pytest.raises(InputError, match=sentence) as error:
        load(f"torchscript:{folder}/net.pt?{query}", CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1]", "{", '{"sise": 3}', '{"mean": "red"}'])
def test_a_bad_sidecar_is_one_sentence(text, folder, tmp_path):
    (tmp_path / "net.pt").write_bytes((folder / "net.pt").read_bytes())
    (tmp_path / "net.pt.json").write_text(text)
    with pytest.raises(InputError, match=r"net.pt.json'|mean takes"):
        load(f"torchscript:{tmp_path}/net.pt", CPU)


def test_files_that_are_something_else_are_one_sentence(folder, tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "cut.pt").write_bytes((folder / "net.pt").read_bytes()[:2000])
    (tmp_path / "cut.pt2").write_bytes((folder / "net.pt2").read_bytes()[:2000])
    for name in ("state.pt", "text.pt", "cut.pt"):
        with pytest.raises(WeightsError, match="is not a TorchScript archive") as error:
            load(f"torchscript:{tmp_path / name}", CPU)
        assert "\n" not in str(error.value)
    for name in ("text.pt", "cut.pt2"):
        with pytest.raises(WeightsError, match=r"is not a torch\.export file") as error:
            load(f"export:{tmp_path / name}", CPU)
        assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match=r"nowhere.pt does not exist"):
        load("torchscript:nowhere.pt", CPU)


def test_a_wrong_size_or_a_fixed_batch_is_one_sentence(folder):
    for name in (f"export:{folder}/net.pt2?size=15", f"export:{folder}/fixed.pt2?size=16"):
        with pytest.raises(InputError, match=r"failed on a batch of shape \[3, 3, 1\d, 1\d\].*any length") as error:
            features(name)
        assert "\n" not in str(error.value)


def test_weights_and_precision_are_in_the_file(folder, monkeypatch):
    monkeypatch.setattr("fdr.runtime.has_fast_bf16", lambda device: True)
    with pytest.raises(InputError, match="drop dtype"):
        load(f"torchscript:{folder}/net.pt", EncoderOptions(device="cpu", dtype="bf16"))
    with pytest.raises(InputError, match="drop weights"):
        load(f"torchscript:{folder}/net.pt", EncoderOptions(weights=folder / "net.pt"))


# --- exports that ask for more than a network ----------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def rewritten(source: Path, target: Path, **changes) -> Path:
    """A copy of an export with members replaced (by a function of their text) or added (bytes)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for member in old.namelist():
            data = old.read(member)
            for part, change in changes.items():
                if member == f"{top}/{part}" and callable(change):
                    data = change(data)
            new.writestr(member, data)
        for part, change in changes.items():
            if isinstance(change, bytes):
                new.writestr(f"{top}/{part}", change)
    return target


def replacing(old: str, new: str):
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return change


def a_pickle(data: bytes) -> bytes:
    stream = io.BytesIO()
    torch.save(((Evil(),), {}), stream)
    return stream.getvalue()


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
ATTACKS = {
    "an operator": {GRAPH: replacing("torch.ops.aten.relu.default", "torch.os.system")},
    "a file operator": {GRAPH: replacing("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default")},
    "a caller": {GRAPH: replacing("torch.ops.aten.relu.default", "_operator.methodcaller")},
    "an extension": {GRAPH: replacing("torch.ops.aten.relu.default", "#custom:thing")},
    "a shape that calls": {GRAPH: replacing("Symbol(", "exit(")},
    "a shape that digs": {GRAPH: replacing("Symbol(", "Symbol.__init__.__globals__(")},
    "a pickled weight": {WEIGHTS: replacing('"use_pickle": false', '"use_pickle": true')},
    "pickled inputs": {"data/sample_inputs/model.pt": a_pickle},
    "an old pickle": {"data/weights/model.pt": pickle.dumps(Evil())},
    "an object": {"data/constants/opaque_obj_0": pickle.dumps(Evil())},
    "compiled code": {"data/aotinductor/model/model.so": b"\x7fELF"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_export_that_would_run_other_code_is_refused(attack, folder, tmp_path, capsys):
    path = rewritten(folder / "net.pt2", tmp_path / "net.pt2", **ATTACKS[attack])
    with pytest.raises(WeightsError, match="runs nothing but a network's own operators"):
        load(f"export:{path}?size=16", CPU)
    assert capsys.readouterr().out == ""


def test_an_untouched_copy_is_accepted(folder, tmp_path):
    """The rewriting above is not what is refused."""
    path = rewritten(folder / "net.pt2", tmp_path / "net.pt2")
    assert load(f"export:{path}?size=16", CPU).spec.family == "export"


def test_an_older_layout_with_all_weights_in_one_file_is_read(folder, tmp_path):
    stream = io.BytesIO()
    net = Net()
    buffers = {name: tensor * 2 for name, tensor in net.named_buffers()}
    torch.save({name: torch.nn.Parameter(value * 2) for name, value in net.named_parameters()} | buffers, stream)
    path = rewritten(folder / "net.pt2", tmp_path / "net.pt2", **{"data/weights/model.pt": stream.getvalue()})
    found = features(f"export:{path}?size=16")
    torch.testing.assert_close(found, features(f"export:{folder}/net.pt2?size=16") * 4, rtol=1e-5, atol=1e-5)


def test_every_setting_is_described():
    assert all(text for text in SETTINGS.values())
