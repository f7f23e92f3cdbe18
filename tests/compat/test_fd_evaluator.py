"""The drop-in for fd_evaluator: its keys, its definitions in NumPy and SciPy, its places, and no stale cache."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metrics.peer_definitions import mind_by_definition, score_of_fd_evaluator
from scipy import linalg
from worlds import DIM, TinyEncoder, images, npz

import fdr.compat.fd_evaluator
from fdr.compat import fd_evaluator, format_results, list_bundles, list_extractors, list_references
from fdr.compat.fd_evaluator import compute_metrics
from fdr.compat.nanogen_statistics import find_statistics
from fdr.errors import InputError

CONSTANTS = {"inception": 1.68, "convnext": 56.87, "dinov2_cls": 14.19, "mae_cls": 0.04, "siglip_cls": 0.6}
CONSTANTS["clip_cls"] = 5.6
FILES = {
    "inception": "guided_diffusion_stats",
    "convnext": "convnext_in256_t224_stats",
    "dinov2_cls": "vit_large_patch14_dinov2_lvd142m_in256_t256_stats",
    "mae_cls": "vit_large_patch16_224_mae_in256_t224_stats",
    "siglip_cls": "vit_so400m_patch16_siglip_256_v2_webli_in256_t224_stats",
    "clip_cls": "vit_large_patch14_clip_224_openai_in256_t256_stats",
}
"""As its catalogue has them."""
SAMPLES, REAL = images(43, seed=1), images(50, seed=2)

pytestmark = pytest.mark.filterwarnings("default::fdr.errors.FdrWarning")


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> dict[str, TinyEncoder]:
    """A tiny encoder in place of each of the six, by fd_evaluator's names."""
    tiny = {
        name: TinyEncoder(ours, weights=f"seed:{'0' * place}")
        for place, (name, ours) in enumerate(fd_evaluator.EXTRACTORS.items())
    }

    def load(names: list[str], *_: Any) -> list[TinyEncoder]:
        return [encoder for encoder in tiny.values() if encoder.spec.name in names]

    monkeypatch.setattr(fd_evaluator, "load_encoders", load)
    return tiny


@pytest.fixture
def statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A folder of statistics under its names, with different moments in each file."""
    folder, made = tmp_path / "stats", {}
    folder.mkdir()
    for seed, name in enumerate([*FILES.values(), "imagenet_256_fid_stats"]):
        rows = np.random.default_rng(seed).normal(seed, 1 + seed, (60, DIM))
        made[name] = rows.mean(0), np.cov(rows, rowvar=False)
        np.savez(folder / f"{name}.npz", mu=made[name][0], sigma=made[name][1])
    monkeypatch.setenv("NANOGEN_EVALS_STATS_DIR", str(folder))
    return made


def features(encoder: TinyEncoder, array: np.ndarray, output: str = "features") -> np.ndarray:
    batch = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    return encoder(batch, [output])[output].numpy()


def frechet(x: np.ndarray, reference: tuple[np.ndarray, np.ndarray]) -> float:
    """By SciPy's square root, as fd_evaluator computes it."""
    x, (mu, sigma) = x.astype(float), reference
    own = np.cov(x, rowvar=False)
    root = linalg.sqrtm(own @ sigma).real
    return float(((x.mean(0) - mu) ** 2).sum() + np.trace(own) + np.trace(sigma) - 2 * np.trace(root))


def test_every_key_and_number(encoders: dict, statistics: dict) -> None:
    found = compute_metrics(
        SAMPLES, ["fid", "inception_score", "fdr6", "mind6"], reference_images=REAL, device="cpu", verbose=False
    )
    of = {name: features(encoder, SAMPLES) for name, encoder in encoders.items()}
    expected = {f"fdr_{name}": frechet(of[name], statistics[FILES[name]]) / CONSTANTS[name] for name in FILES}
    expected["fdr6"] = float(np.mean(list(expected.values())))
    expected["fid"] = frechet(of["inception"], statistics["imagenet_256_fid_stats"])
    assert found.keys() == {*expected, "inception_score", *(f"mind_{name}" for name in FILES)}
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key
    assert found["inception_score"] == pytest.approx(
        score_of_fd_evaluator(features(encoders["inception"], SAMPLES, "logits")), rel=1e-6
    )
    for name in FILES:
        assert found[f"mind_{name}"] == pytest.approx(
            mind_by_definition(of[name], features(encoders[name], REAL), 1000), rel=1e-5
        ), name
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    ("metrics", "keys"),
    [
        (["fid"], {"fid"}),
        (["inception_score"], {"inception_score"}),
        (["fd_mae_cls"], {"fdr_mae_cls"}),
        (["fdr_clip_cls", "mind_convnext", "fid"], {"fdr_clip_cls", "mind_convnext", "fid"}),
        ("fid, fdr_inception", {"fid", "fdr_inception"}),
    ],
)
def test_only_what_is_asked_for_is_measured(encoders: dict, statistics: dict, metrics: Any, keys: set[str]) -> None:
    assert compute_metrics(SAMPLES, metrics, reference_images=REAL[:30], verbose=False).keys() == keys
    used = {key.removeprefix("fdr_").removeprefix("mind_") for key in keys}
    used = {"inception" if key in ("fid", "inception_score") else key for key in used}
    assert {name for name, encoder in encoders.items() if encoder.num_seen} == used
    assert encoders["inception"].num_seen in (0, len(SAMPLES)), "one pass, whatever is asked for"


