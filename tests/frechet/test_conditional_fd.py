"""Conditional and joint FD against closed forms, their limits, and direct NumPy and SciPy computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fdr.errors import InputError
from fdr.frechet import (
    LabelledMoments,
    Moments,
    conditional_frechet_distance,
    embedding_scale,
    frechet_distance,
    joint_features,
    joint_moments,
    label_code,
    label_scale,
    leverage_curve,
    shrinkage_of,
)

DIM, CLASSES = 5, 4


def _draw(seed, count=400, classes=CLASSES, dim=DIM, gap=1.0, shift=0.0):
    """Features of classes with own means, whose covariance is the same, and their labels."""
    rng = np.random.default_rng(seed)
    means = gap * np.random.default_rng(7).normal(size=(classes, dim))
    mixing = np.random.default_rng(8).normal(size=(dim, dim)) / dim**0.5
    labels = rng.permutation(np.arange(count) % classes)
    return means[labels] + shift + rng.normal(size=(count, dim)) @ mixing, labels


def _side(seed, **options):
    return LabelledMoments.from_features(*_draw(seed, **options))


def _bures(a, b):
    """The covariance term of FD by SciPy's matrix root."""
    return float(np.trace(a + b) - 2 * np.trace(sqrtm(a @ b).real))


def _oracle(q, labels_q, p, labels_p):
    """FD_c by definition, in NumPy: shares and weights of the reference."""
    classes, counts = np.unique(labels_p, return_counts=True)
    between, own, other = 0.0, 0.0, 0.0
    for c, n in zip(classes, counts, strict=True):
        z, x = q[labels_q == c], p[labels_p == c]
        noise = np.trace(np.cov(z.T)) / len(z) + np.trace(np.cov(x.T)) / len(x)
        between += n / len(p) * (np.sum((z.mean(0) - x.mean(0)) ** 2) - noise)
        weight = (n - 1) / (len(p) - len(classes))
        own, other = own + weight * np.cov(z.T), other + weight * np.cov(x.T)
    return between, _bures(own, other)


def test_agrees_with_the_definition_also_when_shares_differ():
    """Tolerance 1e-9: SciPy's matrix root."""
    q, labels_q = _draw(1, 301)
    p, labels_p = _draw(2, 403)
    keep = np.random.default_rng(3).random(403) < np.array([1.0, 0.5, 0.8, 0.3])[labels_p]
    p, labels_p = p[keep], labels_p[keep]
    found = conditional_frechet_distance(
        LabelledMoments.from_features(q, labels_q), LabelledMoments.from_features(p, labels_p)
    )
    between, within = _oracle(q, labels_q, p, labels_p)
    np.testing.assert_allclose([found.between, found.within], [between, within], rtol=1e-9)
    assert found.value == found.between + found.within


def test_one_class_is_fd_with_the_noise_of_the_means_removed():
    (q, _), (p, _) = _draw(1), _draw(2, shift=0.3)
    sides = [LabelledMoments.from_features(z, np.zeros(len(z), int)) for z in (q, p)]
    found = conditional_frechet_distance(*sides)
    assert found.value + found.noise == pytest.approx(frechet_distance(q, p), rel=1e-10)


def test_equal_distributions_have_a_between_part_of_zero_on_average():
    """25 images a class: without the correction the part would be 2 tr S / 25, and its mean is now within 3 errors."""
    found = [conditional_frechet_distance(_side(s, count=100), _side(s + 500, count=100)) for s in range(100)]
    parts, noise = np.array([f.between for f in found]), np.mean([f.noise for f in found])
    assert abs(parts.mean()) < 3 * parts.std() / 100**0.5
    assert parts.std() / 100**0.5 < noise / 15


@pytest.mark.parametrize(("shift", "most"), [(0.0, 1.45), (0.5, 1.2)])
def test_the_standard_errors_are_those_of_repeated_draws(shift, most):
    """Within 20 % over 100 draws, whose own error is 7 %. Where the distance is 0 that of one class is up to 45 % too
    large, as the larger of two noisy variances is.
    """
    found = [
        conditional_frechet_distance(_side(s, count=120, shift=shift), _side(s + 500, count=120)) for s in range(100)
    ]
    assert np.std([f.value for f in found]) == pytest.approx(np.mean([f.stderr for f in found]), rel=0.2)
    spread = np.std([f.mean_terms for f in found], axis=0).mean()
    assert 0.8 * spread < np.mean([f.mean_stderrs for f in found]) < most * spread


