"""Weight files are read without running code and loaded strictly."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_worlds import put

from fdr.errors import WeightsError
from fdr.weights import load_into, load_state_dict

pytestmark = pytest.mark.usefixtures("places")


STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def same(state):
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", ["s.safetensors", "named-wrong.pth"])
def test_safetensors_are_read_by_content(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert same(load_state_dict(tmp_path / name))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_checkpoints_are_read_and_unwrapped(tmp_path, wrapper, is_zip):
    content = STATE if wrapper is None else {wrapper: STATE, "epoch": 3}
    torch.save(content, tmp_path / "s.pth", _use_new_zipfile_serialization=is_zip)
    assert same(load_state_dict(tmp_path / "s.pth"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path, monkeypatch, is_zip):
    monkeypatch.setenv("EVIL", str(tmp_path / "run"))
    torch.save({"a": Evil()}, tmp_path / "s.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match="fdr runs no code from weight files"):
        load_state_dict(tmp_path / "s.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(WeightsError):
        load_state_dict(tmp_path / "raw.pth")
    assert not (tmp_path / "run").exists()


def broken(kind: str) -> bytes:
    import io

    stream = io.BytesIO()
    torch.save(STATE, stream)
    from safetensors.torch import save

    tensors = save(STATE)
    return {
        "empty": b"",
        "web page": b"\n<!DOCTYPE html><title>login</title>",
        "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "torch cut": stream.getvalue()[:-200],
        "torch cut early": stream.getvalue()[:40],
        "tensors cut": tensors[:-4],
        "tensors header": b"\xff\xff\xff\xff\x00\x00\x00\x00" + tensors[8:],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("empty", "s.pth", "is empty"),
        ("web page", "s.pth", "is a web page"),
        ("git lfs", "s.safetensors", "is a Git LFS pointer"),
        ("image", "s.pth", "is not a weight file"),
        ("torch cut", "s.pth", "is truncated or damaged"),
        ("torch cut early", "s.pth", "is truncated or damaged"),
        ("tensors cut", "s.safetensors", "is truncated or damaged"),
        ("tensors header", "s.safetensors", "is truncated or damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, kind, name, sentence):
    path = put(tmp_path, name, broken(kind))
    with pytest.raises(WeightsError, match=sentence) as error:
        load_state_dict(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_other_zip_files_and_other_contents_are_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"x")
    with pytest.raises(WeightsError, match="not a torch checkpoint"):
        load_state_dict(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "inception.pt", "w") as archive:
        archive.writestr("inception/constants.pkl", b"x")
    with pytest.raises(WeightsError, match="TorchScript archive"):
        load_state_dict(tmp_path / "inception.pt")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list, not a state dict"):
        load_state_dict(tmp_path / "list.pth")
    torch.save({"epoch": 1, **STATE}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match="epoch are not tensors"):
        load_state_dict(tmp_path / "mixed.pth")


def test_a_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "state.pt"
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    data[data.index(STATE["a.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"damaged \(.*its member '.*data/0' does not agree with its checksum"):
        load_state_dict(path)


def test_a_file_that_vanished_is_one_sentence(tmp_path):
    with pytest.raises(WeightsError, match="Cannot read weight file"):
        load_state_dict(tmp_path / "gone.pth")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)


def test_loading_is_strict_but_for_step_counters():
    source, target = Net(), Net()
    state = source.state_dict()
    del state["norm.num_batches_tracked"]
    load_into(target, {**state, "other.num_batches_tracked": torch.tensor(1)}, Path("w.pth"), "x")
    assert torch.equal(target.a.weight, source.a.weight)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"a.bias": None}, "without a.bias"),
        ({"b.bias": torch.ones(1)}, "with unexpected b.bias"),
        ({"a.bias": torch.ones(5)}, r"with wrong shapes a.bias \(5 for 2\)"),
    ],
)
def test_what_does_not_fit_is_named(change, sentence):
    state = {key: value for key, value in {**Net().state_dict(), **change}.items() if value is not None}
    with pytest.raises(WeightsError, match=f"'w.pth' does not fit encoder 'x'.*{sentence}"):
        load_into(Net(), state, Path("w.pth"), "x")


@pytest.mark.parametrize(
    ("keys", "guess"),
    [
        (("Mixed_7c.branch1x1.conv.weight",), "an Inception v3"),
        (("AuxLogits.conv0.conv.weight", "Mixed_7c.b.weight"), "torchvision's Inception v3"),
        (("visual.proj",), "an OpenCLIP model"),
        (("patch_embed.proj.weight", "blocks.0.a", "blocks.1.a"), "a ViT of width 7 with 2 blocks"),
        (("features.0.weight",), "SqueezeNet"),
        (("odd.weight",), "a network of 1 tensors that begins with odd.weight"),
    ],
)
def test_the_wrong_model_is_guessed(keys, guess):
    with pytest.raises(WeightsError, match=guess):
        load_into(Net(), {key: torch.zeros(7, 1) for key in keys}, Path("w.pth"), "x")


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_tensor_may_have_the_name_of_a_wrapper(tmp_path, key):
    torch.save({key: torch.ones(2), "b": torch.zeros(3)}, tmp_path / "a.pt")
    assert load_state_dict(tmp_path / "a.pt").keys() == {key, "b"}
