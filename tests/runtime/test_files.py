"""What is said of a file that is missing, and of one that something else was saved in place of."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from worlds import TinyEncoder, images, npz

from fdr.errors import InputError
from fdr.evaluation import evaluate
from fdr.images import open_images
from fdr.references import open_statistics
from fdr.runtime import missing_path, stand_in_of
from fdr.weights import load_state_dict

STAND_INS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "is a Git LFS pointer in place of the data",
    b"<!DOCTYPE html><html>quota exceeded</html>": "is a web page",
    b"\xef\xbb\xbf\r\n  <HTML><body>sign in": "is a web page",
    b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>': "is a web page",
    b'{"message": "Not Found"}': 'is JSON text in place of the data: it begins \'{"message": "Not Found"}\'',
    b"404: Not Found": "is a message in place of the data: it says '404: Not Found'",
    b"": "is empty",
}


def binary() -> dict[str, bytes]:
    """The starts of data that must never be taken for text."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    zipfile.ZipFile(archive, "w").close()
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return {
        "npy": array.getvalue(),
        "empty zip": archive.getvalue(),
        "pickle": pickle.dumps({"mu": 1}),
        "safetensors": len(header).to_bytes(8, "little") + header,
        "safetensors whose length looks like JSON": b'{"\0\0\0\0\0\0' + header,
        "safetensors whose length looks like a page": b"<\1\0\0\0\0\0\0" + header,
        "jpeg": b"\xff\xd8\xff\xe0",
        "tar": b"invalid.png" + bytes(501),
    }


@pytest.mark.parametrize("data", STAND_INS)
def test_every_reader_says_what_took_the_place_of_the_data(data: bytes, tmp_path: Path) -> None:
    good = npz(tmp_path / "good.npz", images(8))
    for suffix in ("npz", "npy", "h5", "pt", "pkl", "zip", "tar", "safetensors"):
        path = tmp_path / f"file.{suffix}"
        path.write_bytes(data)
        for read in (
            open_statistics,
            open_images,
            load_state_dict,
            lambda path: evaluate(good, path, TinyEncoder()),
            lambda path: evaluate(path, good, TinyEncoder()),
        ):
            with pytest.raises(InputError) as error:
                read(path)
            assert STAND_INS[data] in str(error.value) and path.name in str(error.value)


@pytest.mark.parametrize("kind", binary())
def test_binary_data_are_never_taken_for_something_else(kind: str) -> None:
    assert stand_in_of(binary()[kind]) is None


def test_the_nearest_name_is_told_where_the_path_leaves_what_exists(tmp_path: Path) -> None:
    (tmp_path / "data" / "imagenet").mkdir(parents=True)
    (tmp_path / "reference.npz").touch()
    told = {
        "refrence.npz": f"; did you mean {tmp_path}/reference.npz?",
        "Reference.NPZ": f"; did you mean {tmp_path}/reference.npz?",
        "reference": f"; did you mean {tmp_path}/reference.npz?",
        "zzz.npz": ".",
        "daat/imagenet/val": f", and neither does the folder {tmp_path}/daat/imagenet; did you mean {tmp_path}/data?",
        "data/imagnet": f"; did you mean {tmp_path}/data/imagenet?",
    }
    for name, end in told.items():
        assert missing_path(tmp_path / name) == f"{tmp_path / name} does not exist{end}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("refrence.npz", "The reference refrence.npz does not exist; did you mean reference.npz?"),
        ("./none", "The reference none does not exist."),
        ("/data/imagenet/val", "The reference /data/imagenet/val does not exist, and neither does the folder"),
        ("imagenet255", "Unknown reference 'imagenet255'; did you mean 'imagenet256'"),
        ("referense", "Unknown reference 'referense'; did you mean 'reference.npz'?"),
        ("qqqq", "Unknown reference 'qqqq'; there is no file or folder of that name, either"),
    ],
)
def test_a_reference_that_is_not_there(text: str, sentence: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "reference.npz", images(8))
    with pytest.raises(InputError) as error:
        evaluate(images(8), text, TinyEncoder())
    assert str(error.value).startswith(sentence) and len(str(error.value)) < 200
