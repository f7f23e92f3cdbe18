"""Every source gives the same pixels in the same order; ids, labels, selection and options."""

import numpy as np
import pytest
import torch
from image_worlds import encoded, photo, photos, read_all, write_files, write_tar, write_zip
from PIL import Image

from fdr.errors import FdrWarning, InputError
from fdr.images import ImageOptions, ImageSource, open_images

COUNT = 7


def save_hdf5(path, **datasets):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file.create_dataset(key, data=value, chunks=(3, *value.shape[1:]), compression="gzip")
    return path


@pytest.fixture
def every_source(tmp_path):
    """kind -> the same seven images in it."""
    images = photos(COUNT)
    files = {f"{i:03}.png": encoded(image) for i, image in enumerate(images)}
    np.savez(tmp_path / "stored.npz", images, np.arange(COUNT))
    np.savez_compressed(tmp_path / "deflated.npz", images, np.arange(COUNT))
    np.save(tmp_path / "images.npy", images)
    for shard in range(3):
        part = dict(list(files.items())[3 * shard : 3 * shard + 3])
        write_tar(tmp_path / f"shard-{shard:02}.tar", part)
    nchw = images.transpose(0, 3, 1, 2)
    return {
        "folder": write_files(tmp_path / "folder", files),
        "paths": [tmp_path / "folder" / name for name in files],
        "zip": write_zip(tmp_path / "images.zip", files),
        "tar": write_tar(tmp_path / "images.tar", files),
        "tar.gz": write_tar(tmp_path / "images.tar.gz", files, "w:gz"),
        "tar.xz": write_tar(tmp_path / "images.tar.xz", files, "w:xz"),
        "shards": tmp_path / "shard-{00..02}.tar",
        "stored": tmp_path / "stored.npz",
        "deflated": tmp_path / "deflated.npz",
        "npy": tmp_path / "images.npy",
        "hdf5": save_hdf5(tmp_path / "images.h5", images=images, labels=np.arange(COUNT)),
        "tensor": torch.from_numpy(nchw.copy()),
        "float tensor": torch.from_numpy(nchw / 255).double(),
        "NHWC array": images,
        "float array": (nchw / 255).astype(np.float32),
        "list of arrays": list(images),
        "list of tensors": list(torch.from_numpy(nchw.copy())),
        "list of PIL": [Image.fromarray(image) for image in images],
        "dataset": torch.utils.data.TensorDataset(torch.from_numpy(nchw.copy()), torch.arange(COUNT)),
        "DataLoader": torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.from_numpy(nchw / 255), torch.arange(COUNT)), batch_size=3
        ),
        "batches": [images[:4], images[4:]].__iter__(),
        "generator": (image for image in images),
        "generator of paths": (str(tmp_path / "folder" / name) for name in files),
        "generator of dicts": ({"image": image, "label": 3} for image in images),
    }


def test_every_source_gives_the_same_images_in_the_same_order(every_source):
    images = photos(COUNT)
    for kind, source in every_source.items():
        opened = open_images(source)
        found = np.stack(read_all(opened, num_workers=2))
        assert np.array_equal(found, images), kind
        assert found.dtype == np.uint8


def test_every_sized_source_reads_any_range_and_any_selection(every_source):
    images = photos(COUNT)
    chosen = open_images(every_source["npy"], ImageOptions(count=4, seed=5)).rows
    assert len(chosen) == 4 and list(chosen) == sorted(set(chosen))
    for kind, source in every_source.items():
        if "generator" in kind or kind in ("batches", "DataLoader"):
            continue
        opened = open_images(source, ImageOptions(count=4, seed=5))
        assert len(opened) == 4 == len(opened.ids)
        assert np.array_equal(np.stack(read_all(opened)), images[chosen]), kind
        assert np.array_equal(np.stack(read_all(opened, start=1, stop=3)), images[chosen[1:3]]), kind
        assert read_all(opened, start=4) == []
        assert read_all(opened, start=2, stop=2) == []


def test_kinds_names_and_ids_say_where_an_image_is(every_source):
    expected = {
        "folder": ("folder", "folder", "006.png"),
        "zip": ("zip", "images.zip", "006.png"),
        "shards": ("tar", "shard-{00..02}.tar", "shard-02.tar/006.png"),
        "deflated": ("npz", "deflated.npz", "arr_0[6]"),
        "npy": ("npy", "images.npy", "row[6]"),
        "hdf5": ("hdf5", "images.h5", "images[6]"),
        "tensor": ("tensor", "tensor", "tensor[6]"),
        "dataset": ("dataset", "TensorDataset of 7", "item[6]"),
        "list of PIL": ("dataset", "list of 7", "item[6]"),
    }
    for key, (kind, name, last) in expected.items():
        source = open_images(every_source[key])
        assert (source.kind, source.name, source.ids[-1]) == (kind, name, last)
        assert list(source.ids)[-1] == last and source.ids[:2][1] == source.ids[1]
        assert f"{name!r}, 7 images" in repr(source)


