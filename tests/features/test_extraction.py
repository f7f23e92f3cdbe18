"""Extraction: one decode for all encoders, the same features however they are cut, cached, resumed or skipped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import DIM, TinyEncoder, folder, images, npz

import fdr
from fdr.errors import InputError, RunError
from fdr.features import Extraction, ExtractionOptions
from fdr.images import ImageOptions, open_images


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)


def all_features(features: fdr.extraction.Features) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch in features])


def test_features_are_sized_lazy_batches(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    features = fdr.extract(npz(tmp_path / "a.npz", images(50)), encoder, batch_size=7)
    assert encoder.num_seen == 0
    batches = list(features)
    assert len(features) == len(batches)
    assert all(batch.dtype == torch.float32 and batch.shape[1:] == (DIM,) for batch in batches)
    assert sum(map(len, batches)) == features.num_images == 50


def test_a_list_of_encoders_gives_dicts(tmp_path: Path) -> None:
    features = fdr.extract(npz(tmp_path / "a.npz", images(20)), [TinyEncoder("one"), TinyEncoder("two", 5)])
    for batch in features:
        assert {name: x.shape[1] for name, x in batch.items()} == {"one": DIM, "two": 5}
    with pytest.raises(InputError, match="several encoders"):
        fdr.Moments.from_features(features)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
def test_batch_size_threads_and_cache_do_not_change_features(tmp_path: Path, batch_size: int) -> None:
    source = npz(tmp_path / "a.npz", images(50))
    expected = all_features(fdr.extract(source, TinyEncoder(), batch_size=5, num_workers=0))
    for workers, cache in ((0, None), (3, tmp_path / "c")):
        found = all_features(
            fdr.extract(source, TinyEncoder(), batch_size=batch_size, num_workers=workers, cache=cache)
        )
        np.testing.assert_array_equal(found, expected)


def test_a_warm_cache_runs_no_encoder(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(50))
    first = all_features(fdr.extract(source, TinyEncoder(), cache=tmp_path / "c"))
    encoder = TinyEncoder()
    np.testing.assert_array_equal(all_features(fdr.extract(source, encoder, cache=tmp_path / "c")), first)
    assert encoder.num_seen == 0


def test_only_missing_shards_and_encoders_are_computed(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(50))
    iterator = iter(fdr.extract(source, TinyEncoder("one"), cache=tmp_path / "c", batch_size=16))
    next(iterator), next(iterator)
    iterator.close()
    one, two = TinyEncoder("one"), TinyEncoder("two", 5, "seed:22")
    both = list(fdr.extract(source, [one, two], cache=tmp_path / "c", batch_size=16))
    assert two.num_seen == 50
    assert one.num_seen in (18, 34)  # the shard in flight when the iterator was closed may or may not be stored
    alone = all_features(fdr.extract(source, TinyEncoder("one"), batch_size=16))
    np.testing.assert_array_equal(np.concatenate([batch["one"] for batch in both]), alone)


def test_a_regenerated_file_is_not_the_old_one(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(20))
    first = all_features(fdr.extract(source, TinyEncoder(), cache=tmp_path / "c"))
    stat = source.stat()
    npz(source, images(20, seed=5))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = all_features(fdr.extract(source, TinyEncoder(), cache=tmp_path / "c"))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, all_features(fdr.extract(source, TinyEncoder())))


def test_a_changed_file_in_a_folder_is_seen(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", images(20))
    first = all_features(fdr.extract(root, TinyEncoder(), cache=tmp_path / "c"))
    from PIL import Image

    Image.fromarray(images(1, seed=9)[0]).save(root / "0003.png")
    second = all_features(fdr.extract(root, TinyEncoder(), cache=tmp_path / "c"))
    assert [i for i in range(20) if not np.array_equal(first[i], second[i])] == [3]


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_file_that_changes_during_the_run_is_noticed(tmp_path: Path, kind: str) -> None:
    path = folder(tmp_path / "f", images(40)) if kind == "folder" else npz(tmp_path / "a.npz", images(40))
    iterator = iter(fdr.extract(path, TinyEncoder(), cache=tmp_path / "c", batch_size=8))
    next(iterator)
    if kind == "folder":
        (path / "0039.png").write_bytes((path / "0001.png").read_bytes())
    else:
        npz(path, images(40, seed=5))
    with pytest.raises(RunError, match=r"changed while .* was being read"):
        list(iterator)
    fresh = all_features(fdr.extract(path, TinyEncoder(), cache=tmp_path / "c", batch_size=8))
    np.testing.assert_array_equal(fresh, all_features(fdr.extract(path, TinyEncoder(), batch_size=8)))


def test_other_weights_are_other_features(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(20))
    first = all_features(fdr.extract(source, TinyEncoder(weights="seed:0"), cache=tmp_path / "c"))
    second = all_features(fdr.extract(source, TinyEncoder(weights="seed:10"), cache=tmp_path / "c"))
    assert not np.array_equal(first, second)


def test_mixed_sizes_share_a_batch(tmp_path: Path) -> None:
    mixed = [images(1, seed=i, side=8 + 4 * (i % 3))[0] for i in range(20)]
    together = all_features(fdr.extract(mixed, TinyEncoder(), batch_size=20))
    alone = np.concatenate([all_features(fdr.extract([image], TinyEncoder())) for image in mixed])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_skipped_images_are_left_out_and_remembered(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", images(40))
    whole = all_features(fdr.extract(root, TinyEncoder()))
    for row in (3, 20):
        (root / f"{row:04d}.png").write_bytes(b"not an image")
    options = ImageOptions(on_bad="skip", max_bad=0.1)
    for _ in range(2):  # computed, then from the cache
        features = fdr.extract(root, TinyEncoder(), cache=tmp_path / "c", image_options=options)
        np.testing.assert_array_equal(all_features(features), np.delete(whole, [3, 20], axis=0))
        assert [image.id for image in features.bad] == ["0003.png", "0020.png"]
    with pytest.raises(InputError, match=r"0003\.png"):
        list(fdr.extract(root, TinyEncoder(), cache=tmp_path / "c"))
    strict = ImageOptions(on_bad="skip", max_bad=0.01)
    for cache in (None, tmp_path / "c"):
        with pytest.raises(RunError, match="at least 1 of 40 images are bad"):
            list(fdr.extract(root, TinyEncoder(), cache=cache, image_options=strict))


def test_a_shard_of_bad_images_only(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", images(32))
    for row in range(16):
        (root / f"{row:04d}.png").write_bytes(b"")
    options = ImageOptions(on_bad="skip", max_bad=0.6)
    for cache in (None, tmp_path / "c", tmp_path / "c"):
        assert all_features(fdr.extract(root, TinyEncoder(), cache=cache, image_options=options)).shape == (16, DIM)


def test_generators_of_unknown_length(tmp_path: Path) -> None:
    for count in (1, 16, 33):
        features = fdr.extract((image for image in images(count)), TinyEncoder(), batch_size=5)
        assert all_features(features).shape == (count, DIM)
    with pytest.raises(TypeError):
        len(fdr.extract((image for image in images(3)), TinyEncoder()))
    once = fdr.extract((image for image in images(3)), TinyEncoder(), cache=tmp_path / "c")
    assert all_features(once).shape == (3, DIM) and not (tmp_path / "c").exists()


def test_non_finite_features_name_the_image(tmp_path: Path) -> None:
    encoder = TinyEncoder("broken")
    encoder.matrix[0] = float("inf")
    with pytest.raises(RunError, match=r"broken gave non-finite 'features' features .* arr_0\[0\]"):
        list(fdr.extract(npz(tmp_path / "a.npz", images(20)), encoder))


def test_an_error_in_the_encoder_ends_the_run_and_its_threads() -> None:
    import threading

    class Failing(TinyEncoder):
        def forward(self, inputs, outputs):
            raise RuntimeError("boom")

    before = threading.active_count()
    with pytest.raises(
        RunError, match=r"Encoder 'tiny' failed on a batch of 16 images .*\[0\].*RuntimeError: boom"
    ) as caught:
        list(fdr.extract(list(images(30)), Failing()))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert threading.active_count() <= before


def test_encoders_need_different_names() -> None:
    with pytest.raises(InputError, match="different names; got tiny, tiny"):
        fdr.extract(list(images(3)), [TinyEncoder(), TinyEncoder()])
    with pytest.raises(InputError, match="No encoder"):
        fdr.extract(list(images(3)), [])


def test_bad_batch_size() -> None:
    with pytest.raises(InputError, match="Batch size is 0; it must be at least 1"):
        fdr.extract(list(images(3)), TinyEncoder(), batch_size=0)


def test_blocks_hold_all_stored_outputs() -> None:
    extraction = Extraction(open_images(list(images(20))), [TinyEncoder()], None, ExtractionOptions())
    blocks = list(extraction)
    assert [block.rows.tolist() for block in blocks] == [list(range(16)), list(range(16, 20))]
    assert {name: x.shape for name, x in blocks[0].features["tiny"].items()} == {
        "features": (16, DIM),
        "logits": (16, 10),
    }


def test_too_many_bad_images_end_a_pass_early() -> None:
    """The first shard of 16 has 3 bad images of 64, more than a hundredth: the other three shards are not computed."""
    items = [image / np.float32(255) for image in images(64)]
    for row in (1, 5, 9):
        items[row] = items[row] + 1
    encoder = TinyEncoder()
    with pytest.raises(RunError, match="at least 3 of 64 images are bad"):
        list(fdr.extract(items, encoder, image_options=fdr.ImageOptions(on_bad="skip")))
    assert encoder.num_seen < 40


def test_features_and_encoders_are_readable_at_a_prompt() -> None:
    encoder = TinyEncoder()
    assert repr(fdr.extract(images(4), encoder)) == "<Features of 4 images of array by tiny>"
    assert repr(encoder) == f"<TinyEncoder 'tiny': features [B, {DIM}], on cpu>"
