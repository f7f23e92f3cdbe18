"""What a newcomer types out of habit is answered with the word that fdr uses."""

from __future__ import annotations

import pytest

import fdr
from fdr.arguments import COMMANDS, SYNONYMS
from fdr.cli import COMMANDS as HAVING
from fdr.cli import run


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("eval s --model dinov2", "'--model'; did you mean --reps?"),
        ("eval s --output o.json", "did you mean --json?"),
        ("eval s --num-samples 5", "did you mean --num-images or --count?"),
        ("eval --real r --fake s", "did you mean --ref?"),
        ("eval --fake s", "did you mean SAMPLES... without an option?"),
        ("eval s --fid", "as a metric, fid is the metric fd of the encoder inception"),
        ("check s --kid", "as a metric, kid is not offered yet"),
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
