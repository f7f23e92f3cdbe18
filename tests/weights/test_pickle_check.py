"""Tuples that double at every level are found before anything takes their hash."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import processor_limit

from fdr.runtime import check_torch_file
from fdr.runtime.pickle_check import check_pickle


def doubling(levels: int) -> bytes:
    """The opcodes that leave t on the stack, where t = (t', t') `levels` times over."""
    return b")q\x00" + b"".join(b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(levels))


def as_torch_file(path: Path, opcodes: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + opcodes + b".")
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    return path


ATTACKS = {
    "a key": b"}" + doubling(60) + b"K\x01s",
    "a value": b"}K\x01" + doubling(60) + b"s",
    "the whole": doubling(60),
    "keys": b"}(" + doubling(60) + b"K\x01u",
    "triples": b")q\x00" + b"".join(b"h%c" % i + b"h%c" % i + b"h%c" % i + b"\x87q%c" % (i + 1) for i in range(60)),
    "marks": b")q\x00" + b"".join(b"(h%c" % i + b"h%c" % i + b"tq%c" % (i + 1) for i in range(60)),
    "copies": b")" + b"2\x86" * 60,
    "long names": b")r"
    + struct.pack("<I", 300)
    + b"".join(b"j%bj%b\x86r%b" % tuple(struct.pack("<I", 300 + i + k) for k in (0, 0, 1)) for i in range(60)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_doubling_tuple_is_refused_at_once(attack: str, tmp_path: Path) -> None:
    refused = pytest.raises(pickle.UnpicklingError, match="more than 100,000 parts")
    with processor_limit(10, attack), refused:
        check_torch_file(as_torch_file(tmp_path / "a.pt", ATTACKS[attack]))


def test_the_last_pickle_of_an_old_torch_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    before = b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    path.write_bytes(before + b"\x80\x02" + doubling(60) + b".")
    with pytest.raises(pickle.UnpicklingError, match="more than 100,000 parts"):
        check_torch_file(path)


def test_a_tuple_of_100_000_parts_passes_and_one_more_does_not() -> None:
    """The tuple itself is one of its parts."""
    check_pickle(io.BytesIO(pickle.dumps(tuple(range(99_999)))))
    with pytest.raises(pickle.UnpicklingError, match="more than 100,000 parts"):
        check_pickle(io.BytesIO(pickle.dumps(tuple(range(100_000)))))


def test_torch_takes_time_that_doubles_with_each_level(tmp_path: Path) -> None:
    """Without the check: 16 levels are 65,536 parts, and 60 would take for years."""
    key, _ = torch.load(as_torch_file(tmp_path / "a.pt", b"}" + doubling(16) + b"K\x01s"), weights_only=True).popitem()
    parts = key
    for _ in range(16):
        assert parts[0] is parts[1]
        parts = parts[0]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_pass(protocol: int) -> None:
    shared = (1, (2.5, "a"))
    held: dict[str, Any] = {
        "state": OrderedDict(a=np.arange(3), b=[shared, shared, {1: None, (1, 2): {3}}]),
        "names": [f"layer.{index}" for index in range(200)],
        "deep": (((((shared, shared), shared), b"x"), True), frozenset((1, 2))),
    }
    check_pickle(io.BytesIO(pickle.dumps(held, protocol=protocol)))


@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_files_pass_and_a_flipped_tensor_does_not(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    values = torch.arange(100, dtype=torch.int32)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    state = {"values": values, "optimizer": optimizer.state_dict(), "step": 3}
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    check_torch_file(path)
    data = bytearray(path.read_bytes())
    data[data.index(values.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    if is_zip:
        with pytest.raises(zipfile.BadZipFile, match="does not agree with its checksum"):
            check_torch_file(path)
    else:
        check_torch_file(path)  # such a file has no checksums


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96", b"\x8d"])  # bytes, bytearray and text with eight bytes of length
def test_a_length_above_the_file_is_damage_and_takes_no_memory(opcode: bytes) -> None:
    data = b"\x80\x05" + opcode + (1 << 40).to_bytes(8, "little") + b"abc."
    with pytest.raises(pickle.UnpicklingError, match="says that 1,099,511,627,776 bytes follow"):
        check_pickle(io.BytesIO(data))
