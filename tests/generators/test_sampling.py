"""Noise and labels of sample i depend on (seed, i) alone."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdr.errors import InputError
from fdr.generators import NEIGHBOUR, labels_of, noise_of, uniform_of
from fdr.generators.labels import check_labels


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**63),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=6),
    st.sampled_from([(1,), (5,), (3, 4, 4), (7, 3)]),
)
def test_a_sample_is_the_same_in_every_batch(seed, indices, shape):
    together = noise_of(seed, indices, shape)
    assert together.shape == (len(indices), *shape) and together.dtype == torch.float32
    for row, index in zip(together, indices, strict=True):
        assert torch.equal(row, noise_of(seed, [index], shape)[0])
    labels = labels_of("random", seed, indices, 10)
    assert labels.tolist() == [labels_of("random", seed, [index], 10).item() for index in indices]


def test_another_seed_or_sample_is_another_noise():
    drawn = torch.cat([noise_of(seed, range(50), (4,)) for seed in (0, 1, 2**32, 2**64)])
    assert len({tuple(row) for row in drawn.tolist()}) == 200


def test_the_noise_is_normal():
    noise = noise_of(1, range(100), (3, 32, 32)).double()
    count = noise.numel()
    moments = [float((noise**power).mean()) for power in (1, 2, 3, 4)]
    errors = [math.sqrt(v / count) for v in (1, 2, 15, 96)]  # standard errors under the normal distribution
    for found, expected, error in zip(moments, (0, 1, 0, 3), errors, strict=True):
        assert abs(found - expected) < 4 * error
    ranks = torch.special.ndtr(noise.flatten()).sort().values
    steps = torch.arange(1, count + 1, dtype=torch.float64) / count
    assert float((ranks - steps).abs().max()) < 1.95 / math.sqrt(count)  # Kolmogorov and Smirnov, p = 0.001
    pairs = np.corrcoef(noise.flatten(1).numpy())
    assert np.abs(pairs - np.eye(100)).max() < 5 / math.sqrt(3 * 32 * 32)


def test_the_noise_is_what_it_was():
    """Other values would make every seeded sample of earlier versions another one."""
    expected = torch.tensor([[-1.5391208, 1.0319391, -0.2107420], [-0.9480747, -0.0353961, 1.2675055]])
    found = torch.cat([noise_of(0, [0], (3,)), noise_of(1, [2**40], (3,))])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert labels_of("random", 0, range(5), 1000).tolist() == [983, 160, 990, 443, 492]


def test_the_noise_is_the_normal_quantiles_of_its_words():
    words = np.random.SFC64(np.random.SeedSequence(7, spawn_key=(0, 11))).random_raw(50)
    halves = np.stack([words & 0xFFFFFFFF, words >> 32], axis=1).ravel()
    signed = np.where(halves < 2**31, halves.astype(np.int64), halves.astype(np.int64) - 2**32)
    shares = ((signed >> 8) + 2**23 + 0.5) / 2**24
    expected = [NormalDist().inv_cdf(float(share)) for share in shares]
    np.testing.assert_allclose(noise_of(7, [11], (100,))[0], expected, rtol=2e-6, atol=2e-7)


def test_uniform_numbers_are_the_upper_53_bits_of_their_words():
    indices = [0, 7, 2**40]
    words = [np.random.SFC64(np.random.SeedSequence(5, spawn_key=(4, index))).random_raw() for index in indices]
    assert uniform_of(5, NEIGHBOUR, indices).tolist() == [(int(word) >> 11) / 2**53 for word in words]


def test_labels_by_policy():
    assert labels_of("balanced", 0, range(7), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert labels_of(2, 0, range(3), 5).tolist() == [2, 2, 2]
    counts = torch.bincount(labels_of("random", 0, range(4000), 4), minlength=4)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(4000 * 3 / 16)


@pytest.mark.parametrize(
    ("policy", "num_classes", "sentence"),
    [
        ("some", 10, r"random or balanced, or the number of a class; got 'some'"),
        ("10", 10, r"Class 10 was asked for, but the generator has the classes 0 to 9"),
        ("-1", 10, r"classes 0 to 9"),
        ("3", None, r"the generator is unconditional"),
    ],
)
def test_labels_that_there_are_not(policy, num_classes, sentence):
    with pytest.raises(InputError, match=sentence):
        check_labels(policy, num_classes)


def test_a_class_by_number():
    assert check_labels("3", 10) == 3
    assert check_labels("balanced", None) == "balanced"
