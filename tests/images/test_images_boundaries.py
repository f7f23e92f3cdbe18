"""Limits hold exactly where they are said to hold, and digests differ wherever images or their order do."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_worlds import encoded, photo, photos, read_all, write_files, write_tar, write_zip
from PIL import Image

from fdr.errors import FdrWarning, InputError, RunError
from fdr.images import ImageOptions, Preprocessing, base, digests, open_images
from fdr.images.decode import UnreadableImage, decode
from fdr.images.file_parts import OffsetReader
from fdr.images.labels import array_labels, folder_labels, may_be_labels
from fdr.images.records import pixel_digest

PNG = encoded(photo(0))


def test_exactly_the_share_of_bad_images_is_allowed(tmp_path):
    folder = write_files(tmp_path, {f"{i}.png": PNG if i else b"\x89PNG\r\n\x1a\n" for i in range(10)})
    assert len(read_all(open_images(folder, ImageOptions(on_bad="skip", max_bad=0.1)))) == 9
    with pytest.raises(RunError, match=r"1 of 10 images are bad, above the limit of 0\.09 "):
        read_all(open_images(folder, ImageOptions(on_bad="skip", max_bad=0.09)))


def test_bad_images_of_a_part_are_not_a_share_of_the_whole(tmp_path):
    folder = write_files(tmp_path, {f"{i}.png": PNG if i in (1, 2) else b"\x89PNG\r\n\x1a\n" for i in range(4)})
    source = open_images(folder, ImageOptions(on_bad="skip", max_bad=0.2))
    for start in (0, 2):  # one of two images is bad, and the whole is judged by those who read all of it
        assert [len(batch.bad) for batch in source.batches(2, 0, start, start + 2)] == [1]


def test_exactly_the_share_of_lost_images_is_allowed(tmp_path):
    folder = write_files(tmp_path, {f"{i}.png": PNG for i in range(9)} | {"a.avif": b"x"})
    with pytest.warns(FdrWarning, match=r"1 \.avif"):
        source = open_images(folder, ImageOptions(max_bad=0.1))
    assert source.policy["left"] == "1"
    with pytest.raises(InputError, match="has 9 images that can be measured, and beside them 1"):
        open_images(folder, ImageOptions(max_bad=0.0999))


@pytest.mark.parametrize(("name", "least"), [("count", 1), ("size", 1), ("seed", 0), ("max_pixels", 1)])
def test_the_least_value_of_an_option_is_taken_and_one_less_is_not(name, least):
    assert getattr(ImageOptions(**{name: least}), name) == least
    with pytest.raises(InputError, match=f"must be a whole number of at least {least}; got {least - 1}"):
        ImageOptions(**{name: least - 1})


def test_max_pixels_is_the_largest_image_that_is_read(tmp_path):
    folder = write_files(tmp_path, {"a.png": encoded(photo(0, 6, 5))})
    assert len(read_all(open_images(folder, ImageOptions(max_pixels=30)))) == 1
    with pytest.raises(InputError, match="it has 5 x 6 pixels, more than max_pixels=29"):
        read_all(open_images(folder, ImageOptions(max_pixels=29)))


@pytest.mark.parametrize(("low", "high", "is_read"), [(-0.0009, 1.0009, True), (-0.0015, 1, False), (0, 1.0015, False)])
def test_floats_may_miss_their_range_by_a_thousandth(low, high, is_read):
    images = np.full((1, 3, 2, 2), 0.4 + 0.01 / 255, np.float32)
    images[0, 0, 0, 0], images[0, 1, 0, 0] = low, high
    if not is_read:
        with pytest.raises(InputError, match=r"expected \[0, 1\]"):
            read_all(open_images(images))
        return
    (image,) = read_all(open_images(images))
    assert image[0, 0].tolist() == [0, 255, 102]
    (image,) = read_all(open_images(images, ImageOptions(quantize="none")))
    assert image[0, 0].tolist() == [0.0, 1.0, pytest.approx(0.4 + 0.01 / 255)]


@pytest.mark.parametrize(("alpha", "expected"), [("drop", 0.2), ("white", 0.2 * 0.25 + 0.75), ("black", 0.2 * 0.25)])
def test_transparency_of_floats(alpha, expected):
    images = np.full((1, 4, 2, 2), 0.2, np.float32)
    images[:, 3] = 0.25
    (image,) = read_all(open_images(images, ImageOptions(alpha=alpha, quantize="none")))
    np.testing.assert_allclose(image, np.full((2, 2, 3), expected), rtol=1e-6)


def test_what_counts_as_labels():
    one_hot = np.eye(3, dtype=np.uint8)[[2, 0, 1]]
    found = array_labels(one_hot, "y", ["a", "b", "c"])
    assert found is not None and found.values.tolist() == [2, 0, 1] and found.names == ("a", "b", "c")
    assert array_labels(one_hot + np.eye(3, dtype=np.uint8)[[0, 1, 2]], "y") is None  # two classes, or a 2
    assert array_labels(np.zeros((3, 3)), "y") is None
    assert array_labels(np.array([0.0, 1.5]), "y") is None
    assert array_labels(np.array([0.0, np.nan]), "y") is None
    assert array_labels(np.array([0, 2**63], np.uint64), "y") is None
    assert may_be_labels((5, 100_000), np.dtype("f4"), 5) and not may_be_labels((5, 100_001), np.dtype("f4"), 5)
    assert not may_be_labels((4,), np.dtype("i8"), 5) and not may_be_labels((5,), np.dtype("U3"), 5)


def test_one_missing_label_leaves_the_set_without(tmp_path):
    text = b'{"labels": [["0.png", 1], ["1.png", 0]]}'
    folder = write_files(tmp_path, {f"{i}.png": PNG for i in range(3)} | {"dataset.json": text})
    with pytest.warns(FdrWarning, match=r"has no label for 1 of 3 images \(2\.png\)"):
        assert open_images(folder).labels is None


@pytest.mark.parametrize(("names", "is_one_set"), [(("r0", "r1"), True), (("r1", "r2"), True), (("r2", "r3"), False)])
def test_numbered_files_of_a_folder_count_from_0_or_1(tmp_path, names, is_one_set):
    for number, name in enumerate(names):
        np.savez(tmp_path / f"{name}.npz", arr_0=photos(2) + np.uint8(number))
    if is_one_set:
        assert len(open_images(tmp_path)) == 4
    else:
        with pytest.raises(InputError, match="not numbered from 0 or 1"):
            open_images(tmp_path)


def test_a_range_that_counts_down_is_refused(tmp_path):
    with pytest.raises(InputError, match="counts down from 3 to 1"):
        open_images(str(tmp_path / "r{3..1}.npz"))


def digest(source, **options) -> str:
    found = open_images(source, ImageOptions(**options)).digest
    assert found is not None
    return found


def test_digests_follow_the_order_of_files(tmp_path):
    for number in (0, 1):
        np.savez(tmp_path / f"a{number}.npz", arr_0=photos(3)[number : number + 1])
        np.savez(tmp_path / f"b{1 - number}.npz", arr_0=photos(3)[number : number + 1])
    assert digest(str(tmp_path / "a{0..1}.npz")) != digest(str(tmp_path / "b{0..1}.npz"))


def test_digests_follow_the_layout():
    values = np.arange(2 * 3 * 3 * 3, dtype=np.uint8)
    tensor = torch.from_numpy(values.reshape(2, 3, 3, 3))
    arrays = [values.reshape(2, 3, 3, 3), values.reshape(2, 1, 9, 3), values.reshape(2, 9, 1, 3)]
    assert len({digest(array) for array in arrays} | {digest(tensor)}) == 4
    lists = [list(array) for array in arrays]
    assert len({digest(items) for items in lists}) == 3


def test_digests_follow_the_chosen_array(tmp_path):
    np.savez(tmp_path / "a.npz", x=photos(2), y=photos(2))
    assert digest(str(tmp_path / "a.npz:x")) != digest(str(tmp_path / "a.npz:y"))


def test_digests_follow_the_version_of_pixels_and_the_largest_image(tmp_path, monkeypatch):
    folder = write_files(tmp_path, {"a.png": PNG})
    before = digest(folder)
    assert digest(folder, max_pixels=1000) != before
    monkeypatch.setattr(base, "PIXELS_VERSION", base.PIXELS_VERSION + 1)
    assert digest(folder) != before


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    real, now = digests._sha256, digests.time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + 10**10)  # the file has settled

    def hash_and_append(file, done):
        found = real(file, done)
        with path.open("ab") as other:
            other.write(b"x")
        return found

    monkeypatch.setattr(digests, "_sha256", hash_and_append)
    first = digests.file_digests([path], str(tmp_path))
    monkeypatch.setattr(digests, "_sha256", real)
    assert digests.file_digests([path], str(tmp_path)) != first


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_cut_short_while_it_is_read(tmp_path, name):
    path = tmp_path / name
    np.save(path, photos(4)) if name == "a.npy" else np.savez(path, arr_0=photos(4))
    source = open_images(path)
    _ = source.digest
    path.write_bytes(path.read_bytes()[:900])  # a header, and two images of 360 bytes
    with pytest.raises(InputError, match=rf"{name} was cut short while it was read: image [12] is incomplete"):
        read_all(source)


def test_archives_that_lose_images_while_they_are_read(tmp_path):
    files = {f"{i}.png": PNG for i in range(3)}
    plain, packed = write_tar(tmp_path / "a.tar", files), write_tar(tmp_path / "a.tar.gz", files, "w:gz")
    first, second = open_images(plain), open_images(packed)
    plain.write_bytes(plain.read_bytes()[:1600])
    write_tar(packed, dict(list(files.items())[:2]), "w:gz")
    with pytest.raises(InputError, match=r"1\.png cannot be used: it is truncated: \d+ of \d+ bytes are there"):
        read_all(first)
    with pytest.raises(InputError, match=r"is not a complete tar file: .*it ends 1 images too early"):
        read_all(second)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "folder"])
def test_no_member_is_read_that_is_larger_than_any_image(tmp_path, name, monkeypatch):
    """16 bytes a pixel and 16 MiB are the most that an image can need."""
    limit = 16 * 100 + (16 << 20)
    files = {"0.png": PNG + bytes(limit - len(PNG)), "1.png": bytes(limit + 1)}
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for member, data in files.items():
                archive.writestr(member, data)
    elif name == "folder":
        write_files(path, files)
    else:
        write_tar(tmp_path / "a.tar", files)
        if name == "a.tar.gz":
            path.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes(), 1))
    read: list[int] = []
    for owner, method, size in (
        (zipfile.ZipFile, "read", lambda member: member.file_size),
        (tarfile.TarFile, "extractfile", lambda member: member.size),
        (OffsetReader, "read", lambda offset, size: size),
    ):
        monkeypatch.setattr(owner, method, recorded(getattr(owner, method), size, read))
    source = open_images(path, ImageOptions(max_pixels=100, on_bad="skip", max_bad=1))
    reasons = [image.reason for batch in source.batches(2, 0) for image in batch.bad]
    assert reasons[0] == "it has 10 x 12 pixels, more than --max-pixels 100"
    assert reasons[1] == f"it has {limit + 1} bytes, more than any image of --max-pixels 100 needs"
    assert read == ([] if name == "folder" else [limit])


def recorded(method, size, sizes: list[int]):
    """The same method, which adds the size of what it reads to a list."""

    def read(self, *args):
        sizes.append(size(*args))
        return method(self, *args)

    return read


def test_a_set_has_one_size_from_nine_tenths_on():
    assert Preprocessing(8, 8, 0.9, "none").is_uniform and not Preprocessing(8, 8, 0.8999, "none").is_uniform


def test_links_that_are_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "x/" * 2049)
        archive.writestr("b.png", PNG)
    with pytest.raises(InputError, match=r"is not a complete zip file: .*a\.png has 4098 bytes"):
        open_images(tmp_path / "long.zip")
    with tarfile.open(tmp_path / "many.tar", "w") as archive:
        for number in range(10):
            entry = tarfile.TarInfo(f"d/{number}.png")
            entry.size = len(PNG)
            archive.addfile(entry, io.BytesIO(PNG))
        for number in range(201):  # 2,010 copies of 10 files: more than 100 times as many and 1,000
            entry = tarfile.TarInfo(f"l{number}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "d"
            archive.addfile(entry)
    with pytest.raises(InputError, match="repeat its files more than a hundred times"):
        open_images(tmp_path / "many.tar")


def test_a_name_twice_in_a_zip_is_lost_only_where_it_is_an_image(tmp_path):
    for name, left_out in (("a.txt", {}), ("a.png", {"under a name that a later entry has again": 1})):
        with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            warnings.simplefilter("ignore")
            for _ in range(2):
                archive.writestr(name, PNG)
            archive.writestr("b.png", PNG)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert open_images(tmp_path / "a.zip", ImageOptions(max_bad=1)).left_out == left_out


def test_a_safetensors_header_is_not_believed(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(InputError, match="its header is longer than the file"):
        open_images(path)


def test_two_files_of_one_zip_keep_their_bytes(tmp_path):
    write_zip(tmp_path / "a.zip", {"b.png": encoded(photo(1)), "a.png": encoded(photo(2))})
    found = read_all(open_images(Path(tmp_path / "a.zip")))
    assert np.array_equal(found[0], photo(2)) and np.array_equal(found[1], photo(1))


def test_the_digest_of_pixels_is_that_of_its_definition():
    """Caches store these digests, so another definition would make every stored record another one."""
    pixels = np.random.default_rng(0).integers(0, 256, (110, 103, 3), dtype=np.uint8)
    data = pixels.tobytes()
    end = len(data) // 16384 * 16384
    weights = [int(word) | 1 for word in np.random.PCG64(0).random_raw(2048)]
    words = struct.unpack(f"<{end // 8}Q", data[:end])
    sums = [sum(w * x for w, x in zip(weights, words[at : at + 2048], strict=True)) for at in range(0, end // 8, 2048)]
    packed = b"".join(struct.pack("<Q", total % 2**64) for total in sums)
    expected = hashlib.sha1(b"uint8 (110, 103, 3)" + packed + data[end:]).digest()[:8]
    assert pixel_digest(pixels) == int.from_bytes(expected, "little")


def test_a_hash_is_remembered_for_the_very_file_alone(tmp_path):
    path = str(tmp_path / "a.png")
    Path(path).write_bytes(PNG)
    stamp = digests.file_stamp(path)
    assert stamp is not None and list(digests._remembered({path: [*stamp, "h"]}, [path])) == [0]
    for place in range(5):  # device, inode, size, mtime, ctime
        other = [value + (index == place) for index, value in enumerate(stamp)]
        assert not digests._remembered({path: [*other, "h"]}, [path])


def test_what_another_rank_hashed_is_remembered_only_if_it_is_the_same_file_here():
    here = [1, 2, 300, 400, 500]
    assert digests._as_seen_here([7, 8, 300, 400, 900, "h"], here) == [*here, "h"]
    for there in ([1, 2, 301, 400, 500], [1, 2, 300, 401, 500]):  # another size, another time
        assert digests._as_seen_here([*there, "h"], here) == ["h"]
    assert digests._as_seen_here(["h"], here) == ["h"] and digests._as_seen_here([*here, "h"], None) == ["h"]


def test_the_oldest_memos_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MAX_MEMOS", 2)
    for number in range(3):
        digests._remember(tmp_path / f"{number}.json", {"a.png": [number]})
        os.utime(tmp_path / f"{number}.json", (number, number))
    assert {path.name for path in tmp_path.iterdir()} == {"1.json", "2.json"}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("train/cat/0", "val/cat/1"), None),  # one class is none
        (("train/cat/0", "val/dog/1"), [0, 1]),
        (("0/1", "0/5", "1/6", "1/9"), None),  # chunks, which go on counting
        (("0/1", "0/5", "1/5", "1/9"), [0, 0, 1, 1]),
        (("0001/2", "0002/1"), [0, 1]),
        (("00001/2", "00002/1"), None),
        (("9999/1", "9998/1"), [1, 0]),
        (("10000/2", "10001/1"), None),
    ],
)
def test_which_folders_are_classes(names, labels):
    found = folder_labels([f"{name}.png" for name in names])
    assert found is None if labels is None else found is not None and found.values.tolist() == labels


@pytest.mark.parametrize(("values", "is_read"), [((0, 65535), True), ((0, 65536), False), ((-1, 5), False)])
def test_pixels_of_32_bits_must_fit_into_16(values, is_read):
    file = io.BytesIO()
    Image.fromarray(np.array([values], np.int32)).save(file, "TIFF")
    if is_read:
        assert np.array(decode(file.getvalue(), "drop", 100).array)[0, :, 0].tolist() == [0, 255]
    else:
        with pytest.raises(UnreadableImage, match="only 8 and 16 bits are images here"):
            decode(file.getvalue(), "drop", 100)
