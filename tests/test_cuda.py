"""On a GPU the same numbers as on the CPU, to the tolerance of docs/precision.md. Needs CUDA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from autoencoder_worlds import Gaussian, Plain, seeded
from worlds import images, npz

import fdr
from fdr.cli import run
from fdr.encoders import EncoderOptions, find_spatial_layer
from fdr.encoders.resize import HOST_RESIZES, RESIZES
from fdr.frechet import (
    LabelledMoments,
    conditional_frechet_distance,
    fd_gradients,
    fd_influence,
    frechet_terms,
    sample_influences,
)
from fdr.metrics import CollectedFeatures, Context, load_metrics
from fdr.runtime.ranks.tensor_group import TensorRanks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_random_features_equal_the_cpu_s(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(40, side=64))
    found = {}
    for device in ("cpu", "cuda"):
        encoder = fdr.load_encoder("random", device=device)
        found[device] = torch.cat(list(fdr.extract(source, encoder)))
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-5)


def test_mixed_sizes_share_a_batch() -> None:
    mixed = [images(1, seed=i, side=16 + 8 * (i % 3))[0] for i in range(20)]
    found = [torch.cat(list(fdr.extract(mixed, fdr.load_encoder("random", device=d)))) for d in ("cpu", "cuda")]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "dim"), [(500, 64), (40, 64)])
def test_fd_equals_the_cpu_s(count: int, dim: int) -> None:
    generator = np.random.default_rng(0)
    a, b = (fdr.Moments.from_features(generator.normal(shift, 1, (count, dim))) for shift in (0, 0.1))
    on_cpu, on_gpu = frechet_terms(a, b), frechet_terms(a, b, device="cuda")
    assert on_gpu.route == on_cpu.route
    assert on_gpu.value == pytest.approx(on_cpu.value, rel=1e-10)


@pytest.mark.parametrize(("count", "dim"), [(600, 64), (160, 64), (120, 140)])
def test_the_debiased_fd_and_its_error_equal_the_cpu_s(count: int, dim: int) -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.normal(shift, 1, (size, dim)) for shift, size in ((0, count), (0.3, 2 * count)))
    on_cpu, on_gpu = fdr.debiased_frechet_distance(x, y), fdr.debiased_frechet_distance(x, y, device="cuda")
    assert on_gpu.value == pytest.approx(on_cpu.value, rel=1e-8)
    assert on_gpu.stderr == pytest.approx(on_cpu.stderr, rel=1e-6)
    given = fdr.debiased_frechet_distance(torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda(), stderr=False)
    assert given.value == pytest.approx(on_cpu.value, rel=1e-8)
    both = [replace(fdr.Moments.from_features(z), rows=z) for z in (x, y)]
    stated = [fd_influence(*both, device=device).stderr for device in ("cpu", "cuda")]
    assert stated[1] == pytest.approx(stated[0], rel=1e-8)
    for each in (lambda where: sample_influences(*both, device=where), lambda where: gradients(both, where)):
        on_cpu, on_gpu = each("cpu"), each("cuda")
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=1e-9 * np.abs(on_cpu).max())


def gradients(both: list[fdr.Moments], device: str) -> np.ndarray:
    both = [replace(moments) for moments in both]  # nothing that was computed on another device
    return fd_gradients(both[0], both[1], np.arange(5), device=device)


def test_heat_maps_of_a_gpu_equal_the_cpu_s() -> None:
    values = []
    for device in ("cpu", "cuda"):
        encoder = fdr.load_encoder("random", device=device)
        inputs = encoder.preprocess(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device))
        layer = find_spatial_layer(encoder, inputs)
        values.append([each.cpu() for each in layer.activations(encoder, inputs, torch.ones(1, 256))])
    for on_cpu, on_gpu in zip(*values, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-5)


def test_the_conditional_fd_and_its_error_equal_the_cpu_s() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 8
    draws = [rng.normal(size=(400, 32)) + np.eye(8, 32)[labels] for _ in range(2)]
    sides = [LabelledMoments.from_features(features, labels) for features in draws]
    cpu, gpu = (conditional_frechet_distance(*sides, device=device) for device in ("cpu", "cuda"))
    for field in ("value", "within", "whitened", "stderr"):
        assert getattr(gpu, field) == pytest.approx(getattr(cpu, field), rel=1e-9), field


def test_moments_of_gpu_features_equal_the_cpu_s() -> None:
    x = torch.randn(5000, 32, generator=torch.Generator().manual_seed(0)) + 30
    on_cpu, on_gpu = fdr.Moments.from_features(x), fdr.Moments.from_features(x.cuda())
    np.testing.assert_allclose(on_gpu.sigma, on_cpu.sigma, rtol=0, atol=1e-12 * np.trace(on_cpu.sigma))


@pytest.mark.parametrize("posterior", ["sample", "mean"])
def test_latents_and_decoded_images_equal_the_cpu_s(posterior: str) -> None:
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {}
    for device in ("cpu", "cuda"):
        for item in (seeded(Gaussian), "dct", "haar"):
            model = fdr.load_autoencoder(
                item, device=device, posterior=posterior if item not in ("dct", "haar") else None
            )
            model.check(32, 32)
            latents = model.encode(pictures, range(4))
            found[device, model.name] = latents.cpu(), model.decode(latents).cpu()
    for device, name in list(found):
        torch.testing.assert_close(found[device, name], found["cpu", name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["precision", "recall", "coverage", "realism", "precision:adm", "recall:adm"])
def test_precision_and_recall_equal_the_cpu_s(name: str) -> None:
    metric = load_metrics(name)[name]
    assert metric.collector is CollectedFeatures
    generator = np.random.default_rng(0)
    samples, reference = (np.rint(8 * generator.normal(2, 1, (n, 64))).astype(np.float32) for n in (1500, 1300))
    found = [metric.scores(samples, reference, Context(device=d))[name].value for d in ("cpu", "cuda")]
    assert found[0] == found[1] and 0 < found[0] < 1  # whole numbers: no order of summation rounds


@pytest.mark.parametrize(
    "names", ["kid,kid:ustat", "kid:rbf,kid:rbf_biased", "kid:all", "mind", "sw2", "vendi,vendi:2"]
)
def test_kernels_slices_and_spectra_equal_the_cpu_s(names: str) -> None:
    metric = next(iter(load_metrics(names).values()))
    generator = np.random.default_rng(0)
    samples, reference = (generator.normal(shift, 1, (1200, 64)).astype(np.float32) for shift in (0.3, 0.0))
    found = [metric.scores(samples, reference, Context(device=device)) for device in ("cpu", "cuda")]
    for name, score in found[0].items():
        assert found[1][name].value == pytest.approx(score.value, rel=1e-5), name
        assert found[1][name].stderr == pytest.approx(score.stderr, rel=1e-3), name


def test_a_whole_evaluation(tmp_path: Path) -> None:
    samples, real = (npz(tmp_path / f"{seed}.npz", images(300, seed=seed, side=32)) for seed in (1, 2))
    reports = [
        fdr.evaluate(samples, real, "random", encoder_options=EncoderOptions(device=device))
        for device in ("cpu", "cuda")
    ]
    assert reports[1]["fd"].value == pytest.approx(reports[0]["fd"].value, rel=1e-3)
    assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize("resize", sorted(set(RESIZES) - set(HOST_RESIZES)))
@pytest.mark.parametrize("side", [20, 64, 375])
def test_a_resize_on_the_gpu_is_that_of_the_cpu(resize: str, side: int) -> None:
    """What lets an encoder resize on its device: to float32 rounding of the sums, in 1/255 of the range."""
    x = torch.from_numpy(images(3, side=side)).permute(0, 3, 1, 2).float() / 255
    on_cpu, on_gpu = RESIZES[resize](x, 64), RESIZES[resize](x.cuda(), 64)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-3 / 255)


def test_batches_in_flight_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small shards and batches: uploads on their own stream and late landings mix nothing up."""
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 32)
    source = npz(tmp_path / "a.npz", images(300, side=32))
    found = {}
    for device in ("cpu", "cuda"):
        encoder = fdr.load_encoder("random", device=device)
        found[device] = torch.cat(list(fdr.extract(source, encoder, batch_size=8, cache=tmp_path / device)))
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-5)


