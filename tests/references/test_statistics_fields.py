"""Every field of every entry, and every member of every file that is written, with values that the test knows."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import tracemalloc
import warnings
import zipfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from statistics_worlds import COUNT, DIM, SPATIAL, features, named, pair, stylegan, write

from fdr.errors import FdrWarning, InputError
from fdr.frechet import Moments
from fdr.references import ConvertOptions, convert, is_statistics, moments_digest, open_statistics
from fdr.references.formats import pickle_data

TF2015 = ("inception", "inception:*")
DINO = "vit_large_patch14_dinov2_lvd142m_in256_t256_stats"

ENTRIES: dict[str, list[tuple[Any, ...]]] = {
    "pytorch-fid": [("mu", "moments", DIM, None, "float64", None, ())],
    "adm": [
        ("mu", "moments", DIM, None, "float64", None, ()),
        ("mu_s", "moments", SPATIAL, None, "float64", "spatial", ()),
    ],
    "fdloss": [
        ("mu", "moments", DIM, None, "float64", None, ()),
        ("avg_mu", "moments", DIM, None, "float64", "mean", ()),
    ],
    "fd-evaluator": [("ref_mu", "moments", DIM, None, "float64", None, ())],
    "edm2": [
        ("fid", "moments", DIM, COUNT, "float64", None, TF2015),
        ("fd_dinov2", "moments", SPATIAL, COUNT, "float64", None, ("dinov2:edm2", "dinov2:dgm")),
    ],
    "bundle": [
        ("guided_diffusion_stats", "moments", DIM, None, "float64", None, TF2015),
        (DINO, "moments", DIM, None, "float64", None, ("dinov2",)),
        (f"{DINO}/avg_mu", "moments", DIM, None, "float64", "mean", ("dinov2",)),
    ],
    "torch": [("mu", "moments", DIM, None, "float64", None, ())],
    "torch-features": [("features", "features", DIM, COUNT, "float32", None, ())],
    "dgm": [("reps", "features", DIM, COUNT, "float64", None, ())],
    "kid": [("feats", "features", DIM, COUNT, "float32", None, ())],
    "npy": [("features", "features", DIM, COUNT, "float32", None, ())],
    "dict": [("mu", "moments", DIM, None, "float64", None, ())],
    "nameless": [("arr_0", "features", DIM, COUNT, "float32", None, ())],
    "score-sde": [("pool_3", "features", DIM, COUNT, "float32", None, ())],
    "stylegan-features": [("features", "features", DIM, COUNT, "float32", None, ())],
}


@pytest.mark.parametrize("case", ENTRIES)
def test_every_field_of_an_entry_is_what_the_file_says(case: str, tmp_path: Path) -> None:
    assert [astuple(entry) for entry in open_statistics(write(case, tmp_path)).entries] == ENTRIES[case]


@pytest.mark.parametrize("case", ["pytorch-fid", "edm2", "bundle", "torch", "dict", "tuple", "npy"])
def test_covariances_are_divided_by_n_less_one_unless_the_file_says_otherwise(case: str, tmp_path: Path) -> None:
    file = open_statistics(write(case, tmp_path))
    assert file.load(file.entries[0]).ddof == 1


def test_moments_of_clip_are_named_in_pickles_and_torch_files(tmp_path: Path) -> None:
    import torch

    arrays = {**named(), **named("", "_clip", SPATIAL, 2)}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(arrays))
    torch.save(arrays, tmp_path / "s.pt")
    for name in ("s.pkl", "s.pt"):
        found = [(entry.name, entry.encoders) for entry in open_statistics(tmp_path / name).entries]
        assert found == [("mu", ()), ("mu_clip", ("clip:*",))]


def header_only(path: Path, **shapes: tuple[int, ...]) -> None:
    """An npz whose members have headers and no values, so that wide arrays take no memory."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)


@pytest.mark.parametrize(
    ("pool", "spatial", "encoders"),
    [(2048, 2023, [TF2015, TF2015]), (2023, 2048, [(), ()]), (2048, 2022, [TF2015, ()]), (2047, 2023, [(), TF2015])],
)
def test_the_widths_of_adm_name_its_encoder(pool: int, spatial: int, encoders: list[Any], tmp_path: Path) -> None:
    both = {"mu": (pool,), "sigma": (pool, pool), "mu_s": (spatial,), "sigma_s": (spatial, spatial)}
    header_only(tmp_path / "adm.npz", **both)
    assert [entry.encoders for entry in open_statistics(tmp_path / "adm.npz").entries] == encoders
    header_only(tmp_path / "bare.npz", mu=(2048,), sigma=(2048, 2048))  # not ADM's, without spatial moments
    assert open_statistics(tmp_path / "bare.npz").entries[0].encoders == ()


