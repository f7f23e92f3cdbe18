"""Passes over images: order, bounded look-ahead, prompt stops, and memory that does not grow with N."""

import signal
import threading
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from image_worlds import encoded, photo, photos, read_all, write_files

from fdr.images import ImageOptions, open_images
from fdr.runtime import ordered_map, read_ahead

OurThreads = Callable[[], list[threading.Thread]]


@pytest.fixture
def our_threads() -> OurThreads:
    """The threads that read images and began within the test; a pass that another test has left may have its own."""

    def found() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("fdr-images")]

    before = found()
    return lambda: [thread for thread in found() if thread not in before]


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_ordered_map_is_map(workers):
    def slow_square(x):
        time.sleep(0.002 * (x % 3))
        return x * x

    assert list(ordered_map(slow_square, range(20), workers, ahead=6)) == [x * x for x in range(20)]
    assert list(read_ahead(iter(range(9)), 3)) == list(range(9))


def test_look_ahead_is_bounded():
    drawn = []
    results = ordered_map(lambda x: x, (drawn.append(i) or i for i in range(1000)), 4, ahead=10)
    assert next(results) == 0 and len(drawn) == 10
    assert next(results) == 1 and len(drawn) == 11
    results.close()
    assert len(drawn) == 11


def test_closing_and_errors_stop_the_threads(our_threads: OurThreads):
    def fail_late(x):
        if x == 5:
            raise KeyError(x)
        time.sleep(0.005)
        return x

    results = ordered_map(fail_late, range(10_000), 4, ahead=50)
    assert next(results) == 0 and our_threads()
    results.close()
    assert not our_threads()
    with pytest.raises(KeyError):
        list(ordered_map(fail_late, range(10_000), 4, ahead=50))
    assert not our_threads()

    def broken():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(ordered_map(abs, broken(), 2, ahead=5))
    with pytest.raises(OSError, match="gone"):
        list(read_ahead(broken(), 5))
    assert not our_threads()


def test_an_interrupt_ends_the_pass_and_its_threads(our_threads: OurThreads):
    def interrupt(x):
        if x == 3:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.002)
        return x

    with pytest.raises(KeyboardInterrupt):
        list(ordered_map(interrupt, range(10_000), 2, ahead=20))
    assert not our_threads()


def test_leaving_a_pass_early_stops_its_threads(tmp_path, our_threads: OurThreads):
    np.savez_compressed(tmp_path / "x.npz", photos(40))
    write_files(tmp_path / "folder", {f"{i}.png": encoded(photo(i)) for i in range(40)})
    for path in (tmp_path / "x.npz", tmp_path / "folder"):
        batches = open_images(path).batches(2, num_workers=2)
        next(batches)
        batches.close()
        assert not our_threads()


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_images_and_batches_do_not_depend_on_threads(tmp_path, workers, batch_size):
    images = photos(10)
    write_files(tmp_path, {f"{i:02}.png": encoded(image) for i, image in enumerate(images)})
    batches = list(open_images(tmp_path).batches(batch_size, num_workers=workers))
    assert [batch.rows for batch in batches] == [
        list(range(i, min(i + batch_size, 10))) for i in range(0, 10, batch_size)
    ]
    assert np.array_equal(np.stack([image.permute(1, 2, 0) for b in batches for image in b.images]), images)


def test_batches_are_cut_by_row_whatever_is_bad(tmp_path):
    files = {f"{i:02}.png": encoded(photo(i)) for i in range(9)} | {"03.png": b"", "04.png": b"x"}
    source = open_images(write_files(tmp_path, files), ImageOptions(on_bad="skip", max_bad=1))
    batches = list(source.batches(3, start=1, stop=8))
    assert [batch.rows for batch in batches] == [[1, 2], [5, 6], [7]]
    assert [[bad.row for bad in batch.bad] for batch in batches] == [[3], [4], []]


def test_images_own_their_memory():
    array = photos(2)
    [batch] = open_images(array).batches(2, num_workers=0)
    batch.images[0].fill_(7)
    assert np.array_equal(array, photos(2))
    tensor = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    [batch] = open_images(tensor).batches(1, num_workers=0)
    batch.images[0].fill_(7)
    assert tensor.sum() == 0


@pytest.mark.parametrize("kind", ["stored.npz", "deflated.npz", "x.npy", "x.h5"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, kind):
    count, side = 400, 96  # 11 MB of pixels
    images = np.zeros((count, side, side, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count) % 251
    path = tmp_path / kind
    if kind == "x.npy":
        np.save(path, images)
    elif kind == "x.h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=images, chunks=(4, side, side, 3))
    else:
        (np.savez if kind == "stored.npz" else np.savez_compressed)(path, images)
    source = open_images(path)
    read_all(source, stop=2)
    tracemalloc.start()
    seen = [int(image[0, 0, 0]) for batch in source.batches(8, num_workers=2) for image in batch.images]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == [i % 251 for i in range(count)]
    assert peak < (images.nbytes + 16_000_000 if kind == "x.h5" else images.nbytes / 2)


def test_a_huge_stored_array_costs_only_the_rows_read(tmp_path):
    path = tmp_path / "huge.npy"
    shape = (200_000, 64, 64, 3)  # 2.5 GB, sparse on disk
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    tracemalloc.start()
    source = open_images(path, ImageOptions(count=20))
    assert len(read_all(source)) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000
