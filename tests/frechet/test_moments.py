"""Moments: sums, merges, files, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from covariances import features, numpy_moments
from hypothesis import given, settings
from hypothesis import strategies as st

from fdr.errors import FdrError, FdrWarning, InputError
from fdr.frechet import LeverageCurve, Moments, Sums, read_attributes

# ------------------------------------------------------------------------------------------------------------- sums


def in_batches(x: Any, size: int) -> Any:
    return (x[start : start + size] for start in range(0, len(x), size))


def test_moments_are_the_mean_and_the_unbiased_covariance() -> None:
    x = features(300, 20, 0)
    moments = Moments.from_features(x)
    mu, sigma = numpy_moments(x)
    assert moments.count == 300 and moments.dim == 20 and moments.ddof == 1
    assert np.allclose(moments.mu, mu, rtol=0, atol=1e-15)
    assert np.allclose(moments.sigma, sigma, rtol=0, atol=1e-15)
    biased = Moments.from_features(x, ddof=0)
    assert np.allclose(biased.sigma, sigma * 299 / 300, rtol=1e-12)


def test_width_one_works() -> None:
    moments = Moments.from_features(np.array([[1.0], [2.0], [6.0]]))
    assert moments.mu == 3 and moments.sigma == 7


@pytest.mark.parametrize("num_samples", [40, 5000])
def test_batching_does_not_change_one_bit(num_samples: int) -> None:
    x = features(num_samples, 50, 1).astype(np.float32)
    whole = Moments.from_features(x)
    for size in (7, 64, 4097):
        assert Moments.from_features(in_batches(x, size)) == whole
    assert Moments.from_features(in_batches(torch.from_numpy(x), 64)) == whole
    assert Moments.from_features([x[:0], x[:10], x[10:], x[:0]]) == whole, "empty batches are allowed"


def test_large_mean_and_small_spread_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((6000, 8)).astype(np.float32)
    shifted = (30 + 0.05 * spread).astype(np.float32)
    exact = np.cov((shifted.astype(np.float64) - 30).astype(np.longdouble), rowvar=False, dtype=np.longdouble)
    assert np.allclose(Moments.from_features(shifted).sigma, exact.astype(np.float64), rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_is_summed_in_float64(dtype: torch.dtype) -> None:
    x = torch.from_numpy(features(200, 6, 2)).to(dtype)
    moments = Moments.from_features(x.requires_grad_())
    assert moments.sigma.dtype == np.float64
    assert np.allclose(moments.sigma, numpy_moments(x.detach().double().numpy())[1], rtol=1e-12, atol=1e-15)


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    import tracemalloc

    x = np.ones((64, 32), dtype=np.float32) * np.arange(64, dtype=np.float32)[:, None]

    def peak(num_batches: int) -> int:
        tracemalloc.start()
        Moments.from_features(x for _ in range(num_batches))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(100)
    assert peak(2000) < 1.2 * peak(200)


def test_thin_features_are_kept_up_to_the_width_and_dropped_beyond() -> None:
    x = features(21, 20, 3)
    thin = Moments.from_features(x[:20])
    assert thin.rank_deficient and thin.factor is not None and thin.factor.shape == (20, 20)
    assert np.allclose(thin.factor, x[:20] - x[:20].mean(0), rtol=0, atol=1e-15)
    assert np.array_equal(thin.sigma, thin.factor.T @ thin.factor / 19)
    full = Moments.from_features(x)
    assert full.factor is None and not full.rank_deficient


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.sampled_from([0, 1]), st.floats(-50, 50))
def test_merge_of_parts_is_the_whole(sizes: list[int], ddof: int, offset: float) -> None:
    x = features(sum(sizes), 25, 4, offset)
    x[: sizes[0]] += 3
    parts = [Moments.from_features(part, ddof=ddof) for part in np.split(x, np.cumsum(sizes)[:-1])]
    merged, whole = parts[0].merge(*parts[1:]), Moments.from_features(x, ddof=ddof)
    assert merged.count == whole.count
    assert np.allclose(merged.mu, whole.mu, rtol=1e-13, atol=1e-13)
    assert np.allclose(merged.sigma, whole.sigma, rtol=1e-12, atol=1e-12)
    assert (merged.factor is None) == (whole.factor is None)
    if merged.factor is not None and whole.factor is not None:
        assert np.allclose(merged.factor, whole.factor, rtol=0, atol=1e-12)


def test_merge_mixes_ddof_and_keeps_the_first() -> None:
    x = features(60, 4, 5)
    merged = Moments.from_features(x[:20]).merge(Moments.from_features(x[20:], ddof=0))
    assert merged.ddof == 1
    assert np.allclose(merged.sigma, numpy_moments(x)[1], rtol=1e-12)


def test_moments_are_frozen_comparable_and_picklable() -> None:
    moments = Moments.from_features(features(30, 4, 6))
    with pytest.raises(ValueError, match="read-only"):
        moments.sigma[0, 0] = 1
    with pytest.raises(AttributeError):
        moments.count = 7  # type: ignore[misc]
    clone = pickle.loads(pickle.dumps(moments))
    assert clone == moments and hash(clone) == hash(moments)
    assert moments != Moments(moments.mu, moments.sigma, count=31)


def test_with_count_fills_a_missing_count_and_refuses_another() -> None:
    moments = Moments(np.zeros(2), np.eye(2))
    assert moments.with_count(None).count is None and moments.with_count(9).count == 9
    with pytest.raises(InputError, match="of 9 samples, but 10 were announced"):
        moments.with_count(9).with_count(10)


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("num_samples", [10, 50])
def test_a_file_gives_back_every_bit(tmp_path: Path, suffix: str, num_samples: int) -> None:
    moments = Moments.from_features(features(num_samples, 20, 7), ddof=0)
    path = tmp_path / f"m{suffix}"
    moments.save(path, {"encoder": "random", "size": 256, "share": 0.25, "long": "x" * 100_000})
    loaded = Moments.load(path)
    assert loaded == moments
    assert (loaded.factor is None) == (moments.factor is None)
    assert moments.factor is None or np.array_equal(loaded.factor, moments.factor)
    assert dict(loaded.attributes) == {"encoder": "random", "size": 256, "share": 0.25, "long": "x" * 100_000}
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays"


def test_attributes_travel_with_the_moments_and_are_not_compared(tmp_path: Path) -> None:
    moments = Moments(np.zeros(1), np.eye(1), 5, attributes={"a": 1})
    moments.save(tmp_path / "a.npz", {"b": 2})
    again = Moments.load(tmp_path / "a.npz")
    assert dict(again.attributes) == {"a": 1, "b": 2} and again == moments


def test_format_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    moments = Moments.from_features(features(30, 3, 8))
    moments.save(tmp_path / "m.h5")
    (tmp_path / "m.h5").rename(tmp_path / "m.npz")
    assert Moments.load(tmp_path / "m.npz") == moments


def test_pytorch_fid_reads_our_file(tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    moments = Moments.from_features(features(10, 20, 9))
    moments.save(tmp_path / "m.npz", {"encoder": "x"})
    mu, sigma = fid_score.compute_statistics_of_path(str(tmp_path / "m.npz"), None, 1, 2048, "cpu")
    assert np.array_equal(mu, moments.mu) and np.array_equal(sigma, moments.sigma)


def test_files_of_peers_load_with_other_keys_and_without_a_count(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "adm.npz", mu=np.zeros(2), sigma=np.eye(2), mu_s=np.ones(3), sigma_s=2 * np.eye(3))
    assert Moments.load(tmp_path / "adm.npz").dim == 2
    spatial = Moments.load(tmp_path / "adm.npz", keys=("mu_s", "sigma_s"))
    assert spatial.dim == 3 and spatial.count is None


def test_float32_statistics_are_warned_about_and_symmetrised(tmp_path: Path) -> None:
    _, sigma = numpy_moments(features(100, 9, 10))
    rounded = sigma.astype(np.float32)
    rounded[0, 1] *= 1 + 3e-7
    np.savez(tmp_path / "m.npz", mu=np.zeros(9, np.float32), sigma=rounded)
    with pytest.warns(FdrWarning, match=r"m.npz' holds its covariance in float32"):
        moments = Moments.load(tmp_path / "m.npz")
    assert np.array_equal(moments.sigma, moments.sigma.T)


def test_a_float64_covariance_of_low_precision_is_warned_about_and_symmetrised(tmp_path: Path) -> None:
    _, sigma = numpy_moments(features(100, 9, 10))
    upper = sigma.copy()
    upper[0, 1] += 1e-8 * sigma.max()
    np.savez(tmp_path / "m.npz", mu=np.zeros(9), sigma=upper)
    with pytest.warns(FdrWarning, match=r"symmetric only to 1\.0e-08 of its largest entry"):
        moments = Moments.load(tmp_path / "m.npz")
    assert moments.sigma[0, 1] == moments.sigma[1, 0] == pytest.approx(sigma[0, 1] + 5e-9 * sigma.max(), rel=1e-15)


@pytest.mark.parametrize("value", ["true", "1e301", "null", "[1]"])
def test_attributes_that_fdr_does_not_write_are_refused(tmp_path: Path, value: str) -> None:
    attributes = np.array(f'{{"share": {value}}}')
    np.savez(tmp_path / "m.npz", mu=np.zeros(2), sigma=np.eye(2), fdr_attributes=attributes)
    for read in (Moments.load, read_attributes):
        with pytest.raises(InputError, match="an attribute 'share' that is no text or number"):
            read(tmp_path / "m.npz")


def test_centred_features_of_another_set_are_refused() -> None:
    """They would decide the distance, so that they must give the trace of sigma to nine digits."""
    moments = Moments.from_features(features(5, 9, 12))
    assert moments.factor is not None
    with pytest.raises(InputError, match="centred features and sigma disagree"):
        Moments(moments.mu, moments.sigma, 5, 1, moments.factor * (1 + 1e-7))


def test_loading_and_saving_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from fdr.frechet.moments import Moments;"
        "m = Moments.from_features(np.eye(4)); m.save('m.npz'); m.save('m.h5');"
        "assert Moments.load('m.npz').check() == Moments.load('m.h5') == m; print(m);"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    path = [str(Path(__file__).parents[2]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Moments(dim=4, count=4, ddof=1)"


# -------------------------------------------------------------------------------------------------------- bad input


class Explosive:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a file was executed",)


def write_bad(path: Path, kind: str) -> None:
    arrays: dict[str, Any] = {"mu": np.zeros(3), "sigma": np.eye(3)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Explosive()))
        return
    if kind == "empty":
        path.write_bytes(b"")
        return
    if kind == "text":
        path.write_text("mu sigma")
        return
    if kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.eye(3))
        return
    if kind == "torch":
        torch.save({"mu": torch.zeros(3)}, path)
        return
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["features"] = np.eye(3)
        return
    changes: dict[str, dict[str, Any]] = {
        "shapes": {"mu": np.zeros(4)},
        "no sigma": {"sigma": None},
        "objects": {"sigma": np.array([[Explosive()]], dtype=object)},
        "asymmetric": {"sigma": np.eye(3) + np.triu(np.full((3, 3), 0.1), 1)},
        "nan": {"sigma": np.diag([1, np.nan, 1])},
        "infinite mean": {"mu": np.array([0, np.inf, 0])},
        "negative": {"sigma": np.diag([1.0, -0.5, 1.0])},
        "zero variance": {"sigma": np.array([[1, 0.5, 0], [0.5, 0, 0], [0, 0, 1]])},
        "one sample": {"count": 1},
        "text count": {"count": np.array("many")},
        "ddof": {"count": 9, "ddof": 2},
        "letters": {"mu": np.array(["a", "b", "c"])},
        "factor shape": {"count": 2, "factor": np.zeros((3, 3))},
        "factor": {"count": 2, "factor": np.ones((2, 3))},
        "attributes": {"fdr_attributes": np.array("[1]")},
    }
    if kind == "truncated":
        np.savez(path, **arrays)
        path.write_bytes(path.read_bytes()[:-100])
        return
    if kind == "damaged":
        np.savez(path, **arrays)
        data = bytearray(path.read_bytes())
        start = data.index(np.eye(3).tobytes())
        data[start + 3] ^= 255
        path.write_bytes(data)
        return
    arrays |= changes[kind]
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("pickle", r"is a Python pickle, which can run code and is not opened"),
        ("empty", r"is empty: the download"),
        ("text", r"is no statistics file; statistics are read from \*\.npz with mu and sigma"),
        ("npy", r"is a single \.npy array"),
        ("torch", r"has no 'mu' and 'sigma'; it holds "),
        ("hdf5", r"is HDF5 but not moments of the format fdr-moments/1; it holds features"),
        ("shapes", r"mu has shape \[4\] and sigma \[3, 3\]; expected \[D\] and \[D, D\]"),
        ("no sigma", r"has no 'mu' and 'sigma'; it holds mu"),
        ("objects", r"holds Python objects, which can run code and are not opened"),
        ("asymmetric", r"sigma is not symmetric: it differs from its transpose by up to 1\.0e-01"),
        ("nan", r"sigma holds 1 NaN or infinite values of 9"),
        ("infinite mean", r"mu holds 1 NaN or infinite values of 3"),
        ("negative", r"negative variance in 1 of 3 columns"),
        ("zero variance", r"covariances in a column of variance 0"),
        ("one sample", r"The count is 1; moments need at least 2 samples"),
        ("text count", r"'count' that is no number"),
        ("ddof", r"ddof is 2; expected 1"),
        ("letters", r"mu has dtype <U1; expected real numbers"),
        ("factor shape", r"centred features have shape \[3, 3\]; expected \[count, D\] = \[2, 3\]"),
        ("factor", r"centred features and sigma disagree"),
        ("attributes", r"no mapping; it was altered"),
        ("truncated", r"is truncated or damaged"),
        ("damaged", r"is truncated or damaged \(Bad CRC-32"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence_that_names_it(tmp_path: Path, kind: str, sentence: str) -> None:
    path = tmp_path / "bad.npz"
    write_bad(path, kind)
    with pytest.raises(InputError, match=sentence) as raised:
        Moments.load(path)
    assert "bad.npz" in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files_and_folders_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz does not exist"):
        Moments.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="is a folder; a statistics file"):
        Moments.load(tmp_path)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_no_damage_crashes_the_reader_or_executes_anything(tmp_path: Path, suffix: str) -> None:
    moments = Moments.from_features(features(4, 6, 11))
    path = tmp_path / f"m{suffix}"
    moments.save(path, {"encoder": "random"})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(8, len(data))]
        else:
            for place in rng.integers(8, len(data), size=1 + trial % 4):
                data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            loaded = Moments.load(path)
        except FdrError as error:
            assert "\n" not in str(error)
        else:
            assert suffix == ".h5" or loaded == moments, "an npz has checksums: damage cannot go unnoticed"


def test_unwritable_places_and_unknown_suffixes_are_said_so(tmp_path: Path) -> None:
    moments = Moments(np.zeros(1), np.eye(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(FdrError, match="Cannot write"):
        moments.save(tmp_path / "file" / "m.npz")
    with pytest.raises(InputError, match=r"Cannot tell the format of .*m\.pkl'; name a file of moments"):
        moments.save(tmp_path / "m.pkl")
    with pytest.raises(InputError, match="Attribute 'a' is a list; expected text or a number"):
        moments.save(tmp_path / "m.npz", {"a": [1]})  # type: ignore[dict-item]


def test_sums_keep_their_rows_up_to_the_width_however_they_are_divided() -> None:
    """N = D: the rows of both parts are the factor of the whole, in their order; with one row more there is none."""
    x = features(21, 20, 3)
    for count in (20, 21):
        parts = Sums(None), Sums(None)
        for part, rows in zip(parts, (x[:7], x[7:count]), strict=True):
            part.add(rows)
        parts[0].absorb(parts[1].state())
        moments = Moments.from_sums(parts[0])
        assert (moments.factor is None) == (count == 21)
        if moments.factor is not None:
            assert np.allclose(moments.factor, x[:20] - x[:20].mean(0), rtol=0, atol=1e-14)
        assert np.allclose(moments.sigma, numpy_moments(x[:count])[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.__setitem__((0, 1), s[0, 1] + 1e-5 * s.max()), "sigma is not symmetric"),
        (lambda s: s.__setitem__((2, 2), -1e-5 * s.max()), "negative variance in 1 of 4 columns"),
        (lambda s: s.__setitem__((2, 2), 0), "covariances in a column of variance 0"),
    ],
    ids=["asymmetric", "negative", "dead"],
)
def test_a_matrix_beyond_float32_s_rounding_is_no_covariance(change: Any, sentence: str) -> None:
    sigma = numpy_moments(features(50, 4, 1))[1]
    change(sigma)
    with pytest.raises(InputError, match=sentence):
        Moments(np.zeros(4), sigma)


def test_check_tells_an_indefinite_covariance_from_a_singular_one() -> None:
    singular = Moments.from_features(features(5, 9, 12))
    assert singular.check() is singular
    with pytest.raises(InputError, match=r"not positive semidefinite: its smallest eigenvalue is -1, its largest 3"):
        Moments(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])).check()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (np.zeros((1, 3)), "1 sample given; moments need at least 2"),
        (np.zeros((0, 3)), "0 samples given; moments need at least 2"),
        ([], "0 samples given"),
        (np.zeros(3), r"shape \[3\]; expected \[N, D\], one row per image"),
        (torch.zeros(2, 3, 4, 4), r"shape \[2, 3, 4, 4\]; expected \[N, D\]"),
        (np.zeros((3, 0)), "width 0"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "width 4 follows batches of width 3"),
        ([{"inception": np.zeros((2, 3))}], "pass those of one encoder"),
        ({"inception": np.zeros((2, 3))}, "pass those of one encoder"),
        ("stats.npz", r"not the path 'stats\.npz'; read moments with Moments\.load"),
        (7, "got int"),
        (np.zeros((3, 2), dtype=complex), "dtype complex128; expected real numbers"),
        (np.array([["a"], ["b"]]), "expected real numbers"),
        (np.full((3, 2), 1e200) * np.arange(3)[:, None], "squares overflow float64"),
    ],
)
def test_bad_features_are_refused_in_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Moments.from_features(given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_named_by_row(value: float) -> None:
    x = features(3000, 4, 13).astype(np.float32)
    x[[2500, 2600], 1] = value
    with pytest.raises(InputError, match=r"NaN or infinity in 2 of the rows 2048 to 2999 \(rows 2500, 2600\)"):
        Moments.from_features(in_batches(x, 64))


def test_merge_needs_counts_and_one_width() -> None:
    known = Moments(np.zeros(2), np.eye(2), 9)
    with pytest.raises(InputError, match="without a sample count cannot be merged"):
        known.merge(Moments(np.zeros(2), np.eye(2)))
    with pytest.raises(InputError, match="width 2 and 3 cannot be merged"):
        known.merge(Moments(np.zeros(3), np.eye(3), 9))


def test_moments_of_two_encoders_are_not_merged() -> None:
    one, other, unknown = (
        Moments(np.zeros(2), np.eye(2), 9, attributes=given) for given in ({"spec_hash": "a"}, {"spec_hash": "b"}, {})
    )
    with pytest.raises(InputError, match="Moments of two encoders cannot be merged"):
        one.merge(other)
    assert one.merge(unknown, one).count == 27


@pytest.mark.parametrize("name", ["mu", "sigma", "count", "attribute"])
def test_content_that_is_not_that_of_its_checksum_is_refused(tmp_path: Path, name: str) -> None:
    """HDF5 itself notices no changed number."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "m.h5"
    Moments.from_features(features(30, 3, 0)).save(path, {"encoder": "a"})
    Moments.load(path)
    with h5py.File(path, "r+") as file:
        if name == "count":
            file.attrs["count"] = 31
        elif name == "attribute":
            file["attributes"].attrs["encoder"] = "b"
        else:
            file[name][0] *= 1 + 1e-9
    with pytest.raises(InputError, match=r"is truncated or damaged .*checksum"):
        Moments.load(path)