@pytest.mark.parametrize(
    ("start", "encoders"),
    [
        ("guided_diffusion", TF2015),
        ("jit_in", TF2015),
        ("adm_in", TF2015),
        ("convnext", ("convnext",)),
        ("vit_large_patch14_dinov2_lvd142m_in256_t256", ("dinov2",)),
        ("vit_large_patch16_224_mae", ("mae",)),
        ("vit_so400m_patch16_siglip_256_v2_webli_in256_t224", ("siglip",)),
        ("vit_large_patch14_clip_224_openai_in256_t256", ("clip",)),
        ("another", ()),
    ],
)
def test_the_bundle_of_fdloss_names_encoders_by_file(start: str, encoders: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({f"{start}_stats.npz": named()}))
    (entry,) = open_statistics(tmp_path / "b.pkl").entries
    assert (entry.name, entry.encoders) == (f"{start}_stats", encoders)


def test_which_of_several_pairs_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", **named(), **named("ref_", seed=1), **named("", "_clip", SPATIAL, 2))
    file = open_statistics(tmp_path / "both.npz")
    assert [(entry.name, entry.encoders) for entry in file.entries] == [("mu", ()), ("mu_clip", ("clip:*",))]
    np.testing.assert_array_equal(file.load("mu").mu, pair()[0])
    np.testing.assert_array_equal(file.load("mu_clip").sigma, pair(SPATIAL, 2)[1])
    assert file.select("clip:cmmd").name == "mu_clip" and file.select("tiny").name == "mu"


def test_an_entry_that_names_encoders_is_not_for_others_of_its_width(tmp_path: Path) -> None:
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"fid": named(), "fd_dinov2": named(seed=1)}))
    with pytest.raises(InputError, match="has no moments of mae"):
        open_statistics(tmp_path / "s.pkl").select("mae", DIM)


def test_a_count_of_fdr_belongs_to_every_pair_and_another_shape_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **named(), **named("", "_s", SPATIAL, 1), count=np.array(77))
    file = open_statistics(tmp_path / "c.npz")
    assert [entry.count for entry in file.entries] == [77, 77]
    assert (file.load("mu").count, file.load("mu_s").count) == (77, 77)
    np.savez(tmp_path / "d.npz", **named("", "_s", SPATIAL, 1), count=np.arange(5))
    assert open_statistics(tmp_path / "d.npz").entries[0].count is None


