"""The ADM protocol end to end, and the references that `fdr stats --format adm` writes, against NumPy alone."""

from __future__ import annotations

import errno
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import adm_oracle
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from worlds import DIM, TinyEncoder, folder, images, npz

import fdr
from fdr.encoders import EncoderOptions
from fdr.errors import FdrWarning, InputError, RunError
from fdr.evaluation import PROTOCOLS, Evaluator, find_protocol, subset_of, write_adm_reference
from fdr.evaluation.protocols import ADM, Protocol
from fdr.features import ExtractionOptions
from fdr.frechet import read_attributes
from fdr.images import ImageOptions, open_images
from fdr.references import find as reference_module
from fdr.references import registry
from fdr.references.manifest import RegistryEncoder, RegistryEntry
from fdr.reports import Report, metric_label


class SpatialEncoder(TinyEncoder):
    """A tiny encoder with a "spatial" output beside those that are stored by default."""

    def __init__(self, name: str = "tiny", weights: str = "seed:0") -> None:
        super().__init__(name, weights=weights)
        self.outputs = ("features", "logits", "spatial")
        self.stored_outputs = ("features", "logits")

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        found = super().forward(inputs, [name for name in outputs if name != "spatial"])
        return found | ({"spatial": inputs.flatten(1)[:, :20] ** 2} if "spatial" in outputs else {})


def encode(array: np.ndarray) -> Mapping[str, np.ndarray]:
    found = SpatialEncoder()(torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)
    named = {name: value.numpy() for name, value in found.items()}
    return {"pool": named["features"], **named}


def evaluator(reference: object, cache: Path | None = None, encoder: TinyEncoder | None = None) -> Evaluator:
    return Evaluator(
        encoder or SpatialEncoder(),
        reference,
        ADM.metrics,
        image_options=ImageOptions(),
        encoder_options=EncoderOptions(),
        extraction_options=ExtractionOptions(cache),
        protocol=ADM,
    )


def values(report: Report) -> dict[str, float]:
    return {result.metric: result.value for result in report}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return npz(tmp_path / "samples.npz", images(60, seed=1))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return npz(tmp_path / "real.npz", images(80), arr_1=np.arange(80) % 7)


def written(real: Path, path: Path, num_images: int = 50, **options: object) -> dict:
    source = open_images(real, ImageOptions(**options))
    return write_adm_reference(source, subset_of(source, real, num_images), SpatialEncoder(), path)


@pytest.fixture
def reference(real: Path, tmp_path: Path) -> Path:
    written(real, tmp_path / "ref.npz")
    return tmp_path / "ref.npz"


def close(found: Mapping[str, float], expected: Mapping[str, float]) -> bool:
    """In value and in order."""
    return list(found) == list(expected) and list(found.values()) == pytest.approx(list(expected.values()), rel=1e-6)


def test_the_five_numbers_are_those_of_adm_in_its_order(samples: Path, reference: Path) -> None:
    report = evaluator(reference).evaluate(samples)
    assert close(values(report), adm_oracle.evaluate(reference, samples, encode))
    assert [metric_label(result) for result in report] == ["IS (ADM)", "FD", "sFID", "Precision (ADM)", "Recall (ADM)"]
    assert [result.lower_is_better for result in report] == [False, True, True, False, False]
    assert [result.reference_count for result in report] == [None, 80, 80, 50, 50]
    assert report.run["protocol"] == "adm"


def test_signatures_carry_the_constants_of_the_definition(samples: Path, reference: Path) -> None:
    report = evaluator(reference).evaluate(samples)
    assert "|out:features|dt:float32|k:3|d:f16|" in report["precision:adm"].signature
    assert "|out:spatial|" in report["sfid"].signature and "|k:" not in report["sfid"].signature
    assert all("m:stored" not in result.signature for result in report)


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_reference_of_images_alone_gives_everything_from_one_pass(
    samples: Path, real: Path, tmp_path: Path, kind: str
) -> None:
    encoder = SpatialEncoder()
    given = real if kind == "npz" else folder(tmp_path / "pngs", images(80))
    report = evaluator(given, encoder=encoder).evaluate(samples)
    assert close(values(report), adm_oracle.evaluate(real, samples, encode))
    assert encoder.num_seen == 140


