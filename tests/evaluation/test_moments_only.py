"""`--moments-only`: the same numbers without features on disk, resumed after a kill, by any number of ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from thread_ranks import on_ranks
from worlds import TinyEncoder, folder, images, npz

from fdr.errors import InputError, RunError
from fdr.evaluation import Measurement, measure
from fdr.evaluation.resumed_sums import ResumableSums
from fdr.features import CacheStore, Extraction, ExtractionOptions, sums_files
from fdr.frechet import Moments, Sums
from fdr.images import ImageOptions, open_images
from fdr.metrics import Need
from fdr.metrics.inception_score import IS_ADM
from fdr.runtime import SOLO, Group


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)
    monkeypatch.setattr("fdr.evaluation.resumed_sums.SAVE_INTERVAL", 0.0)  # after every shard


class Killed(BaseException):
    """Stands for a kill: nothing between it and the top handles it."""


class StopsEarly(TinyEncoder):
    """Is killed when it has seen `limit` images."""

    def __init__(self, limit: int, name: str = "tiny", weights: str = "seed:0") -> None:
        super().__init__(name, weights=weights)
        self.limit = limit

    def forward(self, inputs, outputs):  # type: ignore[no-untyped-def]
        if self.num_seen >= self.limit:
            raise Killed
        return super().forward(inputs, outputs)


def run(source: Path, cache: Path | None, *encoders: TinyEncoder, group: Group = SOLO) -> Measurement | None:
    options = ExtractionOptions(cache, 8, num_workers=0, moments_only=cache is not None, group=group)
    images = open_images(source, ImageOptions(on_bad="skip", max_bad=0.2))
    return measure(Extraction(images, encoders or (TinyEncoder(),), None, options))


def tiny(found: Measurement, name: str = "tiny") -> Moments:
    return found.moments[name, "features"]


def assert_same(found: Moments, expected: Moments) -> None:
    assert found.count == expected.count
    np.testing.assert_allclose(found.mu, expected.mu, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=1e-11, atol=1e-12)


@contextmanager
def killed() -> Iterator[None]:
    with pytest.raises(Killed):
        yield


def test_no_feature_is_kept_and_a_second_run_computes_nothing(tmp_path: Path) -> None:
    source, cache = npz(tmp_path / "a.npz", images(75)), tmp_path / "c"
    expected = tiny(run(source, None))
    assert_same(tiny(run(source, cache)), expected)
    (entry,) = cache.iterdir()
    assert not list(entry.glob("shard-*")) and len(sums_files(entry)) == 1
    encoder = TinyEncoder()
    assert_same(tiny(run(source, cache, encoder)), expected)
    assert encoder.num_seen == 0


@pytest.mark.parametrize("size", [1, 3])
def test_a_complete_run_that_is_started_again_writes_no_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The file stays that of the process that wrote it: a later one would give it another name."""
    source, cache = npz(tmp_path / "a.npz", images(75)), tmp_path / "c"
    expected = tiny(run(source, cache))
    (before,) = sums_files(next(cache.iterdir()))
    monkeypatch.setattr("fdr.runtime.atomic.owner", lambda: "later")
    written = before.stat().st_mtime_ns, before.stat().st_ino
    found = on_ranks(size, lambda group: run(source, cache, group=group))[0]
    assert_same(tiny(found), expected)
    assert sums_files(before.parent) == [before]
    assert (before.stat().st_mtime_ns, before.stat().st_ino) == written


def test_files_of_several_runs_become_one_even_if_nothing_is_added(tmp_path: Path) -> None:
    """As a kill between the writing of the last file and the removal of those that it replaced leaves them."""
    source, cache = npz(tmp_path / "a.npz", images(75)), tmp_path / "c"
    expected = tiny(run(source, cache))
    (whole,) = sums_files(next(cache.iterdir()))
    whole.with_name("sums-earlier.fdr").write_bytes(whole.read_bytes())
    encoder = TinyEncoder()
    assert_same(tiny(run(source, cache, encoder)), expected)
    assert encoder.num_seen == 0 and len(sums_files(whole.parent)) == 1


def test_the_cache_lists_and_removes_sums(tmp_path: Path) -> None:
    run(npz(tmp_path / "a.npz", images(20)), tmp_path / "c")
    (entry,) = CacheStore(tmp_path / "c").entries()
    assert entry.state == "sums" and entry.num_bytes > 0
    CacheStore(tmp_path / "c").remove(everything=True)
    assert not list((tmp_path / "c").iterdir())


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    source, cache = npz(tmp_path / "a.npz", images(75)), tmp_path / "c"
    with killed():
        run(source, cache, StopsEarly(40))  # two shards and a half
    encoder = TinyEncoder()
    assert_same(tiny(run(source, cache, encoder)), tiny(run(source, None)))
    assert encoder.num_seen == 75 - 32


def test_another_number_of_ranks_goes_on(tmp_path: Path) -> None:
    source, cache = npz(tmp_path / "a.npz", images(130)), tmp_path / "c"

    def dies(group: Group) -> None:
        run(source, cache, StopsEarly(24), group=group)

    with killed():
        on_ranks(3, dies)
    (entry,) = cache.iterdir()
    num_done = 16 * len(sums_files(entry))
    assert num_done > 0
    encoders = [TinyEncoder(), TinyEncoder()]
    found = on_ranks(2, lambda group: run(source, cache, encoders[group.rank], group=group))
    assert_same(tiny(found[0]), tiny(run(source, None)))
    assert sum(encoder.num_seen for encoder in encoders) == 130 - num_done
    assert len(sums_files(entry)) == 1


