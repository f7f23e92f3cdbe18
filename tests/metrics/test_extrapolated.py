"""FD_inf and IS_inf as metrics: NumPy's polyfit and torch-fidelity as oracles, known scores as laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from worlds import TinyEncoder, images

from fdr.errors import InputError
from fdr.evaluation import evaluate
from fdr.frechet import Moments, estimate_fd
from fdr.metrics import Context, load_metrics
from fdr.metrics.extrapolated import FD_INF, IS_INF, fd_inf_score, is_inf_score


def moments_with_rows(count: int, dim: int, seed: int = 0) -> Moments:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return replace(Moments.from_features(rows), rows=rows)


def predictions(count: int, classes: int, seed: int = 0, sharpness: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sharpness, (count, classes)).astype(np.float32)


def test_fd_inf_is_the_estimate_of_that_name() -> None:
    samples, reference = moments_with_rows(300, 4), moments_with_rows(200, 4, seed=1)
    found = fd_inf_score(samples, reference, Context())
    expected = estimate_fd(samples.rows, reference)
    assert (found.value, found.stderr) == (expected.value, expected.stderr)
    assert found.details == {**expected.details, "noise": "samples"}
    assert found.value < found.details["curve"][-1] and found.stderr > 0 and found.notes == ()


def test_fd_inf_says_where_its_subsets_are_no_larger_than_the_width() -> None:
    """With N / 10 <= D the small subsets are beyond the range of the law in 1/N."""
    for count, notes in (
        (209, ("subsets of 20 images for 20 dimensions: FD_inf keeps much of the bias",)),
        (210, ()),
    ):
        found = fd_inf_score(moments_with_rows(count, 20), moments_with_rows(500, 20, seed=1), Context())
        assert found.notes == notes


def test_fd_inf_needs_the_features_of_the_samples() -> None:
    with pytest.raises(InputError, match="FD_inf takes subsets of the samples, and only"):
        fd_inf_score(replace(moments_with_rows(90, 4), rows=None), moments_with_rows(90, 4), Context())


def test_the_signature_has_the_constants() -> None:
    for metric in (FD_INF, IS_INF):
        assert metric.settings == {"subsets": "15", "smallest": "min(5000,N/10)", "shuffles": "1", "seed": "2020"}
    assert FD_INF.rows == "needed" and not IS_INF.needs_reference


def test_an_evaluation_has_both(tmp_path) -> None:
    samples, reference = images(40, seed=0), images(50, seed=1)
    report = evaluate(samples, reference, TinyEncoder(), metrics="fd,fd_inf")
    rows = {row.metric: row for row in report.results}
    assert rows["fd_inf"].stderr > 0 and rows["fd_inf"].value != rows["fd"].value
    assert len(rows["fd_inf"].details["sizes"]) == 15
    assert "subsets:15" in str(rows["fd_inf"].signature)


def test_is_inf_agrees_with_numpy_and_torch_fidelity() -> None:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    logits = predictions(500, 12)
    found = is_inf_score(logits, None, Context())
    sizes, random = 50 + np.arange(15) * 450 // 14, np.random.default_rng(2020)
    curve = [numpy_score(logits[random.permutation(500)[:size]]) for size in sizes[:-1]] + [numpy_score(logits)]
    np.testing.assert_allclose(found.details["curve"], curve, rtol=1e-12)
    assert found.value == pytest.approx(np.polyfit(1 / sizes, curve, 1)[-1], rel=1e-10)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=1, shuffle=False, rng_seed=0)
    assert found.details["curve"][-1] == pytest.approx(theirs[KEY_METRIC_ISC_MEAN], rel=1e-12)


def numpy_score(logits: np.ndarray) -> float:
    p = softmax(logits.astype(np.float64), axis=1)
    return float(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))


def test_is_inf_of_sure_predictions_is_the_number_of_classes() -> None:
    """One of 100 classes each: log IS is low by about 99 / (2 N), so that IS of 3,000 misses 1.6 of 100."""
    logits = np.full((3000, 100), -1e4, dtype=np.float32)
    logits[np.arange(3000), np.random.default_rng(3).integers(100, size=3000)] = 0
    found = is_inf_score(logits, None, Context())
    assert found.details["curve"][-1] < 98.9
    assert found.value == pytest.approx(100, abs=0.6)


def test_is_inf_of_constant_predictions_is_one() -> None:
    found = is_inf_score(np.ones((100, 7), dtype=np.float32), None, Context())
    assert found.value == pytest.approx(1, abs=1e-12)
    assert found.stderr == pytest.approx(0, abs=1e-12) and found.notes == ()


def test_stderr_of_is_inf_is_the_spread_over_draws() -> None:
    found = [is_inf_score(predictions(200, 5, seed), None, Context()) for seed in range(60)]
    spread = np.std([one.value for one in found])
    assert np.mean([one.stderr for one in found]) == pytest.approx(spread, rel=0.3)


def test_is_inf_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = predictions(150, 6)
    whole = is_inf_score(logits, None, Context())
    monkeypatch.setattr("fdr.metrics.extrapolated.CHUNK", 17)
    parts = is_inf_score(logits, None, Context())
    assert (parts.value, parts.stderr) == (pytest.approx(whole.value, rel=1e-12), pytest.approx(whole.stderr, rel=1e-9))


def test_no_standard_error_where_none_was_asked_for() -> None:
    samples, reference = moments_with_rows(300, 4), moments_with_rows(200, 4, seed=1)
    found = fd_inf_score(samples, reference, Context(stderr=False))
    assert found.stderr is None and "noise" not in found.details
    assert found.value == fd_inf_score(samples, reference, Context()).value
    assert is_inf_score(predictions(100, 6), None, Context(stderr=False)).stderr is None


def test_peers_names_lead_to_them() -> None:
    with pytest.raises(InputError, match="it is the metric fd_inf"):
        load_metrics("fid_infinity")