@pytest.mark.filterwarnings("default:.*does not say how many images:fdr.errors.FdrWarning")
def test_stored_moments_of_the_samples_win_over_their_images(samples: Path, real: Path, reference: Path) -> None:
    with np.load(reference) as file:
        stored = {key: file[key] for key in ("sigma", "mu_s", "sigma_s")} | {"mu": file["mu"] + 1}
    npz(samples, images(60, seed=1), **stored)
    report = evaluator(real).evaluate(samples)
    assert close(values(report), adm_oracle.evaluate(real, samples, encode))
    assert "|m:stored|" in report["fd"].signature and "|m:stored|" in report["sfid"].signature
    assert any("the samples' moments are those that samples.npz holds" in note for note in report["fd"].notes)
    assert "m:stored" not in report["is:adm"].signature and report["precision:adm"].count == 60


def test_without_a_protocol_the_images_of_the_samples_count(samples: Path, real: Path, reference: Path) -> None:
    before = fdr.evaluate(samples, real, SpatialEncoder(), ["fd", "sfid"])
    with np.load(reference) as file:
        npz(samples, images(60, seed=1), **{key: file[key] for key in ("mu", "sigma", "mu_s", "sigma_s")})
    assert values(fdr.evaluate(samples, real, SpatialEncoder(), ["fd", "sfid"])) == values(before)


def test_a_warm_cache_gives_the_same_and_spatial_is_stored_only_when_asked(
    samples: Path, reference: Path, tmp_path: Path
) -> None:
    encoder = SpatialEncoder()
    fdr.evaluate(samples, reference, encoder, "fd", cache=tmp_path / "c")
    assert "spatial" not in {name for path in (tmp_path / "c").rglob("*.h5") for name in _outputs(path)}
    first = evaluator(reference, tmp_path / "c").evaluate(samples)
    again = SpatialEncoder()
    second = evaluator(reference, tmp_path / "c", again).evaluate(samples)
    assert again.num_seen == 0
    assert values(second) == values(first)
    assert close(values(second), adm_oracle.evaluate(reference, samples, encode))


def _outputs(path: Path) -> list[str]:
    import h5py

    with h5py.File(path) as file:
        return list(file["features"])


@pytest.mark.parametrize("metrics", [ADM.metrics, ("precision",)])
def test_a_reference_known_by_name_gives_moments_and_images(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, metrics: tuple[str, ...]
) -> None:
    row = RegistryEncoder("ref.npz", None, None, DIM, None, outputs=("spatial",))
    entry = RegistryEntry("toy:adm", "", "", None, "", {"tiny": row})
    monkeypatch.setattr(reference_module, "registry", lambda: {"toy:adm": entry})
    monkeypatch.setattr("fdr.references.local_files.reference_stats_dir", lambda: reference.parent)
    report = fdr.evaluate(samples, "toy:adm", SpatialEncoder(), metrics)
    expected = fdr.evaluate(samples, reference, SpatialEncoder(), metrics)
    assert values(report) == values(expected)
    assert all("|ref:toy:adm:" in result.signature for result in report if result.reference_count is not None)


def test_the_plan_names_both_parts_of_the_reference(samples: Path, reference: Path) -> None:
    encoder = SpatialEncoder()
    plan = list(evaluator(reference, encoder=encoder).plan([open_images(samples)]))
    assert [line.split(":")[0] for line in plan] == ["reference", "reference", "samples"]
    assert "moments from" in plan[0] and "50 images" in plan[1] and encoder.num_seen == 0


def test_precision_and_recall_alone_need_no_moments(samples: Path, real: Path) -> None:
    report = fdr.evaluate(samples, real, SpatialEncoder(), "precision,recall")
    assert [r.metric for r in report] == ["precision", "recall"]
    assert report.reference is not None and report.reference["count"] == 80
    assert report["recall"].signature.startswith("recall|enc:tiny|") and "|ref:real.npz:" in report["recall"].signature


@pytest.mark.parametrize("given", ["moments file", "moments", "folder"])
def test_a_reference_of_moments_alone_is_refused_for_precision(
    samples: Path, real: Path, tmp_path: Path, given: str
) -> None:
    from fdr.evaluation import write_reference

    write_reference(open_images(real), [SpatialEncoder()], tmp_path / "stats")
    stats = tmp_path / "stats"
    choices = {"moments file": stats / "tiny.h5", "moments": fdr.load_reference(stats, "tiny"), "folder": stats}
    encoder = SpatialEncoder()
    with pytest.raises(InputError, match=r"need images of the reference.*fdr stats --format adm"):
        fdr.evaluate(samples, choices[given], encoder, "fd,precision")
    assert encoder.num_seen == 0


