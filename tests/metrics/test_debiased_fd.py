"""The metric fd_debiased: what a report says of it, what it refuses, and that two ways of making it do not mix."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import TinyEncoder, images, npz

import fdr
from fdr.errors import InputError
from fdr.evaluation import measure
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import Moments, leverage_curve
from fdr.images import open_images
from fdr.metrics import CollectedFeatures, Context, KeptRows, Need, load_metrics
from fdr.metrics.debiased_fd import debiased_score, reference_bias
from fdr.metrics.fd import fd_score
from fdr.reports import parse_signature

DIM = 8


def drawn(count: int, seed: int, spread: float = 1.0, dim: int = DIM) -> Moments:
    x = np.random.default_rng(seed).normal(0, spread, size=(count, dim)).astype(np.float32)
    return replace(Moments.from_features(x), rows=x)


EXACT = Moments(np.zeros(DIM), np.eye(DIM))


def test_its_parts_are_those_of_the_function() -> None:
    samples = drawn(400, 0, 1.5)
    expected = fdr.debiased_frechet_distance(samples, EXACT)
    score = debiased_score(samples, EXACT, Context())
    assert (score.value, score.stderr, score.interval) == (expected.value, expected.stderr, None)
    assert score.value == pytest.approx(8 * 0.5**2, abs=4 * score.stderr)  # type: ignore[operator]
    assert score.details["raw"] == pytest.approx(fd_score(samples, EXACT, Context()).value, rel=1e-9)
    assert score.details["regime"] == "asymptotic" and score.details["images_per_dimension"] == 50
    assert score.details["stderr_by"] == "influence" and score.details["noise"] == "samples"
    assert score.notes == ("the reference is taken as exact, because its number of images is not known",)


def test_nothing_is_a_result_and_no_error_is_needed() -> None:
    score = debiased_score(drawn(400, 0), drawn(300, 1), Context(stderr=False))
    assert score.stderr is None
    both = debiased_score(drawn(400, 0), drawn(300, 1), Context())
    assert both.value == score.value and both.notes == (
        "the debiased FD is consistent with 0: the two sets may be of one distribution",
    )


def test_few_images_have_an_interval_and_fewer_are_refused() -> None:
    with pytest.warns(fdr.errors.FdrWarning, match="systematic"):
        score = debiased_score(drawn(150, 0, dim=200), Moments(np.zeros(200), np.eye(200)), Context(stderr=False))
    assert score.interval is not None and score.interval[0] < score.value < score.interval[1]
    assert any("150 images for 200 dimensions: 3 to 7 %" in note for note in score.notes)
    with pytest.raises(InputError, match="90 samples are too few for a debiased FD in 8 dimensions: it lies between"):
        debiased_score(drawn(90, 0), EXACT, Context())
    with pytest.raises(InputError, match="150 samples and 160 reference images are too few"):
        debiased_score(drawn(150, 0, dim=200), drawn(160, 1, dim=200), Context())


def test_what_removes_the_bias_of_the_reference_is_in_the_signature() -> None:
    known = drawn(60, 0)
    alone = replace(known, rows=None)
    assert reference_bias(None) == reference_bias(known) == {"rb": "features"}
    assert reference_bias(alone) == {"rb": "gaussian-60"} and reference_bias(EXACT) == {"rb": "exact"}
    curve = leverage_curve(known)
    digest = hashlib.sha256(curve.array.tobytes()).hexdigest()[:8]
    assert reference_bias(replace(alone, curve=curve)) == {"rb": f"curve-60-{digest}"}


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_report_has_it_beside_fd(tmp_path: Path) -> None:
    samples, real = npz(tmp_path / "a.npz", images(120, seed=1)), npz(tmp_path / "b.npz", images(130, seed=2))
    report = fdr.evaluate(samples, real, TinyEncoder(), "fd,fd_debiased")
    raw, debiased = report["fd"], report["fd_debiased"]
    assert raw.value == pytest.approx(debiased.details["raw"], rel=1e-9)
    assert debiased.value < raw.value and None not in (raw.stderr, debiased.stderr)
    signature = parse_signature(debiased.signature)
    assert (signature.value("est"), signature.value("rb")) == ("leverage", "features")
    assert parse_signature(raw.signature).value("est") is None
    alone = fdr.evaluate(samples, real, TinyEncoder(), "fd_debiased", stderr=False)["fd_debiased"]
    assert alone.value == debiased.value and alone.stderr is None and alone.signature == debiased.signature


def test_moments_only_refuses_it_before_the_first_image(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    options = ExtractionOptions(tmp_path / "c", moments_only=True)
    extraction = Extraction(open_images(npz(tmp_path / "a.npz", images(20))), [encoder], None, options)
    with pytest.raises(InputError, match="moments_only keeps no features"):
        measure(extraction, {"tiny": [Need("features", rows="needed")]})
    assert encoder.num_seen == 0
    found = measure(extraction, {"tiny": [Need("features", rows="wanted")]})
    assert found is not None and found.moments["tiny", "features"].rows is None


def test_rows_are_collected_once_and_in_order(tmp_path: Path) -> None:
    source = open_images(npz(tmp_path / "a.npz", images(20)))
    wanted, plain, features = Need("features", rows="wanted"), Need("features"), Need("features", CollectedFeatures)
    found = measure(Extraction(source, [TinyEncoder()]), {"tiny": [plain, wanted, features]})
    assert found is not None
    moments = found.collected["tiny", wanted]
    assert moments.rows is not None and np.shares_memory(moments.rows, found.collected["tiny", features])
    assert found.collected["tiny", plain] is moments
    alone = measure(Extraction(source, [TinyEncoder()]), {"tiny": [wanted]})
    assert alone is not None
    np.testing.assert_array_equal(alone.moments["tiny", "features"].rows, moments.rows)


@pytest.mark.parametrize("num_rows", [None, 30])
def test_rows_that_are_too_large_are_not_kept(num_rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.metrics.base.MAX_ROWS_BYTES", 30 * 4 * 4)
    fits, large = KeptRows(num_rows), KeptRows(num_rows)
    for start in (0, 10, 20):
        fits.add(np.arange(start, start + 10), np.ones((10, 4), np.float32))
        large.add(np.arange(start, start + 10), np.ones((10, 5), np.float32))
    kept = fits.finish()
    assert kept is not None and kept.shape == (30, 4)
    assert large.finish() is None


def test_a_note_says_that_features_were_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = replace(drawn(400, 0), rows=None)
    assert fd_score(samples, EXACT, Context()).notes == ()
    monkeypatch.setattr("fdr.metrics.fd.MAX_ROWS_BYTES", 1000)
    (note,) = fd_score(samples, EXACT, Context()).notes
    assert note == "no standard error: the features of 400 images are too large to keep in memory"
    assert fd_score(samples, EXACT, Context(stderr=False)).notes == ()


def test_the_standard_error_of_fd_is_given_where_it_is_wanted() -> None:
    score = fd_score(drawn(400, 0), drawn(300, 1), Context())
    assert score.stderr is not None and score.details["noise"] == "samples and reference"
    plain = fd_score(drawn(400, 0), drawn(300, 1), Context(stderr=False))
    assert plain.value == score.value and plain.stderr is None and "noise" not in plain.details
    constant = Moments(np.zeros(DIM), np.zeros((DIM, DIM)), 50)
    assert fd_score(drawn(400, 0), constant, Context()).stderr is not None, "where no feature varies on both sides, too"
    assert all(metric.rows == "wanted" for metric in load_metrics("fd,sfid").values())
