"""Samples as files: resumed without a trace, published in one step, never mixed with others."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generator_worlds import Classes, Plain, generator, weights
from PIL import Image
from thread_ranks import on_ranks

import fdr
from fdr.errors import InputError, RunError
from fdr.generators import GeneratorSource, sample_set, write_samples
from fdr.generators import samples as module


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_SIZE", 16)


def source(kind=Classes, count: int = 50, **options) -> GeneratorSource:
    return GeneratorSource(generator(kind), count, seed=2, batch_size=8, **options)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of an output."""
    paths = [path] if path.is_file() else sorted(path.iterdir())
    return {entry.name if path.is_dir() else "": entry.read_bytes() for entry in paths}


def test_an_npz_is_as_adm_has_it(tmp_path):
    made = source(labels="balanced")
    assert write_samples(sample_set(made, tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) == {"arr_0", "arr_1"}
        assert file["arr_0"].shape == (50, 4, 4, 3) and file["arr_0"].dtype == np.uint8
        assert file["arr_1"].tolist() == [i % 5 for i in range(50)]
        array = file["arr_0"]
    for batch in (made.batches(50, 0), fdr.open_images(tmp_path / "a.npz").batches(50, 0)):
        assert np.array_equal(np.stack([i.permute(1, 2, 0) for i in next(batch).images]), array)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_a_folder_of_png_holds_the_same_images(tmp_path):
    write_samples(sample_set(source(), tmp_path / "a.npz"))
    write_samples(sample_set(source(), tmp_path / "pngs"))
    names = sorted(path.name for path in (tmp_path / "pngs").glob("*.png"))
    assert names == [f"{i:08d}.png" for i in range(50)]
    array = np.load(tmp_path / "a.npz")
    read = np.stack([np.array(Image.open(tmp_path / "pngs" / name)) for name in names])
    assert np.array_equal(read, array["arr_0"])
    assert json.loads((tmp_path / "pngs" / "samples.json").read_text())["class_of"] == array["arr_1"].tolist()
    opened = [fdr.open_images(tmp_path / name) for name in ("a.npz", "pngs")]
    assert opened[0].labels.tolist() == opened[1].labels.tolist()


def test_without_classes_there_are_no_labels(tmp_path):
    write_samples(sample_set(source(Plain), tmp_path / "a.npz"))
    assert set(np.load(tmp_path / "a.npz")) == {"arr_0"}
    write_samples(sample_set(source(Plain), tmp_path / "pngs"))
    assert "class_of" not in json.loads((tmp_path / "pngs" / "samples.json").read_text())


@pytest.mark.parametrize("name", ["a.npz", "pngs"])
@pytest.mark.parametrize("after", [0, 1, 17, 40])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, name, after):
    write_samples(sample_set(source(), tmp_path / "whole" / name))
    broken = source()
    forward, made = broken.generator.network.forward, 0

    def failing(noise, labels):
        nonlocal made
        if made >= after:
            raise KeyboardInterrupt
        made += len(noise)
        return forward(noise, labels)

    broken.generator.network.forward = failing
    samples = sample_set(broken, tmp_path / name)
    with pytest.raises(KeyboardInterrupt):
        write_samples(samples)
    assert not samples.path.exists()
    assert len(samples.missing()) == 4 - made // 16
    (samples.parts / ".half.png.1").write_bytes(b"left by a kill")
    broken.generator.network.forward = forward
    assert write_samples(samples)
    assert contents(samples.path) == contents(tmp_path / "whole" / name)
    assert not samples.parts.exists()


@pytest.mark.parametrize("name", ["a.npz", "pngs"])
def test_a_finished_run_is_left_alone(tmp_path, name):
    samples = sample_set(source(), tmp_path / name)
    assert write_samples(samples)
    before = samples.path.stat().st_mtime_ns
    samples.source.generator.network.forward = None  # nothing is made again
    assert not write_samples(samples)
    assert samples.path.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["a.npz", "pngs"])
