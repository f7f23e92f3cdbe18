"""fdr weights: what is here, what is missing, whether it is what was published, and how it is carried."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fdr.cli import run
from fdr.encoders import SCORES, find_row, holdings, list_encoders
from fdr.encoders.catalogue import INCEPTION_WEIGHTS
from fdr.encoders.registry import needed_files
from fdr.weights import SUMS, read_sums

DINOV2 = "vit_large_patch14_dinov2.lvd142m"


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No weights anywhere, no network, an empty current folder."""
    for name in ("FDR_WEIGHTS", "FDR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", None)
    monkeypatch.setattr("fdr.weights.lpips_weights.packaged_heads", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def put(path: Path, data: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tensors(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.zeros(3)}, path)
    return path


def call(capsys, *args) -> tuple[int, str, str]:
    code = run([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- list ----------------------------------------------------------------------------------------------------------


def test_every_known_encoder_is_listed_once_with_its_licence(capsys):
    code, out, _ = call(capsys, "weights", "list", "--json", "-")
    files = json.loads(out)["files"]
    assert code == 0
    known = {row.name for row in list_encoders() if row.weights}
    assert {name for file in files for name in file["encoders"]} == known | set(SCORES)
    assert len({file["file"] for file in files}) == len(files)
    assert all(file["licence"] and file["bytes"] and file["state"] == "missing" for file in files)
    by_file = {file["file"]: file for file in files}
    assert by_file[INCEPTION_WEIGHTS.filename]["sha256"] == INCEPTION_WEIGHTS.sha256
    assert "non-commercial" in by_file["vit_large_patch16_224.mae.safetensors"]["licence"]


def test_the_table_says_what_is_here_and_what_is_to_fetch(capsys, tmp_path):
    put(tmp_path / "w" / f"{DINOV2}.safetensors")
    code, out, _ = call(capsys, "weights", "list", "dinov2,inception", "--weights-dir", tmp_path / "w")
    assert code == 0
    assert str(tmp_path / "w" / f"{DINOV2}.safetensors") in out
    assert "1 files here, 7 B; 1 missing, 95.6 MB to fetch" in out


def test_listing_needs_no_torch():
    code = (
        "import sys; from fdr.cli import run; assert run(['weights', 'list']) == 0\n"
        "heavy = {'torch', 'timm', 'numpy', 'transformers', 'open_clip', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_open_ended_names_know_their_files(tmp_path):
    repo = "facebook/dinov2-small"
    assert [file.hub for file in needed_files(f"hf:{repo}?output=mean")] == [
        (repo, "config.json"),
        (repo, "preprocessor_config.json"),
        (repo, "model.safetensors"),
    ]
    assert needed_files("timm:resnet18.a1_in1k")[0].hub == ("timm/resnet18.a1_in1k", "model.safetensors")
    assert needed_files("openclip:ViT-B-32/openai")[0].hub[1] == "open_clip_model.safetensors"
    path = put(tmp_path / "net.pt")
    (holding,) = holdings("torchscript:net.pt?size=3")
    assert holding.path == path
    assert needed_files("random:3") == needed_files("py:m:f") == ()


def test_an_unknown_name_is_2(capsys):
    code, _, err = call(capsys, "weights", "list", "dinov")
    assert code == 2
    assert "did you mean 'dinov2'" in err


# --- path ----------------------------------------------------------------------------------------------------------


def test_path_prints_the_file_alone(capsys, tmp_path):
    path = put(tmp_path / "own" / "weights" / INCEPTION_WEIGHTS.filename)
    assert call(capsys, "weights", "path", "inception") == (0, f"{path}\n", "")


def test_path_of_a_missing_file_says_what_to_fetch(capsys):
    code, out, err = call(capsys, "weights", "path", "dinov2")
    assert (code, out) == (2, "")
    assert "fetch model.safetensors (1.2 GB) from https://" in err
    assert call(capsys, "weights", "path")[0] == 2


# --- fetch ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_totals_the_bytes_and_touches_nothing(capsys, tmp_path):
    code, out, _ = call(capsys, "weights", "fetch", "fdr6", "--to", "usb", "--dry-run")
    assert code == 0
    assert out.count("would fetch https://") == 6
    assert "sha256 6726825d0af5" in out
    total = sum(find_row(name).weights.size for name in ("inception", "convnext", "dinov2", "mae", "siglip", "clip"))
    assert f"0 files here, 0 B; 6 missing, {total / 1e9:.1f} GB to fetch" in out
    assert not (tmp_path / "usb").exists()


def test_offline_is_2_and_says_where_to_put_it(capsys):
    code, _, err = call(capsys, "weights", "fetch", "dinov2", "--offline")
    assert code == 2
    assert "the run is offline: fetch model.safetensors" in err


def test_missing_files_are_fetched_and_told(capsys, tmp_path, monkeypatch):
    asked = []

    def download(repo, filename, revision=None, *, progress):
        asked.append((repo, filename, revision))
        commit = tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
        (commit.parent.parent / "refs").mkdir(parents=True, exist_ok=True)
        (commit.parent.parent / "refs" / "main").write_text("abc")
        if filename == "model.safetensors.index.json":
            return put(
                commit / filename, json.dumps({"weight_map": {"a": "p1.safetensors", "b": "p2.safetensors"}}).encode()
            )
        if filename == "model.safetensors":
            from fdr.weights.download import FetchError

            raise FetchError("no such file")
        return tensors(commit / filename)

    monkeypatch.setattr("fdr.weights.files.fetch_from_hub", download)
    code, out, _ = call(capsys, "weights", "fetch", "hf:org/sharded", "--to", "usb", "-q")
    assert code == 0
    names = ["config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json"]
    assert [name for _, name, _ in asked] == [*names, "p1.safetensors", "p2.safetensors"]
    carried = sorted(path.name for path in (tmp_path / "usb" / "org--sharded").iterdir())
    assert carried == sorted({*names, "p1.safetensors", "p2.safetensors"} - {"model.safetensors"})
    assert len(out.splitlines()) == 5
    again = holdings("hf:org/sharded", tmp_path / "usb")
    assert len(again) == 5
    assert all(holding.path.is_relative_to(tmp_path / "usb") for holding in again)


def test_an_index_of_elsewhere_writes_nothing_elsewhere(capsys, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        put(tmp_path / "own" / "weights" / "org--sharded" / name, b"{}")
    index = json.dumps({"weight_map": {"a": "../../p1.safetensors"}}).encode()
    put(tmp_path / "own" / "weights" / "org--sharded" / "model.safetensors.index.json", index)
    tensors(tmp_path / "own" / "p1.safetensors")
    code, _, err = call(capsys, "weights", "fetch", "hf:org/sharded", "--to", tmp_path / "a" / "usb", "-q", "--offline")
    assert code == 2 and "names '../../p1.safetensors', which is no file name" in err
    assert not list((tmp_path / "a").rglob("p1.safetensors"))


NAMES = [f"{DINOV2}.safetensors", f"timm--{DINOV2}/model.safetensors", "dinov2_vitl14_pretrain.pth"]


@pytest.mark.parametrize("as_name", NAMES)
def test_a_folder_to_carry_is_found_on_the_other_machine(capsys, tmp_path, as_name):
    tensors(tmp_path / "own" / "weights" / as_name)
    code, out, _ = call(capsys, "weights", "fetch", "dinov2", "--to", tmp_path / "usb")
    assert code == 0
    shutil.rmtree(tmp_path / "own")
    (holding,) = holdings("dinov2", tmp_path / "usb")
    assert str(holding.path) in out
    digest = hashlib.sha256(holding.path.read_bytes()).hexdigest()
    assert read_sums(tmp_path / "usb") == {holding.path.relative_to(tmp_path / "usb").as_posix(): digest}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path / "usb", capture_output=True, check=True)
    assert call(capsys, "weights", "verify", "dinov2", "--weights-dir", tmp_path / "usb")[0] == 0


def test_a_second_file_joins_the_sums_of_the_first(capsys, tmp_path):
    for name in ("dinov2", "convnext"):
        tensors(tmp_path / "own" / "weights" / find_row(name).weights.filename)
        assert call(capsys, "weights", "fetch", name, "--to", tmp_path / "usb")[0] == 0
    assert read_sums(tmp_path / "usb").keys() == {find_row(name).weights.filename for name in ("dinov2", "convnext")}


def test_a_file_in_the_cache_of_clip_is_carried_under_its_own_name(capsys, tmp_path):
    """Names of the home folder are where others keep files, and not names in a folder to carry."""
    weights = find_row("clip:clean-fid").weights
    put(tmp_path / "home" / ".cache" / "clip" / weights.filename)
    code, _, err = call(capsys, "weights", "fetch", "clip:clean-fid", "--to", tmp_path / "usb")
    assert code == 0 and (tmp_path / "usb" / weights.filename).is_file(), err
    assert read_sums(tmp_path / "usb").keys() == {weights.filename}


def test_a_file_of_several_encoders_is_one_holding_with_all_their_names():
    (one,) = holdings("inception,inception:clean,inception:fdloss")
    assert one.encoders == ("inception", "inception:clean", "inception:fdloss")


# --- verify --------------------------------------------------------------------------------------------------------


def verify(capsys, *args):
    code, out, _ = call(capsys, "weights", "verify", *args, "--json", "-")
    return code, [(file["state"], file["sentence"]) for file in json.loads(out)["files"]]


def test_the_publishers_digest_decides(capsys, tmp_path):
    put(tmp_path / "own" / "weights" / INCEPTION_WEIGHTS.filename, b"other bytes")
    code, ((state, sentence),) = verify(capsys, "inception")
    assert (code, state) == (1, "damaged")
    assert "the publisher says 6726825d0af5: fetch it again" in sentence


def test_a_carried_file_is_checked_against_its_sums(capsys, tmp_path):
    path = tensors(tmp_path / "usb" / f"timm--{DINOV2}" / "model.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    put(tmp_path / "usb" / SUMS, f"{digest}  timm--{DINOV2}/model.safetensors\n".encode())
    code, ((state, sentence),) = verify(capsys, "dinov2", "--weights-dir", tmp_path / "usb")
    assert (code, state) == (0, "good")
    assert SUMS in sentence
    path.write_bytes(path.read_bytes() + b"x")
    code, ((state, _),) = verify(capsys, "dinov2", "--weights-dir", tmp_path / "usb")
    assert (code, state) == (1, "damaged")


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_hub_names_a_file_by_its_digest(capsys, tmp_path, is_whole):
    root = tmp_path / "hub" / f"models--timm--{DINOV2}"
    data = tensors(tmp_path / "x.safetensors").read_bytes()
    blob = put(root / "blobs" / hashlib.sha256(data).hexdigest(), data if is_whole else data[:-1])
    link = root / "snapshots" / "abc" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    put(root / "refs" / "main", b"abc")
    code, ((state, _),) = verify(capsys, "dinov2")
    assert (code, state) == ((0, "good") if is_whole else (1, "damaged"))


def test_a_name_of_64_digits_is_a_digest_in_the_hubs_cache_alone(capsys, tmp_path):
    file = tensors(tmp_path / "x.safetensors").rename(tmp_path / ("0" * 64))
    link = tmp_path / "w" / f"{DINOV2}.safetensors"
    link.parent.mkdir()
    link.symlink_to(file)
    code, ((state, _),) = verify(capsys, "dinov2", "--weights-dir", tmp_path / "w")
    assert (code, state) == (0, "sound")


def test_without_a_digest_the_file_is_read(capsys, tmp_path):
    path = tensors(tmp_path / "w" / f"{DINOV2}.safetensors")
    assert verify(capsys, "dinov2", "--weights-dir", tmp_path / "w")[1][0][0] == "sound"
    path.write_bytes(path.read_bytes()[:-4])
    code, ((state, sentence),) = verify(capsys, "dinov2", "--weights-dir", tmp_path / "w")
    assert (code, state) == (1, "damaged")
    assert "truncated or damaged" in sentence


def test_a_missing_file_counts_when_it_was_named(capsys):
    assert verify(capsys) == (0, [])
    code, ((state, sentence),) = verify(capsys, "dinov2")
    assert (code, state) == (1, "missing")
    assert sentence.startswith("fetch it from https://")
    code, out, _ = call(capsys, "weights", "verify", "dinov2")
    assert code == 1
    assert "1 files, 1 damaged or missing" in out