@pytest.mark.parametrize("has_features", [True, False])
def test_without_its_bias_the_conditional_fd_is_zero_between_equal_distributions(has_features):
    """15 images a class for 10 dimensions: the mean over 60 draws within 3 of its errors, and under 7 % of the bias."""
    found, raw = [], []
    for seed in range(60):
        samples, reference = (_side(s, count=120, classes=8, dim=10) for s in (seed, seed + 500))
        if not has_features:
            total = replace(reference.total, rows=None, curve=leverage_curve(reference.total))
            reference = LabelledMoments(total, reference.classes)
        found.append(conditional_frechet_distance(samples, reference, debiased=True, stderr=False))
        raw.append(conditional_frechet_distance(samples, reference, stderr=False))
    within, biased = (np.array([f.within for f in side]) for side in (found, raw))
    assert abs(within.mean()) < 0.07 * biased.mean()
    if has_features:
        assert abs(within.mean()) < 3 * within.std() / 60**0.5
    assert [f.between for f in found] == [f.between for f in raw]
    spread = np.std([f.value for f in found])
    stated = conditional_frechet_distance(
        _side(1, count=120, classes=8, dim=10), _side(2, count=120, classes=8, dim=10)
    )
    assert stated.stderr == pytest.approx(spread, rel=0.4)


def test_too_few_images_for_the_debiased_conditional_fd():
    with pytest.raises(InputError, match="in 40 dimensions: it needs 44"):
        conditional_frechet_distance(_side(1, count=40, dim=40), _side(2, count=40, dim=40), debiased=True)


def test_permuted_labels_leave_fd_and_raise_the_conditional_fd():
    (q, labels), reference = _draw(1), _side(2)
    right = conditional_frechet_distance(LabelledMoments.from_features(q, labels), reference)
    wrong = conditional_frechet_distance(LabelledMoments.from_features(q, (labels + 1) % CLASSES), reference)
    assert wrong.value > 10 * abs(right.value) and wrong.within == pytest.approx(right.within)
    shuffled = LabelledMoments.from_features(q, np.random.default_rng(0).permutation(labels))
    random = conditional_frechet_distance(shuffled, reference)
    assert random.value > 10 * abs(right.value) and random.spread > 1.3
    assert right.spread == pytest.approx(1, abs=0.15)


def test_rotations_and_renamed_classes_change_nothing():
    (q, labels_q), (p, labels_p) = _draw(1, shift=0.2), _draw(2)
    before = conditional_frechet_distance(*map(LabelledMoments.from_features, (q, p), (labels_q, labels_p)))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
    order = np.array([2, 0, 3, 1])
    sides = [LabelledMoments.from_features(z @ rotation + 3.0, order[c]) for z, c in ((q, labels_q), (p, labels_p))]
    after = conditional_frechet_distance(*sides)
    for field in ("value", "between", "within", "stderr", "whitened", "spread"):
        assert getattr(after, field) == pytest.approx(getattr(before, field), rel=1e-9), field