def test_an_open_source_is_returned_as_it_is():
    source = open_images(photos(2))
    assert open_images(source) is source and isinstance(source, ImageSource)
    with pytest.raises(InputError, match="open already"):
        open_images(source, ImageOptions(count=1))


def test_selection_is_pinned_and_nested():
    array = np.zeros((1000, 1, 1, 3), np.uint8)
    rows = {count: open_images(array, ImageOptions(count=count, seed=1)).rows for count in (5, 50)}
    assert rows[5].tolist() == [93, 323, 458, 622, 828]
    assert set(rows[5]) <= set(rows[50])
    assert open_images(array, ImageOptions(count=5, seed=2)).rows.tolist() != rows[5].tolist()
    assert open_images(array, ImageOptions(count=1000, seed=2)).rows.tolist() == list(range(1000))


@pytest.mark.filterwarnings("default:.*in hidden files and folders:fdr.errors.FdrWarning")
def test_folders_are_walked_sorted_case_blind_and_without_hidden_files(tmp_path):
    png = encoded(photo(0))
    kept = ["B.PNG", "a-1.Png", "a/z.jpg", "a/b/c.JPEG", "é/x.webp"]
    skipped = [".hidden.png", "._a.png", ".git/x.png", "__MACOSX/y.png", "a/.thumbs/t.png", "notes.txt"]
    write_files(tmp_path, dict.fromkeys(kept + skipped, png))
    source = open_images(tmp_path)
    assert list(source.ids) == ["B.PNG", "a-1.Png", "a/b/c.JPEG", "a/z.jpg", "é/x.webp"]
    assert source.labels is None and source.class_names is None
    assert len(read_all(source)) == 5


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    write_files(tmp_path, {"real/a.png": encoded(photo(0)), "root/b.png": encoded(photo(1))})
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root", target_is_directory=True)
    assert list(open_images(tmp_path / "root").ids) == ["b.png", "link/a.png"]


def test_class_folders_give_labels_only_when_every_image_is_in_one(tmp_path):
    names = ["n02/a.png", "n01/b.png", "n01/deep/c.png", "n03/d.png"]
    files = dict.fromkeys(names, encoded(photo(0)))
    sources = [
        write_files(tmp_path / "folder", files),
        write_zip(tmp_path / "a.zip", {f"top/{name}": data for name, data in files.items()}),
        write_tar(tmp_path / "a.tar", {f"./top/{name}": files[name] for name in sorted(names)}),
    ]
    for path in sources:
        source = open_images(path)
        assert source.class_names == ("n01", "n02", "n03")
        assert source.labels.tolist() == [0, 0, 1, 2] and source.labels.dtype == np.int64
        chosen = open_images(path, ImageOptions(count=2, seed=1))
        assert chosen.labels.tolist() == source.labels[chosen.rows].tolist()
    write_files(tmp_path / "folder", {"loose.png": encoded(photo(0))})
    assert open_images(tmp_path / "folder").labels is None


@pytest.mark.filterwarnings("default:.*so none is used:fdr.errors.FdrWarning")
def test_webdataset_labels_go_by_key(tmp_path):
    files = {}
    for i, label in enumerate([5, 0, 7]):
        files |= {
            f"s/{i:04}.cls": f"{label}\n".encode(),
            f"s/{i:04}.seg.png": encoded(photo(i)),
            f"s/{i:04}.json": b"{}",
        }
    for mode, name in (("w", "x-000.tar"), ("w:gz", "x-000.tar.gz")):
        source = open_images(write_tar(tmp_path / name, files, mode))
        assert source.labels.tolist() == [5, 0, 7] and source.class_names is None
        assert source.ids[0] == "s/0000.seg.png"
    del files["s/0001.cls"]
    assert open_images(write_tar(tmp_path / "y.tar", files)).labels is None


def test_npz_and_hdf5_labels(every_source):
    for kind in ("stored", "deflated", "hdf5"):
        assert open_images(every_source[kind]).labels.tolist() == list(range(COUNT))
        chosen = open_images(every_source[kind], ImageOptions(count=3))
        assert chosen.labels.tolist() == chosen.rows.tolist()


