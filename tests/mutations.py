"""Seeded damage to bytes, and a small sound file for every reader."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from gate_worlds import report, row
from PIL import Image
from statistics_worlds import WRITERS, features
from worlds import images

Mutation = Callable[[bytearray, np.random.Generator], None]


def _place(data: bytearray, rng: np.random.Generator, length: int = 1) -> int:
    return int(rng.integers(0, max(1, len(data) - length)))


def flip_bit(data: bytearray, rng: np.random.Generator) -> None:
    data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def flip_bytes(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(2, 12))):
        data[_place(data, rng)] = int(rng.integers(256))


def truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


def cut_out(data: bytearray, rng: np.random.Generator) -> None:
    at = _place(data, rng)
    del data[at : at + int(rng.integers(1, 64))]


def insert(data: bytearray, rng: np.random.Generator) -> None:
    at = _place(data, rng)
    data[at:at] = rng.bytes(int(rng.integers(1, 64)))


def zero_out(data: bytearray, rng: np.random.Generator) -> None:
    at, length = _place(data, rng), int(rng.integers(1, 64))
    data[at : at + length] = bytes(len(data[at : at + length]))


def repeat(data: bytearray, rng: np.random.Generator) -> None:
    at, length = _place(data, rng), int(rng.integers(1, 64))
    data[at:at] = data[at : at + length]


def large_number(data: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.choice([2, 4, 8]))
    at = _place(data, rng, size)
    value = (0, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)[int(rng.integers(4))]
    data[at : at + size] = value.to_bytes(size, str(rng.choice(["little", "big"])))  # type: ignore[arg-type]


def other_digits(data: bytearray, rng: np.random.Generator) -> None:
    """Changes what is text: a digit, a letter, a bracket."""
    places = [at for at, byte in enumerate(data[:4096]) if 32 <= byte < 127]
    if places:
        data[int(rng.choice(places))] = int(rng.choice(list(b"0123456789-+.eE[]{}(),:\"' aZ")))


def swap(data: bytearray, rng: np.random.Generator) -> None:
    length = int(rng.integers(1, 32))
    a, b = _place(data, rng, length), _place(data, rng, length)
    one, other = bytes(data[a : a + length]), bytes(data[b : b + length])
    data[a : a + length], data[b : b + length] = other, one


MUTATIONS: tuple[Mutation, ...] = (
    flip_bit, flip_bytes, truncate, cut_out, insert, zero_out, repeat, large_number, other_digits, swap,
)  # fmt: skip


def mutants(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged versions of `data` and the name of what was done, one or two mutations each."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        damaged = bytearray(data)
        chosen = [MUTATIONS[index % len(MUTATIONS)]]
        if rng.random() < 0.25:
            chosen.append(MUTATIONS[int(rng.integers(len(MUTATIONS)))])
        for mutation in chosen:
            mutation(damaged, rng)
        yield f"{index}: {' and '.join(mutation.__name__ for mutation in chosen)}", bytes(damaged)


def picture(kind: str, **options: Any) -> bytes:
    """One image file."""
    target = io.BytesIO()
    Image.fromarray(images(1, side=16)[0]).save(target, kind, **options)
    return target.getvalue()


def _zip(compression: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for index in range(3):
            archive.writestr(f"a/{index}.png", picture("PNG"))
        archive.writestr("dataset.json", json.dumps({"labels": [[f"a/{index}.png", index] for index in range(3)]}))
    return target.getvalue()


def _tar(mode: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for index in range(3):
            data = picture("PNG")
            entry = tarfile.TarInfo(f"{index}.png")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            label = tarfile.TarInfo(f"{index}.cls")
            label.size = 1
            archive.addfile(label, io.BytesIO(b"1"))
    return target.getvalue()


def _saved(path: Path, write: Callable[[Path], Any]) -> bytes:
    write(path)
    return path.read_bytes()


def _hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images(3, side=8), chunks=(1, 8, 8, 3), compression="gzip")
        file["labels"] = np.arange(3)


def image_files(folder: Path) -> dict[str, bytes]:
    """Suffix -> a small sound file of images, of every kind that is a file."""
    array = images(3, side=8)
    labels = np.arange(3)
    return {
        ".png": picture("PNG"),
        ".jpg": picture("JPEG"),
        ".webp": picture("WEBP", lossless=True),
        ".gif": picture("GIF"),
        ".bmp": picture("BMP"),
        ".tiff": picture("TIFF"),
        ".ppm": picture("PPM"),
        "stored.npz": _saved(folder / "s.npz", lambda path: np.savez(path, arr_0=array, arr_1=labels)),
        "deflated.npz": _saved(folder / "d.npz", lambda path: np.savez_compressed(path, arr_0=array, arr_1=labels)),
        ".npy": _saved(folder / "a.npy", lambda path: np.save(path, array)),
        ".h5": _saved(folder / "a.h5", _hdf5),
        "stored.zip": _zip(zipfile.ZIP_STORED),
        "deflated.zip": _zip(zipfile.ZIP_DEFLATED),
        ".tar": _tar("w"),
        ".tar.gz": _tar("w:gz"),
        ".pt": _saved(folder / "a.pt", lambda path: torch.save({"images": torch.from_numpy(array)}, path)),
        ".safetensors": safetensors.torch.save({"images": torch.from_numpy(array), "y": torch.from_numpy(labels)}),
        **({".parquet": _saved(folder / "a.parquet", _parquet)} if find_spec("pyarrow") else {}),
    }


def _parquet(path: Path) -> None:
    from pyarrow import parquet, table

    rows = [{"bytes": picture("PNG"), "path": f"{i}.png"} for i in range(3)]
    content = table({"image": rows, "label": [2, 0, 1]})
    parquet.write_table(content, path, row_group_size=2, write_page_checksum=True, compression="none")


def statistics_files(folder: Path) -> dict[str, bytes]:
    """Name with suffix -> a small sound file of statistics, of every tool and of our own."""
    from fdr import Moments

    moments = Moments.from_features(features())
    found = {
        f"{case}{suffix}": _saved(folder / f"{case}{suffix}", write) for case, (write, suffix, _) in WRITERS.items()
    }
    found |= {f"own{suffix}": _saved(folder / f"own{suffix}", moments.save) for suffix in (".npz", ".h5")}
    return found


def text_files() -> dict[str, bytes]:
    """Name -> a small sound file of JSON or TOML that a command reads."""
    return {
        "report.json": report(row("fd", 3.0), row("is", 9.0)).to_json().encode(),
        "fdr.toml": b'[check]\nmax = {"fd:random" = 3.0}\n\n[eval]\nreps = ["random", "inception"]\nbatch-size = 8\n',
    }


def weight_files(folder: Path) -> dict[str, bytes]:
    """Name -> a small sound file of weights or a program."""
    from safetensors.torch import save_file

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    state = net.state_dict()
    example = (torch.rand(2, 3, 2, 2),)
    program = torch.export.export(net, example)
    return {
        "state.pt": _saved(folder / "a.pt", lambda path: torch.save({"model": state, "step": 3}, path)),
        "old.pt": _saved(folder / "o.pt", lambda path: torch.save(state, path, _use_new_zipfile_serialization=False)),
        "state.safetensors": _saved(folder / "a.safetensors", lambda path: save_file(state, path)),
        "program.ts": _saved(folder / "a.ts", torch.jit.trace(net, example).save),
        "program.pt2": _saved(folder / "a.pt2", lambda path: torch.export.save(program, path)),
    }
