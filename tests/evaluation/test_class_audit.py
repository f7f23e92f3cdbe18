"""FD and class frequencies: mixtures whose classes are known (Kynkäänniemi et al. 2023)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fdr.errors import InputError
from fdr.evaluation import ClassAudit, audit_classes
from fdr.evaluation.class_matching import distances_by_weights
from fdr.frechet import Moments, frechet_distance

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
K, D = 6, 8
CENTRES = np.random.default_rng(5).normal(size=(K, D)) * 3


def mixture(shares: np.ndarray, count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of an encoder that sees classes and of one that does not, and logits."""
    draw = np.random.default_rng(seed)
    classes = draw.choice(K, count, p=shares)
    seen = CENTRES[classes] + draw.normal(size=(len(classes), D))
    logits = 8 * np.eye(K)[classes] + draw.normal(size=(len(classes), K))
    blind = draw.normal(size=(len(classes), D)) + 0.3 * (seed == 1)
    return {"seeing": seen.astype(np.float32), "blind": blind.astype(np.float32)}, logits


EQUAL = np.full(K, 1 / K)
WRONG = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.05])


def audit(shares: np.ndarray, steps: int = 60) -> ClassAudit:
    (samples, own), (reference, other) = mixture(shares, 1200, 1), mixture(EQUAL, 1200, 2)
    return audit_classes(samples, reference, (own, other), top_n=2, steps=steps)


@pytest.fixture(scope="module")
def wrong() -> ClassAudit:
    return audit(WRONG)


@pytest.fixture(scope="module")
def right() -> ClassAudit:
    return audit(EQUAL)


def test_matching_classes_takes_fd_to_the_noise_floor(wrong: ClassAudit) -> None:
    floor = wrong.noise_floor
    assert floor == pytest.approx(0.18, abs=0.04)
    assert wrong.fd["seeing"] > 40 * floor
    assert wrong["top-1"].fd["seeing"] < 1.5 * floor
    assert wrong["optimised"].fd["seeing"] <= floor and wrong["optimised"].steps < 60
    assert wrong.share() == pytest.approx(1, abs=0.02)


def test_without_a_fault_there_is_nothing_to_win(right: ClassAudit) -> None:
    assert right.fd["seeing"] < right.noise_floor
    assert right.share() is None and right["optimised"].steps == 0
    assert (right["optimised"].weights == 1).all()
    assert "leaves nothing that weights could win" in list(right.sentences())[1]


