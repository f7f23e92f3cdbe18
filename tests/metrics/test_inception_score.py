"""Inception Score: laws, and torch-fidelity's own function as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics.peer_definitions import score_of_fd_evaluator
from scipy.special import log_softmax

from fdr.errors import InputError
from fdr.metrics import Context, Metric
from fdr.metrics.inception_score import IS, IS_ADM, IS_FDEVAL


def scored(metric: Metric, logits: np.ndarray, batch: int = 64):
    collector = metric.collector(len(logits))
    for at in range(0, len(logits), batch):
        rows = np.arange(at, min(at + batch, len(logits)))
        collector.add(rows, logits[rows])
    return metric.compute(collector.finish(), None, Context())


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (1003, 40)).astype(np.float32)


def test_equals_torch_fidelity(logits: np.ndarray) -> None:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    ours = scored(IS, logits)
    assert ours.value == pytest.approx(theirs[KEY_METRIC_ISC_MEAN], rel=1e-12)
    assert ours.details["split_std"] == pytest.approx(theirs[KEY_METRIC_ISC_STD], rel=1e-9)


def test_adm_takes_consecutive_chunks_of_5000() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (7000, 12)).astype(np.float32)
    values = []
    for chunk in (logits[:5000], logits[5000:]):
        log_p = log_softmax(chunk.astype(np.float64), axis=1)
        marginal = np.exp(log_p).mean(axis=0)
        values.append(np.exp((np.exp(log_p) * (log_p - np.log(marginal))).sum(axis=1).mean()))
    assert scored(IS_ADM, logits).value == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("count", [1003, 1000, 19])
def test_equals_the_definition_of_fd_evaluator(logits: np.ndarray, count: int) -> None:
    found = scored(IS_FDEVAL, logits[:count])
    assert found.value == pytest.approx(score_of_fd_evaluator(logits[:count]), rel=1e-6)
    assert found.details == {"splits": 10}


def test_rows_beyond_ten_equal_splits_of_fd_evaluator_do_not_count(logits: np.ndarray) -> None:
    left_out = np.random.RandomState(0).permutation(1003)[1000:]
    changed = logits.copy()
    changed[left_out] = 50.0
    assert scored(IS_FDEVAL, changed).value == scored(IS_FDEVAL, logits, batch=1).value
    changed[(left_out[0] + 1) % 1003] = 50.0
    assert scored(IS_FDEVAL, changed).value != scored(IS_FDEVAL, logits).value


@pytest.mark.parametrize("metric", [IS, IS_FDEVAL])
def test_fewer_images_than_splits_are_refused(metric: Metric) -> None:
    with pytest.raises(InputError, match="at least 10 images, one per split; got 9"):
        metric.collector(9)


def test_balanced_one_hot_predictions_score_the_number_of_classes() -> None:
    logits = np.full((1000, 10), -1e4, dtype=np.float32)
    logits[np.arange(1000), np.arange(1000) % 10] = 1e4
    assert scored(IS_ADM, logits).value == pytest.approx(10, rel=1e-9)


def test_constant_predictions_score_one() -> None:
    assert scored(IS, np.ones((100, 7), dtype=np.float32)).value == pytest.approx(1, abs=1e-12)


def test_does_not_depend_on_the_batch_size(logits: np.ndarray) -> None:
    values = [scored(IS, logits, batch).value for batch in (1, 7, 1003)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-13)


def test_what_a_score_says(logits: np.ndarray) -> None:
    """Ten equal splits in ADM's chunks of 5,000 are one; the spread is the population's, over ten splits."""
    found = scored(IS, logits)
    assert found.details == {"splits": 10, "split_std": found.details["split_std"]} and found.stderr is not None
    found = scored(IS_ADM, np.repeat(logits, 6, axis=0)[:5001])
    assert found.details == {"splits": 2} and found.stderr is None, "a split of one image has no spread"


@pytest.mark.parametrize("metric", [IS, IS_ADM])
def test_the_standard_error_is_the_spread_over_draws(metric: Metric) -> None:
    drawn = [scored(metric, np.random.default_rng(i).normal(0, 2, (600, 12)).astype(np.float32)) for i in range(80)]
    stated = np.sqrt(np.mean([one.stderr**2 for one in drawn]))
    assert stated == pytest.approx(np.std([one.value for one in drawn], ddof=1), rel=0.25)


def test_the_standard_error_is_that_of_the_jackknife_by_hand() -> None:
    logits = np.random.default_rng(3).normal(0, 2, (53, 6)).astype(np.float32)
    without = [scored(IS_ADM, np.delete(logits, np.s_[group::20], axis=0)).value for group in range(20)]
    assert scored(IS_ADM, logits).stderr == pytest.approx(np.sqrt(19 * np.var(without)), rel=1e-9)


def test_samples_that_are_sorted_by_class_do_not_enlarge_it() -> None:
    """The groups take the images in turn, so that each group has all classes."""
    classes = np.arange(600) * 12 // 600
    logits = np.random.default_rng(4).normal(0, 1, (600, 12)).astype(np.float32)
    logits[np.arange(600), classes] += 3
    shuffled = np.random.default_rng(5).permutation(600)
    assert scored(IS_ADM, logits).stderr < scored(IS_ADM, logits[shuffled]).stderr * 1.5


def test_a_split_without_images_is_refused() -> None:
    """As when all its images are bad."""
    for rows in (range(5000), range(5000, 5003)):
        collector = IS_ADM.collector(5003)
        collector.add(np.array(rows), np.zeros((len(rows), 3), np.float32))
        with pytest.raises(InputError, match="a split without images"):
            collector.finish()
    with pytest.raises(InputError, match="a split without images"):
        IS.collector(10).finish()


def test_parts_of_ranks_add_up(logits: np.ndarray) -> None:
    for metric in (IS, IS_ADM):
        ranks = [metric.collector(len(logits)) for _ in range(3)]
        for rank, collector in enumerate(ranks[:2]):
            rows = np.arange(rank, len(logits), 2)
            collector.add(rows, logits[rows])
        for collector in ranks[1:]:
            ranks[0].absorb(collector.state())
        whole = scored(metric, logits).value
        assert metric.compute(ranks[0].finish(), None, Context()).value == pytest.approx(whole, rel=1e-13)


def test_probabilities_of_zero_are_no_nan() -> None:
    """A class that no image has: 0 log 0 is 0."""
    logits = np.full((20, 3), -2000, np.float32)
    logits[np.arange(20), np.arange(20) % 2] = 0
    assert scored(IS_ADM, logits).value == pytest.approx(2, rel=1e-12)


def test_too_few_images_are_refused() -> None:
    assert scored(IS, np.eye(10, dtype=np.float32)).value >= 1
    with pytest.raises(InputError, match=r"needs at least 10 images, one per split; got 9"):
        IS.collector(9)
    for metric in (IS, IS_ADM):
        with pytest.raises(InputError, match="number of images beforehand; give the samples as a list"):
            metric.collector(None)
