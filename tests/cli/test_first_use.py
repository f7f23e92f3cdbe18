"""What a newcomer types out of habit is answered with the word that fdr uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import images, npz

import fdr
from fdr.cli import COMMANDS as HAVING
from fdr.cli import cli, run
from fdr.encoders import ROWS
from fdr.runtime import COMMANDS
from fdr.runtime.arguments import SYNONYMS


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("eval s --model dinov2", "'--model'; did you mean --reps?"),
        ("eval s --output o.json", "did you mean --json?"),
        ("eval s --num-samples 5", "did you mean --num-images or --count?"),
        ("eval --real r --fake s", "did you mean --ref?"),
        ("eval --fake s", "did you mean SAMPLES... without an option?"),
        ("eval s --fid", "as a metric, fid is the metric fd of the encoder inception"),
        ("check s --ppl", "as a metric, ppl is not offered yet"),
        ("train --learning-rate 1", "did you mean --lr?"),
        ("sample --ckpt x", "did you mean --gen?"),
        ("stats x --resolution 64", "did you mean --size?"),
        ("eval s -n 5", "To take a subset of sample sets, use --count."),
        ("fid a b", "No such command 'fid'; did you mean fdr eval?"),
        ("evel a", "did you mean fdr eval?"),
    ],
)
def test_a_habit_of_another_tool_is_answered(typed: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(typed.split()) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "given", "answer"),
    [
        (fdr.evaluate, "ref", "evaluate has no argument 'ref'; did you mean 'reference'?"),
        (fdr.evaluate, "reps", "did you mean 'encoders'?"),
        (fdr.evaluate, "device", r"write encoder_options=fdr.EncoderOptions\(device=...\)"),
        (fdr.evaluate, "resolution", r"write image_options=fdr.ImageOptions\(size=...\)"),
        (fdr.evaluate, "batchsize", "did you mean 'batch_size'?"),
        (fdr.evaluate, "qwertz", "it has samples, reference, encoders"),
        (fdr.extract, "model", "did you mean 'encoder'?"),
        (fdr.load_encoder, "gpu", "did you mean 'device'?"),
        (fdr.interpolated_fid, "vae", "did you mean 'autoencoder'?"),
        (fdr.interpolated_fid, "top_k", r"write ifid_options=fdr.IfidOptions\(top_k=...\)"),
        (fdr.FDLoss, "model", "FDLoss has no argument 'model'; did you mean 'encoders'?"),
    ],
)
def test_a_wrong_argument_is_answered_with_the_right_one(call, given: str, answer: str) -> None:
    with pytest.raises(fdr.InputError, match=answer) as caught:
        call(**{given: 1})
    assert isinstance(caught.value, TypeError)


def test_the_tables_of_words_say_nothing_twice() -> None:
    words = [word for row in COMMANDS.values() for word in row.split()]
    assert len(words) == len(set(words)) and COMMANDS.keys() <= HAVING.keys()
    assert not {word for word in words if word in HAVING}
    everything = [word for row in SYNONYMS for word in row]
    assert {word for word in everything if everything.count(word) > 1} <= {"images", "path", "save", "stats"}


def test_a_dry_run_lists_all_that_is_missing_and_one_command(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = str(npz(tmp_path / "s.npz", images(12)))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    names = ["mae", "dinov2"]
    assert run(["eval", samples, "--reps", ",".join(names), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 files are not on this machine (2.4 GB and more of unknown size)")
    assert all(out.count(f"  {name}: vit_large_patch1") == 1 for name in names) and out.count("  imagenet256: ") == 2
    command = "fdr weights fetch mae,dinov2 && fdr references fetch imagenet256 --reps mae,dinov2"
    assert out.splitlines()[-1] == f"Fetch with: {command}"
    for half in command.split(" && "):
        assert run([*half.split()[1:], "--dry-run"]) == 0 and "would fetch" in capsys.readouterr().out
    assert run(["eval", samples, "--reps", "mae,dinov2", "--offline"]) == 2
    assert f"mae, dinov2, imagenet256. Where there is a network: {command}." in capsys.readouterr().err
    for rest in (["ifid", "--vae", "haar", "--images", samples], ["stats", samples, "-o", "r"]):
        assert run([*rest, "--reps", "mae", "--dry-run", "--offline"]) == 2
        assert "1 file is not on this machine (1.2 GB), and the run is offline" in capsys.readouterr().out
    assert run(["eval", samples, "--ref", samples, "--reps", "random", "--offline", "--dry-run"]) == 0
    assert "12 images" in capsys.readouterr().out


def test_the_table_of_encoders_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["encoders"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, (line.rstrip() for line in out.splitlines()))) <= 80
    assert all(row.name in out.split() for row in ROWS) and "CC-BY-NC-4.0 (nc)" in out
    assert run(["encoders", "MAE"]) == 0
    out = capsys.readouterr().out
    assert "vit_large_patch16_224.mae" in out and "non-commercial" in out and "fdr weights fetch mae" in out
    assert run(["encoders", "timm:resnet18"]) == 2
    assert "Unknown encoder with a description 'timm:resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered", "others"),
    [
        ("eval --reps inc", "inception", "dinov2"),
        ("eval --reps inception,DI", "inception,dinov2", "inception,inception"),
        ("train --monitor fd", "fdr6", "mae"),
        ("eval --ref demo", "demo", "imagenet256"),
        ("check --metrics fd,prec", "fd,precision", "fd,recall"),
        ("weights fetch si", "siglip", "mae"),
        ("references fetch imagenet5", "imagenet512:jit", "demo"),
        ("encoders conv", "convnext", "mae"),
    ],
)
def test_the_shell_completes_names(typed: str, offered: str, others: str, monkeypatch, capsys) -> None:
    words = typed.split()
    monkeypatch.setenv("_FDR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"fdr {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        cli.main(args=[], prog_name="fdr", complete_var="_FDR_COMPLETE", standalone_mode=True, obj=[])
    lines = capsys.readouterr().out.splitlines()
    assert f"plain,{offered}" in lines and f"plain,{others}" not in lines
