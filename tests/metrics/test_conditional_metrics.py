"""Conditional and joint FD and class accuracy as metrics, on features; the files are in cli/test_class_references."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fdr.errors import InputError
from fdr.frechet import LabelledMoments, Moments, frechet_distance, joint_features, label_code, label_scale
from fdr.metrics import Context, Labelled, Score
from fdr.metrics.class_accuracy import class_accuracy, linear_class_accuracy
from fdr.metrics.conditional_fd import DEBIASED_CONDITIONAL, conditional_score, debiased_conditional_score, joint_score

NAMES = ("ant", "bee", "cat")


def labelled(features: Any, labels: Any, names: tuple[str, ...] | None = None, source: str = "set") -> Labelled:
    return Labelled(np.asarray(features, np.float32), np.asarray(labels, np.int64), names, source)


def mixture(seed: int, per_class: int = 30, shift: float = 0.0, dim: int = 4, num_classes: int = 3) -> Labelled:
    """Classes around corners, in random order."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(num_classes), per_class))
    centres = 3 * np.eye(num_classes, dim) + shift
    return labelled(centres[labels] + random.standard_normal((len(labels), dim)), labels)


def conditional(samples: Labelled, reference: Any, **more: Any) -> Score:
    return conditional_score(samples, reference, Context(names=("fd_conditional",), **more))


def joint(samples: Labelled, reference: Any, **more: Any) -> Score:
    return joint_score(samples, reference, Context(names=("fd_joint",), **more))


def stored(reference: Labelled) -> Moments:
    """What a file holds of labelled features."""
    side = LabelledMoments.from_features(reference.collected, reference.labels, reference.class_names)
    return replace(side.total, rows=None, classes=side.classes)


# The numbers


def test_the_parts_of_the_conditional_fd_are_in_the_details() -> None:
    score = conditional(mixture(0, shift=0.5), mixture(1))
    details = score.details
    assert score.value == details["between"] + details["within"] and score.stderr is not None
    rows = details["classes"]
    assert list(rows) == ["0", "1", "2"] and all(row["n"] == row["reference_n"] == 30 for row in rows.values())
    assert sum(row["mean_term"] for row in rows.values()) / 3 == pytest.approx(details["between"])
    assert details["worst"] == sorted(rows, key=lambda name: -rows[name]["mean_term"])
    assert all(0.5 < row["spread"] < 2 and row["stderr"] > 0 for row in rows.values())
    json.dumps(dict(details), allow_nan=False)
    assert conditional(mixture(0), mixture(1), stderr=False).stderr is None


def test_permuted_labels_leave_fd_and_raise_both() -> None:
    samples, reference = mixture(0), mixture(1)
    wrong = replace(samples, labels=(samples.labels + 1) % 3)
    assert conditional(wrong, reference).value > conditional(samples, reference).value + 10
    right, moved = joint(samples, reference), joint(wrong, reference)
    assert moved.details["fd"] == right.details["fd"]
    assert moved.value > right.value + 1
    assert moved.details["from_labels"] == pytest.approx(moved.value - moved.details["fd"])


def test_the_joint_fd_is_the_fd_of_features_beside_codes() -> None:
    samples, reference = mixture(0, shift=0.3), mixture(1)
    scale = label_scale(LabelledMoments.from_features(reference.collected, reference.labels))
    sides = [
        joint_features(side.collected.astype(float), scale * label_code(3)[side.labels])
        for side in (samples, reference)
    ]
    found = joint(samples, reference)
    assert found.value == pytest.approx(frechet_distance(*sides), rel=1e-9) and found.stderr is not None
    assert found.details["scale"] == scale and found.details["label_shares"] == pytest.approx(0, abs=1e-12)
    assert joint(samples, reference, stderr=False).stderr is None
    fewer = np.flatnonzero(samples.labels > 0)
    lopsided = joint(labelled(samples.collected[fewer], samples.labels[fewer]), reference)
    assert lopsided.details["label_shares"] == pytest.approx(scale**2 / 6)


def test_collapsed_classes_have_a_small_spread() -> None:
    samples = mixture(0)
    centres = 3 * np.eye(3, 4)[samples.labels]
    collapsed = labelled(centres + 0.1 * (samples.collected - centres), samples.labels)
    details = conditional(collapsed, mixture(1)).details
    assert details["spread"] == pytest.approx(0.01, rel=0.3)
    assert all(row["spread"] < 0.02 for row in details["classes"].values())