IMAGES = np.zeros((3, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "are_statistics"),
    [
        ({"reps": features()}, True),
        ({"reps": features(), "arr_0": IMAGES}, False),  # images, with features beside them
        ({"arr_0": features(), "arr_1": np.zeros((2, 3, 4))}, True),
        ({"arr_0": IMAGES}, False),
        ({"arr_0": IMAGES, **named()}, True),  # ADM's reference batch
        ({"x": np.zeros((3, 8, 8), np.float32)}, False),
        ({"x": np.zeros((3, 8), np.float32)}, True),  # perhaps moments under another name: no images, at any rate
        ({"x": np.zeros((3, 8), np.uint8)}, False),
        ({"reps": IMAGES}, False),
    ],
)
def test_which_npz_are_statistics(arrays: dict[str, np.ndarray], are_statistics: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert is_statistics(tmp_path / "a.npz") is are_statistics


@pytest.mark.parametrize(
    ("array", "are_statistics"), [(features(), True), (IMAGES, False), (IMAGES[0, 0], False), (np.zeros(3), False)]
)
def test_which_npy_are_statistics(array: np.ndarray, are_statistics: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    assert is_statistics(tmp_path / "a.npy") is are_statistics


@pytest.mark.parametrize("wrong", ["text", 2.5, None])
def test_a_number_of_images_that_is_none_is_not_used(wrong: object, tmp_path: Path) -> None:
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"num_images": wrong, "fid": named()}))
    file = open_statistics(tmp_path / "s.pkl")
    assert file.entries[0].count is None and file.load("fid").count is None


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_moments_of_fdr_say_count_output_and_encoder(suffix: str, tmp_path: Path) -> None:
    mu, sigma = pair()
    rest = {"encoder": "tiny", "output": "mean", "spec": json.dumps({"output": "cls"})}
    Moments(mu, sigma, 40, attributes=rest).save(tmp_path / f"m.{suffix}")
    (entry,) = open_statistics(tmp_path / f"m.{suffix}").entries
    assert astuple(entry) == ("mu", "moments", DIM, 40, "float64", "mean", ("tiny",))
    for changed, output, encoders in (
        ({"output": "cls"}, None, ("tiny",)),  # the main output has no name
        ({"spec": "{"}, None, ("tiny",)),  # which output is the main one is not known
        ({"encoder": "inception:clean"}, "mean", TF2015),
        ({"spec_hash": "00ff00ff"}, "mean", ()),  # the hash is more exact than the name
    ):
        Moments(mu, sigma, attributes=rest | changed).save(tmp_path / f"n.{suffix}")
        (entry,) = open_statistics(tmp_path / f"n.{suffix}").entries
        assert (entry.count, entry.output, entry.encoders) == (None, output, encoders), changed


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_features_in_either_order_keep_their_rows(kind: str, order: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fdr.references.formats.npy.BLOCK_BYTES", 3 * DIM * 4)  # three rows a block; 40 is no multiple
    rows = np.array(features(), order=order)
    path = tmp_path / f"f.{kind}"
    np.save(path, rows) if kind == "npy" else np.savez(path, feats=rows)
    file = open_statistics(path)
    blocks = list(file.rows(file.entries[0]))
    np.testing.assert_array_equal(np.concatenate(blocks), features())
    assert len(blocks) == (14 if order == "C" else 1)
    np.testing.assert_allclose(file.load(file.entries[0]).mu, features().astype(float).mean(0), rtol=1e-12)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 3), np.int64), np.zeros((4, 0), np.float32), np.zeros((0, 3), np.float32), np.zeros((2, 3, 4))],
)
def test_arrays_that_are_no_features_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", array)
    np.savez(tmp_path / "f.npz", reps=array)
    for name in ("f.npy", "f.npz"):
        with pytest.raises(InputError, match=r"expected features as floats \[N, D\]"):
            open_statistics(tmp_path / name)


def test_features_that_end_early_are_damage(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", features())
    (tmp_path / "f.npy").write_bytes((tmp_path / "f.npy").read_bytes()[:-4])
    with pytest.raises(InputError, match="the data end before the last row"):
        open_statistics(tmp_path / "f.npy").load("features")


def test_torch_tensors_that_are_no_features_are_left_out(tmp_path: Path) -> None:
    import torch

    rows = torch.from_numpy(features())
    torch.save({"a": rows.half(), "b": rows[None], "c": rows.long(), "d": rows.double()}, tmp_path / "f.pt")
    entries = open_statistics(tmp_path / "f.pt").entries
    assert [(entry.name, entry.dtype) for entry in entries] == [("a", "float32"), ("d", "float64")]


def test_two_images_are_the_fewest_of_stylegan(tmp_path: Path) -> None:
    rows = np.array([[1.0, 5.0], [3.0, 9.0]])
    sums = {"num_items": 2, "raw_mean": rows.sum(0), "raw_cov": rows.T @ rows}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(stylegan() | sums))
    moments = open_statistics(tmp_path / "s.pkl").load("mu")
    assert (moments.mu.tolist(), moments.sigma.tolist()) == ([2.0, 7.0], [[1.0, 2.0], [2.0, 4.0]])
    assert (moments.count, moments.ddof) == (2, 0)


# --- what is written, read with the library of the format ----------------------------------------------------------

MAIN, SIDE = pair(), pair(seed=2)


def source(folder: Path, role: str = "") -> Path:
    """Moments of 40 images with spatial moments or those of patch means beside them, as fdr reads them."""
    beside = {"_s": named("", "_s", DIM, 2), "avg_": named("avg_", seed=2), "": {}}[role]
    np.savez(folder / "in.npz", **named(), **beside, count=np.array(COUNT))
    return folder / "in.npz"


