"""The whole path: FD against closed routes, references of every kind, FDr, provenance, and what is refused early."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import DIM, TinyEncoder, folder, images, npz

import fdr
from fdr.comparison import signature_differences
from fdr.encoders import EncoderOptions
from fdr.errors import FdrWarning, InputError
from fdr.evaluation import Evaluator, evaluate, write_reference
from fdr.features import ExtractionOptions
from fdr.images import ImageOptions, open_images
from fdr.references import find as reference_module
from fdr.references import load_reference, registry
from fdr.references.manifest import RegistryEncoder, RegistryEntry, ValidationFD


def features_of(array: np.ndarray, encoder: TinyEncoder | None = None) -> np.ndarray:
    encoder = encoder or TinyEncoder()
    x = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    return encoder(x)["features"].numpy()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return npz(tmp_path / "samples.npz", images(60, seed=1))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return npz(tmp_path / "real.npz", images(80))


def make_reference(real: Path, out: Path, file_format: str = "h5", val: Path | None = None) -> Path:
    validation = None if val is None else open_images(val)
    write_reference(open_images(real), [TinyEncoder()], out, validation=validation, file_format=file_format)
    return out


def test_fd_is_that_of_the_features(samples: Path, real: Path) -> None:
    report = evaluate(samples, real, TinyEncoder())
    expected = fdr.frechet_distance(features_of(images(60, seed=1)), features_of(images(80)))
    assert report["fd", "tiny"].value == pytest.approx(expected, rel=1e-9)
    assert (report["fd"].count, report["fd"].reference_count) == (60, 80)


@pytest.mark.parametrize("file_format", ["h5", "npz"])
@pytest.mark.filterwarnings("default:.*does not say how many images:fdr.errors.FdrWarning")
def test_every_kind_of_reference_gives_the_same_fd(samples: Path, real: Path, tmp_path: Path, file_format: str) -> None:
    stats = make_reference(real, tmp_path / "stats", file_format)
    moments = fdr.Moments.from_features(features_of(images(80)))
    plain = tmp_path / "plain.npz"
    np.savez(plain, mu=moments.mu, sigma=moments.sigma)
    expected = evaluate(samples, real, TinyEncoder())["fd"].value
    for reference in (stats, stats / f"tiny.{file_format}", plain, moments, folder(tmp_path / "pngs", images(80))):
        found = evaluate(samples, reference, TinyEncoder())["fd"].value
        assert found == pytest.approx(expected, rel=1e-6), reference


def test_several_encoders_and_metrics_in_one_pass(samples: Path, real: Path) -> None:
    one, two = TinyEncoder("one"), TinyEncoder("two", 5, "seed:22")
    report = evaluate(samples, real, [one, two], ["fd", "is", "is:adm"])
    assert {(r.metric, r.encoder) for r in report} == {(m, e) for m in ("fd", "is", "is:adm") for e in ("one", "two")}
    assert one.num_seen == two.num_seen == 140
    assert report["is", "one"].lower_is_better is False
    assert report["is", "one"].reference_count is None and "ref:" not in report["is", "one"].signature


def test_fdr_uses_the_exact_validation_fd_of_the_reference(samples: Path, real: Path, tmp_path: Path) -> None:
    val = npz(tmp_path / "val.npz", images(70, seed=7))
    stats = make_reference(real, tmp_path / "stats", val=val)
    report = evaluate(samples, stats, TinyEncoder())
    val_fd = evaluate(val, stats, TinyEncoder())["fd"].value
    assert report["fdr"].value == pytest.approx(report["fd"].value / val_fd, rel=1e-12)
    assert report["fdr"].interval is None
    assert evaluate(val, stats, TinyEncoder())["fdr"].value == pytest.approx(1, rel=1e-12)


def test_fdr_k_is_the_mean_and_carries_the_rounding(
    samples: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = make_reference(real, tmp_path / "stats")
    row = {
        name: RegistryEncoder("tiny.h5", None, None, DIM, ValidationFD(v, 2, "x"))
        for name, v in (("one", 0.04), ("two", 2.0))
    }
    entry = RegistryEntry("toy", "", "", 80, "", row)
    monkeypatch.setattr(reference_module, "registry", lambda: {"toy": entry})
    monkeypatch.setattr("fdr.references.local_files.reference_stats_dir", lambda: stats)
    report = evaluate(samples, "toy", [TinyEncoder("one"), TinyEncoder("two")])
    fd = report["fd", "one"].value
    assert report["fdr", "one"].value == pytest.approx(fd / 0.04)
    assert report["fdr", "one"].interval == pytest.approx((fd / 0.045, fd / 0.035))
    assert any("±12.5 %" in note for note in report["fdr", "one"].notes)
    assert not report["fdr", "two"].notes
    mean = report["fdr_k"]
    assert (mean.k, mean.encoders) == (2, ("one", "two"))
    assert mean.value == pytest.approx((fd / 0.04 + fd / 2) / 2)
    assert mean.interval == pytest.approx(((fd / 0.045 + fd / 2.005) / 2, (fd / 0.035 + fd / 1.995) / 2))


def test_what_is_planned_is_what_is_measured(samples: Path, real: Path, tmp_path: Path) -> None:
    two = [TinyEncoder("one"), TinyEncoder("two", 5, "seed:22")]
    val = npz(tmp_path / "val.npz", images(70, seed=7))
    write_reference(open_images(real), two, tmp_path / "stats", validation=open_images(val))
    metrics = ["fd", "is", "precision"]
    for reference, wanted in ((real, metrics), (tmp_path / "stats", metrics[:2])):
        evaluator = Evaluator(
            two,
            reference,
            wanted,
            image_options=ImageOptions(count=50, size=8),
            encoder_options=EncoderOptions(),
            extraction_options=ExtractionOptions(),
        )
        source = open_images(samples, evaluator.image_options)
        seen = [encoder.num_seen for encoder in two]
        planned = list(evaluator.planned(source))
        assert [encoder.num_seen for encoder in two] == seen, "planning decodes nothing"
        measured = evaluator.evaluate_source(source)
        assert [(p.key, p.signature, p.lower_is_better) for p in planned] == [
            (r.key, r.signature, r.lower_is_better) for r in measured
        ]
    assert planned[-1].key == "fdr_k"


def test_the_registry_has_the_published_constants() -> None:
    published = {"inception": 1.68, "convnext": 56.87, "dinov2": 14.19, "mae": 0.04, "siglip": 0.60, "clip": 5.60}
    rows = registry()["imagenet256"].encoders
    assert {name: rows[name].val_fd.value for name in published} == published
    assert rows["mae"].val_fd.bounds == pytest.approx((0.035, 0.045))
    assert all(row.url.startswith("https://") and row.dim for row in rows.values())


def test_too_few_samples_are_said_not_refused(tmp_path: Path, real: Path) -> None:
    report = evaluate(npz(tmp_path / "few.npz", images(6, seed=3)), real, TinyEncoder())
    assert f"6 samples for {DIM} dimensions: FD is biased upward" in report["fd"].notes
    assert report["fd"].value > 0


def test_the_signature_tells_how_the_number_was_made(samples: Path, real: Path) -> None:
    plain = evaluate(samples, real, TinyEncoder())["fd"]
    assert (
        plain.signature.startswith("fd|enc:tiny|s:")
        and "|n:60|" in plain.signature
        and "ref:real.npz:" in plain.signature
    )
    for changed in (
        evaluate(samples, real, TinyEncoder(weights="seed:10")),
        evaluate(samples, real, TinyEncoder(), image_options=ImageOptions(size=8)),
        evaluate(samples, real, TinyEncoder(), image_options=ImageOptions(count=50)),
        evaluate(samples, samples.with_name("real.npz"), TinyEncoder("other")),
    ):
        assert changed["fd"].signature != plain.signature


def test_counts_select_samples_only(samples: Path, real: Path) -> None:
    report = evaluate(samples, real, TinyEncoder(), image_options=ImageOptions(count=30, seed=4))
    assert (report["fd"].count, report["fd"].reference_count) == (30, 80)
    assert report.samples["subset"] == {"count": 30, "seed": 4}


def test_warm_runs_read_stored_moments(
    samples: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(samples, real, TinyEncoder(), cache=tmp_path / "c")
    monkeypatch.setattr(
        "fdr.features.cache.entry.FeatureCache.read_shard", lambda *_: pytest.fail("features were read")
    )
    encoder = TinyEncoder()
    second = evaluate(samples, real, encoder, cache=tmp_path / "c", stderr=False)
    assert encoder.num_seen == 0
    assert second["fd"].value == first["fd"].value
    assert first["fd"].stderr is not None and second["fd"].stderr is None


def test_a_standard_error_is_the_same_from_images_and_from_the_cache(samples: Path, real: Path, tmp_path: Path) -> None:
    first = evaluate(samples, real, TinyEncoder(), cache=tmp_path / "c")["fd"]
    second = evaluate(samples, real, TinyEncoder(), cache=tmp_path / "c")["fd"]
    assert first.stderr is not None and second.stderr == first.stderr and second.value == first.value
    assert first.details["noise"] == "samples and reference"


def test_samples_that_are_the_reference_are_warned_of(samples: Path) -> None:
    with pytest.warns(FdrWarning, match="The samples are the reference"):
        report = evaluate(samples, samples, TinyEncoder())
    assert report["fd"].value == pytest.approx(0, abs=1e-9)
    assert any("the reference" in text for text in report.warnings)


def test_skipped_images_are_in_the_report(tmp_path: Path, real: Path) -> None:
    root = folder(tmp_path / "f", images(40, seed=2))
    (root / "0005.png").write_bytes(b"")
    report = evaluate(root, real, TinyEncoder(), image_options=ImageOptions(on_bad="skip", max_bad=0.1))
    assert report.samples["count"] == 39
    assert [item["id"] for item in report.samples["skipped"]] == ["0005.png"]


def test_arrays_and_generators_are_samples_too(real: Path, samples: Path) -> None:
    expected = evaluate(samples, real, TinyEncoder())["fd"].value
    tensor = torch.from_numpy(images(60, seed=1)).permute(0, 3, 1, 2) / 255
    for given in (tensor, (image for image in images(60, seed=1)), list(images(60, seed=1))):
        assert evaluate(given, real, TinyEncoder())["fd"].value == pytest.approx(expected, rel=1e-9)


def test_everything_is_checked_before_the_first_image(samples: Path, real: Path, tmp_path: Path) -> None:
    moments = fdr.Moments.from_features(np.random.default_rng(0).normal(size=(50, DIM + 1)))
    moments.save(tmp_path / "wide.npz")
    cases = [
        ({"reference": tmp_path / "wide.npz"}, rf"holds {DIM + 1}-d moments, but tiny gives {DIM}-d features"),
        ({"reference": "imagenet255"}, r"Unknown reference 'imagenet255'; did you mean 'imagenet256'"),
        ({"reference": "imagenet256"}, r"has no moments for tiny \(it has inception"),
        (
            {"metrics": "fid"},
            r"Unknown metric 'fid': it is the metric fd of the encoder inception",
        ),
        ({"metrics": ""}, "No metric was named"),
        ({"encoders": "incepton"}, r"Unknown encoder 'incepton'; did you mean 'inception"),
        ({"encoders": 3}, "An encoder is a name"),
    ]
    for changes, sentence in cases:
        encoder = TinyEncoder()
        arguments = {"reference": real, "encoders": encoder, "metrics": "fd"} | changes
        with pytest.raises(InputError, match=sentence):
            evaluate(samples, **arguments)
        assert encoder.num_seen == 0


def test_the_inception_score_is_of_the_encoders_that_can(samples: Path, real: Path) -> None:
    report = evaluate(samples, real, [TinyEncoder(), flat], ["fd", "is"])
    assert [(r.metric, r.encoder) for r in report] == [("fd", "tiny"), ("is", "tiny"), ("fd", "callable:flat")]


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, :4]


def test_an_encoder_without_logits_has_no_inception_score(samples: Path) -> None:
    with pytest.raises(InputError, match=r"Metric 'is' needs the output 'logits'"):
        evaluate(samples, samples, flat, "is")


def test_one_image_is_too_few(tmp_path: Path, real: Path) -> None:
    with pytest.raises(InputError, match=r"gave 1 image\(s\); a covariance needs at least 2"):
        evaluate(npz(tmp_path / "one.npz", images(1)), real, TinyEncoder())


def test_a_reference_of_another_spec_is_refused(samples: Path, real: Path, tmp_path: Path) -> None:
    stats = make_reference(real, tmp_path / "stats")
    with pytest.raises(InputError, match="same name, but other weights, dtype or options"):
        evaluate(samples, stats, TinyEncoder(weights="seed:10"))
    with pytest.raises(InputError, match=r"has no moments for other \(it has tiny\)"):
        evaluate(samples, stats, TinyEncoder("other", 5))


def test_statistics_that_are_none(samples: Path, tmp_path: Path) -> None:
    for sigma, sentence in (
        (np.diag([1.0, -1.0]), "negative|semidefinite"),
        (np.array([[1.0, 2], [0, 1]]), "symmetric"),
        (np.array([[1.0, 3], [3, 1]]), "positive semidefinite"),
        (np.full((2, 2), np.nan), "NaN"),
    ):
        np.savez(tmp_path / "bad.npz", mu=np.zeros(2), sigma=sigma)
        encoder = TinyEncoder(dim=2)
        with pytest.raises(InputError, match=sentence):
            evaluate(samples, tmp_path / "bad.npz", encoder)
        assert encoder.num_seen == 0


def test_a_reference_folder_grows_and_refuses_other_images(real: Path, samples: Path, tmp_path: Path) -> None:
    stats = make_reference(real, tmp_path / "stats")
    write_reference(open_images(real), [TinyEncoder("second", 5)], stats)
    index = json.loads((stats / "reference.json").read_text())
    assert [row["name"] for row in index["encoders"]] == ["tiny", "second"]
    assert load_reference(stats, TinyEncoder("second", 5)).dim == 5
    with pytest.raises(InputError, match="reference of other images"):
        write_reference(open_images(samples), [TinyEncoder()], stats)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(InputError, match="not empty and holds no reference"):
        write_reference(open_images(real), [TinyEncoder()], tmp_path / "full")


def test_a_folder_that_shadows_a_registry_name(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    with pytest.raises(InputError, match=r"Folder 'demo' is no reference: it has no reference\.json"):
        load_reference("demo", "random")
    assert reference_module.registered_reference("demo", "random").moments.dim == 256
    assert load_reference(make_reference(real, tmp_path / "imagenet256").name, TinyEncoder()).dim == DIM


def test_npz_references_are_readable_by_others(real: Path, tmp_path: Path) -> None:
    stats = make_reference(real, tmp_path / "stats", "npz")
    with np.load(stats / "tiny.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(
            file["sigma"], np.cov(features_of(images(80)).astype(np.float64), rowvar=False), atol=1e-10
        )
        np.testing.assert_allclose(file["mu"], features_of(images(80)).mean(axis=0, dtype=np.float64), atol=1e-10)


def test_the_evaluator_measures_the_reference_once(samples: Path, real: Path) -> None:
    encoder = TinyEncoder()
    options = {
        "image_options": ImageOptions(),
        "encoder_options": EncoderOptions(),
        "extraction_options": ExtractionOptions(),
    }
    evaluator = Evaluator(encoder, real, "fd", **options)
    plan = list(evaluator.plan([open_images(samples)]))
    assert encoder.num_seen == 0 and "80 images" in plan[0] and "60 images" in plan[1]
    first, second = evaluator.evaluate(samples), evaluator.evaluate(samples)
    assert encoder.num_seen == 80 + 2 * 60
    assert first["fd"].value == second["fd"].value


def test_audit_agrees(samples: Path, real: Path) -> None:
    fd = evaluate(samples, real, TinyEncoder(), audit=True)["fd"]
    assert fd.details["audit"] == pytest.approx(fd.value, rel=1e-9)


def test_no_warning_on_a_normal_run(samples: Path, real: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(samples, real, TinyEncoder())


def test_a_dict_names_callables_and_gives_each_encoder_its_reference(samples: Path, real: Path) -> None:
    tiny, wide = TinyEncoder(), TinyEncoder("wide", dim=20, weights="seed:10")
    mean_colour = lambda x: x.mean((2, 3))  # noqa: E731
    moments = {
        "mean": fdr.Moments.from_features(images(80).mean((1, 2)) / 255),
        "tiny": fdr.Moments.from_features(features_of(images(80), tiny)),
        "wide": fdr.Moments.from_features(features_of(images(80), wide)),
    }
    report = evaluate(samples, moments, {"mean": mean_colour, "tiny": tiny, "wide": wide})
    for name, encoder in (("tiny", tiny), ("wide", wide)):
        expected = fdr.frechet_distance(features_of(images(60, seed=1), encoder), features_of(images(80), encoder))
        assert report["fd", name].value == pytest.approx(expected, rel=1e-6)
    colours = [array.mean((1, 2)) / 255 for array in (images(60, seed=1), images(80))]
    assert report["fd", "mean"].value == pytest.approx(fdr.frechet_distance(*colours), rel=1e-4)
    assert set(report.reference["digest"]) == set(moments)


def test_what_a_dict_cannot_say_is_one_sentence(samples: Path, real: Path) -> None:
    with pytest.raises(InputError, match=r"under the key 'mine' is 'tiny'.*calls it by that name"):
        evaluate(samples, real, {"mine": TinyEncoder()})
    with pytest.raises(InputError, match="Unknown reference of encoder 'tiny'; did you mean 'tine'"):
        evaluate(samples, {"tine": fdr.Moments.from_features(features_of(images(80)))}, TinyEncoder())
    with pytest.raises(InputError, match=r"reference of 'tiny' is images.*they serve every encoder"):
        evaluate(samples, {"tiny": real}, TinyEncoder())


@pytest.mark.filterwarnings("default:.*these are left out:fdr.errors.FdrWarning")
@pytest.mark.filterwarnings("default:.*are pixel for pixel images:fdr.errors.FdrWarning")
def test_what_was_left_out_is_in_the_report_and_the_signature(samples: Path, real: Path, tmp_path: Path) -> None:
    pictures = folder(tmp_path / "set", images(60, seed=1))
    whole = evaluate(pictures, real, TinyEncoder())
    (pictures / "thumbs").mkdir()
    (pictures / "thumbs" / "a.png").write_bytes((next(pictures.glob("*.png"))).read_bytes())
    aside = evaluate(pictures, real, TinyEncoder())
    assert aside["fd"].value == whole["fd"].value and aside["fd"].signature == whole["fd"].signature
    assert aside.samples["left_out"] == {"thumbs/": 1} and "left_out" not in whole.samples
    (pictures / "x.avif").write_bytes(b"")
    with pytest.raises(InputError, match=r"set has 60 images that can be measured, .* 1 \.avif"):
        evaluate(pictures, real, TinyEncoder())
    few = evaluate(pictures, real, TinyEncoder(), image_options=ImageOptions(max_bad=0.02))
    assert few["fd"].value == whole["fd"].value and "|left:1|" in few["fd"].signature
    assert any(".avif" in text for text in few.warnings) and ".avif" in few.to_markdown()
    assert json.loads(few.to_json())["samples"]["left_out"] == {"thumbs/": 1, ".avif": 1}
    other_way = evaluate(samples, pictures, TinyEncoder(), image_options=ImageOptions(max_bad=0.02))
    assert other_way.reference["left_out"] == {"thumbs/": 1, ".avif": 1}
    assert any(".avif" in text for text in other_way.warnings)
    differences = signature_differences(whole["fd"].signature, few["fd"].signature)
    assert [(d.field, d.a, d.b) for d in differences] == [("left", "0", "1")]


def test_both_sides_may_be_arrays_of_one_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", x_train=images(80), x_test=images(60, seed=1), y_test=np.zeros(60, np.int64))
    report = evaluate(f"{tmp_path / 'k.npz'}:x_test", f"{tmp_path / 'k.npz'}:x_train", TinyEncoder())
    expected = fdr.frechet_distance(features_of(images(60, seed=1)), features_of(images(80)))
    assert report["fd"].value == pytest.approx(expected, rel=1e-9)
    assert (report.samples["source"], report.samples["labels_from"]) == ("k.npz:x_test", "y_test")