@pytest.mark.parametrize("score", [conditional, joint])
def test_statistics_of_classes_give_the_numbers_of_their_features(score: Any) -> None:
    samples = replace(mixture(0, shift=0.3), class_names=NAMES)
    reference = replace(mixture(1), class_names=NAMES)
    assert score(samples, stored(reference)).value == pytest.approx(score(samples, reference).value, rel=1e-9)
    assert score(samples, stored(reference)).stderr < score(samples, reference).stderr


def test_classes_without_names_match_statistics_by_number() -> None:
    samples, reference = mixture(0), mixture(1)
    named = conditional(replace(samples, class_names=NAMES), stored(reference))
    assert named.value == conditional(samples, stored(reference)).value
    assert any("matched by number" in note for note in named.notes)


def test_classes_that_are_left_out_are_named() -> None:
    samples, reference = mixture(0), mixture(1)
    few = np.flatnonzero(samples.labels != 2)[:]
    with_one = np.append(few, np.flatnonzero(samples.labels == 2)[0])
    notes = conditional(labelled(samples.collected[with_one], samples.labels[with_one]), reference).notes
    assert any("1 classes have fewer than 2 images on one side and are left out: 2" in note for note in notes)
    notes = conditional(labelled(samples.collected[few], samples.labels[few]), reference).notes
    assert any("1 classes are in the reference only: 2" in note for note in notes)
    assert any("over all its classes" in note for note in notes)
    wide = conditional(mixture(0, per_class=5, dim=20), mixture(1, per_class=5, dim=20))
    assert sum("biased upward" in note for note in wide.notes) == 2


def test_what_has_no_conditional_fd_is_refused_in_a_sentence() -> None:
    samples, reference = mixture(0), mixture(1)
    kept = np.flatnonzero(reference.labels != 2)
    smaller = labelled(reference.collected[kept], reference.labels[kept])
    with pytest.raises(InputError, match="1 classes that the reference lacks"):
        conditional(samples, smaller)
    with pytest.raises(InputError, match=r"1 classes that the reference lacks \(2\)"):
        joint(samples, smaller)
    one_each = labelled(samples.collected[:3], [0, 1, 2])
    with pytest.raises(InputError, match="No class has two samples and two reference images"):
        conditional(one_each, reference)


def test_the_debiased_one_leaves_the_class_means_as_they_are() -> None:
    samples, reference = mixture(0), mixture(1)
    context = Context(names=("fd_conditional_debiased",))
    score, plain = debiased_conditional_score(samples, reference, context), conditional(samples, reference)
    assert score.details["between"] == plain.details["between"] and score.stderr == plain.stderr
    assert score.details["within"] < plain.details["within"]
    settings = DEBIASED_CONDITIONAL.reference_settings
    assert settings is not None and settings(None) == {"rb": "features"}
    assert settings(stored(reference))["rb"] == "gaussian-90" and "lab" in settings(stored(reference))


# Class accuracy


def test_class_accuracy_is_the_share_of_largest_logits() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    score = class_accuracy(labelled(logits, [0, 1, 2, 2], NAMES), None, Context(names=("class_accuracy",)))
    assert score.value == 0.75 and score.stderr == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert score.details["classes"] == {
        "ant": {"accuracy": 1.0, "n": 1}, "bee": {"accuracy": 1.0, "n": 1}, "cat": {"accuracy": 0.5, "n": 2}
    }  # fmt: skip
    with pytest.raises(InputError, match="needs a classifier of the 2 classes of set, in their order"):
        class_accuracy(labelled(logits, [0, 1, 1, 0]), None, Context(names=("class_accuracy",)))


def test_the_linear_classifier_sees_wrong_labels() -> None:
    samples, reference = mixture(0, per_class=8), mixture(1, per_class=8)
    context = Context(names=("class_accuracy_linear",))
    right = linear_class_accuracy(samples, reference, context)
    assert right.value > 0.8 and right.details["classes"]["1"]["n"] == 8
    wrong = replace(samples, labels=(samples.labels + 1) % 3)
    assert linear_class_accuracy(wrong, reference, context).value < 0.1
    alone = labelled(reference.collected, reference.labels * 0)
    with pytest.raises(InputError, match="a reference of at least two classes"):
        linear_class_accuracy(labelled(samples.collected, samples.labels * 0), alone, context)
