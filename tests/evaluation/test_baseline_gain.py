"""The part of the gain over a baseline that is class frequencies: mixtures with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from test_class_audit import CENTRES, EQUAL, WRONG, mixture

from fdr.errors import InputError
from fdr.evaluation import ClassAudit, audit_classes
from fdr.evaluation.class_matching import ignoring_order

Set = tuple[dict[str, np.ndarray], np.ndarray]
N = 1200


def worse(found: Set, scale: float = 1.6) -> Set:
    """The same classes with wrong images: within its class, each lies further from the centre."""
    features, logits = found
    centres = CENTRES[logits.argmax(1)]
    seen = centres + scale * (features["seeing"] - centres)
    return {**features, "seeing": seen.astype(np.float32)}, logits


def audit(samples: Set, baseline: Set, reference: Set | None = None) -> ClassAudit:
    real = reference or mixture(EQUAL, N, 2)
    logits = samples[1], real[1], baseline[1]
    return audit_classes(samples[0], real[0], logits, baseline=baseline[0], top_n=2, steps=1)


def gain(samples: Set, baseline: Set, reference: Set | None = None):  # type: ignore[no-untyped-def]
    found = audit(samples, baseline, reference).baseline
    assert found is not None
    return found


def test_a_gain_by_class_frequencies_alone_is_all_class_frequencies() -> None:
    found = gain(mixture(EQUAL, N, 1), mixture(WRONG, N, 3))
    assert found.gain("seeing") > 5
    assert found.share("seeing") == pytest.approx(1, abs=0.04)
    assert found.left("seeing") == pytest.approx(0, abs=0.04 * found.gain("seeing"))


def test_a_gain_by_better_images_alone_is_no_class_frequencies() -> None:
    for shares in (EQUAL, WRONG):  # the frequencies of both sets are the same, right or wrong
        found = gain(mixture(shares, N, 1), worse(mixture(shares, N, 1), 2.5))
        assert found.gain("seeing") > 3 and not found.is_noise("seeing")
        assert found.share("seeing") == pytest.approx(0, abs=1e-9)
        assert found.left("seeing") == pytest.approx(found.gain("seeing"), rel=0.25)


def test_frequencies_that_differ_by_chance_hardly_count() -> None:
    found = gain(mixture(EQUAL, N, 1), worse(mixture(EQUAL, N, 3)))
    assert found.share("seeing") == pytest.approx(0, abs=0.05)
    assert found.left("seeing") == pytest.approx(found.gain("seeing"), rel=0.06)


def test_both_give_a_share_between_and_the_same_if_the_sets_are_exchanged() -> None:
    better, other = mixture(EQUAL, N, 1), worse(mixture(WRONG, N, 3))
    found, exchanged = gain(better, other), gain(other, better)
    assert 0.5 < found.share("seeing") < 0.97
    assert exchanged.share("seeing") == pytest.approx(found.share("seeing"), rel=1e-9)
    assert exchanged.gain("seeing") == pytest.approx(-found.gain("seeing"), rel=1e-9)
    assert "below that of the baseline" in next(found.sentences())
    assert "of the loss against the baseline is class frequencies" in next(exchanged.sentences())


def test_an_encoder_that_does_not_see_classes_gains_nothing_by_them() -> None:
    found = gain(mixture(EQUAL, N, 1), mixture(WRONG, N, 3))
    assert abs(found.forward.gain("blind")) < 0.05 * abs(found.gain("blind"))
    assert "blind (held out): FD" in list(found.sentences())[1]


def test_a_difference_within_its_noise_is_not_divided() -> None:
    found = gain(mixture(EQUAL, N, 1), mixture(EQUAL, N, 3))
    assert found.is_noise("seeing") and found.share("seeing") is None and found.shares("seeing") is None
    assert "which is within the noise" in next(found.sentences())


def test_the_classes_of_each_set_become_those_of_the_other() -> None:
    samples, baseline = mixture(EQUAL, N, 1), mixture(WRONG, N, 3)
    found = gain(samples, baseline)
    own, other = samples[1].argmax(1), baseline[1].argmax(1)
    for one, classes, wanted in ((found.forward, other, own), (found.backward, own, other)):
        assert np.bincount(classes, one.weights) == pytest.approx(np.bincount(wanted), rel=1e-12)
    real = mixture(EQUAL, N, 2)[1].argmax(1)
    for one, classes in zip(found.matched, (own, other), strict=True):
        assert np.bincount(classes, one.weights) == pytest.approx(np.bincount(real), rel=1e-12)


def test_classes_that_one_of_the_sets_lacks_are_said() -> None:
    five = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0])
    samples, baseline = mixture(EQUAL, N, 1), mixture(five, N, 3)
    found = gain(samples, baseline)
    share = np.mean(samples[1].argmax(1) == 5)
    assert (
        f"{share:.1%} of the samples are in classes of which the baseline has no image" in list(found.sentences())[-1]
    )
    backward = list(gain(baseline, samples).sentences())[-1]
    assert f"{share:.1%} of the baseline are in classes of which the samples have no image" in backward


def test_json_has_the_numbers_and_the_sentences() -> None:
    whole = audit(mixture(EQUAL, N, 1), mixture(WRONG, N, 3))
    found, data = whole.baseline, whole.to_dict()
    assert found is not None
    seeing = data["baseline"]["encoders"]["seeing"]
    assert seeing["share_of_gain"] == found.share("seeing") and seeing["left"] == found.left("seeing")
    assert seeing["gain"] == seeing["fd"] - data["fd"]["seeing"] and seeing["stderr"] > 0
    assert [one["name"] for one in data["baseline"]["weightings"]] == [
        "baseline with the classes of the samples",
        "samples with the classes of the baseline",
        "samples with the classes of the reference",
        "baseline with the classes of the reference",
    ]
    assert data["baseline"]["weightings"][2]["fd"] == data["matchings"][0]["fd"]
    assert data["sentences"][-2:] == list(found.sentences())
    assert "baseline" not in audit_classes(*two(mixture(EQUAL, 60, 1)), top_n=2, steps=1).to_dict()


def two(found: Set) -> tuple:
    return found[0], found[0], (found[1], found[1])


def test_the_control_keeps_the_classes_and_every_weight() -> None:
    classes = np.random.default_rng(0).choice(4, 4000, p=[0.6, 0.3, 0.09, 0.01])
    weights = np.random.default_rng(1).exponential(size=4000)
    found = ignoring_order(weights, classes)
    assert np.sort(found) == pytest.approx(np.sort(weights))
    means = np.bincount(classes, found) / np.bincount(classes)
    assert means[:3] == pytest.approx(weights.mean(), rel=0.03) and means[3] == pytest.approx(weights.mean(), rel=0.2)
    assert abs(np.corrcoef(found, weights)[0, 1]) < 0.05


def test_bad_input_is_one_sentence() -> None:
    samples, baseline, real = mixture(EQUAL, 60, 1), mixture(WRONG, 60, 3), mixture(EQUAL, 60, 2)
    few = {name: rows[:50] for name, rows in baseline[0].items()}, baseline[1][:50]
    apart = {name: rows[:30] for name, rows in baseline[0].items()}, np.eye(6)[np.zeros(30, int)]
    lone = {name: rows[:30] for name, rows in samples[0].items()}, np.eye(6)[np.ones(30, int)]
    for first, second, sentence in (
        (samples, few, r"There are 60 samples and 50 images of the baseline, .* \(count=50\)"),
        (samples, ({"seeing": baseline[0]["seeing"]}, baseline[1]), "and the baseline of seeing; both need the same"),
        (samples, (baseline[0], baseline[1][:, :-1]), "and the baseline of 5; both need the same classifier"),
        (samples, (baseline[0], baseline[1][:-1]), "The set 'baseline' has 60 rows"),
        (lone, apart, "The baseline and the samples share no predicted class"),
    ):
        with pytest.raises(InputError, match=sentence):
            audit(first, second, real)
    with pytest.raises(InputError, match="3 sets of images need as many arrays of logits; got 2"):
        audit_classes(samples[0], real[0], (samples[1], real[1]), baseline=baseline[0], top_n=2)