def test_a_reference_without_spatial_moments_is_refused_for_sfid(samples: Path, real: Path, tmp_path: Path) -> None:
    moments = fdr.Moments.from_features(encode(images(80))["pool"])
    np.savez(tmp_path / "plain.npz", mu=moments.mu, sigma=moments.sigma)
    with pytest.raises(InputError, match="no moments of the output 'spatial' of tiny"):
        fdr.evaluate(samples, tmp_path / "plain.npz", SpatialEncoder(), "sfid")
    with pytest.raises(InputError, match="Metric 'sfid' needs the output 'spatial', which tiny does not give"):
        fdr.evaluate(samples, real, TinyEncoder(), "sfid")


def test_a_protocol_fixes_encoder_and_metrics(samples: Path, real: Path) -> None:
    for chosen in ({"encoders": "inception"}, {"metrics": "fd"}):
        with pytest.raises(
            InputError, match=r"Protocol 'adm' measures .*; leave out (encoders|metrics), or the protocol"
        ):
            fdr.evaluate(samples, real, protocol="adm", **chosen)
    with pytest.raises(InputError, match=r"Unknown protocol 'amd'; did you mean 'adm'"):
        fdr.evaluate(samples, real, protocol="amd")
    assert find_protocol("adm") is ADM and PROTOCOLS["adm"] is ADM


@pytest.mark.filterwarnings("default:The samples are 32 x 32 pixels:fdr.errors.FdrWarning")
def test_a_protocol_has_a_reference_of_its_own_where_none_is_named(tmp_path: Path, real: Path) -> None:
    toy = Protocol("toy", "for this test", "random", ("fd",), "demo")
    samples = npz(tmp_path / "s.npz", images(20, seed=3, side=32))
    assert fdr.evaluate(samples, protocol=toy).reference["name"] == "demo"
    assert fdr.evaluate(samples, real, protocol=toy).reference["name"] == "real.npz"
    assert ADM.reference in registry() and "spatial" in registry()[ADM.reference].encoders[ADM.encoder].outputs


# The file of fdr stats --format adm


def test_the_file_is_what_adm_reads(real: Path, reference: Path) -> None:
    drawn = images(80)
    features = encode(drawn)
    with np.load(reference, allow_pickle=False) as file:
        assert file.files[0] == "arr_0"
        assert file["arr_0"].dtype == np.uint8 and file["arr_0"].shape == (50, 16, 16, 3)
        for suffix, name in (("", "pool"), ("_s", "spatial")):
            rows = features[name].astype(np.float64)
            np.testing.assert_allclose(file[f"mu{suffix}"], rows.mean(0), atol=1e-12)
            np.testing.assert_allclose(file[f"sigma{suffix}"], np.cov(rows, rowvar=False), atol=1e-12)
        rows = [int(np.flatnonzero((drawn == image).all((1, 2, 3)))[0]) for image in file["arr_0"]]
        assert rows == sorted(rows) and len(set(rows)) == 50
        assert file["arr_1"].tolist() == [row % 7 for row in rows]
    with zipfile.ZipFile(reference) as archive:
        assert archive.testzip() is None


def test_the_subset_is_seeded_nested_and_whole_where_there_are_fewer(real: Path, tmp_path: Path) -> None:
    def shown(num_images: int, **options: object) -> set[bytes]:
        summary = written(real, tmp_path / "x.npz", num_images, **options)
        with np.load(tmp_path / "x.npz") as file:
            assert list(file["arr_0"].shape) == summary["arr_0"]
            return {image.tobytes() for image in file["arr_0"]}

    assert shown(20) < shown(30) and shown(20) != shown(20, seed=1)
    assert len(shown(10_000)) == 80
    assert shown(20) < shown(10_000, count=40)
    with pytest.raises(InputError, match="number of images in arr_0 is 0"):
        shown(0)


def test_the_same_run_writes_the_same_bytes(real: Path, tmp_path: Path) -> None:
    first, second = (written(real, tmp_path / name / "ref.npz") for name in ("a", "b"))
    with np.load(first["file"]) as a, np.load(second["file"]) as b:
        assert a.files == b.files
        assert all(np.array_equal(a[key], b[key]) for key in a.files)


def test_provenance_and_counts_come_back(reference: Path, samples: Path) -> None:
    for output in (None, "spatial"):
        moments = fdr.load_reference(reference, SpatialEncoder(), output=output)
        assert moments.count == 80 and moments.attributes["images"] == "real.npz"
    with pytest.raises(InputError, match="other weights, dtype or options"):
        fdr.load_reference(reference, SpatialEncoder(weights="seed:10"))


