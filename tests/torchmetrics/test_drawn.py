"""`evaluate_samples`: always the same noise and labels, for any number of ranks, and nothing of the program changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from metric_rank_program import tensors
from torch import Tensor
from worlds import TinyEncoder, images

import fdr
from fdr.errors import InputError
from fdr.torchmetrics import Evaluation, FrechetDistance, evaluate_samples


class Generator:
    """Noise of torch, NumPy and Python as images; remembers what it was asked for, and what it made."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Tensor | None]] = []
        self.made: list[Tensor] = []

    def __call__(self, count: int, labels: Tensor | None) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked.append((count, labels))
        shade = np.random.random() * random.random()  # noqa: NPY002
        self.made.append((torch.rand(count, 3, 8, 8) + shade).clamp(0, 1))
        return self.made[-1]

    @property
    def images(self) -> Tensor:
        return torch.cat(self.made)


def test_the_report_is_that_of_an_evaluation_of_the_same_images() -> None:
    generator, reference = Generator(), images(30, side=8)
    for metric in (FrechetDistance(TinyEncoder(), reference), Evaluation([TinyEncoder()], "fd,recall", reference)):
        generator.made.clear()
        report = evaluate_samples(metric, generator, 20, batch_size=8)
        names = sorted({result.metric for result in report})
        expected = fdr.evaluate(generator.images, reference, [TinyEncoder()], names)
        assert {r.key: r.value for r in report} == pytest.approx({r.key: r.value for r in expected}, rel=1e-6)
        assert metric.update_count == 0
    assert [count for count, _ in generator.asked] == [8, 8, 4] * 2


def test_the_noise_is_that_of_the_seed_and_the_random_numbers_of_the_program_go_on() -> None:
    metric, generator = FrechetDistance(TinyEncoder(), images(30, side=8)), Generator()

    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    def seeded() -> None:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)

    seeded()
    expected = numbers()
    made = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        seeded()
        generator.made.clear()
        evaluate_samples(metric, generator, 16, batch_size=8, seed=seed)
        made[name] = generator.images
        assert numbers() == expected
    assert made["first"].equal(made["again"]) and not made["first"].equal(made["other"])
    assert not made["first"][:8].equal(made["first"][8:])


def test_random_numbers_go_on_after_a_generator_that_fails() -> None:
    def broken(count: int, labels: Tensor | None) -> Tensor:
        torch.rand(3)
        raise ValueError("broken")

    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="broken"):
        evaluate_samples(FrechetDistance(TinyEncoder(), images(30, side=8)), broken, 16)
    assert torch.get_rng_state().equal(before)


def test_labels_are_those_of_samples_of_fdr() -> None:
    metric = FrechetDistance(TinyEncoder(), images(30, side=8))
    seen: dict[str, list[int]] = {}
    for name, labels in (
        ("balanced", "balanced"),
        ("random", "random"),
        ("one", 2),
        ("own", [1, 0] * 5),
        ("numbers", range(10)),
    ):
        generator = Generator()
        evaluate_samples(metric, generator, 10, batch_size=4, labels=labels, num_classes=3)
        seen[name] = torch.cat([labels for _, labels in generator.asked if labels is not None]).tolist()
    assert seen["balanced"] == [0, 1, 2] * 3 + [0] and seen["one"] == [2] * 10 and seen["own"] == [1, 0] * 5
    assert seen["numbers"] == list(range(10))
    assert seen["random"] == fdr.generators.labels_of("random", 0, range(10), 3).tolist()


@pytest.mark.filterwarnings("default:.*:fdr.errors.FdrWarning")
def test_metrics_of_classes_get_the_labels() -> None:
    metric = Evaluation([TinyEncoder()], "vendi:class")
    report = evaluate_samples(metric, Generator(), 20, labels="balanced", num_classes=2)
    assert report["vendi:class"].count == 20


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_draw_the_images_of_one_process_and_call_equally_often(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ranks measure, one after the other, is what one process draws: 5 batches of 4, the last of 2."""
    generators, measured = [], []
    for rank in range(size):
        place = SimpleNamespace(rank=rank, size=size)
        monkeypatch.setattr("fdr.torchmetrics.drawn.tensor_ranks", lambda *_, place=place: place)
        metric, generator = FrechetDistance(TinyEncoder(), images(30, side=8)), Generator()
        update: Callable[..., Any] = metric.update
        metric.update = lambda batch, update=update: (measured.append(batch), update(batch))  # type: ignore
        evaluate_samples(metric, generator, 18, batch_size=4)
        generators.append(generator)
    alone = Generator()
    monkeypatch.undo()
    evaluate_samples(FrechetDistance(TinyEncoder(), images(30, side=8)), alone, 18, batch_size=4)
    assert torch.cat(measured).equal(alone.images)
    assert {len(generator.made) for generator in generators} == {-(-5 // size)}


def test_bad_arguments_are_one_sentence() -> None:
    metric, generator = FrechetDistance(TinyEncoder(), images(30, side=8)), Generator()
    with pytest.raises(InputError, match="reset_real_features=False"):
        evaluate_samples(FrechetDistance(TinyEncoder()), generator, 10)
    with pytest.raises(InputError, match=r"takes a metric of fdr\.torchmetrics; got dict"):
        evaluate_samples({}, generator, 10)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 or more images"):
        evaluate_samples(metric, generator, 1)
    with pytest.raises(InputError, match="need num_classes"):
        evaluate_samples(metric, generator, 10, labels="random")
    with pytest.raises(InputError, match=r"whole numbers \[10\], one for each image; got \[3\]"):
        evaluate_samples(metric, generator, 10, labels=[1, 2, 3])
    with pytest.raises(InputError, match=r"was asked for 10 images.* got 2"):
        evaluate_samples(metric, lambda count, labels: tensors(2, 0), 10)


def test_real_images_that_stay_serve_every_time() -> None:
    metric = FrechetDistance(TinyEncoder(), reset_real_features=False)
    metric.update(torch.from_numpy(images(30, side=8)).permute(0, 3, 1, 2), real=True)
    values = {evaluate_samples(metric, Generator(), 10)["fd"].value for _ in range(2)}
    assert len(values) == 1