def test_the_whitened_part_does_not_depend_on_the_scale_of_features():
    (q, labels_q), (p, labels_p) = _draw(1, shift=0.2), _draw(2)
    scales = np.array([1.0, 1000.0])
    found = [
        conditional_frechet_distance(
            LabelledMoments.from_features(q * s, labels_q), LabelledMoments.from_features(p * s, labels_p)
        ).whitened
        for s in scales
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    expected = 0.0
    pooled = sum((n := np.sum(labels_p == c)) and (n - 1) * np.cov(p[labels_p == c].T) for c in range(CLASSES))
    pooled = pooled / (len(p) - CLASSES)
    rho = _oas(pooled, len(p) - CLASSES)
    inverse = np.linalg.inv((1 - rho) * pooled + rho * np.trace(pooled) / DIM * np.eye(DIM))
    for c in range(CLASSES):
        gap = q[labels_q == c].mean(0) - p[labels_p == c].mean(0)
        noise = [np.trace(inverse @ np.cov(z[k == c].T)) / np.sum(k == c) for z, k in ((q, labels_q), (p, labels_p))]
        expected += (gap @ inverse @ gap - sum(noise)) / CLASSES
    assert found[0] == pytest.approx(expected, rel=0.06)  # the noise is that of the pooled covariance


def test_the_whitened_part_is_zero_on_average_between_equal_distributions():
    """Also with few features for their width: 15 a class, 56 degrees of freedom for 20 dimensions."""
    found = [
        conditional_frechet_distance(_side(s, count=60, dim=20), _side(s + 500, count=60, dim=20), stderr=False)
        for s in range(100)
    ]
    parts = np.array([f.whitened for f in found])
    assert abs(parts.mean()) < 3 * parts.std() / 100**0.5 < 0.3


def _oas(covariance, n):
    """The formula of scikit-learn's `oas`."""
    alpha, mu = np.mean(covariance**2), np.trace(covariance) / len(covariance)
    return min(1.0, (alpha + mu**2) / ((n + 1) * (alpha - mu**2 / len(covariance))))


def test_the_shrinkage_is_that_of_oas():
    covariance = np.cov(np.random.default_rng(0).normal(size=(20, 8)) * np.arange(1, 9), rowvar=False)
    assert shrinkage_of(covariance, 19) == pytest.approx(_oas(covariance, 19), rel=1e-12)
    assert shrinkage_of(np.eye(3), 10) == 1.0


def test_a_reference_without_features_gives_the_same_number():
    reference, samples = _side(2), _side(1, shift=0.1)
    stored = LabelledMoments(replace(reference.total, rows=None), reference.classes)
    a, b = (conditional_frechet_distance(samples, side) for side in (reference, stored))
    assert b.value == pytest.approx(a.value, rel=1e-10)
    assert b.whitened == pytest.approx(a.whitened, rel=1e-10)
    assert b.stderr < a.stderr  # it contains the noise of the samples alone


def test_classes_that_one_side_lacks():
    q, labels = _draw(1)
    reference = _side(2)
    kept = labels != 3
    found = conditional_frechet_distance(LabelledMoments.from_features(q[kept], labels[kept]), reference)
    assert found.left_out == ("3",) and found.names == ("0", "1", "2") and found.shares.sum() == 1
    with pytest.raises(InputError, match="classes that the reference lacks"):
        conditional_frechet_distance(reference, LabelledMoments.from_features(q[kept], labels[kept]))
    with pytest.raises(InputError, match="more images"):
        conditional_frechet_distance(LabelledMoments.from_features(q[:2], np.array([0, 1])), reference)


def test_the_joint_moments_are_those_of_features_beside_codes():
    q, labels = _draw(1)
    side = LabelledMoments.from_features(q, labels)
    code = 2.5 * label_code(CLASSES)
    expected = Moments.from_features(joint_features(q, code[labels]))
    found = joint_moments(side, side.classes.names, 2.5)
    np.testing.assert_allclose(found.sigma, expected.sigma, atol=1e-12)
    np.testing.assert_allclose(found.mu, expected.mu, atol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_codes_are_one_hot_codes_without_the_constant_direction(num_classes):
    code = label_code(num_classes)
    assert code.shape == (num_classes, num_classes - 1)
    np.testing.assert_allclose(code @ code.T, np.eye(num_classes) - 1 / num_classes, atol=1e-14)


def test_the_joint_fd_goes_from_fd_to_the_conditional_fd():
    """With equal shares: FD at scale 0, growing, and FD_c with plug-in means as the scale grows (here to 1e-4)."""
    samples, reference = _side(1, shift=0.2), _side(2)
    names = reference.classes.names

    def joint(scale):
        return frechet_distance(*(joint_moments(side, names, scale) for side in (samples, reference)))

    values = [joint(scale) for scale in (1e-4, 0.3, 1.0, 3.0, 300.0)]
    assert values[0] == pytest.approx(frechet_distance(samples.total, reference.total), rel=1e-6)
    assert (np.diff(values) > -1e-9).all()
    found = conditional_frechet_distance(samples, reference)
    n = samples.classes.total  # the joint covariance is divided by N - 1 throughout
    common = np.sum((samples.total.mu - reference.total.mu) ** 2)
    between = common + (found.between + found.noise - common) * n / (n - 1)
    assert values[-1] == pytest.approx(between + found.within * (n - CLASSES) / (n - 1), rel=1e-4)


def test_the_joint_fd_differs_from_fd_exactly_where_the_cross_covariance_differs():
    q, labels = _draw(1)
    side = LabelledMoments.from_features(q, labels)
    names, scale = side.classes.names, label_scale(side)
    same, other = (LabelledMoments.from_features(q, c) for c in (labels, (labels + 1) % CLASSES))
    assert frechet_distance(joint_moments(same, names, scale), joint_moments(side, names, scale)) == 0
    assert frechet_distance(joint_moments(other, names, scale), joint_moments(side, names, scale)) > 0.1


def test_the_label_varies_as_much_as_the_features():
    side = _side(1)
    joint = joint_moments(side, side.classes.names, label_scale(side))
    n = side.classes.total
    assert joint.sigma[DIM:, DIM:].trace() * (n - 1) / n == pytest.approx(side.total.sigma.trace(), rel=1e-12)
    embeddings = np.random.default_rng(0).normal(size=(n, 3))
    scale = embedding_scale(side.total, Moments.from_features(embeddings))
    both = Moments.from_features(joint_features(_draw(1)[0], scale * embeddings)).sigma
    assert both[DIM:, DIM:].trace() == pytest.approx(both[:DIM, :DIM].trace(), rel=1e-12)


def test_joint_features_keep_gradients():
    torch = pytest.importorskip("torch")
    z = torch.zeros(3, 2, requires_grad=True)
    joint_features(z, label_code(3)).sum().backward()
    assert z.grad.tolist() == [[1.0, 1.0]] * 3


def test_bad_input_is_refused_in_a_sentence():
    q, labels = _draw(1)
    with pytest.raises(InputError, match="and N whole numbers"):
        LabelledMoments.from_features(q, labels[:-1])
    with pytest.raises(InputError, match="2 names were given"):
        LabelledMoments.from_features(q, labels, ["a", "b"])
    with pytest.raises(InputError, match="one class"):
        label_scale(LabelledMoments.from_features(q, labels * 0))
    with pytest.raises(InputError, match="width"):
        conditional_frechet_distance(_side(1), _side(2, dim=4))
