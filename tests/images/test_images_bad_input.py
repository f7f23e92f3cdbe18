"""Every unusable input is one sentence: what was found, what was expected, what to do."""

import gzip
import os
import re

import numpy as np
import pytest
import torch
from image_worlds import encoded, photo, photos, read_all, write_files, write_tar, write_zip

from fdr.errors import FdrWarning, InputError, RunError
from fdr.images import ImageOptions, open_images


def refused(source, match, **options):
    with pytest.raises(InputError, match=match) as info:
        read_all(open_images(source, ImageOptions(**options)))
    assert "\n" not in str(info.value)


def test_missing_path_suggests_its_neighbours(tmp_path):
    write_files(tmp_path, {"samples.npz": b"", "other": b""})
    refused(tmp_path / "sample.npz", r"sample\.npz does not exist; did you mean .*samples\.npz\?")
    refused(tmp_path / "zzz", r"zzz does not exist\.$")
    refused(tmp_path / "no" / "where", "neither does the folder")


def test_empty_folder_and_folder_without_images(tmp_path):
    (tmp_path / "sub").mkdir()
    refused(tmp_path, r"is empty; expected images \(.*\.jpg .*\.png")
    write_files(tmp_path, {"a.txt": b"", "b.txt": b"", "README": b"", "x.zip": b""})
    refused(
        tmp_path, r"holds no images; looked for \.bmp .* found 2 \.txt, 1 .* To use a \.zip file, give the file itself"
    )


def test_archives_without_images(tmp_path):
    refused(write_zip(tmp_path / "a.zip", {"a.txt": b""}), r"a\.zip holds no images; .* found 1 \.txt")
    refused(write_tar(tmp_path / "a.tar", {"a.json": b""}), r"a\.tar holds no images; .* found 1 \.json")
    refused(write_tar(tmp_path / "b.tar", {}), r"b\.tar is empty")


def test_one_image_is_enough_here(tmp_path):
    assert len(open_images(write_files(tmp_path, {"a.png": encoded(photo(0))}))) == 1


def test_single_file_and_unsupported_types(tmp_path):
    write_files(tmp_path, {"a.PNG": encoded(photo(0)), "w.bin": b"x", "noext": b"x"})
    refused(tmp_path / "a.PNG", r"is a single image; give the folder")
    refused(tmp_path / "w.bin", r"unsupported file type \('\.bin'\); images are read from a folder, \.npz")
    refused(tmp_path / "noext", "unsupported file type .without extension")
    refused(3, "A int is no source of images")
    refused([], "list of images is empty")
    refused({"a": 1}, r"item\[0\] is a str|cannot be read|cannot be used")


BAD_FILES = {
    "empty.png": (b"", "empty"),
    "cut.jpg": (encoded(photo(0, 64, 64), "JPEG")[:-300], "truncated or damaged jpeg"),
    "page.png": (b"<html><body>404</body></html>", "HTML"),
    "text.png": (b"not an image at all", "not an image"),
}


@pytest.mark.parametrize("container", ["folder", "zip", "tar", "tar.gz"])
def test_bad_files_fail_by_name_or_are_listed(tmp_path, container):
    files = {f"{i}.png": encoded(photo(i)) for i in range(4)} | {name: data for name, (data, _) in BAD_FILES.items()}
    path = tmp_path / f"images.{container}"
    if container == "folder":
        write_files(path, files)
    elif container == "zip":
        write_zip(path, files)
    else:
        write_tar(path, files, "w:gz" if container == "tar.gz" else "w")
    for name, (data, reason) in BAD_FILES.items():
        alone = write_files(tmp_path / "alone" / name, {name: data})
        refused(alone, rf"{name}: {name} cannot be used: .*{reason}.*on_bad='skip'")
    source = open_images(path, ImageOptions(on_bad="skip", max_bad=0.5))
    for workers in (0, 3):
        batches = list(source.batches(3, num_workers=workers))
        assert [len(batch.rows) + len(batch.bad) for batch in batches] == [3, 3, 2]
        bad = {image.id: image for batch in batches for image in batch.bad}
        assert bad.keys() == BAD_FILES.keys()
        for name, (_, reason) in BAD_FILES.items():
            assert re.search(reason, bad[name].reason) and source.ids[bad[name].row] == name
        rows = [row for batch in batches for row in batch.rows]
        assert [source.ids[row] for row in rows] == [f"{i}.png" for i in range(4)]


