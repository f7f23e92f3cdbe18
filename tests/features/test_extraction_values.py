"""Extracted features against values that NumPy computes from the pixels, however the work is cut, resumed or shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from thread_ranks import on_ranks
from torch import Tensor
from worlds import DIM, TinyEncoder, folder, images, npz

import fdr
from fdr.errors import PeerError, RunError
from fdr.features import Extraction, ExtractionOptions
from fdr.images import ImageOptions, open_images
from fdr.runtime import SOLO, Group
from fdr.runtime.ranks.group import Solo

BAD = (31, 47)  # the last row of a shard lies in the middle of a forward batch of 5
SKIP = ImageOptions(on_bad="skip", max_bad=0.5)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)


def expected(pixels: np.ndarray) -> np.ndarray:
    """`TinyEncoder` in NumPy: means over blocks of 4 x 4 pixels, channels first, times its matrix."""
    blocks = (pixels / 255.0).reshape(len(pixels), 4, 4, 4, 4, 3).mean(axis=(2, 4))
    return blocks.transpose(0, 3, 1, 2).reshape(len(pixels), 48) @ TinyEncoder().matrix.numpy()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = folder(tmp_path / "images", images(75))
    for row in BAD:
        (path / f"{row:04d}.png").write_bytes(b"no image")
    return path


def extraction_of(root: Path, cache: Path | None, group: Group = SOLO, **options: int) -> Extraction:
    chosen = ExtractionOptions(cache, batch_size=5, num_workers=0, group=group, **options)
    return Extraction(open_images(root, SKIP), [TinyEncoder()], None, chosen)


def rows_of(extraction: Extraction) -> dict[int, np.ndarray]:
    found = {}
    for block in extraction:
        found |= dict(zip(block.rows.tolist(), block.features["tiny"]["features"].copy(), strict=True))
    return found


def assert_right(found: dict[int, np.ndarray]) -> None:
    good = [row for row in range(75) if row not in BAD]
    assert sorted(found) == good
    np.testing.assert_allclose(np.stack([found[row] for row in good]), expected(images(75))[good], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("has_cache", [False, True])
def test_one_process(root: Path, tmp_path: Path, has_cache: bool) -> None:
    cache = tmp_path / "cache" if has_cache else None
    assert_right(rows_of(extraction_of(root, cache)))
    assert_right(rows_of(extraction_of(root, cache)))  # from the cache


def test_a_run_that_was_stopped_and_goes_on(root: Path, tmp_path: Path) -> None:
    first = iter(extraction_of(root, tmp_path / "cache"))
    next(first), next(first)
    first.close()
    assert_right(rows_of(extraction_of(root, tmp_path / "cache")))


@pytest.mark.filterwarnings("ignore:.* shards of the feature cache")
@pytest.mark.parametrize("lost", [(), (0, 2), (0, 1)])
def test_ranks_and_shards_that_lie_apart(root: Path, tmp_path: Path, lost: Sequence[int]) -> None:
    """A rank computes shards that lie apart, or come after what it reads; all lists are in the order of rows."""
    cache = tmp_path / "cache"
    if lost:
        rows_of(extraction_of(root, cache))
        files = sorted(cache.rglob("shard-*.h5"))
        for index in lost:
            files[index].unlink()
    passes: list[Extraction] = []

    def run(group: Group) -> dict[int, np.ndarray]:
        passes.append(extraction_of(root, cache, group))
        return rows_of(passes[-1])

    parts = on_ranks(2 if lost != (0, 2) else 1, run)
    assert sum(map(len, parts)) == 73
    assert_right({row: x for part in parts for row, x in part.items()})
    for extraction in passes:
        assert extraction.images is not None
        assert extraction.images["row"].tolist() == [row for row in range(75) if row not in BAD]
        assert [image.row for image in extraction.bad] == list(BAD)


@pytest.mark.parametrize("skipped", [{(16, 32), (48, 64)}, {(0, 16)}])
def test_shards_that_are_left_out_leave_the_others_right(
    root: Path, tmp_path: Path, skipped: set[tuple[int, int]]
) -> None:
    extraction = extraction_of(root, tmp_path / "cache")
    extraction.plan.leave_out("tiny", skipped)
    found = rows_of(extraction)
    wanted = [row for row in range(75) if row not in BAD and not any(a <= row < b for a, b in skipped)]
    assert sorted(found) == wanted
    np.testing.assert_allclose(
        np.stack([found[row] for row in wanted]), expected(images(75))[wanted], rtol=2e-6, atol=2e-6
    )


def test_ranks_leave_out_for_one_encoder_what_another_one_needs(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(64))

    def run(group: Group) -> tuple[list[tuple[int, int, str]], int]:
        encoders = [TinyEncoder("one"), TinyEncoder("two")]
        extraction = Extraction(open_images(source), encoders, None, ExtractionOptions(num_workers=0, group=group))
        extraction.plan.leave_out("one", {(0, 16), (16, 32)})
        extraction.plan.leave_out("two", {(0, 16)})
        blocks = [(block.start, block.stop, name) for block in extraction for name in sorted(block.features)]
        return blocks, encoders[0].num_seen

    found = on_ranks(2, run)
    blocks = sorted(block for part, _ in found for block in part)
    assert blocks == [(16, 32, "two"), (32, 48, "one"), (32, 48, "two"), (48, 64, "one"), (48, 64, "two")]
    assert sum(seen for _, seen in found) == 32


@pytest.mark.parametrize("count", [5, 16, 21, 32, 33])
def test_a_generator_that_ends_anywhere(count: int) -> None:
    """21 images end with a forward batch, but not with a shard."""
    pixels = images(count)
    found = np.concatenate([x.numpy() for x in fdr.extract(iter(pixels), TinyEncoder(), batch_size=5)])
    np.testing.assert_allclose(found, expected(pixels), rtol=2e-6, atol=2e-6)


def test_a_source_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    source = open_images(npz(tmp_path / "a.npz", images(40)))

    class Short(type(source)):  # type: ignore[misc]
        def _loaders(self, start: int, stop: int | None) -> Iterator:
            return iter(list(super()._loaders(start, stop))[:20])

    source.__class__ = Short
    with pytest.raises(RunError, match="ended after 20 of 40 images"):
        list(Extraction(source, [TinyEncoder()], None, ExtractionOptions(tmp_path / "c", 5, 0)))
    entry = next((tmp_path / "c").iterdir())
    assert [path.name[:25] for path in entry.glob("shard-*")] == ["shard-000000000-000000016"]


def test_features_of_another_width_than_before_are_refused(tmp_path: Path) -> None:
    """Between batches, and between a run and the one that continues it."""

    class Growing(TinyEncoder):
        width = 9

        def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
            return {name: x[:, : self.width] for name, x in super().forward(inputs, outputs).items()}

    def encoder(width: int) -> Growing:
        made = Growing(dim=0)
        made.matrix = TinyEncoder().matrix
        made.width = width
        return made

    source = npz(tmp_path / "a.npz", images(40))
    first = iter(Extraction(open_images(source), [encoder(9)], None, ExtractionOptions(tmp_path / "c", 16, 0)))
    next(first)
    first.close()
    with pytest.raises(RunError, match=r"it made 'features' of shape \[16, 8\] where \[16, 9\] is expected"):
        list(Extraction(open_images(source), [encoder(8)], None, ExtractionOptions(tmp_path / "c", 16, 0)))


def test_a_row_too_few_is_refused() -> None:
    class Short(TinyEncoder):
        def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
            return {name: x[1:] for name, x in super().forward(inputs, outputs).items()}

    with pytest.raises(RunError, match=r"it made 'features' of shape \[3, 12\] where \[4, 12\] is expected"):
        list(fdr.extract(list(images(4)), Short()))


def test_a_non_finite_row_is_named_wherever_it_is_in_its_batch() -> None:
    items = list(images(8) / np.float32(255))
    items[5] = np.zeros_like(items[5])

    class Dividing(TinyEncoder):
        def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
            return {
                name: x / inputs.flatten(1).sum(1, keepdim=True) for name, x in super().forward(inputs, outputs).items()
            }

    with pytest.raises(RunError, match=r"for 1 of 8 images of a batch \(the first is item\[5\]\)"):
        list(fdr.extract(items, Dividing()))


@pytest.mark.parametrize("has_cache", [False, True])
def test_a_rank_stops_when_a_peer_has_failed(tmp_path: Path, has_cache: bool) -> None:
    """After three looks; while features are computed it looks before each batch, else after each shard."""

    class Failing(Solo):
        calls = 0

        def check_peers(self) -> None:
            self.calls += 1
            if self.calls > 3:
                raise PeerError("Rank 1 of 2 failed.")

    encoder = TinyEncoder()
    source = open_images(npz(tmp_path / "a.npz", images(75)))
    cache = tmp_path / "c" if has_cache else None
    if has_cache:
        list(Extraction(source, [TinyEncoder()], None, ExtractionOptions(cache, 5, 0)))
    with pytest.raises(PeerError):
        list(Extraction(source, [encoder], None, ExtractionOptions(cache, 5, 0, group=Failing())))
    assert encoder.num_seen <= 30


# Options


def test_batch_sizes_by_default() -> None:
    options = ExtractionOptions()
    assert (options.batch_size_on("cpu"), options.batch_size_on("cuda")) == (32, 128)
    assert ExtractionOptions(batch_size=7).batch_size_on("cuda") == 7


def test_the_size_of_shards_is_an_option(root: Path, tmp_path: Path) -> None:
    blocks = list(extraction_of(root, tmp_path / "c", shard_size=30))
    assert [(block.start, block.stop) for block in blocks] == [(0, 30), (30, 60), (60, 75)]
    assert [len(block.rows) for block in blocks] == [30, 28, 15]


def test_an_encoder_decides_the_stored_type(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    encoder.stored_dtype = "float16"
    source = npz(tmp_path / "a.npz", images(16))
    list(Extraction(open_images(source), [encoder], None, ExtractionOptions(tmp_path / "c")))
    with h5py.File(next(tmp_path.rglob("shard-*.h5"))) as file:
        stored = file["features/features"]
        assert stored.dtype == np.float16 and stored.shape == (16, DIM)
        np.testing.assert_allclose(stored[:], expected(images(16)), rtol=1e-3, atol=1e-4)


def test_moments_only_keeps_no_records_of_images(root: Path, tmp_path: Path) -> None:
    chosen = ExtractionOptions(tmp_path / "c", 5, 0, moments_only=True)
    extraction = Extraction(open_images(root, SKIP), [TinyEncoder()], None, chosen)
    assert_right(rows_of(extraction))
    assert extraction.images is None and not list(tmp_path.rglob("shard-*"))
    assert extraction.preprocessing is not None
    assert (extraction.preprocessing.width, extraction.preprocessing.share) == (16, 1.0)
