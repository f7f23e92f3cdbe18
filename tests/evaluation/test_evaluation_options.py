"""Each argument of `fdr.evaluate` has an effect that is seen, and the report says what was done."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import TinyEncoder, folder, images, npz

import fdr
from fdr.encoders import EncoderOptions
from fdr.errors import InputError, RunError
from fdr.evaluation import Evaluator, evaluate, write_reference, write_reference_file
from fdr.features import ExtractionOptions
from fdr.frechet import read_attributes
from fdr.images import ImageOptions, open_images
from fdr.references import read_index


class Watched(TinyEncoder):
    """Keeps the sizes of its batches."""

    def __init__(self, name: str = "tiny") -> None:
        super().__init__(name)
        self.sizes: set[int] = set()

    def forward(self, inputs, outputs):
        self.sizes.add(len(inputs))
        return super().forward(inputs, outputs)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return npz(tmp_path / "samples.npz", images(24, seed=1))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    npz(tmp_path / "other.npz", images(16, seed=5))
    return npz(tmp_path / "real.npz", images(32))


def evaluator(reference: object, encoders: object = None, metrics: str = "fd", **options: object) -> Evaluator:
    plain = {"image_options": ImageOptions(), "encoder_options": EncoderOptions()}
    return Evaluator(
        encoders or TinyEncoder(), reference, metrics, **{**plain, "extraction_options": ExtractionOptions(), **options}
    )


def test_an_audit_is_done_if_asked_for_and_not_else(samples: Path, real: Path) -> None:
    plain, audited = (evaluate(samples, real, TinyEncoder(), audit=audit)["fd"] for audit in (False, True))
    assert "audit" not in plain.details
    assert audited.details["audit"] == pytest.approx(plain.value, rel=1e-9)


def test_spectra_are_added_if_asked_for_and_change_nothing_else(samples: Path, real: Path) -> None:
    plain, more = (evaluate(samples, real, TinyEncoder(), spectra=spectra)["fd"] for spectra in (False, True))
    details = dict(more.details)
    spectra = details.pop("spectra")
    assert (more.value, more.stderr, more.signature, details) == (
        plain.value, plain.stderr, plain.signature, dict(plain.details)
    )  # fmt: skip
    for side, path in (("samples", samples), ("reference", real)):
        features = np.concatenate([batch.numpy() for batch in fdr.extract(path, TinyEncoder())]).astype(np.float64)
        values = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2 / (len(features) - 1)
        assert spectra[side]["rank"] == list(range(1, len(spectra[side]["rank"]) + 1))
        found = spectra[side]["eigenvalue"]
        np.testing.assert_allclose(found, values[: len(found)], rtol=1e-5)


def test_the_batch_size_is_that_of_the_encoder(samples: Path, real: Path) -> None:
    for size, expected in ((8, {8}), (10, {10, 4, 2})):
        encoder = Watched()
        evaluate(samples, real, encoder, batch_size=size)
        assert encoder.sizes == expected


def test_weights_are_given_by_encoder(samples: Path, real: Path) -> None:
    with pytest.raises(InputError, match="'other'"):
        evaluate(samples, real, "random", weights={"other": real})


def test_progress_is_that_of_extraction_and_of_metrics(samples: Path, real: Path) -> None:
    titles: list[str] = []

    class Watching(fdr.runtime.SilentProgress):
        def task(self, title, total, unit="images"):
            titles.append(f"{title} in {unit}")
            return super().task(title, total, unit)

    evaluate(samples, real, TinyEncoder(), "precision,recall", progress=Watching())
    assert "precision, recall in distances" in titles
    assert any(title.startswith("samples.npz") and title.endswith("in images") for title in titles)


def test_the_defaults_stand_in_the_report(samples: Path, real: Path) -> None:
    report = evaluate(samples, real, TinyEncoder(), image_options=ImageOptions(seed=5))
    assert report.run["seed"] == 5 and report.run["ranks"] == 1 and report.run["device"] == "cpu"
    spec = report.run["encoders"]["tiny"]
    assert spec["hash"] == TinyEncoder().spec.hash and spec["weights"] == "seed:0" and "protocol" not in report.run
    assert report.samples["subset"] is None and report.samples["kind"] and report.samples["digest"]
    assert report.reference == {
        "name": "real.npz", "source": "real.npz", "digest": open_images(real).digest, "count": 32,
    }  # fmt: skip
    (row,) = report
    assert (row.output, row.count, row.reference_count, row.spec_hash) == ("features", 24, 32, spec["hash"])


def test_a_reference_that_nobody_named_is_marked(samples: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.evaluation.evaluator.DEFAULT_REFERENCE", str(real))
    monkeypatch.setattr("fdr.evaluation.evaluator.DEFAULT_ENCODER", TinyEncoder())
    default, named = evaluate(samples), evaluate(samples, real, TinyEncoder(), "fd")
    assert default.reference == {**named.reference, "is_default": True}
    assert [row.signature for row in default] == [row.signature for row in named]


def test_two_images_are_enough_and_one_is_not(real: Path, tmp_path: Path) -> None:
    two = images(2, seed=1)
    found = evaluate(npz(tmp_path / "two.npz", two), real, TinyEncoder())["fd"]
    x = torch.from_numpy(np.concatenate([two, images(32)])).permute(0, 3, 1, 2).float() / 255
    features = TinyEncoder()(x)["features"].numpy().astype(float)
    m1, m2 = features[:2].mean(0), features[2:].mean(0)
    assert found.details["mean_term"] == pytest.approx(((m1 - m2) ** 2).sum(), rel=1e-9)
    with pytest.raises(InputError, match="at least 2"):
        evaluate(npz(tmp_path / "one.npz", two[:1]), real, TinyEncoder())


def test_fdr_k_needs_a_denominator_for_every_encoder(samples: Path, real: Path, tmp_path: Path) -> None:
    one, two, three = (TinyEncoder(name, dim, f"seed:{name}") for name, dim in (("one", 12), ("two", 5), ("three", 7)))
    val = open_images(npz(tmp_path / "val.npz", images(20, seed=7)))
    write_reference(open_images(real), [one, two], tmp_path / "stats", validation=val)
    write_reference(open_images(real), [three], tmp_path / "stats")
    names = [(row.metric, row.encoder) for row in evaluate(samples, tmp_path / "stats", [one, two, three])]
    assert names == [("fd", "one"), ("fdr", "one"), ("fd", "two"), ("fdr", "two"), ("fd", "three")]
    names = [row.metric for row in evaluate(samples, tmp_path / "stats", [one])]
    assert names == ["fd", "fdr"]
    names = [row.metric for row in evaluate(samples, tmp_path / "stats", [two, one], "is,fd")]
    assert names == ["is", "fd", "fdr", "is", "fd", "fdr", "fdr_k"]


def test_a_warm_cache_gives_what_a_cold_one_gave_to_every_metric(samples: Path, real: Path, tmp_path: Path) -> None:
    for metrics in ("fd", "fd,precision", "is,recall,fd", "precision"):
        encoder = TinyEncoder()
        cold = evaluate(samples, real, TinyEncoder(), metrics)
        warm = evaluate(samples, real, encoder, metrics, cache=tmp_path / "c")
        assert [(row.metric, row.value) for row in warm] == [(row.metric, row.value) for row in cold]
        assert encoder.num_seen == (56 if metrics == "fd" else 0)


def test_a_warm_cache_does_not_forgive_bad_images(real: Path, tmp_path: Path) -> None:
    root = folder(tmp_path / "f", images(30, seed=2))
    for name in ("0003", "0007", "0011"):
        (root / f"{name}.png").write_bytes(b"")

    def run(max_bad: float) -> fdr.Report:
        options = ImageOptions(on_bad="skip", max_bad=max_bad)
        return evaluate(root, real, TinyEncoder(), image_options=options, cache=tmp_path / "c")

    first = run(0.2)
    assert [item["id"] for item in run(0.2).samples["skipped"]] == ["0003.png", "0007.png", "0011.png"]
    assert run(0.2)["fd"].value == first["fd"].value and run(0.2)["fd"].count == 27
    with pytest.raises(RunError, match="3 of 30"):
        run(0.05)


def test_a_lost_shard_is_computed_again_and_stored_moments_do_not_stand_in(
    samples: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 8)
    first = evaluate(samples, real, TinyEncoder(), cache=tmp_path / "c")
    for path in sorted((tmp_path / "c").rglob("shard-*"))[:1]:
        path.unlink()
    encoder = TinyEncoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = evaluate(samples, real, encoder, cache=tmp_path / "c")
    assert encoder.num_seen == 8 and again["fd"].value == pytest.approx(first["fd"].value, rel=1e-12)
    assert again["fd"].count == 24


def test_warnings_of_both_sides_are_in_the_report(tmp_path: Path) -> None:
    ours, theirs = folder(tmp_path / "ours", images(24, seed=1)), folder(tmp_path / "theirs", images(32))
    for root in (ours, theirs):
        (root / "0003.png").write_bytes(b"")
        (root / f"x-{root.name}.avif").write_bytes(b"")
    options = ImageOptions(on_bad="skip", max_bad=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        side = evaluator(theirs, image_options=options)
        reports = [side.evaluate(ours), side.evaluate(ours)]
    for report in reports:
        for name in ("ours", "theirs"):
            assert sum(text.startswith(f"{name}: beside") for text in report.warnings) == 1, report.warnings
        assert report.reference is not None and report.reference["left_out"] == {".avif": 1}
        assert (report["fd"].count, report["fd"].reference_count) == (23, 31)


def test_warnings_about_the_features_of_either_side_are_in_the_report(
    samples: Path, real: Path, tmp_path: Path
) -> None:
    for broken in (samples, real):
        cache = tmp_path / f"cache of {broken.stem}"
        first = evaluate(broken, broken.with_name("other.npz"), TinyEncoder(), "precision", cache=cache)
        for path in cache.rglob("shard-*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = evaluate(samples, real, TinyEncoder(), "precision", cache=cache)
        assert any("feature cache" in text for text in report.warnings), (broken.name, report.warnings)
        assert first["precision"].count == len(open_images(broken))


def test_the_plan_says_what_is_cached(samples: Path, real: Path, tmp_path: Path) -> None:
    cached = {"extraction_options": ExtractionOptions(tmp_path / "c", 8)}
    evaluator(real, **cached).evaluate(samples)
    more = open_images(npz(tmp_path / "more.npz", images(5, seed=9)))
    plan = list(evaluator(real, **cached).plan([open_images(samples), more]))
    assert plan == [
        "reference: real.npz, 32 images, tiny (32 cached) on cpu",
        "samples: samples.npz, 24 images, tiny (24 cached) on cpu",
        "samples: more.npz, 5 images, tiny (0 cached) on cpu",
    ]


def test_what_a_reference_file_says_of_itself(real: Path, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", images(20))
    (root / "0005.png").write_bytes(b"")
    source = open_images(root, ImageOptions(on_bad="skip", max_bad=0.2))
    val = open_images(npz(tmp_path / "val.npz", images(12, seed=7)))
    encoder = TinyEncoder()
    written = write_reference_file(source, encoder, tmp_path / "a.h5", name="toys", validation=val)
    found = read_attributes(tmp_path / "a.h5")
    assert found.items() >= {
        "reference": "toys", "images": "set", "images_digest": source.digest, "skipped": 1, "encoder": "tiny",
        "spec_hash": encoder.spec.hash, "output": "features", "val_count": 12, "fdr_version": fdr.__version__,
    }.items()  # fmt: skip
    assert written["skipped"][0]["id"] == "0005.png" and written["images"]["count"] == 19
    moments = fdr.Moments.load(tmp_path / "a.h5")
    fd = evaluate(val, moments, TinyEncoder())["fd"].value
    assert found["val_fd"] == pytest.approx(fd, rel=1e-9) and written["encoder"]["val_fd"] == found["val_fd"]
    assert written["encoder"]["val_count"] == 12


def test_an_encoder_that_is_written_again_replaces_itself(real: Path, tmp_path: Path) -> None:
    encoders = [
        TinyEncoder("a/b"),
        TinyEncoder("a-b", weights="seed:10"),
        TinyEncoder("x" * 250),
        TinyEncoder("c\\d:e"),
    ]
    for _ in range(2):
        write_reference(open_images(real), encoders, tmp_path / "stats")
        rows = read_index(tmp_path / "stats")["encoders"]
        assert [row["name"] for row in rows] == [encoder.spec.name for encoder in encoders]
        assert len({row["file"] for row in rows}) == 4
        assert all(len(row["file"].encode()) <= 220 and not set(row["file"]) & set("/\\:") for row in rows)
        for encoder in encoders:
            assert fdr.load_reference(tmp_path / "stats", encoder).count == 32
    assert len(list((tmp_path / "stats").glob("*.h5"))) == 4


@pytest.mark.filterwarnings("default:The samples are 4 x 4 pixels:fdr.errors.FdrWarning")
def test_a_generator_is_measured_by_its_own_options(real: Path) -> None:
    def toy(noise: torch.Tensor) -> torch.Tensor:
        return noise.reshape(-1, 3, 4, 4).clamp(-1, 1)

    options = {"noise_shape": 48, "num_images": 12, "value_range": (-1.0, 1.0)}
    report = evaluate(toy, real, TinyEncoder(), seed=3, **options)
    assert report.samples["count"] == 12
    made_by = report.samples["made_by"]
    assert (made_by["seed"], made_by["count"]) == (3, 12)
    values = {seed: evaluate(toy, real, TinyEncoder(), seed=seed, **options)["fd"].value for seed in (3, 4)}
    assert values[3] == report["fd"].value != values[4]
    narrow = replace(ImageOptions(), size=8)
    assert evaluate(toy, real, TinyEncoder(), seed=3, image_options=narrow, **options)["fd"].value != values[3]


def test_memory_bounds_metrics_of_neighbours_and_changes_no_number(samples: Path, real: Path) -> None:
    with pytest.raises(InputError, match="do not fit a memory of 1 MiB; allow at least"):
        evaluate(samples, real, TinyEncoder(), "coverage", memory=1 << 20)
    small, large = (evaluate(samples, real, TinyEncoder(), "coverage", memory=size) for size in (16 << 20, 1 << 30))
    assert small["coverage"].value == large["coverage"].value
