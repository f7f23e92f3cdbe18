"""`fdr eval`: the table, the files, the exit codes, and one sentence for every bad input."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import folder, images, npz

import fdr
from fdr.evaluation.protocols import Protocol


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return npz(tmp_path / "a.npz", images(24, seed=1, side=32))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return folder(tmp_path / "real", images(30, side=32))


def test_one_sample_set(fdr_command, samples: Path, real: Path) -> None:
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "--json", "out.json", "-q")
    assert (got.code, got.err) == (0, "")
    report = fdr.Report.from_json("out.json")
    signature = report["fd", "random"].signature
    assert signature in got.out and "a.npz" in got.out and "FD ↓" in got.out
    assert "24 samples for" in got.out and "biased upward" in got.out


def test_several_sample_sets_share_one_table(fdr_command, samples: Path, real: Path, tmp_path: Path) -> None:
    other = npz(tmp_path / "b.npz", images(26, seed=2, side=32))
    got = fdr_command("eval", samples, other, "--ref", real, "--reps", "random,random:1", "--csv", "-", "-q")
    rows = list(csv.DictReader(io.StringIO(got.out)))
    assert [(row["samples"], row["encoder"]) for row in rows] == [
        (name, encoder) for name in ("a.npz", "b.npz") for encoder in ("random", "random:1")
    ]
    table = fdr_command("eval", samples, other, "--ref", real, "--reps", "random", "-q").out
    assert table.count("samples ") >= 1 and "a.npz" in table and "b.npz" in table


def test_many_metrics_have_a_row_each(fdr_command, samples: Path, real: Path) -> None:
    names = "fd,precision,recall,density,coverage,realism,kid:all,sw2,vendi"
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "--metrics", names, "-q")
    table = got.out.partition("note:")[0]
    assert re.search(r"samples +encoder +n +metric +value", table)
    rows = [line for line in table.splitlines() if "a.npz" in line]
    assert len(rows) == 9 and re.fullmatch(r" a.npz +random +24 +Precision ↑ +\d\.\d+ ± \d\.\d+ *", rows[1])


def test_json_to_stdout_is_only_json(fdr_command, samples: Path, real: Path) -> None:
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "--json", "-")
    assert json.loads(got.out)["schema"] == "fdr-report/1"


def test_markdown(fdr_command, samples: Path, real: Path) -> None:
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "--markdown", "-", "-q")
    assert got.out.startswith("| samples | metric |")


def test_stats_then_eval_is_eval_against_images(fdr_command, samples: Path, real: Path, tmp_path: Path) -> None:
    val = npz(tmp_path / "val.npz", images(28, seed=9, side=32))
    got = fdr_command("stats", real, "--reps", "random", "-o", "stats", "--val", val, "-q")
    assert got.code == 0 and "random.h5" in got.out
    fdr_command("eval", samples, "--ref", "stats", "--reps", "random", "--json", "one.json", "-q")
    fdr_command("eval", samples, "--ref", real, "--reps", "random", "--json", "two.json", "-q")
    one, two = fdr.Report.from_json("one.json"), fdr.Report.from_json("two.json")
    assert one["fd"].value == pytest.approx(two["fd"].value, rel=1e-9)
    assert one["fdr"].value > 0
    shown = fdr_command("show", "stats")
    assert shown.code == 0 and "val_fd" in shown.out and "trace" in shown.out
    assert fdr_command("show", "stats/random.h5").code == 0
    table = fdr_command("show", "one.json").out
    assert one["fd"].signature in table


def test_underscores_are_dashes_and_the_environment_and_the_file_give_defaults(
    fdr_command, samples: Path, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("fdr.toml").write_text(f'[eval]\nreps = "random"\nbatch-size = 8\nref = "{real}"\n')
    assert fdr_command("eval", samples, "--num_workers", 0, "-q").code == 0
    Path("fdr.toml").write_text('[eval]\nreps = "random"\nbatch_size = 8\n')
    assert fdr_command("eval", samples, "--ref", real, "--num_workers", 0, "-q").code == 0
    monkeypatch.setenv("FDR_EVAL_METRICS", "nonsense")
    got = fdr_command("eval", samples, "--ref", real, "-q")
    assert got.code == 2 and "Unknown metric 'nonsense'" in got.err
    Path("fdr.toml").write_text("[eval]\nbatchsize = 8\n")
    got = fdr_command("eval", samples, "--ref", real)
    assert got.code == 2 and "batchsize" in got.err and "batch_size" in got.err
    Path("fdr.toml").write_text("[evall]\n")
    assert "did you mean '[eval]'" in fdr_command("eval", samples).err


def test_dry_run_computes_nothing(fdr_command, samples: Path, real: Path, own_home: Path) -> None:
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "--dry-run")
    assert got.code == 0 and "samples: a.npz, 24 images, random (0 cached) on cpu" in got.out
    assert not (own_home / "fdr" / "features").exists()
    fdr_command("eval", samples, "--ref", real, "--reps", "random", "-q")
    assert "random (24 cached)" in fdr_command("eval", samples, "--ref", real, "--reps", "random", "--dry-run").out


def test_cache_commands(fdr_command, samples: Path, real: Path, own_home: Path) -> None:
    fdr_command("eval", samples, "--ref", real, "--reps", "random", "-q")
    listed = json.loads(fdr_command("cache", "list", "--json", "-").out)
    assert [(row["state"], row["rows_done"]) for row in listed] == [
        ("complete", n) for n in (row["num_rows"] for row in listed)
    ]
    assert fdr_command("cache", "verify", "-q").code == 0
    shard = next((own_home / "fdr" / "features").rglob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert fdr_command("cache", "verify", "-q").code == 1
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "-q")
    assert got.code == 0
    assert "would remove" in fdr_command("cache", "remove", "--all", "--dry-run").out
    assert "2 entries" in fdr_command("cache", "remove", "--all").out
    assert "0 entries" in fdr_command("cache", "list").out


def _bad(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    ok, ref = npz(tmp_path / "ok.npz", images(12, side=16)), npz(tmp_path / "ref.npz", images(12, seed=3, side=16))
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    floats = tmp_path / "floats.npz"
    np.savez(floats, arr_0=np.zeros((4, 8, 8, 3)))
    nchw = npz(tmp_path / "nchw.npz", np.zeros((4, 3, 8, 8), dtype=np.uint8))
    five = npz(tmp_path / "five.npz", np.zeros((4, 8, 8, 5), dtype=np.uint8))
    objects = tmp_path / "objects.npz"
    np.savez(objects, arr_0=np.array([{}, []], dtype=object))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(ok.read_bytes()[:500])
    broken = folder(tmp_path / "broken", images(3, side=8))
    (broken / "0001.png").write_bytes((broken / "0001.png").read_bytes()[:60])
    stats = tmp_path / "stats.npz"
    np.savez(stats, mu=np.zeros(7), sigma=np.eye(7))
    one = npz(tmp_path / "one.npz", images(1, side=8))
    plain = ["--ref", ref, "--reps", "random"]
    return {
        "missing samples": ([tmp_path / "nothing.npz", *plain], "does not exist|no such"),
        "empty folder": ([tmp_path / "empty", *plain], "empty|no image"),
        "no images": ([tmp_path / "texts", *plain], "no image"),
        "one image": ([one, *plain], r"gave 1 image\(s\)"),
        "truncated file": ([broken, *plain], r"0001\.png"),
        "floats": ([floats, *plain], "float64"),
        "NCHW": ([nchw, *plain], r"NHWC|\[N, H, W"),
        "five channels": ([five, *plain], "5"),
        "objects": ([objects, *plain], "object"),
        "truncated zip": ([cut, *plain], "truncated|damaged|not a"),
        "statistics as samples": ([stats, *plain], "--ref|statistics"),
        "wrong width": ([ok, "--ref", stats, "--reps", "random"], "7-d"),
        "unknown encoder": ([ok, "--ref", ref, "--reps", "dino"], "Unknown encoder 'dino'.*did you mean"),
        "unknown metric": ([ok, *plain, "--metrics", "fdq"], "Unknown metric 'fdq'.*did you mean"),
        "unknown reference": ([ok, "--ref", "imagenet-256", "--reps", "random"], "Unknown reference 'imagenet-256'"),
        "too many": ([ok, *plain, "--count", "13"], "12 images, but 13 were asked"),
        "crop without size": ([ok, *plain, "--crop", "adm"], "--size"),
        "unwritable output": ([ok, *plain, "--json", ok / "x.json"], "Cannot write"),
        "CUDA where there is none": ([ok, *plain, "--device", "cuda"], "no CUDA device"),
        "missing weights": (
            [ok, "--ref", ref, "--reps", "inception", "--offline"],
            r"pt_inception-2015-12-05.*--weights",
        ),
        "cache and no cache": ([ok, *plain, "--cache", tmp_path / "c", "--no-cache"], "exclude each other"),
        "bad option": ([ok, *plain, "--batchsize", "3"], "No such option.*batch-size"),
        "bad weights pair": ([ok, *plain, "--weights", "random"], "NAME=FILE"),
    }


CASES = (
    "missing samples", "empty folder", "no images", "one image", "truncated file", "floats", "NCHW", "five channels",
    "objects", "truncated zip", "statistics as samples", "wrong width", "unknown encoder", "unknown metric",
    "unknown reference", "too many", "crop without size", "unwritable output", "CUDA where there is none",
    "missing weights", "cache and no cache", "bad option", "bad weights pair",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_exit_code_2(fdr_command, tmp_path: Path, case: str) -> None:
    arguments, sentence = _bad(tmp_path)[case]
    if "CUDA" in case and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    got = fdr_command("eval", *arguments, "-q")
    assert got.code == 2, got.err
    assert got.out == ""
    assert "Traceback" not in got.err
    assert re.search(sentence, got.err, flags=re.DOTALL), got.err
    assert "fdr: error:" in got.err or "Error:" in got.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--protocol", "adm", "--reps", "dinov2"], r"Protocol 'adm' measures inception alone; leave out --reps, or"),
        (
            ["--protocol", "adm", "--metrics", "is"],
            r"Protocol 'adm' measures is:adm, fd, sfid.*leave out --metrics, or",
        ),
        (["--protocol", "adn"], "'adn' is not"),
        (["--reps", "random", "--metrics", "sfid"], "needs the output 'spatial', which random does not give"),
        (["--reps", "random", "--metrics", "recall"], "need images of the reference"),
    ],
)
def test_protocols_and_metrics_that_do_not_fit(
    fdr_command, samples: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    got = fdr_command("eval", samples, "--ref", "demo", *arguments, "-q")
    assert got.code == 2 and "Traceback" not in got.err
    assert re.search(sentence, got.err), got.err


def test_a_protocol_wins_over_defaults_of_the_file(fdr_command, samples: Path, real: Path) -> None:
    Path("fdr.toml").write_text('[eval]\nreps = "random"\nmetrics = "is"\n')
    got = fdr_command("eval", samples, "--ref", real, "--protocol", "adm", "--offline", "-q")
    assert got.code == 2 and "pt_inception-2015-12-05" in got.err


def test_a_protocol_has_a_reference_of_its_own_unless_one_is_named(
    fdr_command, samples: Path, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Protocol("toy", "for this test", "random", ("fd",), "demo")
    monkeypatch.setattr("fdr.cli._measurement.find_protocol", lambda name: toy)
    assert "ref:demo:" in fdr_command("eval", samples, "--protocol", "adm", "-q").out
    assert "ref:real:" in fdr_command("eval", samples, "--protocol", "adm", "--ref", real, "-q").out
    Path("fdr.toml").write_text(f'[eval]\nref = "{real}"\n')
    assert "ref:real:" in fdr_command("eval", samples, "--protocol", "adm", "-q").out


def test_precision_and_recall_in_the_table(fdr_command, samples: Path, real: Path) -> None:
    got = fdr_command("eval", samples, "--ref", real, "--reps", "random", "--metrics", "precision,recall", "-q")
    assert got.code == 0 and "Precision ↑" in got.out and "Recall ↑" in got.out
    assert "|k:3|" in got.out and "24 samples and 30 reference images" in got.out


def test_an_image_above_the_limit_names_the_option_that_raises_it(fdr_command, tmp_path):
    reference = npz(tmp_path / "ref.npz", images(20, seed=3, side=32))
    samples = folder(tmp_path / "s", images(12, side=32))
    call = ("eval", samples, "--ref", reference, "--reps", "random", "--max-pixels")
    refused = fdr_command(*call, 1023)
    assert (
        refused.code == 2
        and "0000.png cannot be used: it has 32 x 32 pixels, more than --max-pixels 1023" in refused.err
    )
    assert fdr_command(*call, 1024).code == 0
    assert fdr_command(*call, 0).code == 2