@pytest.mark.parametrize(
    ("to", "role", "names"),
    [
        ("adm", "_s", {"mu", "sigma", "mu_s", "sigma_s", "count"}),
        ("adm", "", {"mu", "sigma", "count"}),
        ("fdloss", "avg_", {"mu", "sigma", "avg_mu", "avg_sigma", "count"}),
        ("fdloss", "_s", {"mu", "sigma", "count"}),
        ("clean-fid", "_s", {"mu", "sigma"}),
    ],
)
def test_npz_for_other_tools_has_their_names_and_no_others(to: str, role: str, names: set[str], tmp_path: Path) -> None:
    convert(source(tmp_path, role), tmp_path / "out", ConvertOptions(to=to))
    with np.load(tmp_path / "out", allow_pickle=False) as file:
        assert set(file.files) == names
        for name, values in {"mu": MAIN[0], "sigma": MAIN[1], "count": COUNT}.items():
            assert name not in names or np.array_equal(file[name], values)
        for mu, sigma in (("mu_s", "sigma_s"), ("avg_mu", "avg_sigma")):
            if mu in names:
                np.testing.assert_array_equal(file[mu], SIDE[0])
                np.testing.assert_array_equal(file[sigma], SIDE[1])


def test_the_formats_of_fdr_store_count_ddof_and_encoder(tmp_path: Path) -> None:
    for suffix in ("h5", "npz"):
        convert(source(tmp_path), tmp_path / f"o.{suffix}", ConvertOptions(encoder="tiny"))
    with h5py.File(tmp_path / "o.h5") as file:
        np.testing.assert_array_equal(file["mu"][()], MAIN[0])
        np.testing.assert_array_equal(file["sigma"][()], MAIN[1])
        assert (file.attrs["count"], file.attrs["ddof"]) == (COUNT, 1)
        assert file["attributes"].attrs["encoder"] in ("tiny", b"tiny")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["mu"], MAIN[0])
        np.testing.assert_array_equal(arrays["sigma"], MAIN[1])
        assert (int(arrays["count"]), int(arrays["ddof"])) == (COUNT, 1)
        assert json.loads(str(arrays["fdr_attributes"]))["encoder"] == "tiny"