def test_the_page_has_these_numbers(wrong: ClassAudit) -> None:
    rows = re.findall(r"^\| (none|`[\w-]+`) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), flags=re.MULTILINE)
    found = {"none": wrong.fd, **{f"`{one.name}`": one.fd for one in wrong.matchings}}
    assert [name for name, *_ in rows] == list(found)
    for name, *values in rows:
        shown = [found[name][encoder] for encoder in ("seeing", "blind")]
        assert list(map(float, values)) == pytest.approx(shown, rel=5e-3)


def test_an_encoder_that_does_not_see_classes_does_not_improve(wrong: ClassAudit) -> None:
    before = wrong.fd["blind"]
    for one in wrong.matchings:
        assert one.fd["blind"] > 0.9 * before
        assert one.control["blind"] > 0.9 * before


def test_weights_in_a_random_order_win_nothing(wrong: ClassAudit) -> None:
    for one in wrong.matchings:
        assert one.control["seeing"] > 0.85 * wrong.fd["seeing"]


def test_samples_with_the_right_classes_gain_nothing_by_top1_matching(right: ClassAudit) -> None:
    assert right.histograms.distance < 0.03
    assert right["top-1"].fd["seeing"] == pytest.approx(right.fd["seeing"], rel=0.1)


def test_the_weighted_histogram_is_that_of_the_reference(wrong: ClassAudit) -> None:
    _, logits = mixture(WRONG, 1200, 1)
    _, other = mixture(EQUAL, 1200, 2)
    weighted = np.bincount(logits.argmax(1), weights=wrong["top-1"].weights, minlength=K)
    assert weighted / weighted.sum() == pytest.approx(np.bincount(other.argmax(1), minlength=K) / len(other), rel=1e-12)
    for one in wrong.matchings:
        assert one.weights.mean() == pytest.approx(1, rel=1e-12)
    assert wrong["top-1"].effective_count < 1200


def test_top_n_matching_gives_the_top_n_classes_the_frequencies_of_the_reference(wrong: ClassAudit) -> None:
    (_, logits), (_, other) = mixture(WRONG, 1200, 1), mixture(EQUAL, 1200, 2)
    own, wanted = (np.argsort(-one, axis=1)[:, :2] for one in (logits, other))
    weights = np.repeat(wrong["top-2"].weights, 2)
    found = np.bincount(own.ravel(), weights=weights, minlength=K) / 1200
    assert found == pytest.approx(np.bincount(wanted.ravel(), minlength=K) / 1200, abs=5e-3)
    assert wrong["top-2"].fd["seeing"] < 0.5 * wrong.fd["seeing"]
    assert wrong["top-2"].steps > 0 and wrong["top-1"].steps == 0


def test_a_class_without_samples_is_reported_and_spread_over_the_others() -> None:
    found = audit(np.array([0.4, 0.3, 0.1, 0.1, 0.1, 0.0]), steps=2)
    assert found.histograms.missing.tolist() == [5]
    assert found.histograms.missing_share == pytest.approx(1 / 6, abs=0.04)
    assert found["top-1"].weights.mean() == pytest.approx(1, rel=1e-12)
    share = f"{found.histograms.missing_share:.1%} of the reference"
    assert f"1 class has no sample and {share}" in next(iter(found.sentences()))


def test_the_sentences_give_the_share_and_the_held_out_change(wrong: ClassAudit) -> None:
    histograms, gain, held_out = wrong.sentences()
    assert "of the samples would need another class" in histograms
    assert "of this gain is class frequencies" in gain and gain.startswith("seeing:")
    assert held_out.startswith("blind (held out):") and "Top-1 matching by" in held_out
    data = wrong.to_dict()
    assert data["matchings"][0]["share_of_gain"] == wrong.share()
    assert wrong.gain("top-1", "blind") == wrong["top-1"].control["blind"] - wrong["top-1"].fd["blind"]


def test_fd_under_weights_keeps_its_digits_where_most_features_hardly_vary() -> None:
    """Equal weights give FD itself, with fewer images than features and variances that fall by 1e10."""
    scales = 10.0 ** np.linspace(0, -5, 60)
    rows, other = (np.random.default_rng(seed).normal(size=(50, 60)) * scales for seed in (1, 2))
    target = Moments.from_features(other)
    (found,) = (of(np.ones(50)) for of in distances_by_weights({"one": rows}, {"one": target}).values())
    assert found == pytest.approx(frechet_distance(Moments.from_features(rows), target), rel=1e-7)


def test_the_number_of_iterations_is_a_limit() -> None:
    assert audit(WRONG, steps=2)["optimised"].steps == 2


def test_bad_input_is_one_sentence() -> None:
    samples, logits = mixture(WRONG, 60, 1)
    for given, own, sentence in (
        ({"seeing": samples["seeing"]}, logits, "both need the same encoders"),
        (samples["seeing"], logits, "must be a dict of features"),
        (samples, logits[:-1], "each image needs a row in both"),
        (samples, logits[:, :-1], "both need the same classifier"),
        (samples, np.full_like(logits, np.nan), "must be finite numbers"),
    ):
        with pytest.raises(InputError, match=sentence):
            audit_classes(given, samples, (own, logits), top_n=2)
    with pytest.raises(InputError, match=r"N must be between 2 and 5 \(--top-n"):
        audit_classes(samples, samples, (logits, logits), top_n=6)
    with pytest.raises(InputError, match="has 2 classes; an audit of classes needs at least 3"):
        audit_classes(samples, samples, (logits[:, :2], logits[:, :2]), top_n=2)
    apart = np.eye(K)[np.zeros(60, int)], np.eye(K)[np.ones(60, int)]
    with pytest.raises(InputError, match="share no predicted class"):
        audit_classes(samples, samples, apart, top_n=2, steps=1)