def test_projections_and_seed_reach_mind(encoders: dict) -> None:
    got = compute_metrics(
        SAMPLES, ["mind_mae_cls"], reference_images=REAL, num_projections=30, rng_seed=5, verbose=False
    )
    own, real = (features(encoders["mae_cls"], array) for array in (SAMPLES, REAL))
    assert got["mind_mae_cls"] == pytest.approx(mind_by_definition(own, real, 30, 5), rel=1e-5)


def test_the_reference_of_fid_by_path_and_by_name(encoders: dict, statistics: dict, tmp_path: Path) -> None:
    mine = np.eye(DIM), np.full(DIM, 3.0)
    np.savez(tmp_path / "mine.npz", ref_sigma=mine[0], ref_mu=mine[1])
    own = features(encoders["inception"], SAMPLES)
    by_path = compute_metrics(SAMPLES, ["fid"], fid_reference=str(tmp_path / "mine.npz"), verbose=False)
    assert by_path["fid"] == pytest.approx(frechet(own, (mine[1], mine[0])), rel=1e-6)
    by_name = compute_metrics(SAMPLES, ["fid"], fid_reference="guided_diffusion_stats", verbose=False)
    assert by_name["fid"] == pytest.approx(frechet(own, statistics["guided_diffusion_stats"]), rel=1e-6)