@pytest.mark.parametrize(("encoder", "metric"), [("inception:x", "fid"), ("dinov2:edm2", "fd_dinov2")])
@pytest.mark.parametrize("count", [None, COUNT])
def test_edm2_is_written_as_edm2_writes_it(encoder: str, metric: str, count: int | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", mu=np.ones(1024), sigma=np.diag(np.arange(1.0, 1025)))
    file = write("pytorch-fid", tmp_path) if metric == "fid" else tmp_path / "in.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)
        convert(file, tmp_path / "o.pkl", ConvertOptions(encoder=encoder, count=count))
    data = pickle.loads((tmp_path / "o.pkl").read_bytes())
    assert list(data) == [*(["num_images"] if count else []), metric] and data.get("num_images") == count
    expected = MAIN if metric == "fid" else (np.ones(1024), np.diag(np.arange(1.0, 1025)))
    np.testing.assert_array_equal(data[metric]["mu"], expected[0])
    np.testing.assert_array_equal(data[metric]["sigma"], expected[1])


@pytest.mark.parametrize("encoder", [None, "dinov2", "dinov2:x", "random"])
def test_edm2_has_no_name_for_other_encoders_and_then_nothing_is_written(encoder: str | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", mu=np.ones(1024), sigma=np.eye(1024))
    path = tmp_path / "in.npz" if encoder != "random" else write("pytorch-fid", tmp_path)
    given = None if encoder == "random" else encoder
    for dry_run in (True, False):
        with pytest.raises(InputError, match="EDM2 knows fid"):
            convert(path, tmp_path / "o.pkl", ConvertOptions(encoder=given), dry_run=dry_run)
    assert not (tmp_path / "o.pkl").exists()


def test_torch_fidelity_is_a_dictionary_of_two_arrays(tmp_path: Path) -> None:
    import torch

    convert(source(tmp_path), tmp_path / "o.pt")
    data = torch.load(tmp_path / "o.pt", weights_only=False)
    assert set(data) == {"mu", "sigma"} and all(type(value) is np.ndarray for value in data.values())
    np.testing.assert_array_equal(data["mu"], MAIN[0])
    np.testing.assert_array_equal(data["sigma"], MAIN[1])


@pytest.mark.parametrize(("to", "names"), [("dgm-eval", {"reps", "model"}), ("clean-fid-kid", {"feats"})])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_are_written_under_the_names_of_the_tool(to: str, names: set[str], dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", features().astype(dtype))
    convert(tmp_path / "f.npy", tmp_path / "o.npz", ConvertOptions(to=to, encoder="tiny"))
    with np.load(tmp_path / "o.npz", allow_pickle=False) as file:
        assert set(file.files) == names
        (rows,) = (file[name] for name in names - {"model"})
        assert rows.dtype == dtype
        np.testing.assert_array_equal(rows, features().astype(dtype))


def test_images_keep_their_compression(tmp_path: Path) -> None:
    images = np.zeros((50, 8, 8, 3), np.uint8)
    for save, compression in ((np.savez, zipfile.ZIP_STORED), (np.savez_compressed, zipfile.ZIP_DEFLATED)):
        save(tmp_path / "in.npz", arr_0=images, **named())
        convert(tmp_path / "in.npz", tmp_path / "o.npz", ConvertOptions(to="adm", keep_images=True))
        with zipfile.ZipFile(tmp_path / "o.npz") as archive:
            assert archive.getinfo("arr_0.npy").compress_type == compression


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_target_that_holds_something_else_is_kept(dry_run: bool, tmp_path: Path) -> None:
    target = tmp_path / "o.npz"
    target.write_text("my notes")
    with pytest.raises(InputError, match="is there and holds no statistics, which would replace it"):
        convert(source(tmp_path), target, dry_run=dry_run)
    assert target.read_text() == "my notes"
    for content in (b"", (tmp_path / "in.npz").read_bytes()):  # an empty file, and older statistics
        target.write_bytes(content)
        convert(source(tmp_path), target, ConvertOptions(count=COUNT), dry_run=dry_run)
        assert (target.read_bytes() == content) is dry_run


def test_the_width_of_an_encoder_is_that_of_its_main_output_alone(tmp_path: Path) -> None:
    bundle = write("bundle", tmp_path)
    done = convert(bundle, tmp_path / "o.npz", ConvertOptions(entry=f"{DINO}/avg_mu", encoder="dinov2"))
    assert (done.dim, done.encoder) == (DIM, "dinov2")
    with pytest.raises(InputError, match="but dinov2 gives 1024-d features"):
        convert(bundle, tmp_path / "o.npz", ConvertOptions(entry=DINO, encoder="dinov2"))


def test_moments_of_another_output_have_no_companions(tmp_path: Path) -> None:
    done = convert(source(tmp_path, "_s"), tmp_path / "o.npz", ConvertOptions(to="adm", entry="mu_s"))
    assert done.entries == ("mu_s",)
    with np.load(tmp_path / "o.npz") as file:
        assert set(file.files) == {"mu", "sigma", "count"}
        np.testing.assert_array_equal(file["mu"], SIDE[0])


def test_companions_are_those_of_the_same_group(tmp_path: Path) -> None:
    """The moments of "a" have no patch means; those of "ab" do, and their names begin alike."""
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"a": named(), "ab": {**named(seed=1), **named("avg_", seed=2)}}))
    assert convert(tmp_path / "b.pkl", tmp_path / "o", ConvertOptions(to="fdloss", entry="a")).entries == ("a",)
    done = convert(tmp_path / "b.pkl", tmp_path / "o", ConvertOptions(to="fdloss", entry="ab"))
    assert done.entries == ("ab", "ab/avg_mu")


# --- digests and bounds --------------------------------------------------------------------------------------------


def test_the_digest_of_moments_is_that_of_all_their_values() -> None:
    mu, sigma = pair()
    digest = moments_digest(Moments(mu, sigma, 40))
    assert digest == hashlib.sha256(mu.astype("<f8").tobytes() + sigma.astype("<f8").tobytes()).hexdigest()
    for index in range(DIM):
        changed = mu.copy()
        changed[index] += 1e-9
        assert moments_digest(Moments(changed, sigma)) != digest
        other = sigma.copy()
        other[index, index] += 1e-9
        assert moments_digest(Moments(mu, other)) != digest
    assert moments_digest(Moments(mu, sigma, 41, attributes={"reference": "x"})) == digest


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return {"num_images": value, "fid": named()}