def test_a_zip_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("a.png", b"")
    with pytest.raises(InputError, match=r"has no 'mu' and 'sigma'; it holds a\.png"):
        Moments.load(tmp_path / "images.zip")


def test_our_hdf5_has_checksums_on_all_its_structure(tmp_path: Path) -> None:
    """Texts of any length would lie in a heap without; damage there sends the HDF5 library into an endless loop."""
    moments = Moments.from_features(np.random.default_rng(0).normal(size=(20, 3)))
    moments.save(tmp_path / "m.h5", attributes={"encoder": "é", "spec": "", "n": 3})
    assert b"GCOL" not in (tmp_path / "m.h5").read_bytes()
    assert read_attributes(tmp_path / "m.h5") == {"encoder": "é", "spec": "", "n": 3}


def test_an_hdf5_file_of_mu_and_sigma_alone_is_enough(tmp_path: Path) -> None:
    mu, sigma = numpy_moments(features(40, 3, 0))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["format"] = "fdr-moments/1"
        file.create_group("attributes")
        file["mu"], file["sigma"] = mu, sigma
    found = Moments.load(tmp_path / "m.h5")
    assert np.array_equal(found.mu, mu) and np.allclose(found.sigma, sigma, rtol=0, atol=1e-16)
    assert found.count is None