def test_too_many_bad_files_end_the_pass_with_an_error(tmp_path):
    write_files(tmp_path, {"a.png": encoded(photo(0)), "b.png": b"", "c.png": b"x"})
    batches = open_images(tmp_path, ImageOptions(on_bad="skip")).batches(2)
    assert [len(next(batches).bad), len(next(batches).bad)] == [1, 1]
    with pytest.raises(RunError, match=r"2 of 3 images are bad, above the limit of 0\.01 .*b\.png: the file is empty"):
        next(batches)


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path):
    write_files(tmp_path, {"bomb.png": encoded(np.zeros((3000, 3000), np.uint8))})
    refused(
        tmp_path, r"bomb\.png cannot be used: it has 3000 x 3000 pixels, more than max_pixels=1000000", max_pixels=10**6
    )
    write_files(tmp_path, {"bomb.png": encoded(photo(0)) + bytes(32 << 20)})
    refused(tmp_path, "more than any image of max_pixels=1000", max_pixels=1000)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


IMAGES = photos(3)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        (dict(feats=np.zeros((4, 8))), r"holds no images; expected arr_0 .* found feats float64 \[4, 8\]"),
        (dict(mu=np.zeros(4), sigma=np.eye(4)), r"is a statistics file \(mu, sigma\), not images; .*reference"),
        (dict(arr_0=IMAGES / 255.0), r"arr_0 is float64 \[3, 12, 10, 3\]; .*np\.rint\(255 \* x\)"),
        (dict(arr_0=IMAGES.transpose(0, 3, 1, 2).copy()), r"\(NCHW\); .*transpose\(0, 2, 3, 1\)"),
        (dict(arr_0=np.zeros((3, 9, 9, 2), np.uint8)), "with 2 channels; expected uint8"),
        (dict(arr_0=np.zeros((3, 9, 9, 5), np.uint8)), "with 5 channels; expected uint8"),
        (
            dict(arr_0=np.array([IMAGES[0], "x", None], dtype=object)),
            "array of Python objects, which is never unpickled",
        ),
        (dict(arr_0=np.asfortranarray(IMAGES)), "in Fortran order; save np.ascontiguousarray"),
        (dict(arr_0=IMAGES[0]), "which is one image"),
        (dict(arr_0=IMAGES[:0]), "without a single image"),
        (dict(arr_0=IMAGES.astype(np.int64)), r"arr_0 is int64 .*; expected uint8"),
        (dict(a=IMAGES, b=IMAGES), r"several arrays of images .*choose one, as in .*x\.npz:a\.$"),
        (dict(), "holds no images; .* found nothing"),
    ],
)
def test_npz_without_usable_images_says_what_it_holds(tmp_path, arrays, match):
    refused(npz(tmp_path / "x.npz", **arrays), match)


def test_npy_hdf5_and_npz_speak_alike(tmp_path):
    h5py = pytest.importorskip("h5py")
    np.save(tmp_path / "x.npy", IMAGES / 255.0)
    refused(tmp_path / "x.npy", r"the array is float64 .*np\.rint")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features/pool"] = np.zeros((4, 8))
    refused(tmp_path / "x.h5", r"holds no images; .* found features/pool float64 \[4, 8\]")
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["mu"], file["sigma"] = np.zeros(4), np.eye(4)
    refused(tmp_path / "s.h5", "statistics file")


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.h5", "x.zip", "x.tar", "x.tar.gz"])
def test_files_that_are_not_what_they_are_called(tmp_path, name):
    write_files(tmp_path, {name: b"<html>404 not found</html>" * 50})
    refused(tmp_path / name, r"is a web page \(HTML or XML\) in place of the data")


def test_truncated_containers(tmp_path):
    h5py = pytest.importorskip("h5py")
    files = {f"{i}.png": encoded(photo(i, 60, 60)) for i in range(9)}
    noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", noise)
    np.save(tmp_path / "x.npy", noise)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = noise
    write_zip(tmp_path / "x.zip", files)
    write_tar(tmp_path / "x.tar", files)
    write_tar(tmp_path / "x.tar.gz", files, "w:gz")
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 5])
        refused(path, rf"{path.name} is .*truncated")


def test_damage_inside_a_deflated_npz_is_an_error_and_not_a_short_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 8, (50, 16, 16, 3), dtype=np.uint8)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, r"x\.npz is not a complete npz file: it is truncated or damaged .*arr_0")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_ends_between_two_files_is_doubtful(tmp_path, mode):
    whole = write_tar(tmp_path / "whole.tar", {f"{i}.png": encoded(photo(i)) for i in range(2)}).read_bytes()
    cut = whole[: whole.index(b"1.png")]
    path = tmp_path / "cut.tar"
    path.write_bytes(gzip.compress(cut) if mode == "w:gz" else cut)
    with pytest.warns(FdrWarning, match=r"cut\.tar has no end marker and may be truncated; 1 image"):
        assert len(open_images(path)) == 1


