"""Damage of every kind in every container: the very images, or one sentence; never other images, never a traceback."""

import struct
import warnings
import zipfile

import h5py
import numpy as np
import pytest
from image_worlds import encoded, photos, read_all, write_tar, write_zip

from fdr.errors import FdrError, FdrWarning, InputError
from fdr.images import ImageOptions, open_images

IMAGES = photos(6, 5, 4)
FILES = {f"c{i % 2}/{i}.png": encoded(image) for i, image in enumerate(IMAGES)}


def write_hdf5(path):
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("images", data=IMAGES, chunks=(2, *IMAGES.shape[1:]), compression="gzip", fletcher32=True)
        file["labels"] = np.arange(6)


WRITERS = {
    "stored.npz": lambda path: np.savez(path, IMAGES, np.arange(6)),
    "deflated.npz": lambda path: np.savez_compressed(path, IMAGES, np.arange(6)),
    "x.npy": lambda path: np.save(path, IMAGES),
    "x.h5": write_hdf5,
    "x.zip": lambda path: write_zip(path, FILES | {"dataset.json": b'{"labels": null}'}),
    "x.tar": lambda path: write_tar(path, FILES | {"c0/0.cls": b"1"}),
    "x.tar.gz": lambda path: write_tar(path, FILES, "w:gz"),
}


def mutated(data, rng):
    """A few bytes set to other or extreme values, a piece cut out, or a piece doubled."""
    out = bytearray(data)
    kind = rng.integers(8)
    at = int(rng.integers(len(out)))
    if kind == 0:
        return bytes(out[:at])
    if kind == 1:
        return bytes(out[:at] + out[at + int(rng.integers(1, 600)) :])
    if kind == 2:
        return bytes(out[:at] + out[max(0, at - 512) : at] + out[at:])
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(out)))
        out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, out[at] ^ (1 << int(rng.integers(8)))])
    return bytes(out)


@pytest.mark.parametrize("name", WRITERS)
def test_mutations_give_a_sentence_or_images(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    rng = np.random.default_rng(7)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(120):
        path.write_bytes(mutated(data, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FdrWarning)
                read_all(open_images(path, ImageOptions(on_bad="skip", max_bad=1.0)))
            outcomes["read"] += 1
        except FdrError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            outcomes["refused"] += 1
    assert outcomes["refused"] > 10


@pytest.mark.parametrize("name", ["stored.npz", "deflated.npz"])
def test_no_flipped_bit_in_an_npz_gives_other_images(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    refusals = 0
    for at in rng.integers(0, len(data), 150).tolist():
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = read_all(open_images(path))
        except InputError:
            refusals += 1
        else:
            assert np.array_equal(np.stack(found), IMAGES), at
    assert refusals > 50


def test_a_flipped_bit_in_a_stored_npz_names_the_array(tmp_path):
    path = tmp_path / "X.NPZ"
    noise = np.random.default_rng(0).integers(0, 256, (99, 30, 30, 3), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez(file, noise)
    data = bytearray(path.read_bytes())
    data[data.index(noise[70].tobytes())] ^= 16
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"X\.NPZ is damaged: its member 'arr_0\.npy' does not agree with its checksum"
    ):
        _ = open_images(path).digest
    with pytest.raises(InputError, match="checksum"):
        read_all(open_images(path))


def npy(shape, descr="|u1", payload=b"\0" * 600):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


SHAPES = [
    "(-1, 8, 8, 3)",
    "(2, -8, -8, 3)",
    f"({2**62}, 8, 8, 3)",
    f"({10**30}, 8, 8, 3)",
    "(2, 8, 8)",
    "(True, 8, 8, 3)",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_shapes_that_the_data_do_not_have_are_damage(tmp_path, shape, method):
    path = tmp_path / ("x.npy" if method is None else "x.npz")
    if method is None:
        path.write_bytes(npy(shape, payload=b"\0" * 100))
    else:
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("arr_0.npy", npy(shape))
    with pytest.raises(InputError, match=r"damaged|truncated"):
        read_all(open_images(path))


@pytest.mark.parametrize("descr", ["|O", "<U5", "|V3", "nonsense", "<f16", ["bad"]])
def test_other_types_are_named(tmp_path, descr):
    (tmp_path / "x.npy").write_bytes(npy("(2, 8, 8, 3)", descr))
    with pytest.raises(InputError, match=r"damaged|expected uint8|Python objects"):
        open_images(tmp_path / "x.npy")


def test_an_npz_that_holds_a_name_twice_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", IMAGES)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("arr_0.npy", npy("(2, 8, 8, 3)"))
    with pytest.raises(InputError, match=r"it holds 'arr_0\.npy' 2 times"):
        open_images(tmp_path / "x.npz")