def test_ranks_share_gpus(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    samples, real = (npz(tmp_path / f"{seed}.npz", images(1300, seed=seed, side=32)) for seed in (1, 2))
    common = ["eval", str(samples), "--ref", str(real), "--reps", "random", "--no-cache", "--json", "-"]
    values = []
    for gpus in {1, torch.cuda.device_count()}:
        assert run([*common, "--gpus", str(gpus)]) == 0
        values.append(json.loads(capfd.readouterr().out)["results"][0]["value"])
    assert max(values) == pytest.approx(min(values), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"encoder_batch_size": 16}, {"solver": "exact"}])
def test_the_loss_and_its_gradient_equal_the_cpu_s(options: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(0)
    reals, fakes = (torch.rand(count, 3, 32, 32, generator=random) for count in (300, 40))
    reference = fdr.Moments.from_features(fdr.load_encoder("random", device="cpu")(reals)["features"])
    found = []
    for device in ("cpu", "cuda"):
        loss = fdr.FDLoss(
            "random", reference, options=fdr.LossOptions(**options), encoder_options=EncoderOptions(device=device)
        )
        loss.fill(reals.to(device))
        leaf = fakes.to(device).requires_grad_()
        out = loss(leaf)
        out.total.backward()
        assert leaf.grad is not None
        found.append((out.fd["random"], leaf.grad.cpu()))
        assert all(not tensor.is_cuda for tensor in loss.state_dict()["encoders"]["random"]["term"].values())
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert (found[1][1] - found[0][1]).norm() < 1e-2 * found[0][1].norm()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_interpolated_fid(tmp_path: Path, dtype: str) -> None:
    """Neighbours and draws are exactly the same, distances nearly."""
    queries, others = (npz(tmp_path / f"{seed}.npz", images(200, seed=seed, side=32)) for seed in (1, 2))
    reports = [
        fdr.interpolated_fid(
            seeded(Plain),
            queries,
            others,
            "random",
            ifid_options=fdr.IfidOptions(latent_dtype=dtype),
            encoder_options=EncoderOptions(device=device),
            cache=tmp_path / device,
        )
        for device in ("cpu", "cuda")
    ]
    entropies = [report.run["ifid"]["neighbour_entropy"] for report in reports]
    assert entropies[1] == pytest.approx(entropies[0], rel=1e-5)
    for metric in ("ifd", "rfd", "nfd", "psnr"):
        assert reports[1][metric].value == pytest.approx(reports[0][metric].value, rel=1e-2)


@pytest.mark.parametrize("backend", ["nccl", "cpu:gloo,cuda:nccl", "gloo"])
def test_ranks_of_training_exchange_over_nccl(tmp_path: Path, backend: str) -> None:
    """A group of one rank, which goes through NCCL all the same."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        ranks = TensorRanks(dist.group.WORLD, torch.device("cuda"))
        assert ranks.gather("a") == ["a"] and ranks.share({"b": 1}, owner=0) == {"b": 1}
        assert ranks.is_any(True) and not ranks.is_any(False)
        for device in ("cuda", "cpu"):
            rows = torch.arange(12.0, device=device, dtype=torch.float64).reshape(3, 4).T
            gathered, own = ranks.gather_rows(rows)
            assert torch.equal(gathered, rows) and gathered.device == rows.device and own == slice(0, 4)
            assert ranks.gather_rows(rows[:0])[0].shape == (0, 3)
            assert torch.equal(ranks.share_tensor(rows, owner=0), rows)
            sums = [rows.clone(), torch.ones(2, device=device)]
            ranks.sum_tensors(sums)
            assert torch.equal(sums[0], rows) and sums[1].tolist() == [1, 1]
    finally:
        dist.destroy_process_group()