@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (GeneratorSource(generator(Classes), 49, seed=2), "count 50; asked for was 49"),
        (GeneratorSource(generator(Classes), 50, seed=3), "seed 2; asked for was 3"),
        (GeneratorSource(generator(Classes), 50, seed=2, labels=1), "labels 'random'; asked for was 1"),
        (GeneratorSource(generator(Classes, 1), 50, seed=2), "digest '.*'; asked for was"),
    ],
)
def test_other_samples_are_not_overwritten_or_mixed_in(tmp_path, name, other, sentence):
    samples = sample_set(source(), tmp_path / name)
    samples.begin()
    with pytest.raises(InputError, match=f"{sentence}.*; finish those first, or remove the folder"):
        write_samples(sample_set(other, tmp_path / name))
    write_samples(samples)
    before = contents(samples.path)
    with pytest.raises(InputError, match=f"{sentence}.*; remove it or name another"):
        write_samples(sample_set(other, tmp_path / name))
    assert contents(samples.path) == before


def test_what_is_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"mine")
    for name in ("a.npz", "mine"):
        with pytest.raises(InputError, match=r"is there already and is not what fdr sample wrote"):
            write_samples(sample_set(source(), tmp_path / name))
    with pytest.raises(InputError, match=r"as an \.npz file or as a folder of PNG files; got .*a\.tar"):
        sample_set(source(), tmp_path / "a.tar")
    (tmp_path / "empty").mkdir()
    assert write_samples(sample_set(source(), tmp_path / "empty"))


@pytest.mark.parametrize("name", ["a.npz", "pngs"])
def test_a_full_disk_is_one_sentence_and_costs_no_sample(tmp_path, name, monkeypatch):
    samples = sample_set(source(), tmp_path / name)
    with monkeypatch.context() as full:
        for module_name in ("numpy.save", "PIL.Image.Image.save"):
            full.setattr(module_name, lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(RunError, match=r"Cannot write .*: No space left; free some space"):
            write_samples(samples)
    assert write_samples(samples)


def test_parts_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / ".a.npz.parts").mkdir()
    (tmp_path / ".a.npz.parts" / "samples.json").write_text("{")
    with pytest.raises(InputError, match=r"is not what fdr sample wrote; finish those first, or remove the folder"):
        write_samples(sample_set(source(), tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["a.npz", "pngs"])
def test_three_ranks_write_what_one_does(tmp_path, name):
    write_samples(sample_set(source(), tmp_path / "whole" / name))
    sets = [sample_set(source(), tmp_path / name) for _ in range(3)]
    assert on_ranks(3, lambda group: write_samples(sets[group.rank], group=group)) == [True] * 3
    assert contents(tmp_path / name) == contents(tmp_path / "whole" / name)


def test_code_that_cannot_be_read_is_not_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("fdr.generators.base.module_digest", lambda network: "unknown")
    with pytest.raises(InputError, match="code of generator cannot be read"):
        sample_set(source(), tmp_path / "a.npz")


KILLED = """
import os, signal, sys
from fdr.cli import main
rename, seen = os.replace, []

def replace(*paths):
    seen.append(paths)
    if len(seen) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)

os.replace = replace
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.npz", "pngs"])
def test_a_killed_command_resumes_on_two_ranks_to_the_same_bytes(tmp_path, name):
    weights(tmp_path / "g.safetensors", Classes)
    arguments = ["sample", "--gen", "g.safetensors", "--arch", "generator_worlds:Classes"]
    arguments += ["-n", "6000", "-q", "--device", "cpu", "-o"]
    program = [sys.executable, "-m", "fdr", *arguments]
    environment = {
        "PYTHONPATH": f"{Path(fdr.__file__).parent.parent}:{Path(__file__).parent.parent}",
        "PATH": "/usr/bin",
    }
    subprocess.run([*program, f"whole/{name}"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    place = "4" if name == "a.npz" else "1500"  # the settings and two parts; the second part half written
    killed = subprocess.run([sys.executable, "-c", KILLED, place, *arguments, name], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / name).exists()
    assert len(list((tmp_path / f".{name}.parts").iterdir())) > 2
    subprocess.run([*program, name, "--gpus", "2"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert contents(tmp_path / name) == contents(tmp_path / "whole" / name)
