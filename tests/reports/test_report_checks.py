"""A report is held against itself: what fdr writes passes every rule, and each tampered report breaks one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_adm_protocol import SpatialEncoder
from worlds import DIM, TinyEncoder, images, npz

import fdr
from fdr.encoders import EncoderOptions
from fdr.errors import InputError
from fdr.evaluation import Evaluator, evaluate, subset_of, write_adm_reference, write_reference
from fdr.evaluation.protocols import ADM
from fdr.features import ExtractionOptions
from fdr.images import ImageOptions, open_images
from fdr.references import find as reference_module
from fdr.references.manifest import RegistryEncoder, RegistryEntry, ValidationFD
from fdr.reports import Report, impossible, load_reports, parse_signature
from fdr.reports.checks import RULES, Parts, Row, check_report

TWO = [TinyEncoder("one"), TinyEncoder("two", 5, "seed:22")]


def _rounded(samples: Path, stats: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """FDr with published denominators, which leave intervals."""
    below = {"one": 0.04, "two": 2.0}
    rows = {
        name: RegistryEncoder(f"{name}.h5", None, None, DIM if name == "one" else 5, ValidationFD(value, 2, "x"))
        for name, value in below.items()
    }
    monkeypatch.setattr(reference_module, "registry", lambda: {"toy": RegistryEntry("toy", "", "", 80, "", rows)})
    monkeypatch.setattr("fdr.references.local_files.reference_stats_dir", lambda: stats)
    return evaluate(samples, "toy", TWO)


def _adm_reference(real: Path, path: Path) -> Path:
    """Moments of two outputs, and images."""
    source = open_images(real)
    write_adm_reference(source, subset_of(source, real, 20), SpatialEncoder(), path)
    return path


pytestmark = [
    pytest.mark.filterwarnings("default:The samples are the reference:fdr.errors.FdrWarning"),
    pytest.mark.filterwarnings("default:The samples are 12 x 12 pixels:fdr.errors.FdrWarning"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """Reports of every kind as JSON, by name."""
    home = tmp_path_factory.mktemp("reports")
    samples, real = npz(home / "a.npz", images(24, seed=1)), npz(home / "real.npz", images(30))
    stats, rounded, plain = home / "stats", home / "rounded", ExtractionOptions(home / "cache", moments_only=True)
    for folder, validation in ((stats, open_images(images(20, seed=7))), (rounded, None)):
        write_reference(open_images(real), TWO, folder, validation=validation)
    moments_only = Evaluator(
        TWO, stats, "fd", image_options=ImageOptions(count=20, crop="center", size=12, quantize="none"),
        encoder_options=EncoderOptions(), extraction_options=plain,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        reports = {"rounded": _rounded(samples, rounded, monkeypatch)}
    reports |= {
        "images": evaluate(samples, real, TWO, ["fd", "is", "is:adm", "precision", "recall", "recall:adm"], audit=True),
        "itself": evaluate(real, real, TinyEncoder()),
        "ratios": evaluate(samples, stats, TWO),
        "split": evaluate(samples, stats, TWO, trained_on="one"),
        "moments only": moments_only.evaluate(samples),
        "adm": evaluate(samples, _adm_reference(real, home / "adm.npz"), SpatialEncoder(), ADM.metrics),
        "ifid": fdr.interpolated_fid(
            "haar", images(16, seed=1), images(18), TinyEncoder(), ifid_options=fdr.IfidOptions(alphas=(0.25, 0.5))
        ),
    }
    return {name: json.loads(report.to_json()) for name, report in reports.items()}


KINDS = ("rounded", "images", "itself", "ratios", "moments only", "adm", "ifid")


@pytest.mark.parametrize("kind", KINDS)
def test_what_fdr_writes_passes_and_is_read_as_it_was(written: Mapping[str, dict[str, Any]], kind: str) -> None:
    assert json.loads(Report.from_dict(written[kind]).to_json()) == written[kind]


def row(data: dict[str, Any], key: str) -> dict[str, Any]:
    (found,) = [r for r in data["results"] if r["metric"] + (f":{r['encoder']}" if r["encoder"] else "") == key]
    return found


def put(key: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """Replace fields of one result, or of its details."""

    def change(data: dict[str, Any]) -> None:
        found = row(data, key)
        for name, value in fields.items():
            (found if name in found else found["details"])[name] = value

    return change


def sign(key: str, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """Replace a part of one signature."""

    def change(data: dict[str, Any]) -> None:
        found = row(data, key)
        assert re.search(old, found["signature"]), found["signature"]
        found["signature"] = re.sub(old, new, found["signature"], count=1)

    return change


def at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Replace what lies at a path of the whole report."""

    def change(data: dict[str, Any]) -> None:
        for name in path[:-1]:
            data = data[name]
        data[path[-1]] = value

    return change


