"""What `fdr stats` writes: one digest for the same moments, checksums that are looked at, an index read with care."""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statistics_worlds import WRITERS, write
from worlds import TinyEncoder, images, npz
from worlds import folder as folder_of

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.evaluation import evaluate, write_reference, write_reference_file
from fdr.frechet import Moments
from fdr.images import open_images
from fdr.references import ConvertOptions, convert, find_reference

REAL, ENCODER = images(40), TinyEncoder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_reference(open_images(REAL), [ENCODER, TinyEncoder("second", 5)], tmp_path / "stats")
    return tmp_path / "stats"


class Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 5, 6, tzinfo=tz)


def test_the_same_moments_have_one_digest_in_any_container(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fdr.evaluation.reference_writer.datetime", Later)
    write_reference(open_images(REAL), [ENCODER], tmp_path / "later", file_format="npz")
    write_reference_file(open_images(REAL), ENCODER, tmp_path / "one.npz", name="x")
    write_reference_file(open_images(REAL), ENCODER, tmp_path / "one.h5")
    for target, to in (("bare.npz", "clean-fid"), ("again.h5", "h5"), ("torch.pt", "torch-fidelity")):
        convert(folder / "tiny.h5", tmp_path / target, ConvertOptions(to))
    moments = Moments.load(tmp_path / "one.npz")
    references = [folder, folder / "tiny.h5", moments, *(tmp_path / name for name in (
        "later", "one.npz", "one.h5", "bare.npz", "again.h5", "torch.pt"
    ))]  # fmt: skip
    expected = hashlib.sha256(moments.mu.tobytes() + moments.sigma.tobytes()).hexdigest()
    assert {find_reference(reference, ENCODER).digest for reference in references} == {expected}
    assert (folder / "tiny.h5").read_bytes() != (tmp_path / "one.h5").read_bytes()
    first = evaluate(images(30, seed=1), folder, ENCODER)["fd"]
    again = evaluate(images(30, seed=1), tmp_path / "later", ENCODER)["fd"]
    assert f":{expected[:8]}|" in first.signature and again.value == first.value
    assert again.signature == first.signature.replace("ref:stats:", "ref:later:")
    other = Moments(moments.mu, moments.sigma * (1 + 2**-52), moments.count)
    assert find_reference(other, ENCODER).digest != expected


def test_one_flipped_bit_is_one_sentence(folder: Path, fdr_command) -> None:
    path = folder / "tiny.h5"
    data = bytearray(path.read_bytes())
    for position in np.random.default_rng(0).integers(0, len(data), 20).tolist():
        path.write_bytes(bytes(data[:position]) + bytes([data[position] ^ 4]) + bytes(data[position + 1 :]))
        with pytest.raises(
            InputError, match=r"tiny\.h5' is damaged or another file: its sha256 is .*reference\.json lists"
        ):
            find_reference(folder, ENCODER)
    got = fdr_command("show", folder)
    assert got.code == 2 and "is damaged or another file" in got.err and got.err.count("\n") == 1
    assert find_reference(folder, TinyEncoder("second", 5)).moments.dim == 5
    path.write_bytes(data)
    assert fdr_command("show", folder).code == 0
    os.replace(folder / "second.h5", path)
    with pytest.raises(InputError, match="is damaged or another file"):
        find_reference(folder, ENCODER)
    path.unlink()
    with pytest.raises(InputError, match=r"lists tiny\.h5, which is missing"):
        find_reference(folder, ENCODER)


def test_a_flipped_bit_in_a_file_alone_is_noticed(tmp_path: Path) -> None:
    for name in ("a.h5", "a.npz"):
        write_reference_file(open_images(REAL), ENCODER, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        moments = Moments.load(tmp_path / name)
        for array in (moments.mu, moments.sigma):
            at = data.index(array.tobytes()) + 4
            (tmp_path / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(InputError, match="is truncated or damaged"):
                find_reference(tmp_path / name, ENCODER)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, item in items for way in places(item, (*path, key)))]


def test_no_type_in_the_index_is_a_traceback(folder: Path, fdr_command) -> None:
    path = folder / "reference.json"
    good = path.read_text()
    odd = [None, True, -1, 10**400, float("nan"), 1e308, "", "../x", "\x00", [], {}, [[]], {"name": {}}, [None]]
    for way in places(json.loads(good)):
        for value in odd:
            index = json.loads(good)
            if way:
                inner = index
                for key in way[:-1]:
                    inner = inner[key]
                inner[way[-1]] = value
            path.write_text(json.dumps(index if way else value))
            try:
                find_reference(folder, ENCODER)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 700
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\xff", "", "null"):
        path.write_bytes(text.encode("latin-1"))
        got = fdr_command("show", folder)
        assert got.code == 2 and "is damaged" in got.err and len(got.err) < 400


@pytest.mark.parametrize("name", ["../secret.h5", "/etc/passwd", "..", ".", "", "a/b.h5", "a\\b.h5", "tiny.h5\0"])
def test_the_index_names_files_of_its_folder_only(name: str, folder: Path) -> None:
    (folder.parent / "secret.h5").write_bytes((folder / "tiny.h5").read_bytes())
    index = json.loads((folder / "reference.json").read_text())
    index["encoders"][0]["file"] = name
    (folder / "reference.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="where the name of a file in this folder is expected"):
        find_reference(folder, ENCODER)


def test_encoders_whose_names_read_alike_have_files_of_their_own(tmp_path: Path) -> None:
    encoders = [TinyEncoder("a:b", 3), TinyEncoder("a/b", 4), TinyEncoder("x" * 300, 5)]
    write_reference(open_images(REAL), encoders, tmp_path / "stats")
    assert [find_reference(tmp_path / "stats", encoder).moments.dim for encoder in encoders] == [3, 4, 5]


def test_a_name_of_many_bytes_becomes_a_file_name_that_every_file_system_takes(tmp_path: Path) -> None:
    encoder = TinyEncoder("\u00e4" * 150, 3)  # 300 bytes
    (row,) = write_reference(open_images(REAL), [encoder], tmp_path / "stats")["encoders"]
    assert len(row["file"].encode()) < 200 and encoder.spec.hash in row["file"]
    assert find_reference(tmp_path / "stats", encoder).moments.dim == 3


def test_an_index_says_what_was_left_out(tmp_path: Path) -> None:
    real = folder_of(tmp_path / "real", REAL)
    (real / "thumbs").mkdir()
    (real / "0000.png").rename(real / "thumbs" / "0000.png")
    with pytest.warns(FdrWarning, match="these are left out: 1 in thumbs/"):
        source = open_images(real)
    index = write_reference(source, [ENCODER], tmp_path / "stats")
    assert index["images"]["count"] == len(REAL) - 1
    assert index["images"]["left_out"] == source.left_out and len(source.left_out) == 1


def test_an_empty_file_is_a_place_for_moments(tmp_path: Path) -> None:
    """As mktemp makes it."""
    (tmp_path / "s.npz").touch()
    write_reference_file(open_images(REAL), ENCODER, tmp_path / "s.npz")
    assert Moments.load(tmp_path / "s.npz").count == len(REAL)


ALTERED = {"val_fd": "low", "jpeg_share": "none", "image_width": [1], "encoder": {"a": 1}, "images_digest": None}


@pytest.mark.parametrize("key", ALTERED)
def test_attributes_of_another_type_are_one_sentence(key: str, tmp_path: Path) -> None:
    moments = Moments.from_features(np.random.default_rng(0).normal(size=(40, 12)))
    attributes = {"val_fd": 1.0, key: ALTERED[key]}
    np.savez(tmp_path / "a.npz", mu=moments.mu, sigma=moments.sigma, fdr_attributes=json.dumps(attributes))
    with pytest.raises(InputError, match=f"an attribute '{key}' that is no "):
        evaluate(REAL, tmp_path / "a.npz", ENCODER)


class TestOneFile:
    @pytest.mark.parametrize("suffix", ["npz", "h5", "NPZ"])
    def test_stats_writes_the_file_that_is_named(self, suffix: str, fdr_command, tmp_path: Path) -> None:
        npz(tmp_path / "real.npz", REAL)
        target = tmp_path / f"stats.{suffix}"
        got = fdr_command("stats", "real.npz", "--reps", "random", "-o", target.name)
        assert got.code == 0 and f"{target.name}: 40 images of real.npz" in got.out, got.err
        assert target.is_file() and sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
            ["real.npz", target.name]
        )
        moments = Moments.load(target)
        assert moments.attributes["encoder"] == "random" and moments.attributes["reference"] == "stats"
        assert (moments.count, moments.attributes["image_width"]) == (40, 16)
        if suffix != "h5":
            with np.load(target, allow_pickle=False) as file:
                assert file["mu"].shape == (256,) and file["sigma"].shape == (256, 256)
        npz(tmp_path / "s.npz", images(30, seed=1))
        assert fdr_command("eval", "s.npz", "--ref", target.name, "--reps", "random").code == 0
        shown = json.loads(fdr_command("show", target.name, "--json", "-").out)
        assert shown["encoder"] == "random" and shown["digest"] == find_reference(target, "random").digest
        assert fdr_command("stats", "real.npz", "--reps", "random", "-o", target.name).code == 0  # again

    def test_validation_and_json(self, fdr_command, tmp_path: Path) -> None:
        npz(tmp_path / "real.npz", REAL)
        npz(tmp_path / "val.npz", images(30, seed=2))
        got = fdr_command("stats", "real.npz", "--reps", "random", "--val", "val.npz", "-o", "s.h5", "--json", "-")
        written = json.loads(got.out)
        report = evaluate(tmp_path / "val.npz", tmp_path / "s.h5", "random")
        assert written["encoder"]["val_fd"] == report["fd"].value and report["fdr"].value == 1.0
        assert written["sha256"] == hashlib.sha256((tmp_path / "s.h5").read_bytes()).hexdigest()

    def test_what_is_no_single_file(self, fdr_command, tmp_path: Path) -> None:
        npz(tmp_path / "real.npz", REAL)
        npz(tmp_path / "other.npz", images(30, seed=2))
        plain = ("stats", "real.npz", "--reps", "random")
        np.savez(tmp_path / "theirs.npz", mu=np.zeros(2), sigma=np.eye(2))
        for name in ("made", "made.npz/"):
            assert fdr_command(*plain, "-o", name).code == 0
            assert (tmp_path / name / "reference.json").is_file()
        assert fdr_command(*plain, "-o", "made.npz").code == 0  # the folder that is there
        assert fdr_command(*plain, "-o", "one.npz").code == 0
        for arguments, sentence in (
            ((*plain[:3], "random,random:1", "-o", "s.npz"), "and --reps names 2; name a folder, such as -o s/"),
            ((*plain, "-o", "s.pkl"), "written as *.npz or *.h5, or as a folder; 's.pkl' is neither"),
            ((*plain, "-o", "s.npz", "--format", "h5"), "--format h5 goes with another name than 's.npz'"),
            ((*plain, "-o", "other.npz"), "'other.npz' is there and holds no statistics, which would replace it"),
            ((*plain, "-o", "other.npz", "--dry-run"), "holds no statistics"),
            ((*plain, "-o", "theirs.npz"), "'theirs.npz' is there and was not written by fdr stats"),
            (("stats", "other.npz", *plain[2:], "-o", "one.npz"), "'one.npz' is the reference of other images"),
        ):
            got = fdr_command(*arguments)
            assert got.code == 2 and sentence in got.err, got.err


class TestOneEncoderEach:
    @pytest.fixture
    def anonymous(self, tmp_path: Path) -> Path:
        moments = Moments.from_features(np.random.default_rng(0).normal(size=(600, 256)))
        np.savez(tmp_path / "one.npz", mu=moments.mu, sigma=moments.sigma, count=600)
        return tmp_path / "one.npz"

    def test_a_file_serves_one_encoder(self, anonymous: Path, fdr_command) -> None:
        npz(anonymous.with_name("s.npz"), REAL)
        assert fdr_command("eval", "s.npz", "--ref", "one.npz", "--reps", "random:1").code == 0
        got = fdr_command("eval", "s.npz", "--ref", "one.npz", "--reps", "random,random:1")
        assert got.code == 2 and "cannot serve both random and random:1" in got.err
        assert "--ref random=FILE,random:1=FILE" in got.err
        both = "random=one.npz,random:1=one.npz"
        assert fdr_command("eval", "s.npz", "--ref", both, "--reps", "random,random:1").code == 0

    def test_neither_in_python_nor_in_the_loss(self, anonymous: Path) -> None:
        moments = Moments.load(anonymous)
        for reference in (anonymous, moments):
            for measure in (lambda r, e: evaluate(REAL, r, e), lambda r, e: fdr.FDLoss(e, r)):
                with pytest.raises(InputError, match="cannot serve both random and random:1"):
                    measure(reference, ["random", "random:1"])
                measure(reference, ["random:1"])

    @pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")  # so few images, and the reference itself
    def test_moments_that_say_whose_they_are(self, tmp_path: Path) -> None:
        extracted = Moments.from_features(fdr.extract(REAL, "random"))
        write_reference_file(open_images(REAL), fdr.load_encoder("random"), tmp_path / "a.h5")
        assert extracted.attributes["encoder"] == "random" and Moments.load(tmp_path / "a.h5") == extracted
        for reference in (extracted, tmp_path / "a.h5", Moments.load(tmp_path / "a.h5")):
            assert evaluate(REAL, reference, "random")["fd"].value < 1e-6
            for other in ("random:1", fdr.load_encoder("random:1"), TinyEncoder("x", 256)):
                with pytest.raises(InputError, match=r"another encoder spec|holds moments of random, not of random:1"):
                    find_reference(reference, other)
        with pytest.raises(InputError, match="two encoders cannot be merged"):
            extracted.merge(Moments.from_features(fdr.extract(REAL, "random:1")))

    def test_an_entry_of_inception_serves_one_of_its_variants(self, tmp_path: Path) -> None:
        moments = Moments.from_features(np.random.default_rng(0).normal(size=(600, 12)))
        spatial = {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}
        np.savez(tmp_path / "adm.npz", mu=moments.mu, sigma=moments.sigma, **spatial)
        with pytest.raises(InputError, match="cannot serve both inception and inception:clean"):
            evaluate(REAL, tmp_path / "adm.npz", [TinyEncoder("inception"), TinyEncoder("inception:clean")])


class TestNoReferenceGiven:
    def test_two_folders_are_asked_about(self, fdr_command, tmp_path: Path) -> None:
        from worlds import folder

        for name in ("fake", "real"):
            folder(tmp_path / name, REAL[:8])
        for command in ("eval", "check"):
            got = fdr_command(command, "fake/", "real/", "--reps", "random")
            assert got.code == 2 and f"did you mean fdr {command} fake/ --ref real/?" in got.err
            assert "say --ref imagenet256" in got.err

    def test_the_default_is_told(self, fdr_command, tmp_path: Path, monkeypatch) -> None:
        npz(tmp_path / "s.npz", REAL)
        told = "fdr: note: no --ref was given; the reference is imagenet256."
        got = fdr_command("eval", "s.npz", "--reps", "random")
        assert got.code == 2 and got.err.startswith(told)  # it has no moments of random
        assert told not in fdr_command("eval", "s.npz", "--reps", "random", "--quiet").err
        assert told not in fdr_command("eval", "s.npz", "--reps", "random", "--ref", "demo").err
        got = fdr_command("train", "--gen", "g.pt2", "-o", "run", "--reps", "random", "--dry-run")
        assert got.code == 2 and told in got.err
        monkeypatch.setattr("fdr.evaluation.evaluator.DEFAULT_REFERENCE", "demo")
        report = evaluate(REAL, None, "random")
        assert report.reference is not None and report.reference["is_default"] is True
        assert "is_default" not in (evaluate(REAL, "demo", "random").reference or {})
        monkeypatch.setenv("FDR_EVAL_REF", "demo")
        got = fdr_command("eval", "s.npz", "--reps", "random")
        assert got.code == 0 and "no --ref" not in got.err + got.out


class TestAFolderOfMoments:
    def test_the_index_stands_for_its_folder(self, fdr_command, folder: Path) -> None:
        npz(folder.parent / "s.npz", images(30, seed=1))
        assert find_reference(folder / "reference.json", ENCODER).digest == find_reference(folder, ENCODER).digest
        assert fdr_command("show", "stats/reference.json").out == fdr_command("show", "stats").out

    def test_convert_takes_one_file_of_it(self, fdr_command, folder: Path) -> None:
        got = fdr_command("convert", "stats", "one.npz")
        assert got.code == 2 and "has moments of tiny, second; take one with --encoder NAME" in got.err
        assert fdr_command("convert", "stats", "one.npz", "--encoder", "second").code == 0
        assert Moments.load(folder.parent / "one.npz").dim == 5
        (folder / "second.h5").write_bytes((folder / "tiny.h5").read_bytes())
        got = fdr_command("convert", "stats", "two.npz", "--encoder", "second")
        assert got.code == 2 and "is damaged or another file" in got.err


@pytest.mark.parametrize("case", [*sorted(WRITERS.keys() - {"adm"}), "folder", "index"])
def test_statistics_given_as_samples_are_said_to_be_statistics(case: str, folder: Path) -> None:
    special = {"folder": folder, "index": folder / "reference.json"}
    path = special.get(case) or write(case, folder.parent)
    with pytest.raises(InputError, match="holds statistics, not images; give it as the reference"):
        evaluate(path, folder, ENCODER)


def test_a_noise_floor_is_stored_and_shown(tmp_path: Path, fdr_command) -> None:
    npz(tmp_path / "real.npz", images(120))
    base = ["stats", tmp_path / "real.npz", "--reps", "random", "--no-cache", "-o", tmp_path / "s.h5"]
    got = fdr_command(*base, "--noise-floor")
    assert got.code == 0, got.err
    assert re.search(r"noise floor of random: FD \S+ ± \S+.* between random halves of 60 images \(4 splits\)", got.out)
    assert json.loads(fdr_command("show", tmp_path / "s.h5", "--json", "-").out)["noise floor"]["count"] == 60
    for more, sentence in (
        (["--moments-only"], "--moments-only keeps no features"),
        (["--format", "adm"], "no place for a noise floor; leave out --noise-floor"),
    ):
        got = fdr_command("stats", tmp_path / "real.npz", "-o", tmp_path / "t.npz", "--noise-floor", *more)
        assert got.code == 2 and sentence in got.err and not (tmp_path / "t.npz").exists()


def test_stats_says_what_moments_alone_lack(tmp_path: Path, fdr_command) -> None:
    npz(tmp_path / "real.npz", images(20))
    got = fdr_command("stats", tmp_path / "real.npz", "--reps", "random", "--moments-only", "-o", tmp_path / "s.h5")
    assert got.code == 0 and "no leverage curve, density or debiased validation FD: --moments-only" in got.out
    assert json.loads(fdr_command("show", tmp_path / "s.h5", "--json", "-").out)["leverage curve"] == "none"


def test_stats_prints_the_debiased_validation_fd(tmp_path: Path, fdr_command) -> None:
    reals = npz(tmp_path / "real.npz", images(120)), npz(tmp_path / "val.npz", images(110, seed=3))
    got = fdr_command("stats", reals[0], "--val", reals[1], "--reps", "py:worlds:TinyEncoder", "-o", tmp_path / "s.h5")
    assert got.code == 0, got.err
    header, row = (next(line for line in got.out.splitlines() if word in line) for word in ("sha256", "s.h5  "))
    assert "debiased" in header and re.search(r"\d ± \d", row)
