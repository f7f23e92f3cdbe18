"""`FrechetDistance` in loops: the number of `fdr.evaluate`, and the behaviour that torchmetrics promises."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_rank_program import evaluated, filled, tensors
from processes import exit_codes
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid
from worlds import DIM, TinyEncoder, images

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.torchmetrics import FrechetDistance
from fdr.torchmetrics.packed_sums import add_features, merged, moments_of, no_sums

PROGRAM = Path(__file__).with_name("metric_rank_program.py")


class Pooled(nn.Module):
    """A user's module: pooled colours as features, of uint8 images too, as torchmetrics gives them."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        images = images / 255 if images.dtype == torch.uint8 else images
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def features(batch: Tensor) -> np.ndarray:
    return TinyEncoder()(batch.float() / 255)["features"].numpy().astype(np.float64)


def sums(metric: FrechetDistance) -> Tensor:
    """The sums of generated images."""
    (name,) = (name for name in metric.metric_state if name.startswith("generated_sums"))
    return getattr(metric, name)


def offline(samples: np.ndarray, reference: Any, encoder: Any = None) -> float:
    """What `fdr.evaluate` says of the same images."""
    return fdr.evaluate(samples, reference, encoder or TinyEncoder(), ["fd"])["fd"].value


@pytest.fixture(scope="module")
def reference() -> fdr.Moments:
    return fdr.Moments.from_features(features(tensors(60, 0)))


@pytest.mark.parametrize("count", [30, 9])  # 9 images have a singular covariance
def test_the_number_is_that_of_an_evaluation(count: int) -> None:
    metric = FrechetDistance(TinyEncoder())
    metric.update(tensors(60, 0), real=True)
    metric.update(tensors(count, 1))
    value = metric.compute()
    assert value.dtype == torch.float64 and value.shape == ()
    assert value.item() == pytest.approx(offline(images(count, 1), images(60, 0)), rel=1e-6)


@pytest.mark.filterwarnings("default:.*:fdr.errors.FdrWarning")
def test_a_named_encoder_and_a_registered_reference_give_the_number_of_an_evaluation() -> None:
    metric = FrechetDistance("random", "demo")
    for batch in tensors(30, 1).split(8):
        metric.update(batch)
    assert metric.compute().item() == pytest.approx(offline(images(30, 1), "demo", "random"), rel=1e-6)


def test_a_reference_may_be_a_file_or_a_dict_by_encoder(reference: fdr.Moments, tmp_path: Path) -> None:
    reference.save(tmp_path / "real.npz")
    values = []
    for given in (reference, tmp_path / "real.npz", str(tmp_path / "real.npz"), {"tiny": reference, "other": "demo"}):
        metric = FrechetDistance(TinyEncoder(), given)
        metric.update(tensors(30, 1))
        values.append(metric.compute().item())
    assert values == pytest.approx([values[0]] * 4, rel=1e-12)


def test_the_number_is_that_of_torchmetrics(reference: fdr.Moments) -> None:
    metric, theirs = FrechetDistance(Pooled()), FrechetInceptionDistance(Pooled())
    for batch, real in ((tensors(60, 0), True), (tensors(40, 1), False)):
        metric.update(batch, real=real)
        theirs.update(batch, real=real)
    assert metric.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-4)  # theirs ends in float32
    real, generated = (Pooled()(tensors(*which)).double() for which in ((60, 0), (40, 1)))
    formula = _compute_fid(real.mean(0), torch.cov(real.T), generated.mean(0), torch.cov(generated.T))
    assert metric.compute().item() == pytest.approx(formula.item(), rel=1e-6)


def test_several_updates_are_one_and_a_reset_forgets(reference: fdr.Moments) -> None:
    metric = FrechetDistance(TinyEncoder(), reference)
    metric.update(tensors(40, 1))
    whole = metric.compute().item()
    metric.reset()
    with pytest.raises(InputError, match="0 generated images given"), pytest.warns(UserWarning, match="before the"):
        metric.compute()
    for batch in tensors(40, 1).split([1, 7, 32]):
        metric.update(batch)
    metric.update(tensors(1, 1)[:0])
    assert metric.compute().item() == pytest.approx(whole, rel=1e-12)


