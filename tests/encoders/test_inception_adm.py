"""The ADM protocol with Inception itself, on seeded random weights, against torch-fidelity's features and NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import adm_oracle
import numpy as np
import pytest
import torch
from inception_state import save_inception_state

import fdr
from fdr.cli import run
from fdr.encoders import EncoderOptions
from fdr.errors import FdrWarning
from fdr.images import procedural

NUM_SAMPLES, NUM_REFERENCE = 4, 5


@pytest.fixture(scope="module", autouse=True)
def quiet_and_single() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)  # random weights are not the published ones
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adm")
    np.savez(root / "samples.npz", arr_0=procedural.draw_set(1, NUM_SAMPLES))
    np.savez(root / "real.npz", arr_0=procedural.draw_set(2, NUM_REFERENCE))
    return {"weights": save_inception_state(root), "samples": root / "samples.npz", "real": root / "real.npz"}


def fidelity_features(weights: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """torch-fidelity's pool and logits, and its Mixed_6d.branch1x1 as ADM's graph lays it out: h, w, 7 channels."""
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = peer.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))
    seen: list[torch.Tensor] = []
    extractor.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        pool, logits = extractor(torch.from_numpy(images).permute(0, 3, 1, 2))
    spatial = seen[0].permute(0, 2, 3, 1)[..., :7].flatten(1)
    return {"pool": pool.numpy(), "logits": logits.numpy(), "spatial": spatial.numpy()}


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """FD of fewer rows than columns, by the singular values of the product of the centred rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (x * x).sum() + (y * y).sum() - 2 * root)


def test_the_protocol_equals_numpy_on_torch_fidelitys_features(world: dict[str, Path]) -> None:
    samples = fidelity_features(world["weights"], procedural.draw_set(1, NUM_SAMPLES))
    reference = fidelity_features(world["weights"], procedural.draw_set(2, NUM_REFERENCE))
    precision, recall = adm_oracle.precision_recall(samples["pool"], reference["pool"])
    report = fdr.evaluate(
        world["samples"],
        world["real"],
        protocol="adm",
        weights={"inception": world["weights"]},
        encoder_options=EncoderOptions(device="cpu", exact_order=True),
    )
    assert [result.metric for result in report] == ["is:adm", "fd", "sfid", "precision:adm", "recall:adm"]
    assert report["is:adm"].value == pytest.approx(adm_oracle.inception_score(samples["logits"]), rel=1e-6)
    assert report["fd"].value == pytest.approx(frechet(samples["pool"], reference["pool"]), rel=1e-6)
    assert report["sfid"].value == pytest.approx(frechet(samples["spatial"], reference["spatial"]), rel=1e-6)
    assert (report["precision:adm"].value, report["recall:adm"].value) == (precision, recall)
    assert (report["fd"].output, report["sfid"].output) == ("pool", "spatial")


@pytest.mark.slow
def test_stats_then_eval_on_the_command_line(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = ["--weights", f"inception={world['weights']}", "--device", "cpu", "-q"]
    assert run(["stats", str(world["real"]), "--format", "adm", "--num-images", "4", "-o", "ref.npz", *weights]) == 0
    arguments = ["eval", str(world["samples"]), "--protocol", "adm", "--json"]
    assert run([*arguments, "file.json", "--ref", "ref.npz", *weights]) == 0
    assert run([*arguments, "images.json", "--ref", str(world["real"]), *weights]) == 0
    found, expected = fdr.Report.from_json("file.json"), fdr.Report.from_json("images.json")
    for metric in ("is:adm", "fd", "sfid"):
        assert found[metric].value == pytest.approx(expected[metric].value, rel=1e-6)
    assert [found[metric].reference_count for metric in ("fd", "sfid", "recall:adm")] == [5, 5, 4]
    assert found.run["protocol"] == "adm"