# -------------------------------------------------------------------------------------------- rows and leverage curve


def with_rows(count: int, seed: int) -> Moments:
    x = features(count, 6, seed).astype(np.float32)
    return dataclasses.replace(Moments.from_features(x), rows=x)


def test_rows_stay_with_the_moments_and_are_not_compared() -> None:
    first, second = with_rows(30, 0), with_rows(20, 1)
    assert first == dataclasses.replace(first, rows=None)
    assert first.rows is not None and first.rows.dtype == np.float32 and not first.rows.flags.writeable
    merged = first.merge(second)
    assert merged.rows is not None and second.rows is not None
    np.testing.assert_array_equal(merged.rows, np.concatenate([first.rows, second.rows]))
    assert first.merge(dataclasses.replace(second, rows=None)).rows is None
    kept = dataclasses.replace(first, count=None).with_count(30).rows
    assert kept is not None and np.shares_memory(kept, first.rows), "nothing is copied"
    restored = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(restored.rows, first.rows)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.ones((29, 6)), "shape \\[29, 6\\]; expected \\[count, D\\] = \\[30, 6\\]"),
        (np.ones((30, 5)), "shape \\[30, 5\\]"),
        (np.ones((30, 6), int), "dtype int64"),
    ],
)
def test_rows_of_another_set_are_refused(rows: np.ndarray, text: str) -> None:
    with pytest.raises(InputError, match=text):
        dataclasses.replace(with_rows(30, 0), rows=rows)


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_leverage_curve_is_saved_and_rows_are_not(tmp_path: Path, suffix: str) -> None:
    curve = LeverageCurve(np.array([1.0, 4.0, 9.0]), np.array([1.5, 1.3, 1.0]))
    moments = dataclasses.replace(with_rows(30, 0), curve=curve)
    moments.save(tmp_path / f"a.{suffix}")
    found = Moments.load(tmp_path / f"a.{suffix}")
    assert found == moments and found.rows is None and found.curve is not None
    np.testing.assert_array_equal(found.curve.array, curve.array)
    assert pickle.loads(pickle.dumps(found)).curve.h.tolist() == [1, 4, 9]
    assert dataclasses.replace(found, curve=None) == found
    np.testing.assert_allclose(curve.at(np.array([0.5, 1, 2, 6, 20])), [1.5, 1.5, 1.4, 1.15, 1.0])


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.ones((3, 4)), "shape \\[3, 4\\]"),
        (np.array([[2.0, 1.0], [1.0, 1.0]]), "ascending"),
        (np.array([[0.0, 1.0], [1.0, 1.0]]), "above 0"),
        (np.array([[1.0, 2.0], [0.9, 1.0]]), "at least 1"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), "at least 1"),
    ],
)
def test_a_curve_that_is_none_is_refused(tmp_path: Path, array: np.ndarray, text: str) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=np.eye(2), count=5, curve=array)
    with pytest.raises(InputError, match=f"a.npz.*{text}"):
        Moments.load(tmp_path / "a.npz")
