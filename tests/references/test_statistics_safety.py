"""No file can run code, exhaust memory or crash the reader; each bad one gets one sentence that names it."""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import processor_limit
from statistics_worlds import COUNT, DIM, WRITERS, features, malicious, named, write

from fdr.errors import FdrWarning, InputError
from fdr.images import open_images
from fdr.references import open_statistics


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def call(module: str, name: str, argument: str) -> bytes:
    """module.name(argument), as a pickle writes it by hand."""
    return f"c{module}\n{name}\n".encode() + b"(V" + argument.encode() + b"\ntR"


def in_dict(bomb: bytes) -> bytes:
    """The bomb as an item of an innocent mapping."""
    return b"}X\x02\x00\x00\x00mu" + bomb + b"s"


class Stateful:
    """Runs code in __setstate__."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["target"]).write_text("")


def bombs(target: Path) -> dict[str, bytes]:
    """Pickles whose unpickling creates `target`, or would take far too much memory or stack."""
    touch = f"touch {target}"
    array = pickle.dumps(np.arange(3.0), 4)
    shape_at = array.index(b"K\x03\x85")
    return {
        "reduce": pickle.dumps(malicious(target)),
        "reduce-in-bundle": pickle.dumps({"a.npz": {"mu": malicious(target), "sigma": 1}}),
        "os.system": opcodes(call("os", "system", touch)),
        "posix.system": opcodes(in_dict(call("posix", "system", touch))),
        "eval": opcodes(call("builtins", "eval", f"open({str(target)!r}, 'w')")),
        "py2-eval": b"c__builtin__\neval\n(S'1'\ntR.",
        "subprocess": opcodes(call("subprocess", "getoutput", touch)),
        "numpy-runs": opcodes(call("numpy.testing._private.utils", "runstring", touch)),
        "numpy-load": opcodes(call("numpy", "load", str(target))),
        "dotted": opcodes(b"\x8c\x05numpy\x8c\x0cndarray.sort\x93."),
        "inst": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "obj": opcodes(f"(cos\nsystem\nV{touch}\no".encode()),
        "newobj": opcodes(b"cnumpy\nndarray\n(K\x01t\x81"),
        "copyreg": opcodes(b"ccopyreg\n__newobj__\n(cos\nsystem\nt"),
        "setstate": pickle.dumps(Stateful(str(target))),
        "state-of-a-function": opcodes(b"cnumpy._core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00aK\x01sb"),
        "state-of-a-dict": opcodes(b"}}X\x01\x00\x00\x00aK\x01sb"),
        "persistent": b"\x80\x04P" + touch.encode() + b"\n.",
        "extension": opcodes(b"\x82\x01"),
        "next-buffer": opcodes(b"\x97"),
        "objects": pickle.dumps({"mu": np.array([malicious(target)], dtype=object), "sigma": 1}),
        "object-dtype": pickle.dumps({"mu": np.dtype(object)}),
        "structured": pickle.dumps({"mu": np.zeros(2, [("a", "f8"), ("b", "O")])}),
        "wide-shape": array[:shape_at] + b"J\xff\xff\xff\x7f\x85" + array[shape_at + 3 :],
        "deep-tuple-key": opcodes(b"}" + b")" + b"\x85" * 20_000 + b"K\x01s"),
        "declared-bytes": opcodes(b"\x8e" + struct.pack("<Q", 1 << 40)),
        "declared-array": opcodes(b"\x96" + struct.pack("<Q", 1 << 40)),
        "memo-far-away": opcodes(b"K\x01r\xff\xff\xff\xff"),
        "unhashable-key": opcodes(b"}]K\x01s"),
        "underflow": opcodes(b"R"),
        "mark-only": opcodes(b"("),
        "one-text-many-times": opcodes(
            b"X"
            + struct.pack("<I", 1 << 20)
            + b"a" * (1 << 20)
            + b"\x94("
            + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 300
            + b"l"
        ),
        "self-containing": opcodes(b"}\x94X\x02\x00\x00\x00muh\x00s"),
    }


KINDS = list(bombs(Path("target")))


@pytest.mark.parametrize("kind", KINDS)
def test_no_pickle_runs_code_or_takes_memory(kind: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "stats.pkl"
    path.write_bytes(bombs(target)[kind])
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            open_statistics(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not target.exists()
    assert peak < 64e6
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


DOUBLING = b")q\x00" + b"".join(b"h%c" % level + b"h%c" % level + b"\x86q%c" % (level + 1) for level in range(60))
"""The opcodes of a tuple that holds another one twice, and so on: 190 bytes, and 2^60 parts when it is printed."""
UNBOUNDED = {
    "a global": DOUBLING + b"V\nx\n\x93",
    "a module": DOUBLING + DOUBLING + b"\x93",
    "a dtype": b"cnumpy\ndtype\n" + DOUBLING + b"\x85R",
    "a mean": b"}(X\x02\x00\x00\x00mu" + DOUBLING + b"X\x05\x00\x00\x00sigma" + b"h\x3cu",
    "an item": b"}X\x01\x00\x00\x00a" + DOUBLING + b"s",
    "the whole": DOUBLING,
    "a key": b"}" + DOUBLING + b"K\x01s",
    "a shape": b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R0" + DOUBLING,
    "a list in itself": b"]q\x00h\x00ah\x00a",
    "levels": b"]" * 3000 + b"a" * 2999,
    "levels from below": b"]q\x63)q\x00" + b"".join(b"h%c\x85q%ch\x63h%ca0" % (i, i + 1, i + 1) for i in range(90)),
}


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_a_pickle_whose_parts_double_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(opcodes(UNBOUNDED[kind]))
    with processor_limit(10, kind), pytest.raises(InputError, match=r"bomb\.pkl") as error:
        open_statistics(path)
    assert len(str(error.value)) < 400


def test_a_torch_file_whose_parts_double_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + DOUBLING + b"K\x01s.")
        archive.writestr("a/version", "3\n")
    with pytest.raises(InputError, match="a tuple of more than 100,000 parts"):
        open_statistics(path)


def test_a_flipped_bit_of_a_torch_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "moments.pt"
    torch = pytest.importorskip("torch")
    sigma = torch.eye(DIM, dtype=torch.float64) * 1.25
    torch.save({"mu": torch.zeros(DIM, dtype=torch.float64), "sigma": sigma}, path)
    data = bytearray(path.read_bytes())
    data[data.index(sigma.numpy().tobytes()) + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged \(its member '.*' does not agree with its checksum\)"):
        open_statistics(path)


def test_the_bombs_are_live(tmp_path: Path) -> None:
    for kind in ("reduce", "os.system", "posix.system", "eval", "subprocess", "setstate", "objects"):
        target = tmp_path / kind
        pickle.loads(bombs(target)[kind])
        assert target.exists(), kind


def test_a_registered_extension_is_not_used(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        pickle.loads(opcodes(b"\x82\xf0"))  # now it is in the cache that find_class never sees
        path = tmp_path / "stats.pkl"
        path.write_bytes(opcodes(b"\x82\xf0" + f"(V{'touch ' + str(tmp_path / 'executed')}\ntR".encode()))
        with pytest.raises(InputError, match="the instruction EXT1"):
            open_statistics(path)
        assert not (tmp_path / "executed").exists()
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_protocol_and_layout_is_read(protocol: int, order: str, tmp_path: Path) -> None:
    arrays = named()
    sigma = np.array(arrays["sigma"].astype(">f8"), order=order)  # type: ignore[call-overload]
    data = {"num_images": np.int64(COUNT), "fid": {"mu": arrays["mu"][::-1][::-1], "sigma": sigma}}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(data, protocol))
    file = open_statistics(tmp_path / "s.pkl")
    assert file.entries[0].count == COUNT
    np.testing.assert_array_equal(file.load("fid").sigma, arrays["sigma"])


def test_the_module_names_of_numpy_1_are_read(tmp_path: Path) -> None:
    data = pickle.dumps({"fid": named()}, 3)
    old = data.replace(b"numpy._core.", b"numpy.core.")
    assert old != data
    (tmp_path / "s.pkl").write_bytes(old)
    np.testing.assert_array_equal(open_statistics(tmp_path / "s.pkl").load("fid").mu, named()["mu"])


def test_the_refusal_names_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "s.pkl").write_bytes(bombs(tmp_path / "x")["os.system"])
    with pytest.raises(InputError, match=r"a pickle with the global os\.system; only dictionaries of numeric NumPy"):
        open_statistics(tmp_path / "s.pkl")


def bad_torch(target: Path, path: Path) -> None:
    import torch

    torch.save({"mu": malicious(target)}, path)


def legacy_torch(target: Path, path: Path) -> None:
    import torch

    torch.save({"mu": malicious(target)}, path, _use_new_zipfile_serialization=False)


def bad_reps(target: Path, path: Path) -> None:
    np.savez(path, reps=np.array([malicious(target)], dtype=object))


def bad_mu(target: Path, path: Path) -> None:
    np.savez(path, mu=np.array([malicious(target)], dtype=object), sigma=np.eye(1))


def bad_npy(target: Path, path: Path) -> None:
    np.save(path, np.array([malicious(target)], dtype=object))


@pytest.mark.parametrize("writer", [bad_torch, legacy_torch, bad_reps, bad_mu, bad_npy])
@pytest.mark.parametrize("suffix", [".pt", ".npz", ".npy"])
def test_no_other_format_runs_code(writer: Callable[[Path, Path], None], suffix: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / f"stats{suffix}"
    made = tmp_path / ("made" + {"bad_npy": ".npy", "bad_reps": ".npz", "bad_mu": ".npz"}.get(writer.__name__, ".pt"))
    writer(target, made)
    made.rename(path)
    with pytest.raises(InputError) as caught:
        open_statistics(path).load("mu")
    assert not target.exists()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_objects_beside_features_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    np.savez(tmp_path / "r.npz", reps=features(), hparams=np.array([malicious(target)], dtype=object))
    assert open_statistics(tmp_path / "r.npz").load("reps").count == COUNT
    assert not target.exists()


def test_legacy_torch_files_are_read(tmp_path: Path) -> None:
    import torch

    torch.save(named(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(open_statistics(tmp_path / "old.bin").load("mu").sigma, named()["sigma"])


@pytest.mark.parametrize("case", WRITERS)
def test_damage_of_any_kind_is_one_sentence(case: str, tmp_path: Path) -> None:
    path = write(case, tmp_path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [good[:cut] for cut in rng.integers(0, len(good), 12)]
    for _ in range(25):
        flipped = bytearray(good)
        for at in rng.integers(0, len(good), 3):
            flipped[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        try:
            file = open_statistics(path)
            for entry in file.entries:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FdrWarning)
                    file.load(entry)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500


BAD_CONTENT: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "mu holds 2 NaN or infinite values"),
    "asymmetric": ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1]])}, "sigma is not symmetric"),
    "width": ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"mu has shape \[3\] and sigma \[2, 2\]"),
    "negative": ({"mu": np.zeros(2), "sigma": np.diag([1.0, -1])}, "negative variance"),
    "complex": ({"mu": np.zeros(2), "sigma": np.eye(2) * 1j}, "(expected real numbers|an array of dtype)"),
    "text": ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "expected real numbers"),
}


def write_arrays(kind: str, arrays: dict[str, Any], path: Path) -> None:
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"fid": arrays}))
    else:
        import torch

        torch.save(arrays, path)


@pytest.mark.parametrize("kind", ["npz", "pickle", "torch"])
@pytest.mark.parametrize("content", BAD_CONTENT)
def test_moments_that_are_none_are_refused(kind: str, content: str, tmp_path: Path) -> None:
    arrays, sentence = BAD_CONTENT[content]
    if kind == "torch" and content in ("complex", "text"):
        sentence = "(expected real numbers|other than tensors and arrays|truncated or damaged)"
    path = tmp_path / "bad"
    write_arrays(kind, arrays, path.with_suffix(".npz") if kind == "npz" else path)
    path = path.with_suffix(".npz") if kind == "npz" else path
    with pytest.raises(InputError, match=sentence) as caught:
        file = open_statistics(path)
        file.load(file.entries[0])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["npz", "pickle", "torch"])
def test_float32_covariances_are_warned_about(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    write_arrays(kind, {name: array.astype(np.float32) for name, array in named().items()}, path)
    with pytest.warns(FdrWarning, match="covariance in float32"):
        file = open_statistics(path)
        assert file.load(file.entries[0]).dim == DIM


def test_a_slightly_asymmetric_covariance_is_warned_about(tmp_path: Path) -> None:
    arrays = named()
    arrays["sigma"][0, 1] += 1e-7
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.warns(FdrWarning, match="symmetric only to"):
        open_statistics(tmp_path / "s.npz").load("mu")


def test_a_header_that_numpy_cannot_parse_is_damage(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3), np.float32))
    np.savez(tmp_path / "a.npz", **named())
    for name, old in (("a.npy", b"(4, 3),"), ("a.npz", b"(6, 6),")):
        path = tmp_path / name
        path.write_bytes(path.read_bytes().replace(old, old.replace(b")", b"\xdd")))
        with pytest.raises(InputError, match="truncated or damaged"):
            open_statistics(path).load("mu")
    with pytest.raises(InputError, match="is truncated or damaged"):
        open_images(tmp_path / "a.npy")


NO_STATISTICS = {
    "empty": (b"", "is empty"),
    "text": (b"FID: 3.2", "is no statistics file; statistics are read from npz"),
    "list": (pickle.dumps([1, 2]), "is a pickle of a list; expected mappings"),
    "no-moments": (pickle.dumps({"fid": {"mean": 1}}), "holds no mu and sigma; it holds fid"),
}


@pytest.mark.parametrize("kind", NO_STATISTICS)
def test_other_files_are_said_to_be_other(kind: str, tmp_path: Path) -> None:
    data, sentence = NO_STATISTICS[kind]
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        open_statistics(tmp_path / "f")


def test_other_arrays_are_said_to_be_other(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "flat.npz", feats=np.zeros(3))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"")
    (tmp_path / "z.zip").write_bytes(buffer.getvalue())
    for name, sentence in (
        (
            "a.npz",
            r"no 'mu' and 'sigma' \(nor mean, m, means and cov.*\) and no features .*; it holds arr_0 uint8 \[2, 4",
        ),
        ("one.npy", r"float64 \[3\]; expected features as floats \[N, D\]"),
        ("flat.npz", r"feats is float64 \[3\]"),
        ("z.zip", "is a zip archive without arrays"),
        ("missing", "missing does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError, match=sentence):
            open_statistics(tmp_path / name)


def test_torch_files_of_numpy_1_are_read(tmp_path: Path) -> None:
    new = write("torch", tmp_path)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(tmp_path / "old.pt", "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert b"numpy._core." in data
                data = data.replace(b"numpy._core.", b"numpy.core.")
            target.writestr(info.filename, data)
    np.testing.assert_array_equal(open_statistics(tmp_path / "old.pt").load("mu").sigma, named()["sigma"])