def test_an_encoder_that_comes_later_is_computed_alone(tmp_path: Path) -> None:
    source, cache = npz(tmp_path / "a.npz", images(40)), tmp_path / "c"
    run(source, cache, TinyEncoder("one"))
    with killed():
        run(source, cache, TinyEncoder("one"), StopsEarly(16, "two", "seed:2"))
    one, two = TinyEncoder("one"), TinyEncoder("two", weights="seed:2")
    found = run(source, cache, one, two)
    assert (one.num_seen, two.num_seen) == (0, 24)
    assert_same(tiny(found, "one"), tiny(run(source, None, TinyEncoder("one")), "one"))
    assert_same(tiny(found, "two"), tiny(run(source, None, TinyEncoder("two", weights="seed:2")), "two"))


def test_few_samples_keep_their_factor(tmp_path: Path) -> None:
    """N <= D: the moments keep the centred features, through files as well."""
    source, cache = npz(tmp_path / "a.npz", images(34)), tmp_path / "c"
    wide = lambda: TinyEncoder("wide", 48)  # noqa: E731
    expected = tiny(run(source, None, wide()), "wide")
    run(source, cache, wide())
    found = tiny(run(source, cache, wide()), "wide")
    assert found.factor is not None and expected.factor is not None
    np.testing.assert_allclose(found.factor.T @ found.factor, expected.factor.T @ expected.factor, rtol=1e-9, atol=1e-9)


def test_bad_images_of_an_earlier_run_are_listed(tmp_path: Path) -> None:
    path, cache = folder(tmp_path / "a", images(60)), tmp_path / "c"
    for index in (3, 50):
        (path / f"{index:04d}.png").write_bytes(b"no image")
    with killed():
        run(path, cache, StopsEarly(30))
    found = run(path, cache)
    assert [image.row for image in found.bad] == [3, 50]
    assert found.count == 58
    assert_same(tiny(found), tiny(run(path, None)))


def test_bad_images_of_all_runs_are_kept_and_still_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run finds one; a run that finds everything summed lists them all, and its own limit holds."""
    path, cache = folder(tmp_path / "a", images(60)), tmp_path / "c"
    for index in (3, 20, 21, 50):
        (path / f"{index:04d}.png").write_bytes(b"no image")
    for name in ("first", "second", "third"):
        monkeypatch.setattr("fdr.runtime.owner", lambda name=name: name)
        with killed():
            run(path, cache, StopsEarly(16))
        assert len(sums_files(next(cache.iterdir()))) == 1, "a later process takes over the sums of an earlier one"
    for _ in range(2):
        encoder = TinyEncoder()
        found = run(path, cache, encoder)
        assert [image.row for image in found.bad] == [3, 20, 21, 50] and found.count == 56
    assert encoder.num_seen == 0
    options = ExtractionOptions(cache, 8, num_workers=0, moments_only=True)
    strict = open_images(path, ImageOptions(on_bad="skip", max_bad=0.05))
    with pytest.raises(RunError, match="4 of 60"):
        measure(Extraction(strict, [TinyEncoder()], None, options))


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_leave_one_file_with_all_shards_and_bad_images(tmp_path: Path, size: int) -> None:
    path, cache = folder(tmp_path / "a", images(60)), tmp_path / "c"
    for index in (3, 50):
        (path / f"{index:04d}.png").write_bytes(b"no image")
    found = on_ranks(size, lambda group: run(path, cache, group=group))
    assert found[0] is not None and found[1:] == [None] * (size - 1)
    (file,) = sums_files(next(cache.iterdir()))
    with np.load(file, allow_pickle=False) as stored:
        header = json.loads(str(stored["header"]))
    assert header["spans"] == [[0, 16], [16, 32], [32, 48], [48, 60]]
    assert [row for row, *_ in header["bad"]] == [3, 50]
    encoder = TinyEncoder()
    assert [image.row for image in run(path, cache, encoder).bad] == [3, 50] and encoder.num_seen == 0


def test_making_resumable_sums_changes_nothing(tmp_path: Path) -> None:
    """Only `resume` reads files and takes shards out of the pass."""
    source, cache = npz(tmp_path / "a.npz", images(40)), tmp_path / "c"
    run(source, cache)
    options = ExtractionOptions(cache, 8, num_workers=0, moments_only=True)
    extraction = Extraction(open_images(source), [TinyEncoder()], None, options)
    sums = Sums(None)
    resumable = ResumableSums(extraction, {("tiny", "features"): sums})
    assert sums.count == 0 and sum(len(block.rows) for block in extraction) == 40
    resumable.resume()
    assert sums.count == 40 and not list(extraction)


def test_features_in_the_cache_are_used(tmp_path: Path) -> None:
    source, cache = npz(tmp_path / "a.npz", images(40)), tmp_path / "c"
    measure(Extraction(open_images(source), [TinyEncoder()], None, ExtractionOptions(cache, 8, num_workers=0)))
    encoder = TinyEncoder()
    options = ExtractionOptions(cache, 8, num_workers=0, moments_only=True)
    measure(Extraction(open_images(source), [encoder], None, options))
    assert encoder.num_seen == 0


def test_metrics_that_need_features_are_refused(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(40))
    options = ExtractionOptions(tmp_path / "c", 8, num_workers=0, moments_only=True)
    extraction = Extraction(open_images(source), [TinyEncoder()], None, options)
    with pytest.raises(InputError, match="moments_only keeps no features"):
        measure(extraction, {"tiny": [Need("features"), Need("logits", IS_ADM.collector)]})