def test_dataset_labels_come_from_targets():
    class Dataset:
        targets = (3, 1)
        classes = ("a", "b", "c", "d")

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Image.fromarray(photo(index)), self.targets[index]

    source = open_images(Dataset())
    assert source.labels_from == "targets"
    Dataset.targets = torch.eye(4)[[2, 0]]
    assert open_images(Dataset()).labels.tolist() == [2, 0]
    Dataset.targets = (0.5, 1.0)
    with pytest.warns(FdrWarning, match=r"Dataset of 2: targets, float64 \[2\], are not taken as labels"):
        assert open_images(Dataset()).labels is None
    Dataset.targets = (3, 1)
    assert source.labels.tolist() == [3, 1] and source.class_names == ("a", "b", "c", "d")
    assert np.array_equal(read_all(source)[1], photo(1))


@pytest.mark.parametrize("compressed", [False, True])
def test_the_only_array_of_image_shape_is_found_under_any_name(tmp_path, compressed):
    save = np.savez_compressed if compressed else np.savez
    path = tmp_path / "x.npz"
    save(path, pictures=photos(3), mu=np.zeros(4), sigma=np.eye(4), y=np.array([[2], [1], [0]]))
    source = open_images(path)
    assert source.ids[0] == "pictures[0]" and source.labels.tolist() == [2, 1, 0]
    assert np.array_equal(np.stack(read_all(source)), photos(3))


@pytest.mark.parametrize("shape", [(6, 7, 5), (6, 7, 5, 1)])
def test_grayscale_arrays_are_repeated_to_rgb(tmp_path, shape):
    gray = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "g.npy", gray)
    np.savez_compressed(tmp_path / "g.npz", gray)
    expected = np.repeat(gray.reshape(6, 7, 5, 1), 3, axis=-1)
    for source in (tmp_path / "g.npy", tmp_path / "g.npz", gray, list(gray)):
        assert np.array_equal(np.stack(read_all(open_images(source))), expected)


def test_mixed_sizes_stay_apart(tmp_path):
    write_files(tmp_path, {"a.png": encoded(photo(0, 5, 9)), "b.png": encoded(photo(1, 8, 3))})
    [batch] = open_images(tmp_path).batches(10)
    assert [tuple(image.shape) for image in batch.images] == [(3, 5, 9), (3, 8, 3)]
    assert all(image.dtype == torch.uint8 for image in batch.images)


def test_floats_are_rounded_or_kept():
    exact = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    rounded = np.stack(read_all(open_images(exact)))
    assert np.array_equal(rounded, (exact * 255).round().byte().permute(0, 2, 3, 1).numpy())
    kept = np.stack(read_all(open_images(exact, ImageOptions(quantize="none"))))
    assert kept.dtype == np.float32 and np.array_equal(kept, exact.permute(0, 2, 3, 1).numpy())
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert np.abs(np.stack(read_all(open_images(exact.to(dtype)))) - rounded.astype(int)).max() <= 1
    assert read_all(open_images(torch.full((1, 3, 2, 2), 1 + 1e-6), ImageOptions(quantize="none")))[0].max() == 1
    assert np.array_equal(read_all(open_images(exact[:1].requires_grad_()))[0], rounded[0])


def test_an_iterator_is_read_once_and_an_iterable_again():
    source = open_images(image for image in photos(3))
    assert not source.is_repeatable and source.digest is None
    with pytest.raises(TypeError, match="no known length"):
        len(source)
    with pytest.raises(TypeError, match="not known"):
        list(source.ids)
    assert len(read_all(source)) == 3 and source.ids[2] == "item[2]"
    with pytest.raises(InputError, match="read already"):
        read_all(source)
    loader = torch.utils.data.DataLoader(list(torch.from_numpy(photos(3).transpose(0, 3, 1, 2))), batch_size=2)
    source = open_images(loader)
    assert source.is_repeatable and source.digest is None
    assert np.array_equal(np.stack(read_all(source)), np.stack(read_all(source)))


def test_count_of_an_iterable_takes_the_first():
    def endless():
        seed = 0
        while True:
            yield photo(seed)
            seed += 1

    source = open_images(endless(), ImageOptions(count=4))
    assert len(source) == 4 and source.name == "first 4 of generator"
    assert np.array_equal(np.stack(read_all(source)), photos(4))


def test_iterable_datasets_are_iterated():
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 2

        def __iter__(self):
            return iter(photos(2))

    source = open_images(Stream())
    assert source.kind == "iterable" and len(read_all(source)) == 2
