"""Every format of the field is recognised by content and gives the moments that its tool stored."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from processes import PATIENCE
from statistics_worlds import COUNT, DIM, SPATIAL, WRITERS, features, named, pair, stylegan, write
from worlds import TinyEncoder

from fdr.errors import InputError
from fdr.evaluation import evaluate
from fdr.frechet import Moments
from fdr.references import find_reference, is_statistics, load_reference, open_statistics

FIRST = {"edm2": "fid", "bundle": "guided_diffusion_stats", "fd-evaluator": "ref_mu"}


@pytest.mark.parametrize("suffix", [None, ".dat"])
@pytest.mark.parametrize("case", WRITERS)
def test_a_file_is_known_by_its_content_and_keeps_its_numbers(case: str, suffix: str | None, tmp_path: Path) -> None:
    path = write(case, tmp_path, suffix)
    assert is_statistics(path)
    file = open_statistics(path)
    assert file.format == WRITERS[case][2]
    entry = file.entries[0]
    assert (entry.name, entry.dim) == (FIRST.get(case, entry.name), DIM)
    moments = file.load(entry)
    mu, sigma = pair()
    exact = entry.kind == "moments"
    np.testing.assert_allclose(moments.mu, mu, rtol=0 if exact else 1e-12)
    np.testing.assert_allclose(moments.sigma, sigma, rtol=0 if exact else 1e-12)
    assert moments.count == entry.count == (None if exact and case != "edm2" else COUNT)


def test_the_sums_of_stylegan_are_divided_as_there(tmp_path: Path) -> None:
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(stylegan()))
    moments = open_statistics(tmp_path / "s.pkl").load("mu")
    rows = features().astype(np.float64)
    np.testing.assert_allclose(moments.mu, rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.sigma, np.cov(rows, rowvar=False, ddof=0), rtol=1e-12)
    assert (moments.count, moments.ddof) == (COUNT, 0)
    for change in (
        {"raw_mean": None},
        {"num_items": 10**400},
        {"num_items": 1},
        {"raw_cov": np.eye(3)},
        {"num_items": ""},
    ):
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps(stylegan() | change))
        with pytest.raises(InputError, match="is a FeatureStats of StyleGAN without moments"):
            open_statistics(tmp_path / "bad.pkl")


@pytest.mark.parametrize(
    "arrays",
    [
        {"average": np.zeros(3), "covar": np.eye(3)},
        {"m": np.zeros(3), "s": np.ones(3)},  # standard deviations
        {"real": np.zeros((5, 3), np.float32), "fake": np.zeros((5, 3), np.float32)},
    ],
)
def test_unknown_names_are_a_sentence_about_statistics(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    first = next(iter(arrays))
    with pytest.raises(
        InputError, match=rf"no 'mu' and 'sigma' \(nor mean, m, .*; it holds {first} float.*: save mu \[D\]"
    ):
        evaluate(np.zeros((4, 8, 8, 3), np.uint8), tmp_path / "s.npz", TinyEncoder())


def test_images_of_any_kind_are_no_statistics_whatever_they_are_called(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 3), np.float32)
    for arrays in ({"x": images}, {"arr_0": images, "arr_1": np.zeros(4)}, {"m": np.zeros((4, 8, 8), np.uint8)}):
        np.savez(tmp_path / "i.npz", **arrays)
        assert not is_statistics(tmp_path / "i.npz")


def test_our_own_files_are_statistics_too(tmp_path: Path) -> None:
    moments = Moments.from_features(features())
    for suffix in ("h5", "npz"):
        moments.save(tmp_path / f"m.{suffix}")
        file = open_statistics(tmp_path / f"m.{suffix}")
        assert file.format == suffix and file.load("mu") == moments and file.entries[0].count == COUNT


def test_the_entry_of_the_asked_encoder_is_picked(tmp_path: Path) -> None:
    edm2 = open_statistics(write("edm2", tmp_path))
    assert edm2.select("inception").name == edm2.select("inception:clean").name == "fid"
    assert edm2.select("dinov2:edm2").name == edm2.select("dinov2:dgm").name == "fd_dinov2"
    bundle = open_statistics(write("bundle", tmp_path))
    assert bundle.select("dinov2").name.startswith("vit_large_patch14_dinov2")
    assert bundle.select("dinov2", output="mean").name.endswith("/avg_mu")
    adm = open_statistics(write("adm", tmp_path))
    assert adm.select("inception", output="spatial").dim == SPATIAL


def test_the_wrong_dinov2_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no moments of dinov2; it holds fid .*, fd_dinov2 \(5-d, dinov2:edm2\)"):
        open_statistics(write("edm2", tmp_path)).select("dinov2")
    with pytest.raises(InputError, match="no moments of the output 'mean' of inception"):
        open_statistics(write("adm", tmp_path)).select("inception", output="mean")


def test_two_layers_of_one_width_are_ambiguous(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "layers.pt"
    torch.save({"a": torch.ones(4, 3), "b": torch.ones(4, 3), "c": torch.ones(4, 2)}, path)
    with pytest.raises(InputError, match=r"several moments that may be of tiny: a .*fdr convert --entry"):
        open_statistics(path).select("tiny", 3)
    assert open_statistics(path).select("tiny", 2).name == "c"


def test_a_reference_may_be_of_another_output(tmp_path: Path) -> None:
    adm = write("adm", tmp_path)
    encoder = TinyEncoder(dim=DIM)
    with pytest.warns(match="does not say how many images"):
        main, spatial = find_reference(adm, encoder), find_reference(adm, encoder, output="spatial")
    assert (main.moments.dim, spatial.moments.dim) == (DIM, SPATIAL)
    np.testing.assert_array_equal(spatial.moments.sigma, named("", "_s", SPATIAL, 1)["sigma_s"])
    with pytest.warns(match="does not say"):
        assert load_reference(adm, encoder, output="features") == main.moments
    assert main.protocol_count is None


def test_features_may_lie_in_columns_and_in_half_precision(tmp_path: Path) -> None:
    rows = features()
    np.save(tmp_path / "f.npy", np.asfortranarray(rows))
    assert open_statistics(tmp_path / "f.npy").load("features") == Moments.from_features(rows)
    np.savez(tmp_path / "half.npz", feats=rows.astype(np.float16))
    assert open_statistics(tmp_path / "half.npz").load("feats") == Moments.from_features(rows.astype(np.float16))


def test_images_are_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((3, 4, 4, 3), np.uint8))
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 4, 4, 3), np.uint8), y=np.zeros(3, np.int64))
    (tmp_path / "a.txt").write_text("text")
    assert not any(is_statistics(tmp_path / name) for name in ("a.npz", "a.npy", "x.npz", "a.txt", "missing"))


def test_only_torch_files_import_torch(tmp_path: Path) -> None:
    cases = [case for case in WRITERS if "torch" not in case]
    for case in cases:
        (tmp_path / case).mkdir()
    paths = [str(write(case, tmp_path / case)) for case in cases]
    code = (
        "import sys, fdr.references as s\n"
        f"for path in {paths!r}: file = s.open_statistics(path); [file.load(e) for e in file.entries]\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_images_of_a_reference_are_never_read(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "adm.npz", arr_0=np.zeros((200, 256, 256, 3), np.uint8), **named(), **named("", "_s", SPATIAL))
    tracemalloc.start()
    try:
        assert is_statistics(tmp_path / "adm.npz")
        with pytest.warns(match="does not say"):
            load_reference(tmp_path / "adm.npz", TinyEncoder(dim=DIM), output="spatial")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6  # the images are 39 MB; hashing the file takes a buffer


def test_features_are_streamed(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", reps=np.random.default_rng(0).standard_normal((400_000, 16)))
    file = open_statistics(tmp_path / "f.npz")
    file.load("reps")
    tracemalloc.start()
    try:
        assert sum(len(rows) for rows in file.rows(file.entries[0])) == 400_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # the features are 51 MB


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "references.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    write("edm2", tmp_path).rename(tmp_path / "img512.pkl")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["moments"] == open_statistics("img512.pkl").load("fid")