def test_sums_lose_no_digits_to_a_large_mean() -> None:
    """Batches of any size, far from 0 and drifting, beside the two passes of NumPy over all rows in float64."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(900, 5)) * 1e-2 + 1e3 + np.linspace(0, 1, 900)[:, None]).astype(np.float32)
    packed = no_sums(5)
    for batch in torch.from_numpy(rows).split([1, 1, 3, 95, 500, 300]):
        add_features(packed, batch)
    moments = moments_of(packed)
    assert moments.count == 900
    np.testing.assert_allclose(moments.mu, rows.astype(np.float64).mean(0), rtol=1e-15)
    np.testing.assert_allclose(moments.sigma, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-11)
    parts = [no_sums(5), no_sums(5), no_sums(5)]
    add_features(parts[0], torch.from_numpy(rows[:700]))
    add_features(parts[2], torch.from_numpy(rows[700:]))
    np.testing.assert_allclose(merged(torch.stack(parts)), packed, rtol=1e-11)


def test_real_images_can_stay() -> None:
    kept, forgotten = FrechetDistance(TinyEncoder(), reset_real_features=False), FrechetDistance(TinyEncoder())
    for metric in (kept, forgotten):
        metric.update(tensors(30, 0), real=True)
        metric.update(tensors(30, 1))
        metric.reset()
        metric.update(tensors(30, 2))
    assert kept.compute().item() == pytest.approx(offline(images(30, 2), images(30, 0)), rel=1e-6)
    with pytest.raises(InputError, match="0 real images given"):
        forgotten.compute()


def test_floats_are_rounded_as_files_are_unless_told_otherwise(reference: fdr.Moments) -> None:
    floats = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values = {}
    for quantize, given in (("uint8", floats), ("none", floats), ("bytes", (floats * 255).round().byte())):
        metric = FrechetDistance(TinyEncoder(), reference, quantize="none" if quantize == "none" else "uint8")
        metric.update(given)
        values[quantize] = metric.compute().item()
    assert values["uint8"] == values["bytes"] == pytest.approx(offline(floats.numpy(), reference), rel=1e-6)
    assert values["none"] != values["uint8"]


def test_two_processes_give_the_number_of_one(tmp_path: Path) -> None:
    paths = [str(PROGRAM.parent.parent), str(Path(fdr.__file__).parent.parent)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "PYTHONPATH": os.pathsep.join(paths)},
            stderr=(tmp_path / f"{rank}.txt").open("w"),
        )
        for rank in range(2)
    ]
    assert exit_codes(processes) == [0, 0], (tmp_path / "0.txt").read_text() + (tmp_path / "1.txt").read_text()
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone = filled(None)
    assert found[0]["value"] == found[1]["value"] == pytest.approx(alone.compute().item(), rel=1e-10)
    assert [one["own"] for one in found] == [13, 37]
    for _ in range(2):
        alone.update(tensors(5, 2))
    assert found[0]["after"] == found[1]["after"] == pytest.approx(alone.compute().item(), rel=1e-10)
    whole = {key: value.item() for key, value in evaluated(None).compute().items()}
    assert set(whole) == {"fd:tiny", "kid:all:tiny", "is:tiny"}
    assert found[0]["evaluation"] == found[1]["evaluation"] == pytest.approx(whole, rel=1e-9)


def test_sums_can_be_merged_from_another_metric(reference: fdr.Moments) -> None:
    whole, first, second = (FrechetDistance(TinyEncoder(), reference) for _ in range(3))
    whole.update(tensors(40, 1))
    first.update(tensors(40, 1)[:15])
    second.update(tensors(40, 1)[15:])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-10)


def test_a_collection_keeps_encoders_and_references_apart(reference: fdr.Moments) -> None:
    other = fdr.Moments.from_features(features(tensors(60, 5)))

    def metrics() -> dict[str, FrechetDistance]:
        twin = TinyEncoder("twin", weights="seed:1")  # the same features under another spec
        return {
            "a": FrechetDistance(TinyEncoder(), reference),
            "b": FrechetDistance(TinyEncoder(), other),
            "unrounded": FrechetDistance(TinyEncoder(), reference, quantize="none"),
            "twin": FrechetDistance(twin, reference),
        }

    collection, alone = MetricCollection(dict(metrics())), metrics()
    for index, batch in enumerate(((tensors(30, 1)).float() / 255).split(10)):
        batch = batch if index == 0 else batch * 0.999
        if index < 2:
            collection.update(batch)
        else:
            assert set(collection(batch).values()) == {None}  # a call updates, and gives no value of one batch
        for metric in alone.values():
            metric.update(batch)
    found = collection.compute()
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: metric.compute().item() for name, metric in alone.items()}, rel=1e-12
    )
    assert found["unrounded"] != found["a"] == found["twin"]
    groups = sorted(sorted(group) for group in collection.compute_groups.values())
    assert groups == [["a", "b"], ["twin"], ["unrounded"]]
    collection.reset()
    assert all(sums(metric).count_nonzero() == 0 for metric in collection.values())


@pytest.mark.parametrize("encoder", ["random", TinyEncoder(), Pooled()], ids=["name", "object", "module"])
def test_copies_go_on_where_the_metric_was(encoder: Any) -> None:
    metric = FrechetDistance(encoder)
    metric.update(tensors(30, 0), real=True)
    metric.update(tensors(30, 1)[:20])
    copies = [copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric))]
    for one in (metric, *copies):
        one.update(tensors(30, 1)[20:])
    assert len({one.compute().item() for one in (metric, *copies)}) == 1
    assert not metric.state_dict() and not list(metric.parameters())


def test_a_pickle_of_a_named_encoder_has_no_network() -> None:
    metric = FrechetDistance("random")
    again = pickle.loads(pickle.dumps(metric))
    assert again._evaluation.encoders._loaded is None
    again.update(tensors(4, 1))
    assert again._evaluation.encoders._loaded is not None


def test_a_state_dict_carries_the_sums_to_a_metric_of_the_same_encoder(reference: fdr.Moments) -> None:
    metric = FrechetDistance(TinyEncoder(), reference)
    metric.persistent(True)
    metric.update(tensors(30, 1))
    again = FrechetDistance(TinyEncoder(), reference)
    again.load_state_dict(metric.state_dict())
    again.update(tensors(5, 2))
    metric.update(tensors(5, 2))
    assert again.compute() == metric.compute()
    for other in (
        FrechetDistance(TinyEncoder(weights="seed:1"), reference),
        FrechetDistance(TinyEncoder(), reference, quantize="none"),
    ):
        other.load_state_dict(metric.state_dict())
        with pytest.raises(InputError, match="another encoder or quantisation"):
            other.update(tensors(5, 2))
        other.reset()
        other.update(tensors(5, 2))


def test_the_sums_stay_float64_whatever_the_model_becomes(reference: fdr.Moments) -> None:
    plain, moved = FrechetDistance(TinyEncoder(), reference), FrechetDistance(TinyEncoder(), reference)
    plain.update(tensors(30, 1))
    model = nn.ModuleDict({"metric": moved}).to(torch.bfloat16).half()
    moved.set_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        model["metric"].update(tensors(30, 1))
        assert moved.compute() == plain.compute()
        moved.reset()
    moved.update(tensors(30, 1))  # after a reset within inference mode
    assert sums(moved).dtype == torch.float64 and moved.compute() == plain.compute()


def test_a_module_is_measured_in_eval_mode_and_left_as_it_was() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5)).train()
    metric = FrechetDistance(module, num_features=12)
    module.train()
    metric.update(tensors(30, 0), real=True)
    metric.update(tensors(30, 0))
    assert metric.compute() == 0 and module.training and module[2].training


def test_the_encoder_follows_the_metric_to_another_device() -> None:
    encoder = FrechetDistance("random")._evaluation.encoders
    loaded = encoder._loaded
    encoder.move(torch.device("cpu"))
    assert encoder._loaded is loaded
    encoder.move(torch.device("meta"))
    assert encoder._loaded is None and encoder._options.device == "meta"  # loaded there when it is next used
    fixed = FrechetDistance(TinyEncoder())._evaluation.encoders
    fixed.move(torch.device("meta"))
    assert fixed.sums_device == torch.device("cpu")


def test_batch_size_splits_what_the_encoder_sees(reference: fdr.Moments) -> None:
    encoder, sizes = TinyEncoder(), []
    encoder.preprocess = lambda batch: sizes.append(len(batch)) or TinyEncoder().preprocess(batch)  # type: ignore
    FrechetDistance(encoder, reference, batch_size=4).update(tensors(10, 1))
    assert sizes == [4, 4, 2]


def test_it_is_a_metric_of_torchmetrics() -> None:
    metric = FrechetDistance(TinyEncoder(), sync_on_compute=False)
    assert isinstance(metric, Metric) and metric.higher_is_better is False and not metric.sync_on_compute
    with pytest.raises(ValueError, match="Unexpected keyword arguments"):
        FrechetDistance(TinyEncoder(), colour="red")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"takes images \[B, 3, H, W\].*got \[3, 16, 16\]"),
        (np.zeros((2, 3, 4, 4)), "got ndarray"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), "got int64"),
        (torch.full((2, 3, 4, 4), -1.0), r"floats in \[0, 1\]; these reach from -1 to -1"),
        (torch.full((2, 3, 4, 4), float("nan")), "these hold NaN"),
    ],
)
def test_other_images_are_refused(given: Any, message: str, reference: fdr.Moments) -> None:
    metric = FrechetDistance(TinyEncoder(), reference)
    with pytest.raises(InputError, match=message):
        metric.update(given)
    assert sums(metric).count_nonzero() == 0


def test_what_cannot_be_measured_is_refused(reference: fdr.Moments) -> None:
    with pytest.raises(InputError, match="This metric has a reference"):
        FrechetDistance(TinyEncoder(), reference).update(tensors(2, 0), real=True)
    with pytest.raises(InputError, match="takes one encoder; got random, random:1"):
        FrechetDistance("random,random:1")
    with pytest.raises(InputError, match="give num_features=D"):
        FrechetDistance(lambda batch: batch.flatten(1))
    with pytest.raises(InputError, match="width 12; 7 was expected"):
        FrechetDistance(lambda batch: Pooled()(batch), num_features=7).update(tensors(2, 0))
    with pytest.raises(InputError, match="NaN or infinity for 2 of 2 images"):
        FrechetDistance(lambda batch: batch.mean((2, 3)) / 0, num_features=3).update(tensors(2, 0) * 0)
    with pytest.raises(InputError, match="quantize"):
        FrechetDistance(TinyEncoder(), quantize="uint16")
    metric = FrechetDistance(TinyEncoder(), reference)
    metric.update(tensors(1, 0))
    with pytest.raises(InputError, match="1 generated image given"):
        metric.compute()
    assert sums(metric).shape == (DIM + 2, DIM)


def test_images_of_another_size_than_those_of_the_reference_are_a_warning() -> None:
    reference = fdr.Moments.from_features(fdr.extract(images(30, side=32), TinyEncoder()))
    with pytest.warns(FdrWarning, match="16"):
        FrechetDistance(TinyEncoder(), reference).update(tensors(4, 1))


def test_without_torchmetrics_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['torchmetrics'] = None\nimport fdr.torchmetrics\nfdr.torchmetrics.FrechetDistance"
    paths = os.pathsep.join([str(Path(fdr.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1].endswith("pip install 'fdr-eval[torchmetrics]'."), done.stderr
