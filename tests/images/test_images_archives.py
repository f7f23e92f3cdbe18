"""Archives and folders: links, appended and repeated entries, what is left out, and where labels come from."""

import io
import json
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from image_worlds import encoded, photo, photos, read_all, write_files, write_tar, write_zip

from fdr.errors import FdrWarning, InputError
from fdr.images import ImageOptions, open_images

PNG = [encoded(photo(i)) for i in range(8)]


def tar_with_links(path, files, links, mode="w"):
    """`links`: name -> (kind, target)."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, (kind, target) in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_a_tar_are_followed_as_in_a_folder(tmp_path, mode):
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    path = tar_with_links(
        tmp_path / "x.tar",
        {"d/0.png": PNG[0], "d/1.png": PNG[1], "e/2.png": PNG[2]},
        {
            "h.png": (hard, "d/1.png"),
            "d/s.png": (soft, "../e/2.png"),
            "t.png": (soft, "h.png"),
            "f": (soft, "e"),
            "g.png": (soft, "f/2.png"),
            "loop": (soft, "."),
        },
        mode,
    )
    source = open_images(path)
    names = ["d/0.png", "d/1.png", "h.png", "t.png", "d/s.png", "e/2.png", "f/2.png", "g.png"]
    assert sorted(source.ids) == sorted(names)
    found = dict(zip(source.ids, read_all(source), strict=True))
    for name, seed in zip(names, (0, 1, 1, 1, 2, 2, 2, 2), strict=True):
        assert np.array_equal(found[name], photo(seed)), name
    assert len(read_all(source, start=3, stop=6)) == 3


@pytest.mark.parametrize("target", ["nothing.png", "../../etc/a.png", "/etc/a.png", "x.png"])
def test_links_to_nothing_or_outside_are_counted(tmp_path, target):
    files = {f"{i}.png": PNG[i] for i in range(4)}
    path = tar_with_links(tmp_path / "x.tar", files, {"x.png": (tarfile.SYMTYPE, target)})
    with pytest.raises(InputError, match=r"has 4 images .* 1 links that lead outside of the archive or to nothing"):
        open_images(path)
    with pytest.warns(FdrWarning, match="1 links that lead outside"):
        source = open_images(path, ImageOptions(max_bad=0.2))
    assert len(source) == 4 and source.policy["left"] == "1" and sum(source.left_out.values()) == 1


def test_links_in_a_zip_are_followed(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a/0.png": PNG[0], "a/1.png": PNG[1]})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("b/2.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../a/1.png")
    source = open_images(path)
    assert list(source.ids) == ["a/0.png", "a/1.png", "b/2.png"]
    assert np.array_equal(read_all(source)[2], photo(1))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_that_were_appended_with_cat_are_read_to_the_end(tmp_path, mode):
    parts = [write_tar(tmp_path / f"{n}.tar", {f"{n}{i}.png": PNG[4 * n + i] for i in range(4)}, mode) for n in (0, 1)]
    path = tmp_path / "both.tar"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = open_images(path)
    assert np.array_equal(np.stack(read_all(source)), photos(8))
    path.write_bytes(parts[0].read_bytes() + b"x" * 512 if mode == "w" else parts[0].read_bytes())
    if mode == "w":
        with pytest.warns(FdrWarning, match="bytes behind its end that are no tar file"):
            assert len(open_images(path)) == 4


def test_a_damaged_header_inside_a_tar_is_damage_and_not_its_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": PNG[i] for i in range(4)})
    data = bytearray(path.read_bytes())
    data[data.index(b"2.png")] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.tar is not a complete tar file: .*the header at byte \d+ is damaged"):
        open_images(path)


def repeated(path, kind):
    files = [("a.png", PNG[0]), ("b.png", PNG[1]), ("./a.png", PNG[2])]
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name, data in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files:
                archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_of_entries_of_one_name_the_last_counts_and_that_is_said(tmp_path, kind):
    path = repeated(tmp_path / f"x.{kind}", kind)
    with pytest.raises(InputError, match=r"has 2 images .* 1 under a name that a later entry has again"):
        open_images(path)
    with pytest.warns(FdrWarning, match="1 under a name that a later entry has again"):
        source = open_images(path, ImageOptions(max_bad=0.5))
    found = dict(zip((name.removeprefix("./") for name in source.ids), read_all(source), strict=True))
    assert np.array_equal(found["a.png"], photo(2)) and np.array_equal(found["b.png"], photo(1))


@pytest.mark.parametrize("container", ["folder", "zip", "tar"])
def test_what_is_not_measured_is_counted_by_what_it_is(tmp_path, container):
    files = {f"{i}.png": PNG[i] for i in range(8)}
    aside = dict.fromkeys(("thumbs/0.png", "a/@eaDir/0.png/S.jpg", ".thumbnails/1.png", ".x/1.png", "s.npz"), b"")
    mac = {"__MACOSX/._0.png": b"", "._0.png": b"", "notes.txt": b""}
    path = tmp_path / f"x.{container}"
    write = {"folder": write_files, "zip": write_zip, "tar": write_tar}[container]
    write(path, files | aside | mac)
    with pytest.warns(FdrWarning, match="beside 8 images, these are left out"):
        source = open_images(path)
    expected = {"thumbs/": 1, "@eaDir/": 1, ".thumbnails/": 1, "in hidden files and folders": 1, ".npz": 1}
    assert dict(source.left_out) == expected and len(source) == 8
    assert "left" not in source.policy and source.warnings == [str(text) for text in source.warnings]
    write(path, files | {"x.avif": b"", "y.JP2": b""})
    with pytest.raises(InputError, match=r"1 \.avif \(a format that is not read\), 1 \.jp2 .*max_bad"):
        open_images(path)
    with pytest.warns(FdrWarning, match=r"\.avif"):
        loose = open_images(path, ImageOptions(max_bad=0.25))
    assert loose.policy["left"] == "2" and len(loose) == 8


def test_images_that_are_left_out_change_the_digest(tmp_path):
    write_files(tmp_path, {f"{i}.png": PNG[i] for i in range(8)})
    first = open_images(tmp_path).digest
    write_files(tmp_path, {"x.avif": b""})
    with pytest.warns(FdrWarning):
        assert open_images(tmp_path, ImageOptions(max_bad=0.2)).digest != first


def test_two_images_of_one_sample_are_not_both_measured(tmp_path):
    files = {}
    for i in range(4):
        files |= {f"s/{i}.jpg": PNG[i], f"s/{i}.seg.png": PNG[i + 4], f"s/{i}.cls": b"1"}
    path = write_tar(tmp_path / "x.tar", files)
    with pytest.raises(InputError, match=r"several images under one key in 4 cases .*choose .* x\.tar:jpg"):
        open_images(path)
    pictures = open_images(f"{path}:jpg")
    masks = open_images(f"{path}:seg.png")
    assert np.array_equal(np.stack(read_all(pictures)), photos(8)[:4]) and pictures.name == "x.tar:jpg"
    assert np.array_equal(np.stack(read_all(masks)), photos(8)[4:]) and masks.digest != pictures.digest
    with pytest.raises(InputError, match=r"Unknown extension in x\.tar 'gif'"):
        open_images(f"{path}:gif")
    dotted = write_tar(tmp_path / "y.tar", {f"img_0.{i}.png": PNG[i] for i in range(4)})
    assert len(open_images(dotted)) == 4


def chunks():
    return [f"{i // 4:05}/img{i:08}.png" for i in range(8)]


@pytest.mark.parametrize("container", ["folder", "zip", "tar"])
@pytest.mark.parametrize("top", ["", "set/"])
def test_labels_of_stylegan_and_edm_come_from_dataset_json(tmp_path, container, top):
    write = {"folder": write_files, "zip": write_zip, "tar": write_tar}[container]
    files = {f"{top}{name}": PNG[i] for i, name in enumerate(chunks())}
    one_hot = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]].tolist()
    for number, (labels, expected) in enumerate(
        [
            ([i % 3 for i in range(8)], [0, 1, 2, 0, 1, 2, 0, 1]),
            (one_hot, [0, 1, 2, 0, 1, 2, 0, 1]),
            (None, None),
        ]
    ):
        pairs = None if labels is None else list(zip(chunks(), labels, strict=True))
        text = json.dumps({"labels": pairs}).encode()
        path = write(tmp_path / f"{number}.{container}", files | {f"{top}dataset.json": text})
        source = open_images(path)
        assert (None if source.labels is None else source.labels.tolist()) == expected
        assert source.labels_from == (None if expected is None else "dataset.json")
    chosen = open_images(tmp_path / f"0.{container}", ImageOptions(count=3))
    assert chosen.labels.tolist() == [int(row) % 3 for row in chosen.rows]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (json.dumps({"labels": [["00000/img00000000.png", 1]]}), "has no label for 7 of 8 images"),
        (json.dumps({"labels": [[name, 0.5] for name in chunks()]}), "neither whole numbers nor one-hot"),
        (json.dumps({"labels": [[name, [1, 1]] for name in chunks()]}), "neither whole numbers nor one-hot"),
        (json.dumps({"labels": [["00000/img00000000.png", [1]], ["a", [1, 2]]]}), "has no label for 7"),
        ("[" * 100_000, "cannot be read"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_dataset_json_without_usable_labels_is_said(tmp_path, text, match):
    files = {name: PNG[i] for i, name in enumerate(chunks())}
    write_files(tmp_path, files | {"dataset.json": text.encode("latin1")})
    with pytest.warns(FdrWarning, match=match):
        assert open_images(tmp_path).labels is None


@pytest.mark.parametrize("text", [b'{"labels": ["cat", "dog"]}', b'{"labels": 7}', b"[]", b'{"images": []}'])
def test_a_dataset_json_of_another_tool_says_nothing_of_labels(tmp_path, text):
    write_files(tmp_path, {"cat/0.png": PNG[0], "dog/1.png": PNG[1], "dataset.json": text})
    assert open_images(tmp_path).labels.tolist() == [0, 1]


def test_thumbnails_alone_are_the_set(tmp_path):
    write_files(tmp_path, {"thumbnails/0.png": PNG[0], "thumbnails/1.png": PNG[1]})
    assert len(open_images(tmp_path)) == 2


def test_a_second_array_of_images_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", photos(3), photos(4))
    with pytest.warns(FdrWarning, match=r"of 2 arrays of images, arr_0 is measured; .*x\.npz:arr_1 takes another"):
        assert len(open_images(tmp_path / "x.npz")) == 3


@pytest.mark.parametrize(
    "folders",
    [
        ("00000", "00001"),
        ("rank0", "rank1"),
        ("shard-00000", "shard-00001"),
        ("part_3", "part_4"),
        ("gpu0", "gpu1"),
        ("Rank_0_of_2", "Rank_1_of_2"),
        ("node0_gpu0", "node0_gpu1"),
        ("000-of-002", "001-of-002"),
        ("0", "1"),
    ],
)
def test_parts_of_a_set_are_no_classes(tmp_path, folders):
    write_files(tmp_path, {f"{folders[i // 4]}/{i:04}.png": PNG[i] for i in range(8)})
    source = open_images(tmp_path)
    assert source.labels is None and source.labels_from is None and len(source) == 8


@pytest.mark.parametrize("folders", [("0", "1"), ("003", "007"), ("n01440764", "n01443537"), ("class0", "class1")])
def test_class_folders_stay_classes(tmp_path, folders):
    write_files(tmp_path, {f"{folders[i // 4]}/{i % 4}.png": PNG[i] for i in range(8)})
    source = open_images(tmp_path)
    assert source.labels.tolist() == [0] * 4 + [1] * 4
    assert source.class_names == folders and source.labels_from == "class folders"


def test_classes_below_parts_of_a_split_are_found_and_the_split_is_said(tmp_path):
    names = ["train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "val/dog/3.png"]
    write_files(tmp_path, {name: PNG[i] for i, name in enumerate(names)})
    with pytest.warns(FdrWarning, match="holds train, val, which are measured as one set"):
        source = open_images(tmp_path)
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1, 0, 1]
    flat = write_files(tmp_path / "flat", {"train/0.png": PNG[0], "val/1.png": PNG[1]})
    with pytest.warns(FdrWarning, match="train, val"):
        assert open_images(flat).labels is None


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([2.0, 0.0, 1.0]), [2, 0, 1]),
        (np.array([[2], [0], [1]], np.uint8), [2, 0, 1]),
        (np.eye(4, dtype=np.float32)[[2, 0, 1]], [2, 0, 1]),
        (np.eye(4, dtype=bool)[[3, 3, 1]], [3, 3, 1]),
        (np.array([0.5, 1, 2]), None),
        (np.array([np.nan, 1, 2]), None),
        (np.ones((3, 4)), None),
        (np.arange(2), None),
        (np.zeros((3, 2, 2)), None),
    ],
)
def test_labels_beside_arrays_are_read_or_the_reader_is_told(tmp_path, kind, labels, expected):
    path = tmp_path / f"x.{kind}"
    if kind == "npz":
        np.savez(path, photos(3), labels)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["arr_0"], file["arr_1"] = photos(3), labels
    if expected is None:
        with pytest.warns(FdrWarning, match=r"x\..*: arr_1 .* is not taken as labels of 3 images"):
            assert open_images(path).labels is None
        return
    source = open_images(path)
    assert source.labels.tolist() == expected and source.labels_from == "arr_1"


def test_an_array_is_chosen_behind_a_colon(tmp_path):
    h5py = pytest.importorskip("h5py")
    arrays = {"x_train": photos(5), "y_train": np.arange(5), "x_test": photos(8)[5:], "y_test": np.arange(5, 8)}
    np.savez(tmp_path / "k.npz", **arrays)
    with h5py.File(tmp_path / "k.h5", "w") as file:
        for key, value in arrays.items():
            file[f"set/{key}"] = value
    for path, prefix in ((tmp_path / "k.npz", ""), (tmp_path / "k.h5", "set/")):
        train, test = open_images(f"{path}:{prefix}x_train"), open_images(f"{path}:{prefix}x_test")
        assert np.array_equal(np.stack(read_all(train)), photos(5)) and train.labels.tolist() == list(range(5))
        assert np.array_equal(np.stack(read_all(test)), photos(8)[5:]) and test.labels.tolist() == [5, 6, 7]
        assert train.name == f"{path.name}:{prefix}x_train" and test.ids[2] == f"{prefix}x_test[2]"
        few = [open_images(f"{path}:{prefix}{key}", ImageOptions(count=2)).digest for key in ("x_train", "x_test")]
        assert few[0] != few[1]
        with pytest.raises(InputError, match=r"several arrays of images .*choose one, as in .*:"):
            open_images(path)
        with pytest.raises(InputError, match=r"Unknown array of .*'x_tran'; did you mean .*x_train"):
            open_images(f"{path}:{prefix}x_tran" if not prefix else f"{path}:x_tran")
        with pytest.raises(InputError, match="y_test is int64"):
            open_images(f"{path}:{prefix}y_test")
    np.savez(tmp_path / "a:b.npz", photos(2))
    assert len(open_images(tmp_path / "a:b.npz")) == 2
    with pytest.raises(InputError, match="does not exist"):
        open_images(f"{tmp_path / 'no.npz'}:x")
    with pytest.raises(InputError, match="names several files or a part of one"):
        open_images(f"{write_zip(tmp_path / 'z.zip', {'a.png': PNG[0]})}:a.png")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_numbered_npz_files_are_one_set_in_natural_order(tmp_path, is_compressed):
    save = np.savez_compressed if is_compressed else np.savez
    images = photos(24)
    for rank in range(12):
        save(tmp_path / f"rank{rank}.npz", images[2 * rank : 2 * rank + 2], np.array([rank, rank]))
    for path in (tmp_path, tmp_path / "rank{0..11}.npz"):
        source = open_images(path)
        assert np.array_equal(np.stack(read_all(source)), images)
        assert source.labels.tolist() == [rank for rank in range(12) for _ in range(2)]
        assert source.ids[-1] == "rank11.npz: arr_0[1]" and source.ids[5] == "rank2.npz: arr_0[1]"
        chosen = open_images(path, ImageOptions(count=7, seed=3))
        assert np.array_equal(np.stack(read_all(chosen)), images[chosen.rows])
        assert np.array_equal(np.stack(read_all(chosen, start=2, stop=5)), images[chosen.rows[2:5]])
    first = open_images(tmp_path).digest
    save(tmp_path / "rank3.npz", images[:2], np.array([3, 3]))
    assert open_images(tmp_path).digest != first
    (tmp_path / "rank5.npz").unlink()
    with pytest.raises(InputError, match=r"numbered files up to rank11\.npz, but number 5 is not there"):
        open_images(tmp_path)
    with pytest.raises(InputError, match=r"rank5\.npz does not exist"):
        open_images(tmp_path / "rank{0..11}.npz")


def test_unrelated_npz_files_of_a_folder_are_not_one_set(tmp_path):
    for name in ("samples_1000.npz", "samples_5000.npz"):
        np.savez(tmp_path / name, photos(2))
    with pytest.raises(InputError, match=r"holds 2 files of arrays \(samples_1000\.npz, .* not numbered from 0 or 1"):
        open_images(tmp_path)
    (tmp_path / "samples_5000.npz").unlink()
    assert len(open_images(tmp_path)) == 2


def test_one_npz_without_labels_leaves_the_set_without(tmp_path):
    np.savez(tmp_path / "a0.npz", photos(2), np.arange(2))
    np.savez(tmp_path / "a1.npz", photos(2))
    with pytest.warns(FdrWarning, match="1 of 2 files have labels, so the set has none"):
        assert open_images(tmp_path).labels is None