def test_samples_that_are_the_reference_images_are_warned_of(real: Path, reference: Path) -> None:
    with pytest.warns(FdrWarning, match="The samples are the reference"):
        report = evaluator(reference).evaluate(real)
    assert report["fd"].value == pytest.approx(0, abs=1e-9)


def test_images_of_several_sizes_need_one(real: Path, tmp_path: Path) -> None:
    root = folder(tmp_path / "mixed", images(12, side=16))
    (root / "zz").mkdir()
    for index, image in enumerate(images(4, side=20)):
        Image.fromarray(image).save(root / "zz" / f"{index}.png")
    with pytest.raises(InputError, match=r"has 20 x 20 pixels and 0000.png has 16 x 16.*crop='adm' size=PX"):
        written(root, tmp_path / "out" / "ref.npz")
    assert list((tmp_path / "out").iterdir()) == []
    assert written(root, tmp_path / "out" / "ref.npz", size=16)["arr_0"] == [16, 16, 16, 3]


def test_bad_images_are_left_out_of_both_parts(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", images(40, seed=2))
    (root / "0005.png").write_bytes(b"")
    summary = written(root, tmp_path / "ref.npz", 100, on_bad="skip", max_bad=0.1)
    assert summary["arr_0"][0] == 39 and summary["images"]["count"] == 39
    assert [item["id"] for item in summary["skipped"]] == ["0005.png"]


def test_labels_are_those_of_the_images_that_were_written(tmp_path: Path) -> None:
    """Classes by folder, and an image that cannot be read in the first of them."""
    (tmp_path / "f").mkdir()
    for name, seed in (("cat", 1), ("dog", 2)):
        folder(tmp_path / "f" / name, images(6, seed=seed))
    (tmp_path / "f" / "cat" / "0002.png").write_bytes(b"")
    summary = written(tmp_path / "f", tmp_path / "ref.npz", 100, on_bad="skip", max_bad=0.1)
    assert summary["labels"] and summary["labels_from"] == open_images(tmp_path / "f").labels_from
    with np.load(tmp_path / "ref.npz") as file:
        assert file["arr_1"].tolist() == [0] * 5 + [1] * 6 and len(file["arr_0"]) == 11


def test_a_summary_of_images_without_labels_says_so(tmp_path: Path) -> None:
    summary = written(npz(tmp_path / "plain.npz", images(12)), tmp_path / "ref.npz")
    assert (summary["labels"], summary["labels_from"]) == (False, None)
    with np.load(tmp_path / "ref.npz") as file:
        assert "arr_1" not in file.files


def test_the_name_of_a_reference_is_the_given_one_or_that_of_its_file(real: Path, tmp_path: Path) -> None:
    for given, found in ((None, "ref"), ("mine", "mine")):
        source = open_images(real)
        write_adm_reference(source, subset_of(source, real, 20), SpatialEncoder(), tmp_path / "ref.npz", name=given)
        assert read_attributes(tmp_path / "ref.npz")["reference"] == found


def test_members_are_stored_as_they_are(reference: Path) -> None:
    """So that `arr_0` can be read in place."""
    with zipfile.ZipFile(reference) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(RunError, match=r"Cannot write '.*ref\.npz': No space left on device; free some space"):
        written(real, tmp_path / "out" / "ref.npz")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_become_an_adm_reference(real: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is one npz file, but the output is '.*stats'; name a file \*\.npz"):
        written(real, tmp_path / "stats")
    source = open_images(real)
    with pytest.raises(InputError, match="needs the output 'spatial', which tiny does not give; use inception"):
        write_adm_reference(source, source, TinyEncoder(), tmp_path / "ref.npz")
    assert not (tmp_path / "ref.npz").exists()
    kept = npz(tmp_path / "images.npz", images(3)).read_bytes()
    with pytest.raises(InputError, match=r"images\.npz' is there and holds no statistics, which would replace it"):
        written(real, tmp_path / "images.npz")
    assert (tmp_path / "images.npz").read_bytes() == kept


def test_the_definition_of_adms_evaluation() -> None:
    """The five numbers that evaluator.py of guided-diffusion prints, in its order, of TensorFlow's Inception."""
    expected = Protocol(
        "adm", ADM.title, "inception", ("is:adm", "fd", "sfid", "precision:adm", "recall:adm"), "imagenet256:adm", True
    )
    assert find_protocol("adm") == expected == ADM


def test_warnings_of_a_plain_run(samples: Path, reference: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator(reference).evaluate(samples)
