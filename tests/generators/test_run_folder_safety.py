"""Run folders and sets of samples that were tampered with, changed meanwhile, or left by a killed run."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from generator_worlds import Classes, Scripted, generator, weights
from PIL import Image

import fdr
from fdr.errors import InputError
from fdr.generators import GeneratorSource, sample_set, samples, save_generator, source, write_samples


def source_of(count: int = 20, **options) -> GeneratorSource:
    return GeneratorSource(generator(Classes), count, seed=2, batch_size=8, **options)


def test_a_program_that_changed_since_it_was_loaded_is_not_saved(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.script(Scripted()).save(str(path))
    made = fdr.load_generator(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="has changed since the generator was loaded from it"):
        save_generator(tmp_path / "run", made)


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "/etc/passwd"])
def test_a_run_folder_names_files_of_its_own_alone(tmp_path, name):
    arguments = {"arch": "generator_worlds:Classes"}
    save_generator(tmp_path, fdr.load_generator(weights(tmp_path / "w.safetensors", Classes), **arguments))
    index = json.loads((tmp_path / "generator.json").read_text())
    (tmp_path / "generator.json").write_text(json.dumps({**index, "weights": {"online": name}}))
    with pytest.raises(InputError, match="is no file name"):
        fdr.load_generator(tmp_path, **arguments)


def test_the_settings_of_samples_say_all_that_decides_them(tmp_path):
    write_samples(sample_set(source_of(), tmp_path / "a.npz"))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        settings = json.loads(archive.comment)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {"seed": 2, "count": 20, "labels": "random", "quantize": "uint8", "crop": "none"}.items() <= settings.items()
    assert settings["samples"] == source_of().digest


def test_samples_that_another_release_drew_otherwise_are_others(tmp_path, monkeypatch):
    write_samples(sample_set(source_of(), tmp_path / "a.npz"))
    monkeypatch.setattr(source, "SAMPLING_VERSION", source.SAMPLING_VERSION + 1)
    with pytest.raises(InputError, match="holds samples with samples "):
        write_samples(sample_set(source_of(), tmp_path / "a.npz"))


def test_a_part_of_which_some_images_are_missing_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "PART_SIZE", 10)
    synced = []
    monkeypatch.setattr(samples, "sync_folder", synced.append)
    output = sample_set(source_of(), tmp_path / "pngs")
    output.begin()
    first = next(iter(source_of().batches(1, 0))).images[0].permute(1, 2, 0).numpy()
    Image.fromarray(first).save(output.parts / "00000010.png")  # the first image of the second part, and a wrong one
    assert output.missing() == [(0, 10), (10, 20)]
    write_samples(output)
    write_samples(sample_set(source_of(), tmp_path / "a.npz"))
    expected = np.load(tmp_path / "a.npz")["arr_0"]
    found = np.stack([np.array(Image.open(tmp_path / "pngs" / f"{i:08d}.png")) for i in range(20)])
    assert np.array_equal(found, expected)
    assert tmp_path in synced  # the rename is on the disk


def test_samples_of_code_that_cannot_be_compared_are_not_written(tmp_path):
    def pipeline(generator, batch_size=1):
        return (np.zeros((batch_size, 4, 4, 3), np.float32),)

    with fdr.generators.samples_of(pipeline, 4, fdr.ImageOptions(), fdr.generators.GeneratorOptions()) as found:
        assert found.is_repeatable is False and found.digest is None
        with pytest.raises(InputError, match="could not be resumed"):
            sample_set(found, tmp_path / "a.npz")
