"""Metrics that look at each class: how classes match, FD per class, and classifiers of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from worlds import TinyEncoder, images, npz

import fdr
from fdr.errors import InputError
from fdr.evaluation import evaluate
from fdr.metrics import Context, Labelled, Score
from fdr.metrics.classes import match_classes
from fdr.metrics.fd_per_class import fd_per_class
from fdr.metrics.feature_cas import L2, K, linear_accuracy, neighbour_accuracy


def labelled(features: Any, labels: Any, names: tuple[str, ...] | None = None, source: str = "set") -> Labelled:
    return Labelled(np.asarray(features, np.float32), np.asarray(labels, np.int64), names, source)


def mixture(seed: int, per_class: int, left_out: tuple[int, ...] = (), dim: int = 6, num_classes: int = 4) -> Labelled:
    """Classes around corners far from each other."""
    random = np.random.default_rng(seed)
    labels = np.repeat([c for c in range(num_classes) if c not in left_out], per_class)
    centres = 8 * np.eye(num_classes, dim)
    return labelled(centres[labels] + random.standard_normal((len(labels), dim)), labels)


def context(*names: str, **more: Any) -> Context:
    return Context(names=names, **more)


# Matching


@pytest.mark.parametrize(
    ("samples", "reference", "names", "notes"),
    [
        (([0, 1], ("b", "a")), ([0, 1], ("a", "b")), ("a", "b"), 0),
        (([0, 1], None), ([1, 0], None), ("0", "1"), 0),
        (([0, 1, 2], ("0", "1", "10")), ([0, 1, 10], None), ("0", "1", "10"), 0),
        (([0, 1], ("007", "08")), ([0, 1], ("7", "8")), ("7", "8"), 0),
        (([0, 1], None), ([0, 1], ("n01", "n02")), ("0", "1"), 1),
        (([0, 1], ("a", "b")), ([0, 1], ("b", "c")), ("a", "b", "c"), 2),
    ],
)
def test_classes_match_by_name_or_number(samples: Any, reference: Any, names: tuple[str, ...], notes: int) -> None:
    found = match_classes(labelled([[0]] * 2, *samples), labelled([[0]] * 2, *reference), "m")
    assert found.names == names and len(found.notes) == notes


def test_the_same_class_has_the_same_number_on_both_sides() -> None:
    found = match_classes(labelled([[0]] * 3, [0, 1, 0], ("b", "a")), labelled([[0]] * 2, [1, 0], ("a", "b")), "m")
    assert [found.names[c] for c in found.samples] == ["b", "a", "b"]
    assert [found.names[c] for c in found.reference] == ["b", "a"] and found.shared == [0, 1]


def test_without_a_shared_class_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"no class of s \(cat, dog\) is one of r \(0, 1, 2, 3, 4, ...\)"):
        match_classes(
            labelled([[0]] * 2, [0, 1], ("cat", "dog"), "s"),
            labelled([[0]] * 6, range(6), tuple("012345"), "r"), "m",
        )  # fmt: skip


# FD per class


def per_class(samples: Labelled, reference: Labelled, *names: str, **more: Any) -> dict[str, Score]:
    return fd_per_class(samples, reference, context(*(names or ("fd_per_class",)), **more))


def test_it_is_the_mean_of_fd_over_the_classes() -> None:
    samples, reference = mixture(0, 40), mixture(1, 50)
    score = per_class(samples, reference)["fd_per_class"]
    alone = [
        fdr.frechet_distance(samples.collected[samples.labels == c], reference.collected[reference.labels == c])
        for c in range(4)
    ]
    assert score.value == pytest.approx(np.mean(alone), rel=1e-12)
    rows = score.details["classes"]
    assert [(row["fd"], row["n"], row["reference_n"]) for row in rows.values()] == [
        (pytest.approx(fd), 40, 50) for fd in alone
    ]


def test_its_standard_error_is_the_spread_over_draws() -> None:
    found = [per_class(mixture(2 * seed, 60), mixture(2 * seed + 1, 60))["fd_per_class"] for seed in range(40)]
    spread = np.std([score.value for score in found], ddof=1)
    assert np.mean([score.stderr for score in found]) == pytest.approx(spread, rel=0.35)  # type: ignore[type-var]
    assert per_class(mixture(0, 60), mixture(1, 60), stderr=False)["fd_per_class"].stderr is None


def test_it_sees_swapped_classes_that_fd_does_not() -> None:
    samples, reference = mixture(0, 40), mixture(1, 40)
    swapped = labelled(samples.collected, (samples.labels + 1) % 4)
    assert per_class(swapped, reference)["fd_per_class"].value > 100
    assert per_class(samples, reference)["fd_per_class"].value < 2


def test_the_debiased_mean_is_near_0_for_equal_distributions_and_has_its_error() -> None:
    found = per_class(mixture(0, 110), mixture(1, 120), "fd_per_class", "fd_per_class_debiased")
    raw, debiased = found["fd_per_class"], found["fd_per_class_debiased"]
    assert debiased.stderr is not None and abs(debiased.value) < 4 * debiased.stderr
    assert abs(debiased.value) < raw.value / 3
    rows = debiased.details["classes"].values()
    assert debiased.stderr == pytest.approx(np.sqrt(sum(row["stderr"] ** 2 for row in rows)) / 4)
    assert per_class(mixture(0, 110), mixture(1, 120), "fd_per_class_debiased", stderr=False)[
        "fd_per_class_debiased"
    ].stderr is None  # fmt: skip


def test_small_classes_are_named_and_left_out() -> None:
    samples, reference = mixture(0, 20), mixture(1, 20)
    keep = np.flatnonzero((samples.labels != 2) | (np.arange(80) == 41))
    few = labelled(samples.collected[keep], samples.labels[keep])
    score = per_class(few, reference)["fd_per_class"]
    assert list(score.details["classes"]) == ["0", "1", "3"]
    assert any("1 classes have fewer than 2 images and are left out: 2" in note for note in score.notes)
    dropped = per_class(mixture(0, 20, left_out=(1,)), reference)["fd_per_class"]
    assert any("1 classes are in the reference only: 1" in note for note in dropped.notes)
    tiny = labelled(np.eye(4, 6), range(4), source="tiny")
    with pytest.raises(InputError, match="no class of tiny and set has them"):
        per_class(tiny, reference)


def test_a_debiased_mean_needs_enough_images() -> None:
    wide = [mixture(seed, 10, dim=64) for seed in (0, 1)]
    with pytest.raises(InputError, match="largest class has 10 images for 64 dimensions"):
        per_class(*wide, "fd_per_class_debiased")
    assert any("biased upward" in note for note in per_class(*wide)["fd_per_class"].notes)


# Classifiers


@pytest.mark.parametrize("score", [linear_accuracy, neighbour_accuracy])
def test_a_class_that_the_samples_lack_has_accuracy_0(score: Any) -> None:
    found = score(mixture(0, 30, left_out=(2,)), mixture(1, 25), context("cas"))
    rows = found.details["classes"]
    assert {key: row["accuracy"] for key, row in rows.items()} == {"0": 1.0, "1": 1.0, "2": 0.0, "3": 1.0}
    assert found.value == 0.75 and found.stderr == pytest.approx(np.sqrt(0.75 * 0.25 / 100))
    assert rows["2"] == {"accuracy": 0.0, "n": 0, "reference_n": 25}


def test_the_linear_classifier_is_the_minimum_that_scipy_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.metrics.feature_cas.CHUNK_ROWS", 7)
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 60)
    x = random.standard_normal((60, 4)) * [1, 5, 0.1, 1] + np.eye(3, 4)[labels]
    x[:, 3] = 2.5  # constant
    z = (x.astype(np.float32) - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)

    def loss(flat: np.ndarray) -> float:
        w = flat.reshape(5, 3)
        logits = z @ w[:4] + w[4]
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return L2 / 2 * (w[:4] ** 2).sum() - log_p[np.arange(60), labels].mean()

    best = scipy.optimize.minimize(loss, np.zeros(15), method="BFGS", options={"gtol": 1e-8}).x.reshape(5, 3)
    tests = random.standard_normal((500, 4)).astype(np.float32)
    zt = (tests - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    expected = (zt @ best[:4] + best[4]).argmax(1)
    found = linear_accuracy(labelled(x, labels), labelled(tests, expected), context("cas_linear"))
    assert found.value >= 0.996  # one or two of 500 may lie on a border


def test_the_vote_of_neighbours_is_that_of_numpy() -> None:
    random = np.random.default_rng(4)
    x, y = random.integers(0, 4, 50), random.integers(0, 4, 40)
    samples = random.standard_normal((50, 3)) + 0.5 * x[:, None]
    tests = random.standard_normal((40, 3)) + 0.5 * y[:, None]
    order = ((tests[:, None] - samples[None]) ** 2).sum(-1).argsort(1)[:, :K]
    right = 0
    for row, wanted in zip(x[order], y, strict=True):
        counts = np.bincount(row, minlength=4)
        right += next(c for c in row if counts[c] == counts.max()) == wanted
    found = neighbour_accuracy(labelled(samples, x), labelled(tests, y), context("cas_knn"))
    assert found.value == right / 40


@pytest.mark.parametrize("score", [linear_accuracy, neighbour_accuracy])
def test_one_class_is_no_task(score: Any) -> None:
    with pytest.raises(InputError, match="needs samples of at least two classes"):
        score(mixture(0, 30, left_out=(1, 2, 3)), mixture(1, 5), context("cas"))


def test_too_few_samples_to_vote() -> None:
    with pytest.raises(InputError, match="asks the 5 nearest samples, and there are 4"):
        neighbour_accuracy(labelled(np.eye(4), range(4)), mixture(1, 5, dim=4), context("cas_knn"))


def test_all_of_them_in_one_run(tmp_path: Path) -> None:
    names = "fd_per_class,fd_per_class_debiased,cas_linear,cas_knn"
    samples = npz(tmp_path / "s.npz", images(204, seed=1, side=8), arr_1=np.arange(204) % 2)
    real = npz(tmp_path / "r.npz", images(204, side=8), arr_1=np.arange(204) % 2)
    reports = [evaluate(samples, real, TinyEncoder(), names, batch_size=size) for size in (50, 64)]
    assert [r.metric for r in reports[0]] == names.split(",")
    assert "|l2:0.001|" in reports[0]["cas_linear"].signature and "|k:5|" in reports[0]["cas_knn"].signature
    for one, other in zip(*reports, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-5)