def test_the_deepest_pickle(tmp_path: Path) -> None:
    """The outer dictionary is one level, so 31 lists in it are the most."""
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(nested(31)))
    assert open_statistics(tmp_path / "s.pkl").entries[0].name == "fid"
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(nested(32)))
    with pytest.raises(InputError, match="more than 32 levels"):
        open_statistics(tmp_path / "s.pkl")


def test_the_longest_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAX_ITEMS bounds the opcodes, and apart from them the values: one list may be used many times."""
    assert pickle_data.MAX_ITEMS == 1_000_000
    monkeypatch.setattr(pickle_data, "MAX_ITEMS", 300)
    shared = list(range(20))
    many_values = pickle.dumps({"many": [shared] * 15, "fid": named()})  # 15 x 21 values in some 150 opcodes
    many_opcodes = b"\x80\x02}" + b"(u" * 150 + b"."  # an empty dictionary, updated with nothing 150 times
    for data in (many_values, many_opcodes):
        (tmp_path / "s.pkl").write_bytes(data)
        with pytest.raises(InputError, match="more than 300 items"):
            open_statistics(tmp_path / "s.pkl")
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"many": [shared] * 5, "fid": named()}))
    assert open_statistics(tmp_path / "s.pkl").entries[0].name == "fid"
    assert len(list(pickletools.genops(many_values))) < 300


@pytest.mark.parametrize(("bound", "fits"), [(16, False), (17, True)])
def test_the_values_may_be_as_many_as_the_bound(bound: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary, a list that is used twice, and seven numbers each time."""
    shared = list(range(7))
    monkeypatch.setattr(pickle_data, "MAX_ITEMS", bound)
    count = 1 + 2 * (1 + len(shared))
    assert count == 17
    if fits:
        assert pickle_data._check_parts({"a": shared, "b": shared}, 0, {}) == (count, 2)
    else:
        with pytest.raises(pickle_data._Refused, match="more than 16 items"):
            pickle_data._check_parts({"a": shared, "b": shared}, 0, {})


@pytest.mark.parametrize(("bound", "fits"), [(5, False), (6, True)])
def test_the_opcodes_may_be_one_more_than_the_bound(
    bound: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven opcodes, the first of which only states the protocol."""
    data = b"\x80\x02}" + b"(u" * 2 + b"."
    assert len(list(pickletools.genops(data))) == 7
    (tmp_path / "s.pkl").write_bytes(data)
    monkeypatch.setattr(pickle_data, "MAX_ITEMS", bound)
    if fits:
        assert pickle_data.load_pickle(tmp_path / "s.pkl") == {}
    else:
        with pytest.raises(InputError, match="more than 5 items"):
            pickle_data.load_pickle(tmp_path / "s.pkl")


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96"])
def test_a_declared_length_allocates_no_more_than_the_file(opcode: bytes, tmp_path: Path) -> None:
    """256 MB, which this machine would grant."""
    (tmp_path / "s.pkl").write_bytes(b"\x80\x05" + opcode + (1 << 28).to_bytes(8, "little") + b"abc.")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="truncated or damaged"):
            open_statistics(tmp_path / "s.pkl")
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


def test_a_torch_file_of_images_is_no_statistics(tmp_path: Path) -> None:
    import torch

    for value, are_statistics in ((torch.zeros(3, 3, 8, 8, dtype=torch.uint8), False), (torch.zeros(3, 8), True)):
        torch.save(value, tmp_path / "t.pt")
        assert is_statistics(tmp_path / "t.pt") is are_statistics


@pytest.mark.parametrize("code", ["<f8", ">f8", "<f4", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_a_pickle_keep_dtype_byte_order_and_axes(code: str, order: str, tmp_path: Path) -> None:
    array = np.array(np.arange(6).reshape(2, 3) % 2 if code == "|b1" else np.arange(6).reshape(2, 3), code, order=order)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array, "b": array[0, 1], "c": [array]}))
    read = pickle_data.load_pickle(tmp_path / "a.pkl")
    for found in (read["a"], read["c"][0]):
        assert found.dtype == array.dtype and found.shape == (2, 3)
        np.testing.assert_array_equal(found, array)
    assert read["b"] == array[0, 1] and not isinstance(read["b"], np.ndarray)
