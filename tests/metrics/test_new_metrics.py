"""Metrics of kinds that fdr does not ship: each is one object and its lines in the registry, and no more is needed."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from thread_ranks import on_ranks
from worlds import TinyEncoder, images, npz

import fdr
from fdr.evaluation import evaluate
from fdr.features import ExtractionOptions
from fdr.metrics import METRICS, AbstractCollector, CollectedFeatures, Context, Metric, Score
from fdr.metrics.registry import MetricInfo
from fdr.reports import Report
from fdr.runtime import SOLO, Group


def features_of(array: np.ndarray) -> np.ndarray:
    return TinyEncoder()(torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)["features"].numpy()


class Extremes(AbstractCollector):
    """Smallest and largest value of each dimension: a summary that is kept of both sides."""

    def __init__(self, num_rows: int | None) -> None:
        self.ends: np.ndarray | None = None

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        self.absorb([np.stack([features.min(0), features.max(0)])])

    def state(self) -> list[np.ndarray]:
        return [] if self.ends is None else [self.ends]

    def absorb(self, state: list[np.ndarray]) -> None:
        for low, high in state:
            ends = np.stack([low, high]) if self.ends is None else self.ends
            self.ends = np.stack([np.minimum(ends[0], low), np.maximum(ends[1], high)])

    def finish(self) -> np.ndarray:
        assert self.ends is not None
        return self.ends


def overlap(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    inner = np.minimum(samples[1], reference[1]) - np.maximum(samples[0], reference[0])
    return Score(float((inner / (reference[1] - reference[0])).mean()))


def distances(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Score]:
    """Two numbers from one matrix of distances, with a standard error."""
    calls.append(context.names)
    nearest = np.sqrt(((samples[:, None] - reference[None]) ** 2).sum(-1)).min(1)
    error = float(nearest.std(ddof=1) / np.sqrt(len(nearest)))
    found = {"near_mean": Score(float(nearest.mean()), stderr=error), "near_max": Score(float(nearest.max()))}
    return {name: found[name] for name in context.names}


calls: list[tuple[str, ...]] = []


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("fdr.metrics.made_up")
    module.OVERLAP = Metric(overlap, Extremes)  # type: ignore[attr-defined]
    module.NEAREST = Metric(distances, CollectedFeatures, settings={"p": "2"})  # type: ignore[attr-defined]
    module.SPREAD = Metric(  # type: ignore[attr-defined]
        lambda samples, reference, context: Score(float(np.trace(samples.sigma))), needs_reference=False
    )
    monkeypatch.setitem(sys.modules, "fdr.metrics.made_up", module)
    for name, info in {
        "overlap": MetricInfo("Overlap", "fdr.metrics.made_up:OVERLAP", lower_is_better=False, high=1.0),
        "near_mean": MetricInfo("Nearest", "fdr.metrics.made_up:NEAREST"),
        "near_max": MetricInfo("Farthest", "fdr.metrics.made_up:NEAREST"),
        "spread": MetricInfo("Spread", "fdr.metrics.made_up:SPREAD", lower_is_better=False),
    }.items():
        monkeypatch.setitem(METRICS, name, info)
    calls.clear()
    yield


def report_of(tmp_path: Path, group: Group = SOLO, metrics: str = "overlap,near_mean,spread,near_max") -> Report:
    samples, real = tmp_path / "s.npz", tmp_path / "r.npz"
    return evaluate(samples, real, TinyEncoder(), metrics, batch_size=8, group=group)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    npz(tmp_path / "s.npz", images(40, seed=1)), npz(tmp_path / "r.npz", images(50))
    return features_of(images(40, seed=1)), features_of(images(50))


@pytest.mark.parametrize("size", [1, 2])
def test_their_numbers_are_those_of_numpy_and_stand_in_the_order_asked_for(
    tmp_path: Path, sets: tuple[np.ndarray, np.ndarray], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)
    report = on_ranks(size, lambda group: report_of(tmp_path, group))[0]
    s, r = sets
    nearest = np.linalg.norm(s[:, None].astype(float) - r[None], axis=-1).min(1)
    inner = np.minimum(s.max(0), r.max(0)) - np.maximum(s.min(0), r.min(0))
    assert [result.metric for result in report] == ["overlap", "near_mean", "spread", "near_max"]
    assert report["overlap"].value == pytest.approx((inner / (r.max(0) - r.min(0))).mean(), rel=1e-6)
    assert report["near_mean"].value == pytest.approx(nearest.mean(), rel=1e-6)
    assert report["near_mean"].stderr == pytest.approx(nearest.std(ddof=1) / np.sqrt(40), rel=1e-6)
    assert report["near_max"].value == pytest.approx(nearest.max(), rel=1e-6) and report["near_max"].stderr is None
    assert report["spread"].value == pytest.approx(s.astype(float).var(axis=0, ddof=1).sum(), rel=1e-9)
    assert calls == [("near_mean", "near_max")], "two numbers, one computation"
    assert report.run["ranks"] == size and report.samples["count"] == 40


def test_their_rows_say_what_the_registry_and_the_metric_declare(tmp_path: Path, sets: object) -> None:
    report = report_of(tmp_path)
    rows = {result.metric: result for result in report}
    assert {name: row.lower_is_better for name, row in rows.items()} == {
        "overlap": False, "near_mean": True, "spread": False, "near_max": True,
    }  # fmt: skip
    assert {name: row.reference_count for name, row in rows.items()} == {
        "overlap": 50, "near_mean": 50, "spread": None, "near_max": 50,
    }  # fmt: skip
    assert "|p:2|" in rows["near_max"].signature and "ref:r.npz:" in rows["overlap"].signature
    assert "ref:" not in rows["spread"].signature
    assert "| Farthest |" in report.to_markdown()
    assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()
    assert report.reference is not None and report.reference["count"] == 50


def test_only_what_was_asked_for_is_computed(tmp_path: Path, sets: object) -> None:
    report = report_of(tmp_path, metrics="near_max")
    assert [result.metric for result in report] == ["near_max"] and calls == [("near_max",)]


def test_a_metric_without_reference_needs_none(tmp_path: Path, sets: object) -> None:
    report = evaluate(tmp_path / "s.npz", "no such reference", TinyEncoder(), "spread")
    assert report.reference is None and len(report) == 1


def test_images_are_needed_for_all_but_moments(tmp_path: Path, sets: object) -> None:
    moments = fdr.Moments.from_features(features_of(images(50)))
    assert evaluate(tmp_path / "s.npz", moments, TinyEncoder(), "fd")["fd"].value > 0
    for metrics in ("overlap", "fd,near_max"):
        with pytest.raises(fdr.InputError, match="need images of the reference"):
            evaluate(tmp_path / "s.npz", moments, TinyEncoder(), metrics)


def test_several_needs_of_one_output_are_one_pass(tmp_path: Path, sets: object) -> None:
    encoder = TinyEncoder()
    evaluate(tmp_path / "s.npz", tmp_path / "r.npz", encoder, "fd,overlap,near_mean,spread,is")
    assert encoder.num_seen == 40 + 50


def test_moments_only_takes_metrics_of_moments_alone(tmp_path: Path, sets: object) -> None:
    from fdr.evaluation import measure
    from fdr.features import Extraction
    from fdr.images import open_images
    from fdr.metrics import Need

    options = ExtractionOptions(tmp_path / "c", 8, num_workers=0, moments_only=True)
    for collector in (Extremes, CollectedFeatures):
        extraction = Extraction(open_images(tmp_path / "s.npz"), [TinyEncoder()], None, options)
        with pytest.raises(fdr.InputError, match="moments_only keeps no features"):
            measure(extraction, {"tiny": [Need("features", collector)]})
