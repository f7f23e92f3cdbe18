"""LPIPS: laws, the package lpips on the same weights, and what a missing file says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from processes import PATIENCE
from torch import Tensor

from fdr.cli import run
from fdr.encoders import EncoderOptions
from fdr.errors import FdrWarning, InputError, WeightsError
from fdr.images import procedural
from fdr.metrics import Lpips, half_range, load_lpips
from fdr.metrics.lpips import MIN_LPIPS_SIDE, AlexNetDistance
from fdr.weights import lpips_weights as files

PACKAGED = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"


@pytest.fixture(scope="module")
def peer() -> lpips.LPIPS:
    """The package's network: its own heads on a seeded random AlexNet."""
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's advice about an argument that the package still passes
        torch.manual_seed(0)
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    with torch.no_grad():
        for name, parameter in network.net.named_parameters():  # gains that keep deep layers alive
            parameter.mul_(2.4 if name.endswith("weight") else 1.0)
    return network


@pytest.fixture(scope="module")
def folder(peer: lpips.LPIPS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with that AlexNet, in torchvision's layout."""
    path = tmp_path_factory.mktemp("weights")
    state = {f"features.{name.split('.', 1)[1]}": tensor for name, tensor in peer.net.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, path / files.ALEXNET_WEIGHTS.filename)
    return path


@pytest.fixture(scope="module")
def score(folder: Path) -> Lpips:
    with pytest.warns(FdrWarning, match="not the published AlexNet weight file of 'lpips'"):
        return load_lpips(EncoderOptions(weights_dir=folder, offline=True), device="cpu")


def drawn(count: int, side: int = 64) -> Tensor:
    images = torch.from_numpy(procedural.draw_set(3, count)).permute(0, 3, 1, 2) / 255
    return torch.nn.functional.interpolate(images, (side, side), mode="bilinear")


def noisy(images: Tensor, level: float) -> Tensor:
    return (images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def test_laws(score):
    x = drawn(4)
    assert score(x, x).tolist() == [0, 0, 0, 0]
    near, far = noisy(x, 0.02), noisy(x, 0.2)
    assert (score(x, near) > 0).all() and (score(x, near) < score(x, far)).all()
    np.testing.assert_allclose(score(x, far), score(far, x), rtol=1e-5)
    np.testing.assert_allclose(torch.cat([score(x[i : i + 1], far[i : i + 1]) for i in range(4)]), score(x, far), 1e-5)
    assert score(x, far).dtype == torch.float64 and not score(x, far).requires_grad
    assert score(x[:0], x[:0]).shape == (0,)


@pytest.mark.parametrize("side", [MIN_LPIPS_SIDE, 64, 97])
def test_it_is_the_package_on_the_same_weights(score, peer, side):
    x = drawn(3, side)
    y = noisy(x, 0.1)
    with torch.no_grad():
        expected = peer(x, y, normalize=True).flatten()
        unscaled = peer(x, y).flatten()
    assert (expected > 1e-3).all()
    np.testing.assert_allclose(score(x, y), expected, rtol=2e-6)
    np.testing.assert_allclose(score(half_range(x), half_range(y)), unscaled, rtol=2e-5)  # as the iFID code calls it
    assert not np.allclose(expected, unscaled, rtol=1e-2)


def test_it_is_the_package_in_float64(score, peer):
    x = drawn(3)
    y = noisy(x, 0.1)
    with torch.no_grad():
        expected = peer.double()(x.double(), y.double(), normalize=True).flatten()
    peer.float()
    np.testing.assert_allclose(score(x, y), expected, rtol=5e-6)


def test_it_knows_the_digests_of_its_files(score, folder):
    alexnet = (folder / files.ALEXNET_WEIGHTS.filename).read_bytes()
    assert score.weights == hashlib.sha256(alexnet).hexdigest()
    assert score.heads == files.LPIPS_HEADS.sha256 == hashlib.sha256(PACKAGED.read_bytes()).hexdigest()
    assert files.ALEXNET_WEIGHTS.sha256 == "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
    assert files.ALEXNET_WEIGHTS.filename == "alexnet-owt-7be5be79.pth"  # torchvision's name


def test_a_state_dict_of_the_network_holds_weights_alone():
    """The constants of the input are part of the definition, so no file may replace them."""
    names = {f"heads.{number}" for number in range(5)}
    names |= {f"features.{place}.{name}" for place in (0, 3, 6, 8, 10) for name in ("weight", "bias")}
    assert set(AlexNetDistance().state_dict()) == names


def test_it_imports_neither_torchvision_nor_the_package(folder):
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); from pathlib import Path; "
        "from fdr.metrics import load_lpips; from fdr.encoders import EncoderOptions; "
        "load_lpips(EncoderOptions(weights_dir="
        f"Path({str(folder)!r}), offline=True)); print({{'torchvision', 'lpips', 'scipy'}} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_small_images_are_refused(score):
    small = torch.zeros(1, 3, MIN_LPIPS_SIDE - 1, 64)
    with pytest.raises(InputError, match="LPIPS needs images of at least 31 px; got 64 x 30"):
        score(small, small)


def test_missing_files_are_told_with_the_remedy(monkeypatch, tmp_path):
    options = EncoderOptions(offline=True, weights_dir=tmp_path)
    with pytest.raises(
        WeightsError, match=r"AlexNet weights of 'lpips' were not found.*\(244.4 MB\) from https://\S+pth"
    ):
        load_lpips(options)
    monkeypatch.setattr("fdr.weights.lpips_weights.packaged_heads", lambda: None)
    with pytest.raises(
        WeightsError, match=r"heads of 'lpips' were not found.*\(6.0 kB\).*; `pip install lpips` brings"
    ):
        load_lpips(options)


def test_heads_in_a_weights_folder_come_first(monkeypatch, tmp_path, folder):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    heads = torch.load(PACKAGED, map_location="cpu", weights_only=True)
    torch.save({name: torch.zeros_like(tensor) for name, tensor in heads.items()}, tmp_path / "lpips-v0.1-alex.pth")
    with pytest.warns(FdrWarning, match="not the published"):
        silent = load_lpips(EncoderOptions(weights_dir=tmp_path, offline=True))
    assert silent(drawn(1), noisy(drawn(1), 0.3)).item() == 0


def test_a_named_file_is_that_of_alexnet_alone(score, folder, tmp_path):
    named = tmp_path / "mine.pth"
    named.write_bytes((folder / files.ALEXNET_WEIGHTS.filename).read_bytes())
    with pytest.warns(FdrWarning, match="not the published"):
        other = load_lpips(EncoderOptions(weights=named, offline=True), device="cpu")
    x, y = drawn(1), noisy(drawn(1), 0.3)
    assert other(x, y).item() == score(x, y).item() and other.heads == score.heads


@pytest.mark.filterwarnings("ignore:.*not the published")
@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_what_was_asked_for(folder, monkeypatch, tf32):
    asked = []
    monkeypatch.setattr("fdr.runtime.set_tf32", asked.append)
    load_lpips(EncoderOptions(weights_dir=folder, offline=True), device="cpu", tf32=tf32)
    assert asked == [tf32]


def test_a_file_of_another_network_is_refused(tmp_path, folder):
    other = tmp_path / "resnet.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, other)
    with pytest.warns(FdrWarning), pytest.raises(WeightsError, match=r"does not fit .*'lpips'.* a ResNet"):
        load_lpips(EncoderOptions(weights=other, offline=True))


def test_fdr_weights_knows_both_files(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fdr.weights.lpips_weights.packaged_heads", lambda: None)
    assert run(["weights", "list", "lpips", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    assert [(row["file"], row["state"], row["encoders"]) for row in rows] == [
        ("alexnet-owt-7be5be79.pth", "missing", ["lpips"]),
        ("lpips-v0.1-alex.pth", "missing", ["lpips"]),
    ]
    monkeypatch.undo()
    assert run(["weights", "fetch", "lpips,random", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (
        "would fetch https://download.pytorch.org/models/alexnet-owt-7be5be79.pth (244.4 MB, sha256 7be5be791159)"
        in out
    )
    assert f"lpips: here, {PACKAGED}" in out


def test_the_heads_are_carried_under_the_name_that_is_searched(capsys, tmp_path, monkeypatch, folder):
    monkeypatch.setattr(files, "ALEXNET_WEIGHTS", replace(files.ALEXNET_WEIGHTS, sha256=None))
    assert run(["weights", "fetch", "lpips", "--weights-dir", str(folder), "--to", str(tmp_path / "usb"), "-q"]) == 0
    names = {path.name for path in (tmp_path / "usb").iterdir()}
    assert names == {"alexnet-owt-7be5be79.pth", "lpips-v0.1-alex.pth", "SHA256SUMS"}
