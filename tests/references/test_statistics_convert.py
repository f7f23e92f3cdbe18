"""Converting keeps every bit, and the tools themselves read what is written."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from statistics_worlds import COUNT, DIM, SPATIAL, WRITERS, features, named, pair, write

from fdr.cli import run
from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.references import LAYOUTS, ConvertOptions, convert, open_statistics
from fdr.references.formats.recognise import writers

TARGETS = writers()
MOMENT_FORMATS = [name for name, writer in TARGETS.items() if not writer.needs_rows]
ENTRY = {"edm2": "fid", "bundle": "guided_diffusion_stats"}


def test_the_command_offers_what_can_be_written() -> None:
    assert tuple(TARGETS) == LAYOUTS == tuple(dict.fromkeys(LAYOUTS))
    suffixes = [suffix for writer in TARGETS.values() for suffix in writer.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize("to", MOMENT_FORMATS)
@pytest.mark.parametrize("case", WRITERS)
def test_every_format_becomes_every_other_bit_for_bit(case: str, to: str, tmp_path: Path) -> None:
    source = write(case, tmp_path)
    before = open_statistics(source).load(ENTRY.get(case) or open_statistics(source).entries[0].name)
    target = tmp_path / "out.any"
    options = ConvertOptions(to=to, entry=ENTRY.get(case), encoder="inception:x" if to == "edm2" else None)
    done = convert(source, target, options)
    assert (done.from_format, done.to_format, done.dim) == (WRITERS[case][2], to, DIM)
    file = open_statistics(target)
    after = file.load(file.entries[0])
    np.testing.assert_array_equal(after.mu, before.mu)
    np.testing.assert_array_equal(after.sigma, before.sigma)
    if to not in ("clean-fid", "torch-fidelity"):
        assert after.count == before.count


@pytest.mark.parametrize("to", ["dgm-eval", "clean-fid-kid", "npy"])
@pytest.mark.parametrize("case", ["torch-features", "dgm", "kid", "x", "npy"])
def test_features_stay_features(case: str, to: str, tmp_path: Path) -> None:
    convert(write(case, tmp_path), tmp_path / "out", ConvertOptions(to=to, encoder="tiny"))
    file = open_statistics(tmp_path / "out")
    assert file.format == to and file.entries[0].count == COUNT
    np.testing.assert_array_equal(np.concatenate(list(file.rows(file.entries[0]))), features())
    assert file.load(file.entries[0]) == Moments.from_features(features())
    if to == "dgm-eval":
        with np.load(tmp_path / "out", allow_pickle=False) as arrays:
            assert str(arrays["model"]) == "tiny"


def test_features_in_bfloat16_become_float32(tmp_path: Path) -> None:
    import torch

    rows = torch.from_numpy(features()).bfloat16()
    torch.save({"pool": rows}, tmp_path / "f.pt")
    convert(tmp_path / "f.pt", tmp_path / "f.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), rows.float().numpy())


def test_spatial_and_mean_moments_go_along(tmp_path: Path) -> None:
    done = convert(write("adm", tmp_path), tmp_path / "a.npz", ConvertOptions(to="adm"))
    assert done.entries == ("mu", "mu_s")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file.files) == {"mu", "sigma", "mu_s", "sigma_s"}
        np.testing.assert_array_equal(file["sigma_s"], named("", "_s", SPATIAL, 1)["sigma_s"])
    dino = "vit_large_patch14_dinov2_lvd142m_in256_t256_stats"
    done = convert(write("bundle", tmp_path), tmp_path / "f.npz", ConvertOptions(to="fdloss", entry=dino))
    assert done.entries == (dino, f"{dino}/avg_mu")
    with np.load(tmp_path / "f.npz") as file:
        np.testing.assert_array_equal(file["avg_mu"], pair(seed=2)[0])


def test_what_was_said_of_the_count_is_true_of_every_pair(tmp_path: Path) -> None:
    convert(write("adm", tmp_path), tmp_path / "a.npz", ConvertOptions(to="adm", count=77))
    file = open_statistics(tmp_path / "a.npz")
    assert [entry.count for entry in file.entries] == [77, 77]
    assert file.load("mu_s").count == file.load("mu").count == 77


def test_images_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "in.npz", arr_0=images, **named())
        convert(tmp_path / "in.npz", tmp_path / "out.npz", ConvertOptions(to="adm", keep_images=True))
        with np.load(tmp_path / "out.npz") as file:
            np.testing.assert_array_equal(file["arr_0"], images)
        convert(tmp_path / "in.npz", tmp_path / "out.npz")
        assert "arr_0" not in np.load(tmp_path / "out.npz")
    with pytest.raises(InputError, match="--keep-images goes with --to adm"):
        convert(tmp_path / "in.npz", tmp_path / "out.h5", ConvertOptions(keep_images=True))


def test_said_counts_and_encoders_are_kept_and_checked(tmp_path: Path) -> None:
    source = write("pytorch-fid", tmp_path)
    done = convert(source, tmp_path / "o.h5", ConvertOptions(count=50_000, encoder="tiny"))
    assert done.count == 50_000 and not done.doubts
    again = Moments.load(tmp_path / "o.h5")
    assert again.count == 50_000 and again.attributes["encoder"] == "tiny"
    with pytest.raises(InputError, match="6-d moments under 'mu', but dinov2 gives 1024-d"):
        convert(source, tmp_path / "o.h5", ConvertOptions(encoder="dinov2"))
    with pytest.raises(InputError, match="are of 40 samples, but 50 were announced"):
        convert(write("edm2", tmp_path), tmp_path / "o.h5", ConvertOptions(entry="fid", count=50))


@pytest.mark.parametrize("suffix", ["h5", "npz"])
def test_a_converted_file_remembers_whose_it_is(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"o.{suffix}"
    convert(write("edm2", tmp_path), path, ConvertOptions(entry="fd_dinov2"))
    assert open_statistics(path).select("dinov2:edm2").name == "mu"
    with pytest.raises(InputError, match=r"no moments of dinov2; it holds mu \(5-d, dinov2:edm2\)"):
        open_statistics(path).select("dinov2", SPATIAL)
    convert(write("edm2", tmp_path), path, ConvertOptions(entry="fid"))
    assert open_statistics(path).select("inception:clean").name == "mu"


def test_edm2_itself_can_read_what_is_written(tmp_path: Path) -> None:
    convert(write("edm2", tmp_path), tmp_path / "o.pkl", ConvertOptions(entry="fd_dinov2"))
    data = pickle.loads((tmp_path / "o.pkl").read_bytes())
    assert list(data) == ["num_images", "fd_dinov2"] and data["num_images"] == COUNT
    assert type(data["fd_dinov2"]["mu"]) is np.ndarray and data["fd_dinov2"]["sigma"].dtype == np.float64
    with pytest.raises(InputError, match="their encoder is not known; say --encoder inception"):
        convert(write("pytorch-fid", tmp_path), tmp_path / "o.pkl")


def test_pytorch_fid_reads_what_is_written(tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    source = write("torch", tmp_path)
    for to in ("npz", "adm", "fdloss", "clean-fid"):
        convert(source, tmp_path / "o.npz", ConvertOptions(to=to))
        mu, sigma = fid_score.compute_statistics_of_path(str(tmp_path / "o.npz"), None, 1, DIM, "cpu")
        np.testing.assert_array_equal(mu, pair()[0])
        np.testing.assert_array_equal(sigma, pair()[1])


def test_torch_fidelity_takes_what_is_written_from_its_cache(tmp_path: Path) -> None:
    utils = pytest.importorskip("torch_fidelity.utils")
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    convert(write("pytorch-fid", tmp_path), tmp_path / "item.pt")

    def recompute() -> None:
        raise AssertionError("the cached item was not used")

    options = {"cache": True, "cache_root": str(tmp_path), "verbose": False}
    stat = utils.cache_lookup_one_recompute_on_miss("item", recompute, **options)
    np.testing.assert_array_equal(stat["sigma"], pair()[1])
    assert abs(metric.fid_statistics_to_metric(stat, stat, False)["frechet_inception_distance"]) < 1e-6


def test_clean_fid_takes_what_is_written_as_a_named_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleanfid = pytest.importorskip("cleanfid.features")
    convert(write("torch", tmp_path), tmp_path / "o.npz", ConvertOptions(to="clean-fid"))
    monkeypatch.setattr(cleanfid, "check_download_url", lambda **_: str(tmp_path / "o.npz"))
    mu, sigma = cleanfid.get_reference_statistics("toy", 32)
    np.testing.assert_array_equal(mu, pair()[0])
    np.testing.assert_array_equal(sigma, pair()[1])


def test_nothing_is_half_written_and_a_file_is_not_its_own_target(tmp_path: Path) -> None:
    source = write("pytorch-fid", tmp_path)
    with pytest.raises(InputError, match="onto itself"):
        convert(source, source)
    with pytest.raises(InputError, match=r"Cannot tell the format of .*say --to npz, adm"):
        convert(source, tmp_path / "o.xyz")
    with pytest.raises(InputError, match="has only moments; they cannot be turned back"):
        convert(source, tmp_path / "o.npz", ConvertOptions(to="dgm-eval"))
    with pytest.raises(InputError, match="holds 2 entries"):
        convert(write("edm2", tmp_path), tmp_path / "o.npz")
    convert(source, tmp_path / "dry.npz", dry_run=True)
    assert not (tmp_path / "o.npz").exists() and not (tmp_path / "dry.npz").exists()


def test_the_reading_of_features_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    command = ["convert", str(tmp_path / "f.npy"), str(tmp_path / "m.npz")]
    assert run(command) == 0
    assert re.search(r"f.npy: \S+: 50/50 rows", capsys.readouterr().err)
    assert run([*command[:2], str(tmp_path / "again.npz"), "-q"]) == 0
    assert capsys.readouterr().err == ""