def test_missing_shard_is_named(tmp_path):
    write_tar(tmp_path / "x-00.tar", {"a.png": encoded(photo(0))})
    refused(tmp_path / "x-{00..03}.tar", r"x-01\.tar does not exist; x-\{00\.\.03\}\.tar stands for 4 files")
    refused(tmp_path / "x-{03..00}.tar", "counts down")
    refused(tmp_path / "x-{0..99999999999}.tar", "stands for more than 1,000,000 files")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(count=4), r"x\.npy has only 3 images, but 4 were asked for"),
        (dict(count=0), "count must be a whole number of at least 1; got 0"),
        (dict(count=2.5), "count must be a whole number"),
        (dict(seed=-1), "seed must be a whole number of at least 0"),
        (dict(crop="adm"), r"crop='adm' needs a size \(size=S\)"),
        (dict(crop="centre", size=8), "Unknown crop 'centre'; did you mean 'center'"),
        (dict(size=0), "size must be a whole number of at least 1"),
        (dict(alpha="grey"), "Unknown alpha 'grey'"),
        (dict(on_bad="ignore"), "Unknown on-bad 'ignore'"),
        (dict(quantize="uint16"), "Unknown quantize 'uint16'; did you mean 'uint8'"),
        (dict(max_bad=2), "max_bad is a share between 0 and 1"),
    ],
)
def test_bad_options(tmp_path, options, match):
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(InputError, match=match):
        open_images(tmp_path / "x.npy", ImageOptions(**options))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.rand(2, 3, 4, 4) * 2 - 1, r"from -.* expected \[0, 1\] \(looks like \[-1, 1\]: give \(x \+ 1\) / 2\)"),
        (torch.rand(2, 3, 4, 4) * 255, r"looks like \[0, 255\]: give x / 255, or uint8"),
        (torch.rand(2, 3, 4, 4) * 900 - 400, "rescale or clamp"),
        (torch.full((2, 3, 4, 4), float("nan")), "not finite"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), "dtype int64; expected uint8"),
        (torch.zeros(2, 5, 4, 6), r"shape \[2, 5, 4, 6\]; expected \[N, C, H, W\]"),
        (torch.zeros(3, 8, 8), r"looks like one image; add an axis"),
        (torch.zeros(0, 3, 8, 8), "without a single pixel"),
        (np.zeros((2, 9, 9, 2), np.uint8), "1, 3 or 4 channels"),
        ([np.zeros((9, 9, 2), np.uint8)], r"item\[0\] has shape \[9, 9, 2\]"),
        ([object()], r"item\[0\] is a object; expected an image"),
        ([{"label": 1}], "keys label holds no image"),
        (iter([]), "gave no images"),
        (iter([photo(0) / 100.0]), r"item\[0\] holds floats from"),
    ],
)
def test_bad_values_in_memory(value, match):
    refused(value, match)


def test_iterable_shorter_than_count():
    refused(iter(photos(2)), "gave 2 images, but count=3 were asked for", count=3)


def test_floats_are_not_resized_unrounded():
    refused(torch.rand(1, 3, 8, 8), r"quantize='none' keeps them, but a crop or size", quantize="none", size=4)


def test_bad_batch_arguments():
    source = open_images(IMAGES)
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        source.batches(0)
    with pytest.raises(InputError, match="num_workers must be at least 0"):
        source.batches(1, num_workers=-1)


def test_unreadable_folder_is_not_left_out_silently(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.png": encoded(photo(0)), "locked/b.png": encoded(photo(1))})
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    refused(tmp_path, "The folder .*locked cannot be read: Permission denied")


@pytest.mark.parametrize("value", [1.6, -0.7, float("nan"), float("inf")])
def test_one_image_of_wrong_values_is_skipped_as_a_bad_one(value):
    images = [photo(i) / np.float32(255) for i in range(4)]
    images[2][0, 0, 0] = value
    refused(images, r"item\[2\] holds ", max_bad=0.5)
    source = open_images(images, ImageOptions(on_bad="skip", max_bad=0.5))
    (batch,) = source.batches(8)
    assert batch.rows == [0, 1, 3]
    assert [(image.row, image.reason.partition(" holds ")[0]) for image in batch.bad] == [(2, "list of 4: item[2]")]
