"""`fdr sample`, and `fdr eval --gen`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from generator_worlds import Classes, weights
from worlds import images, npz

ARCH = ("--arch", "generator_worlds:Classes", "--device", "cpu")


@pytest.fixture
def checkpoint(tmp_path):
    return weights(tmp_path / "g.safetensors", Classes)


def test_sample_writes_resumes_and_says_so(fdr_command, checkpoint, tmp_path):
    call = ("sample", "--gen", checkpoint, *ARCH, "-n", 30, "-o", "a.npz", "--seed", 4, "-q")
    planned = fdr_command(*call, "--dry-run")
    assert planned.code == 0 and "would write 30 samples 4 x 4 of g.safetensors (online), seed 4" in planned.out
    assert not (tmp_path / "a.npz").exists()
    made = fdr_command(*call)
    assert made.code == 0 and made.out.startswith("a.npz: 30 samples 4 x 4 of g.safetensors") and made.err == ""
    again = fdr_command(*call)
    assert again.code == 0 and again.out.strip().endswith("(finished already)")
    assert "a.npz is finished" in fdr_command(*call, "--dry-run").out
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (30, 4, 4, 3)


def test_batch_size_does_not_change_the_samples(fdr_command, checkpoint, tmp_path):
    for size in (3, 30):
        call = ("sample", "--gen", checkpoint, *ARCH, "-n", 30, "-q", "--batch-size", size, "-o", f"{size}.npz")
        assert fdr_command(*call).code == 0
    assert (tmp_path / "3.npz").read_bytes() == (tmp_path / "30.npz").read_bytes()


def test_arguments_of_the_architecture(fdr_command, tmp_path):
    network = Classes(3)
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "g.safetensors")
    call = ("sample", "--gen", "g.safetensors", "--arch", "generator_worlds:Classes", "-n", 6, "--labels", "balanced")
    done = fdr_command(*call, "--arch-args", "num_classes=3", "-o", "a.npz", "-q")
    assert done.code == 0, done.err
    assert np.load(tmp_path / "a.npz")["arr_1"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "a.tar"), "as an .npz file or as a folder of PNG files"),
        (("-o", "a.npz", "--labels", "7"), "the generator has the classes 0 to 4"),
        (("-o", "a.npz", "--arch-args", "width"), "'width' is not KEY=VALUE"),
        (("-o", "a.npz", "--noise-shape", "3x"), "'3x' is no shape of noise"),
        (("-o", "a.npz", "--noise-shape", "2x5x5", "--value-range", "0:1"), "declare -1:1"),
        (("-o", "a.npz", "--ema", "edm_500"), "Unknown weights"),
        (
            (
                "-o",
                "g.safetensors/a.npz",
            ),
            "is not a folder",
        ),
    ],
)
def test_sample_refuses_in_one_sentence(fdr_command, checkpoint, options, sentence):
    refused = fdr_command("sample", "--gen", checkpoint, *ARCH, "-n", 4, "-q", *options)
    assert refused.code == 2 and sentence in refused.err and refused.out == ""


def test_a_generator_is_measured_as_its_samples_are(fdr_command, checkpoint, tmp_path):
    npz(tmp_path / "real.npz", images(30, side=4))
    shared = ("--ref", "real.npz", "--reps", "random", "--no-cache", "-q", "--device", "cpu")
    generator = ("--gen", checkpoint, "--arch", "generator_worlds:Classes", "--num-images", 40, "--seed", 3)
    assert fdr_command("sample", *generator[:4], "-n", 40, "--seed", 3, "-q", "-o", "a.npz").code == 0
    assert fdr_command("eval", "a.npz", *shared, "--json", "a.json").code == 0
    measured = fdr_command("eval", *generator, *shared, "--json", "b.json")
    assert measured.code == 0, measured.err
    values = [json.loads((tmp_path / name).read_text())["results"][0]["value"] for name in ("a.json", "b.json")]
    assert values[0] == values[1]
    samples = json.loads((tmp_path / "b.json").read_text())["samples"]
    assert (samples["made_by"]["seed"], samples["made_by"]["labels"], samples["count"]) == (3, "random", 40)
    planned = fdr_command("eval", *generator, *shared, "--dry-run")
    assert "samples: g.safetensors, 40 images, random (0 cached) on cpu" in planned.out


def test_eval_needs_samples_or_a_generator(fdr_command):
    nothing = fdr_command("eval", "--reps", "random")
    assert nothing.code == 2 and "Name sample sets, or a generator with --gen" in nothing.err


def test_options_of_a_generator_need_one(fdr_command):
    refused = fdr_command("eval", "a.npz", "--num-images", 5, "--reps", "random")
    assert refused.code == 2 and "--num-images goes with --gen" in refused.err


def test_a_subset_of_a_generator_is_refused(fdr_command, checkpoint, tmp_path):
    npz(tmp_path / "real.npz", images(30, side=4))
    options = ("--ref", "real.npz", "--reps", "random", "--no-cache", "--count", 5)
    refused = fdr_command("eval", "--gen", checkpoint, *ARCH, *options)
    assert refused.code == 2 and "leave out --count" in refused.err
