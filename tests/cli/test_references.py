"""`fdr references`, `fdr convert` and `fdr show` of statistics, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import PATIENCE
from statistics_worlds import COUNT, DIM, WRITERS, malicious, named, write
from worlds import images, npz

from fdr.frechet import Moments


def test_references_list_shows_all_and_says_what_is_here(fdr_command) -> None:
    data = json.loads(fdr_command("references", "list", "--json", "-").out)["references"]
    rows = {row["name"]: row for row in data}
    assert rows["demo"]["encoders"]["random"]["path"] is not None
    assert rows["imagenet256:adm"]["encoders"]["inception"]["outputs"] == ["spatial"]
    assert rows["imagenet256"]["encoders"]["mae"]["val_fd"] == 0.04
    assert rows["imagenet256:adm"]["encoders"]["inception"]["digest_by"]
    table = fdr_command("references", "list").out
    assert "imagenet64:adm, imagenet64" in table and "0/1" in table


def test_references_fetch_plans_and_refuses(fdr_command, tmp_path: Path) -> None:
    got = fdr_command("references", "fetch", "imagenet256", "--reps", "fdr6", "--dry-run")
    assert got.code == 0 and len(got.out.splitlines()) == 6 and "would fetch https://huggingface.co" in got.out
    got = fdr_command("references", "fetch", "imagenet256:adm", "--offline", "--to", tmp_path / "w")
    assert got.code == 2 and got.err.count("\n") == 1 and "VIRTUAL_imagenet256_labeled.npz (2.0 GB)" in got.err
    got = fdr_command("references", "fetch", "imagenett")
    assert got.code == 2 and "did you mean" in got.err
    got = fdr_command("references", "fetch", "demo", "--to", tmp_path / "w")
    assert got.code == 0 and (tmp_path / "w" / "demo-random.h5").is_file()


def test_references_verify_finds_damage(fdr_command, tmp_path: Path) -> None:
    assert fdr_command("references", "verify").out.startswith("sound    demo")
    (tmp_path / "VIRTUAL_imagenet64_labeled.npz").write_bytes(b"PK\x03\x04 cut short")
    got = fdr_command("references", "verify", "imagenet64", "--weights-dir", tmp_path)
    assert got.code == 1 and got.out.startswith("damaged") and "1 of 1 files are here, 1 damaged" in got.out


@pytest.mark.parametrize("case", WRITERS)
def test_show_reads_every_format(case: str, fdr_command, tmp_path: Path) -> None:
    path = write(case, tmp_path)
    facts = json.loads(fdr_command("show", path, "--json", "-").out)
    assert facts["format"] == WRITERS[case][2]
    first = next(iter(facts["entries"].values())) if "entries" in facts else facts
    assert first["dim"] == DIM and first["rank"] == DIM
    assert "format" in fdr_command("show", path).out


def test_show_warns_of_what_is_doubtful(fdr_command, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.array([[1.0, 1], [1, 1]]))
    got = fdr_command("show", tmp_path / "s.npz")
    assert got.code == 0
    assert "does not say how many images" in got.err and "singular covariance (rank 1 of 2)" in got.err


def test_convert_writes_and_says_what(fdr_command, tmp_path: Path) -> None:
    source = write("edm2", tmp_path)
    got = fdr_command("convert", source, tmp_path / "o.npz", "--entry", "fid")
    assert got.code == 0 and got.err == ""
    assert got.out == f"wrote {tmp_path / 'o.npz'} (npz): fid of edm2, {DIM}-d, {COUNT} images\n"
    np.testing.assert_array_equal(Moments.load(tmp_path / "o.npz").mu, named()["mu"])
    got = fdr_command("convert", source, tmp_path / "p.npz", "--entry", "fid", "--json", "-", "--dry-run")
    assert json.loads(got.out)["entries"] == ["fid"] and not (tmp_path / "p.npz").exists()


def test_convert_refuses_in_one_sentence(fdr_command, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"fid": malicious(tmp_path / "executed")}))
    np.savez(tmp_path / "bad.npz", mu=np.zeros(3), sigma=np.array([[1, 2, 0], [2, 1, 0], [0, 0, 1.0]]))
    for arguments, sentence in (
        (("evil.pkl", "o.npz"), "io.open; only dictionaries"),
        (("bad.npz", "o.npz"), "not positive semidefinite"),
        (("none.npz", "o.npz"), "none.npz does not exist"),
        ((write("edm2", tmp_path), "o.npz"), "take one with --entry NAME"),
        ((write("edm2", tmp_path), "o.npz", "--entry", "fidd"), "did you mean 'fid'?"),
    ):
        got = fdr_command("convert", *arguments)
        assert got.code == 2 and sentence in got.err and got.err.count("\n") == 1, got.err
    assert not (tmp_path / "o.npz").exists() and not (tmp_path / "executed").exists()


def test_eval_takes_any_format_as_a_reference(fdr_command, tmp_path: Path) -> None:
    samples = npz(tmp_path / "samples.npz", images(40, seed=1, side=32))
    real = npz(tmp_path / "real.npz", images(300, side=32))
    assert fdr_command("stats", real, "-o", tmp_path / "stats", "--reps", "random", "-q").code == 0
    values = []
    for to in ("h5", "npz", "adm", "fdloss", "clean-fid", "torch-fidelity"):
        out = tmp_path / f"ref.{to}"
        assert fdr_command("convert", tmp_path / "stats" / "random.h5", out, "--to", to).code == 0
        got = fdr_command("eval", samples, "--ref", out, "--reps", "random", "--json", "-", "-q")
        assert got.code == 0, got.err
        values.append(json.loads(got.out)["results"][0]["value"])
    assert len(set(values)) == 1
    got = fdr_command("convert", tmp_path / "stats" / "random.h5", tmp_path / "ref.pkl")
    assert got.code == 2 and "these moments are of random" in got.err


def test_eval_says_a_doubt_once(fdr_command, tmp_path: Path) -> None:
    samples = npz(tmp_path / "samples.npz", images(20, seed=1, side=32))
    dim = 256
    np.savez(tmp_path / "r.npz", mu=np.zeros(dim), sigma=np.eye(dim, dtype=np.float32))
    got = fdr_command("eval", samples, samples, "--ref", tmp_path / "r.npz", "--reps", "random", "--json", "o.json")
    assert got.code == 0
    assert got.err.count("does not say how many images") == 1 and got.err.count("covariance in float32") == 1
    assert any("float32" in text for text in json.loads((tmp_path / "o.json").read_text())["reports"][0]["warnings"])


def test_listing_references_needs_no_torch(tmp_path: Path) -> None:
    path = write("bundle", tmp_path)
    for arguments in (["references", "list"], ["show", str(path)], ["convert", str(path), "o.npz", "--dry-run"]):
        heavy = "sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
        code = f"import sys; from fdr.cli import run; run({arguments!r}); {heavy}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, cwd=tmp_path)
        assert done.returncode == 0, arguments