def test_images_by_path_in_arguments_and_in_the_environment(
    encoders: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, real = npz(tmp_path / "gen.npz", SAMPLES), npz(tmp_path / "real.npz", REAL)
    given = compute_metrics(str(samples), ["mind_inception"], reference_images=str(real), verbose=False)
    monkeypatch.setenv("NANOGEN_EVALS_REF_IMAGES", str(real))
    assert compute_metrics(SAMPLES, ["mind_inception"], verbose=False) == given


def test_a_key_never_brings_back_other_images(encoders: dict, statistics: dict, tmp_path: Path) -> None:
    """fd_evaluator's cache is by the key alone, so a second set under one key had the numbers of the first."""
    cache: dict[str, Any] = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache_key": "gen", "verbose": False}
    path = npz(tmp_path / "gen.npz", SAMPLES)
    first = compute_metrics(str(path), ["fid"], **cache)
    assert compute_metrics(str(path), ["fid"], **cache) == first
    assert encoders["inception"].num_seen == len(SAMPLES), "the second call found its features"
    npz(path, REAL)
    second = compute_metrics(str(path), ["fid"], **cache)
    assert second == compute_metrics(REAL, ["fid"], verbose=False) != first


def test_each_set_is_cached_only_with_its_key(encoders: dict, tmp_path: Path) -> None:
    def seen(**keys: str) -> int:
        before = encoders["inception"].num_seen
        compute_metrics(
            SAMPLES,
            ["mind_inception"],
            reference_images=REAL,
            feature_cache_dir=tmp_path / "cache",
            num_projections=5,
            verbose=False,
            **keys,
        )
        return encoders["inception"].num_seen - before

    assert seen() == seen() == len(SAMPLES) + len(REAL)
    assert seen(reference_feature_cache_key="val") == len(SAMPLES) + len(REAL)
    assert seen(reference_feature_cache_key="val") == len(SAMPLES)
    assert seen(reference_feature_cache_key="val", feature_cache_key="gen") == len(SAMPLES)
    assert seen(reference_feature_cache_key="val", feature_cache_key="gen") == 0


def test_where_statistics_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path; in the folder of the variable; among the downloads of fd_evaluator; else as a reference of fdr."""
    name = "imagenet_256_fid_stats"
    monkeypatch.delenv("NANOGEN_EVALS_STATS_DIR", raising=False)
    monkeypatch.setenv("NANOGEN_EVALS_CACHE_DIR", str(tmp_path / "hub"))
    assert find_statistics(name) == "imagenet256:nanogen"
    assert {find_statistics(file) for file in FILES.values()} == {"imagenet256"}
    assert find_statistics("imagenet256:adm") == "imagenet256:adm"
    hub = tmp_path / "hub" / "datasets--nanovisionx--nanogen-evals-stats" / "snapshots" / "0227"
    hub.mkdir(parents=True)
    (hub / f"{name}.npz").touch()
    assert find_statistics(name) == str(hub / f"{name}.npz")
    monkeypatch.setenv("NANOGEN_EVALS_STATS_DIR", str(tmp_path))
    with pytest.raises(InputError, match=rf"which has no {name}.npz; put the file there"):
        find_statistics(name)
    (tmp_path / f"{name}.npz").touch()
    assert find_statistics(name) == str(tmp_path / f"{name}.npz")
    monkeypatch.delenv("NANOGEN_EVALS_CACHE_DIR")
    monkeypatch.delenv("NANOGEN_EVALS_STATS_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_statistics(name) == "imagenet256:nanogen"
    assert list_references() == sorted([*FILES.values(), name])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"metrics": ["fdr_dinov2"]}, "Unknown metric 'fdr_dinov2'; did you mean 'fdr_dinov2_cls'"),
        ({"metrics": []}, "Unknown metric ''"),
        ({"metrics": ["mind6"]}, "MIND compares with images, not with statistics; give reference_images"),
        ({"metrics": ["fid"], "fid_reference": "imagenet_256"}, "Unknown reference 'imagenet_256'; did you mean"),
        ({"metrics": ["fid"], "batch": 8}, "did you mean 'batch_size'"),
        ({"metrics": ["inception_score"], "images": SAMPLES[:9]}, "at least 10 images, one per split; got 9"),
        ({"metrics": ["fid"], "images": SAMPLES[:1]}, "a covariance needs at least 2"),
    ],
)
def test_errors(encoders: dict, statistics: dict, call: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        compute_metrics(**{"images": SAMPLES, "verbose": False, **call})


def test_it_shows_its_progress_unless_told_not_to(
    encoders: dict, statistics: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_metrics(SAMPLES, ["fid"], verbose=False)
    assert capsys.readouterr().err == ""
    compute_metrics(SAMPLES, ["fid"])
    assert "43/43 images" in capsys.readouterr().err


def test_what_it_lists_and_prints() -> None:
    assert list_extractors() == list(CONSTANTS) and list_bundles() == ["fdr6", "mind6"]
    text = format_results({"inception_score": 200.0, "fdr_mae_cls": 1.25, "fid": 2.0, "fdr6": 1.5, "mind_mae_cls": 0.1})
    assert text.split("\n\n") == [
        "inception_score    200.0000\nfid                  2.0000",
        "fdr_mae_cls          1.2500\nfdr6                 1.5000",
        "mind_mae_cls         0.1000",
    ]
    assert format_results({}) == ""


def test_it_stands_in_for_the_package_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/fd-evaluator.md says for code that cannot be edited."""
    monkeypatch.setitem(sys.modules, "fd_evaluator", fdr.compat.fd_evaluator)
    package = importlib.import_module("fd_evaluator")
    assert package.compute_metrics is compute_metrics and package.format_results is format_results


def test_the_encoders_are_those_of_its_catalogue() -> None:
    """Model, input size and output of each, as its catalogue has them; its Inception scales by (x - 128) / 128."""
    rows = {name: fdr.encoders.find_row(ours) for name, ours in fd_evaluator.EXTRACTORS.items()}
    assert {name: (row.model, row.input_size, row.width, row.output) for name, row in rows.items()} == {
        "inception": ("fid-inception-2015", 299, 2048, "pool"),
        "convnext": ("convnextv2_base.fcmae_ft_in22k_in1k", 224, 1024, "mean"),
        "dinov2_cls": ("vit_large_patch14_dinov2.lvd142m", 256, 1024, "cls"),
        "mae_cls": ("vit_large_patch16_224.mae", 224, 1024, "cls"),
        "siglip_cls": ("vit_so400m_patch16_siglip_256.v2_webli", 224, 1152, "attention-pool"),
        "clip_cls": ("vit_large_patch14_clip_224.openai", 256, 1024, "cls"),
    }
    assert rows["inception"].mean == (128 / 255,) * 3