def _move_end(data: dict[str, Any], side: int) -> None:
    """Move one end of the interval of FDr^k a little outward."""
    row(data, "fdr_k")["interval"][side] *= 0.99 if side == 0 else 1.01


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["results"].remove(row(data, key))


TAMPERED: dict[str, tuple[str, str, Callable[[dict[str, Any]], None], str]] = {
    # name: kind of report, rule that it breaks, what is done to it, what is said
    "twice": ("images", "each_number_once", lambda d: d["results"].append(row(d, "fd:one")), "fd:one is there 2 times"),
    "failed": ("images", "computed_or_failed",
               lambda d: d.update(failed=[{**row(d, "fd:one"), "sentence": "No."}]), "among the numbers that failed"),
    "flipped fd": ("images", "directions", put("fd:one", lower_is_better=False), "FD is better when it is lower"),
    "flipped is": ("images", "directions", put("is:one", lower_is_better=True), "IS is better when it is higher"),
    "flipped psnr": ("ifid", "directions", put("psnr", lower_is_better=True), "PSNR .* higher"),
    "flipped ifd": ("ifid", "directions", put("ifd:0.25:tiny", lower_is_better=False), "iFD is better"),
    "fd below 0": ("images", "possible_values", put("fd:one", value=-1.0, mean_term=0.0, trace_term=-1.0),
                   "fd:one is -1, and FD is 0 or more"),
    "is below 1": ("images", "possible_values", put("is:one", value=0.5), "IS is 1 or more"),
    "precision of percent": ("images", "possible_values", put("precision:one", value=75.0), "Precision is 0 to 1"),
    "recall below 0": ("images", "possible_values", put("recall:one", value=-0.5), "Recall is 0 to 1"),
    "ssim above 1": ("ifid", "possible_values", put("ssim", value=1.2), "SSIM is -1 to 1"),
    "fdr below 0": ("ratios", "possible_values", put("fdr:one", value=-2.0), "FDr is 0 or more"),
    "value outside its interval": ("rounded", "intervals", put("fdr:one", interval=[0.0, 1e-9]), "lies outside"),
    "signature of another metric": ("images", "signature_names_the_number", sign("fd:one", "^fd", "sfid"),
                                    "the signature of fd:one is one of sfid"),
    "another metric": ("images", "signature_names_the_number", put("is:one", metric="is:clean"), "is one of is"),
    "another encoder": ("images", "signature_names_the_number", put("fd:one", encoder="inception"),
                        "names the encoder one"),
    "signed for another encoder": ("images", "signature_names_the_number", sign("fd:one", "enc:one", "enc:inception"),
                                   "names the encoder inception"),
    "count": ("images", "counts", put("fd:one", count=50_000), "fd:one is of 50000 images, and the samples are 24"),
    "count of samples": ("images", "counts", at("samples", "count", value=50_000), "and the samples are 50000"),
    "count in the signature": ("images", "counts", sign("fd:one", "n:24", "n:50000"), "signature says n:50000"),
    "subset": ("moments only", "subsets", at("samples", "subset", "count", value=21), "of a subset of 21"),
    "skipped": ("moments only", "subsets", at("samples", "skipped", value=[{"id": "x", "reason": "y"}]), "21 images"),
    "output": ("images", "signature_agrees", put("fd:one", output="pool"), "out:features, .* row says pool"),
    "spec hash": ("images", "signature_agrees", put("fd:one", spec_hash="0" * 16), "the row says 00000000"),
    "k of precision": ("images", "signature_agrees", sign("precision:one", "k:3", "k:5"), "k:5, .* says 3"),
    "validation fd": ("ratios", "signature_agrees", sign("fdr:one", r"val:[^|]*", "val:9.9"), "has val:9.9"),
    "weights": ("images", "signature_agrees", at("run", "encoders", "one", "weights", value="a" * 64),
                "the description of the encoder says aaaaaaaa"),
    "dtype": ("images", "signature_agrees", sign("fd:one", "dt:float32", "dt:bfloat16"), "says float32"),
    "resize": ("images", "signature_agrees", sign("fd:one", "rs:none-8", "rs:none-9"), "says none-8"),
    "order": ("images", "signature_agrees", at("run", "encoders", "one", "compute", value="exact"),
              "says exact"),
    "hash of the run": ("images", "signature_agrees", at("run", "encoders", "one", "hash", value="f" * 16),
                        "says ffffffff"),
    "autoencoder": ("ifid", "signature_agrees", at("run", "autoencoder", "hash", value="f" * 16),
                    "haar:ffffffff"),
    "draw": ("ifid", "signature_agrees", sign("ifd:tiny", "draw:0", "draw:7"), "draw:7"),
    "crop": ("moments only", "signature_agrees", sign("fd:one", r"crop:[^|]*\|", ""), "crop:none"),
    "quantisation": ("images", "signature_agrees", sign("fd:one", "q:u8", "q:none"), "q:none, .* says u8"),
    "no reference": ("images", "signature_is_of_the_reference", at("reference", value=None), "the report has none"),
    "digest of the reference": ("images", "signature_is_of_the_reference", at("reference", "digest", value="f" * 64),
                                "the reference is real.npz:ffffffff"),
    "digest in the signature": ("ratios", "signature_is_of_the_reference", sign("fd:one", r"stats:\w+", "stats:0000"),
                                "the reference stats:0000,"),
    "digest of an output": ("adm", "signature_is_of_the_reference", sign("sfid:tiny", r"ref:[^|]*", "ref:x:0000"),
                            "the reference x:0000, and"),
    "images of the reference": ("images", "reference_counts", at("reference", "count", value=50_000), "has 50000"),
    "version": ("images", "versions", at("fdr_version", value="9.9"), "says version .*the report is of version 9.9"),
    "version of a signature": ("images", "versions", sign("fd:one", r"v:[^|]*", "v:9.9"), "says version 9.9"),
    "better fd": ("images", "distances_are_their_terms", put("fd:one", value=1e-3), "fd:one is 0.001, and its terms"),
    "perfect fd": ("images", "distances_are_their_terms", put("fd:one", value=0.0), "fd:one is 0, and its terms"),
    "perfect ifd": ("ifid", "distances_are_their_terms", put("ifd:tiny", value=0.0), "ifd:tiny is 0"),
    "trace term": ("adm", "distances_are_their_terms", put("sfid:tiny", trace_term=0.0), "sfid:tiny is"),
    "mean term": ("images", "distances_are_their_terms", put("fd:one", value=1.0, mean_term=-1.0, trace_term=2.0),
                  "a squared length is 0 or more"),
    "audit": ("images", "audits", put("fd:one", audit=9.0), "9 by the second route"),
    "better fdr": ("ratios", "ratios_are_ratios", put("fdr:one", value=1.0), "fdr:one is 1, and fd:one over"),
    "denominator of 0": ("ratios", "ratios_are_ratios", put("fdr:one", val_fd="0"), "a number above 0 is expected"),
    "better mean": ("ratios", "means_are_means", put("fdr_k", value=1.0), "the mean of its 2 ratios is"),
    "k": ("ratios", "means_are_means", put("fdr_k", k=6), "fdr_k has 2 encoders, k is 6"),
    "k in the signature": ("ratios", "means_are_means", sign("fdr_k", "fdr_k:2", "fdr_k:6"), "signature says k:6"),
    "encoders": ("ratios", "means_are_means", put("fdr_k", encoders=["one", "three"]), "its signature of one, two"),
    "hash of an encoder": ("ratios", "means_are_means", sign("fdr_k", r"one@\w+", "one@0000"), "has one@0000, and"),
    "a part that is not there": ("ratios", "means_are_means", drop("fdr:two"), "FDr of 1 of them is not there"),
    "parts of the mean": ("ratios", "means_are_means", put("fdr_k", fdr={"one": 1.0, "two": 1.0}), "in the details"),
    "parts of other encoders": ("ratios", "means_are_means", put("fdr_k", fdr={"one": 1.0}), "its details are of one"),
    "mean of held-out encoders": ("split", "means_are_means", put("fdr_k:held_out", value=1.0), "of its 1 ratios is"),
    "trained on and held out": ("split", "groups_share_nothing", put("fdr_k:held_out", encoders=["one"]),
                                "one are in fdr_k:trained and in fdr_k:held_out"),
    "interval of the mean": ("rounded", "means_are_means", put("fdr_k", interval=[0.0, 1e9]), "on average"),
    "share": ("images", "shares_are_of_whole_images", put("precision:one", value=0.9), "no share of 24 images"),
    "share of the reference": ("images", "shares_are_of_whole_images", put("recall:two", value=0.99), "of 30 images"),
    "fd a little below 0": ("images", "possible_values",
                            put("fd:one", value=-1e-3, mean_term=0.0, trace_term=-1e-3, rounding=1e-6),
                            "fd:one is -0.001"),
    "value below its interval": ("rounded", "intervals", put("fdr:one", interval=[1e8, 1e9]), "lies outside"),
    "encoder of a mean of inception": ("images", "signature_names_the_number", put("precision:one", encoder="two"),
                                       "precision:two names the encoder one|precision:two is there 2 times"),
    "name of the encoder": ("images", "signature_agrees", at("run", "encoders", "one", "name", value="other"),
                            "has enc:one, and the description of the encoder says other"),
    "draw of the neighbours": ("ifid", "signature_agrees", sign("nfd:tiny", "draw:0", "draw:7"), "draw:7"),
    "neighbours to draw from": ("ifid", "signature_agrees", at("run", "ifid", "top_k", value=77), "says 77"),
    "quantisation of decoded images": ("ifid", "signature_agrees", at("run", "ifid", "quantize", value="none"),
                                       "q:u8, and the description of the samples says none"),
    "reference of a ratio": ("ratios", "signature_is_of_the_reference", sign("fdr:one", r"stats:\w+", "stats:0000"),
                             "the signature of fdr:one has the reference stats:0000"),
    "version of the run": ("images", "versions", at("run", "versions", "fdr", value="9.9"), "run.versions says"),
    "denominator of a float 0": ("ratios", "ratios_are_ratios", put("fdr:one", val_fd=0.0), "val:.* the row says 0"),
    "order of the encoders": ("ratios", "means_are_means", put("fdr_k", encoders=["two", "one"]), "is of two, one"),
    "lower end of the mean": ("rounded", "means_are_means", lambda d: _move_end(d, 0), "interval of fdr_k ends at"),
    "upper end of the mean": ("rounded", "means_are_means", lambda d: _move_end(d, 1), "interval of fdr_k ends at"),
    "a share between two images": ("images", "shares_are_of_whole_images",
                                   lambda d: put("precision:one", value=row(d, "precision:one")["value"] - 1e-3)(d),
                                   "no share of 24 images"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_report_is_refused(written: Mapping[str, dict[str, Any]], name: str) -> None:
    kind, _, change, sentence = TAMPERED[name]
    data = json.loads(json.dumps(written[kind]))
    change(data)
    with pytest.raises(InputError, match=f"^The report contradicts itself: .*{sentence}.*again with --json"):
        check_report(data)


TOLERATED = {
    # what rounding may do, and the same a thousand times as large
    "fd": lambda data, scale: put("fd:one", value=row(data, "fd:one")["value"] * (1 + 1e-12 * scale), rounding=0.0),
    "fdr": lambda data, scale: put("fdr:one", value=row(data, "fdr:one")["value"] * (1 + 1e-11 * scale)),
    "mean": lambda data, scale: put("fdr_k", value=row(data, "fdr_k")["value"] * (1 + 1e-11 * scale)),
    "part": lambda data, scale: put("fdr_k", fdr={**row(data, "fdr_k")["details"]["fdr"],
                                    "one": row(data, "fdr:one")["value"] * (1 + 1e-11 * scale)}),
    "audit": lambda data, scale: put("fd:one", audit=row(data, "fd:one")["value"] * (1 + 1e-4 * scale), rounding=0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLERATED)
def test_rounding_is_tolerated_and_no_more(written: Mapping[str, dict[str, Any]], name: str) -> None:
    for scale, is_sound in ((1, True), (-1, True), (1e4, False), (-1e4, False)):
        data = json.loads(json.dumps(written["ratios"]))
        row(data, "fd:one")["details"]["audit"] = row(data, "fd:one")["value"]
        TOLERATED[name](data, scale)(data)
        if is_sound:
            check_report(data)
        else:
            with pytest.raises(InputError, match="contradicts itself"):
                check_report(data)


@pytest.mark.parametrize("value, is_possible", [
    (0.0, True), (-1e-7, True), (-1e-5, False), (1.0, True), (1.0 + 1e-7, True), (1.0 + 1e-5, False),
])  # fmt: skip
def test_a_value_may_be_outside_by_rounding_alone(value: float, is_possible: bool) -> None:
    for metric in ("precision", "recall:adm"):
        assert (impossible(metric, value) is None) == is_possible
    assert impossible("fd", value - 1.0, rounding=2.0) is None and impossible("new", -7.0) is None
    assert impossible("precision", value, rounding=1e-3) is None


SOUND: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    # kind of report, and a change after which it still says nothing that contradicts itself
    "counts of several files": ("ratios", lambda d: at("reference", "count", value=999)(d) or _two_digests(d)),
    "terms of another metric": ("images", lambda d: row(d, "recall:one")["details"].update(mean_term=1, trace_term=9)),
    "a mean of exact and rounded ratios": ("rounded", lambda d: _without_interval(d, "fdr:two")),
}  # fmt: skip


def _two_digests(data: dict[str, Any]) -> None:
    """Digests by encoder, as of a reference of several files."""
    digests = {r["encoder"]: r["signature"].split("ref:stats:")[1][:8] for r in data["results"] if r["metric"] == "fd"}
    data["reference"]["digest"] = digests


def _without_interval(data: dict[str, Any], key: str) -> None:
    value = row(data, key)["value"]
    del row(data, key)["interval"]
    low, high = row(data, "fdr:one")["interval"]
    row(data, "fdr_k")["interval"] = [(low + value) / 2, (high + value) / 2]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_report_passes(written: Mapping[str, dict[str, Any]], name: str) -> None:
    kind, change = SOUND[name]
    data = json.loads(json.dumps(written[kind]))
    change(data)
    check_report(data)


def test_each_tampered_report_breaks_its_rule(written: Mapping[str, dict[str, Any]]) -> None:
    rules = {rule.__name__: rule for rule in RULES}
    for name, (kind, rule, change, _) in TAMPERED.items():
        data = json.loads(json.dumps(written[kind]))
        change(data)
        report = Parts(data, tuple(Row(row, parse_signature(row["signature"])) for row in data["results"]))
        assert any(problem for row in report.rows for problem in rules[rule](report, row)), name


def test_every_rule_has_a_tampered_report() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for _, rule, _, _ in TAMPERED.values()}


@pytest.mark.parametrize("change, sentence", [
    (at("results", value=[]), "results is an empty list"),
    (at("results", value=[3]), "results of the report is .3., where a list of objects is expected"),
    (lambda d: d.pop("samples"), "the report has no samples"),
    (at("samples", value=[]), "samples of the report is"),
    (at("samples", "source", value=7), "source of the samples is 7, where a text"),
    (at("samples", "count", value=0), "count of the samples is 0, where a whole number of 1 or more"),
    (at("samples", "skipped", value=["x"]), "skipped of the samples"),
    (at("samples", "left_out", value={".gif": -1}), "left_out of the samples"),
    (at("reference", "digest", value={"one": 3}), "digest of the reference"),
    (at("warnings", value="text"), "warnings of the report"),
    (at("run", value=[]), "run of the report"),
    (at("run", "ifid", value=7), "ifid of the run is 7, where an object or null"),
    (put("fd:one", value=None), "value of fd:one is None, where a finite number"),
    (put("fd:one", value="3.0"), "value of fd:one is '3.0'"),
    (put("fd:one", value=True), "value of fd:one is True"),
    (put("fd:one", value=float("nan")), "value of fd:one is nan"),
    (put("fd:one", value=10**400), "value of fd:one is 1000"),
    (put("fd:one", count=-1), "count of fd:one is -1"),
    (put("fd:one", count=24.0), "count of fd:one is 24.0"),
    (put("is:one", stderr=-5), "stderr of is:one is -5, where a finite number of 0 or more"),
    (put("fd:one", reference_count=0), "reference_count of fd:one is 0"),
    (put("fd:one", lower_is_better="yes"), "lower_is_better of fd:one is 'yes', where true or false"),
    (put("fd:one", signature="?"), "signature of fd:one is"),
    (put("fd:one", metric=3), "metric of result 1 is 3"),
    (put("fd:one", details=[]), "details of fd:one"),
    (put("fd:one", notes="x"), "notes of fd:one"),
    (lambda d: row(d, "fd:one").update(interval=[3, 2]), "interval of fd:one is .3, 2., where two finite numbers"),
    (lambda d: row(d, "fd:one").update(k=0), "k of fd:one is 0"),
    (lambda d: row(d, "fd:one").update(interval=[3, 4, 5]), "interval of fd:one is .3, 4, 5., where two finite"),
    (lambda d: row(d, "fd:one").pop("lower_is_better"), "fd:one has no lower_is_better, which is true or false"),
    (lambda d: row(d, "fd:one").pop("count"), "fd:one has no count, which is a whole number"),
    (lambda d: row(d, "fd:one").pop("signature"), "fd:one has no signature"),
    (at("run", "encoders", value=7), "encoders of the run is 7"),
    (put("fd:one", signature="fd|n"), "signature of fd:one is 'fd.n', where a signature as fdr writes it"),
])  # fmt: skip
def test_a_field_of_another_type_or_range_is_named(
    written: Mapping[str, dict[str, Any]], change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    data = json.loads(json.dumps(written["images"]))
    change(data)
    with pytest.raises(InputError, match=f"^Damaged report: .*{sentence}"):
        check_report(data)


def test_a_report_that_says_less_passes(written: Mapping[str, dict[str, Any]]) -> None:
    """Reports of earlier releases have fewer details; nothing is required that a reader does not use."""
    data = json.loads(json.dumps(written["ratios"]))
    for found in data["results"]:
        for name in ("details", "notes", "spec_hash", "reference_count", "stderr"):
            found.pop(name)
    data["run"] = {}
    del data["samples"]["policy"], data["samples"]["subset"], data["warnings"], data["reference"]["count"]
    assert [r.metric for r in Report.from_dict(data)] == ["fd", "fdr", "fd", "fdr", "fdr_k"]


@pytest.mark.parametrize("old, new, sentence", [
    ('"value": 3.0', '"value": NaN', "NaN is no number of JSON"),
    ('"value": 3.0', '"value": 1e999', "value of fd:one is inf"),
    ('"value": 3.0', '"value": 3.0, "value": 1.0', "'value' is there twice in one object"),
    ('"warnings": []', '"warnings": ' + "[" * 100_000, "nested too deeply"),
])  # fmt: skip
def test_json_with_more_than_one_meaning_is_refused(
    written: Mapping[str, dict[str, Any]], tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    data = json.loads(json.dumps(written["images"]))
    put("fd:one", value=3.0)(data)
    text = json.dumps(data)
    assert old in text
    (tmp_path / "r.json").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=f"{sentence}.*"):
        load_reports(tmp_path / "r.json")


def test_the_sentence_names_the_file_and_a_byte_order_mark_does_not_matter(
    written: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text("﻿" + json.dumps(written["images"]), encoding="utf-8")
    assert Report.from_json(path).samples["count"] == 24
    path.write_text(json.dumps({**written["images"], "schema": "fdr-report/0"}))
    with pytest.raises(InputError, match="expected 'fdr-report/1'; another version of fdr wrote it"):
        Report.from_json(path)
    path.write_text(json.dumps({**written["images"], "fdr_version": "9"}))
    with pytest.raises(InputError, match=re.escape(f"write '{path}' again with --json")):
        Report.from_json(path)
