"""Pipelines of diffusers that are run as a whole: diffusers itself is the oracle."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_worlds as worlds
import pytest
import torch
from PIL import Image
from pipeline_worlds import images, source
from thread_ranks import on_ranks

import fdr
from fdr.errors import InputError, RunError
from fdr.evaluation.prompts import Prompts
from fdr.features import ExtractionOptions
from fdr.generators import LoadedPipeline, load_pipeline, sample_set, write_samples
from fdr.generators import pipelines as module
from fdr.generators.labels import network_seed
from fdr.images import Captions, ImageOptions, read_captions

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
KINDS = ("ddpm", "dit", "sd")


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_are_those_of_diffusers(
    folders: Mapping[str, Path], loaded: Mapping[str, LoadedPipeline], captions: Captions, kind: str
) -> None:
    ours = source(loaded[kind], captions=captions, options=ImageOptions(quantize="none"))
    theirs = diffusers.DiffusionPipeline.from_pretrained(folders[kind])
    theirs.set_progress_bar_config(disable=True)
    draws = [torch.Generator().manual_seed(network_seed(3, row)) for row in range(4)]
    given = {"ddpm": {"batch_size": 4}, "dit": {"class_labels": None}, "sd": {"prompt": captions.prompts}}[kind]
    if kind == "dit":
        labels = ours.labels_at(0, 4)
        assert labels is not None
        given["class_labels"] = labels.tolist()
    expected = theirs(generator=draws, output_type="np", **given, **worlds.ARGUMENTS[kind]).images
    np.testing.assert_allclose(images(ours).transpose(0, 2, 3, 1), expected, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_depends_on_its_seed_and_number_alone(
    loaded: Mapping[str, LoadedPipeline], captions: Captions, kind: str
) -> None:
    four = images(source(loaded[kind], captions=captions)).astype(int)
    for other in (source(loaded[kind], captions=captions, batch_size=3), source(loaded[kind], 3, captions)):
        made = images(other).astype(int)
        assert abs(made - four[: len(made)]).max() <= 1  # a value between two grey levels
    assert abs(images(source(loaded[kind], captions=captions, seed=4)) - four).max() > 1
    assert all(abs(four[0] - one).max() > 1 for one in four[1:])


def test_the_prompt_is_seen(loaded: Mapping[str, LoadedPipeline], captions: Captions) -> None:
    other = Captions("c", [*captions.prompts[:3], "the sky"], captions.names)
    first, second = (images(source(loaded["sd"], captions=one)).astype(int) for one in (captions, other))
    assert abs(first[:3] - second[:3]).max() <= 1 < abs(first[3] - second[3]).max()


def changed_weights(folder: Path, to: Path) -> Path:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    with torch.no_grad():
        next(pipeline.vae.decoder.parameters()).mul_(2)
    pipeline.save_pretrained(to)
    return to


def test_the_digest_covers_what_moves_the_images(
    folders: Mapping[str, Path], loaded: Mapping[str, LoadedPipeline], captions: Captions, tmp_path: Path
) -> None:
    given = worlds.ARGUMENTS["sd"]
    same = load_pipeline(folders["sd"], dict(reversed(given.items())), device="cpu")
    assert same.digest == loaded["sd"].digest
    others = [
        load_pipeline(folders["sd"], {**given, **more}, device="cpu")
        for more in (
            {"num_inference_steps": 2},
            {"guidance_scale": 2.0},
            {"negative_prompt": "blurry"},
            {"scheduler": "EulerAncestralDiscreteScheduler"},
            {"dtype": "bf16"},
        )
    ]
    others.append(load_pipeline(changed_weights(folders["sd"], tmp_path / "other"), given, device="cpu"))
    tokenizer = tmp_path / "other" / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "model_max_length": 12}))
    others.append(load_pipeline(tmp_path / "other", given, device="cpu"))
    first = source(same, captions=captions)
    digests = {source(one, captions=captions).digest for one in others}
    assert len(digests) == len(others) and first.digest not in digests
    pixels = [images(source(one, captions=captions)) for one in (same, *others[:-1])]
    assert len({one.tobytes() for one in pixels}) == len(pixels)
    assert source(same, captions=captions, seed=4).digest != first.digest
    assert source(same, captions=captions.take([1, 0, 2, 3])).digest != first.digest
    assert source(same, 3, captions).digest != first.digest


def test_reports_say_how_the_pipeline_was_run(loaded: Mapping[str, LoadedPipeline], captions: Captions) -> None:
    made = source(load_pipeline_defaults(loaded["sd"]), captions=captions).made_by
    assert made["arguments"] == {"num_inference_steps": 50, "guidance_scale": 7.5}
    assert made["pipeline"] == "StableDiffusionPipeline" and made["scheduler"] == "DDIMScheduler"
    assert made["prompts"] == captions.digest and made["diffusers"] == diffusers.__version__
    of = source(loaded["dit"], labels="balanced")
    assert of.num_classes == worlds.NUM_CLASSES and of.made_by["labels"] == "balanced"
    assert of.labels_at(0, 4).tolist() == [0, 1, 2, 3]
    report = fdr.evaluate(loaded["dit"], np.zeros((9, 8, 8, 3), np.uint8), "random", num_images=4, labels=2, seed=3)
    assert report.samples["source"] == "dit (3 steps)" and report.samples["made_by"]["labels"] == 2


def load_pipeline_defaults(loaded: LoadedPipeline) -> LoadedPipeline:
    from dataclasses import replace

    return replace(loaded, arguments={})


@pytest.mark.parametrize("num_classes", [None, 5])
def test_a_pipeline_may_take_labels(tmp_path: Path, num_classes: int | None) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**worlds.PIXELS, in_channels=3, out_channels=3, num_class_embeds=num_classes)
    made = diffusers.ConsistencyModelPipeline(unet, diffusers.CMStochasticIterativeScheduler())
    made.save_pretrained(tmp_path / "cm")
    of = source(load_pipeline(tmp_path / "cm", device="cpu"))
    assert of.num_classes == num_classes and images(of).shape == (4, 3, 8, 8)
    if num_classes is not None:
        other = source(of.loaded, labels=3)
        assert (images(other) != images(of)).any() and other.digest != of.digest


def test_evaluate_takes_prompts(loaded: Mapping[str, LoadedPipeline], captions: Captions, tmp_path: Path) -> None:
    def measured(pipeline: Any, prompts: Any, **more: Any) -> float:
        real = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
        return fdr.evaluate(pipeline, real, "random", prompts=prompts, seed=1, **more)["fd", "random"].value

    of_file = measured(loaded["sd"], worlds.captions(tmp_path / "c.jsonl"), cache=tmp_path / "cache")
    assert of_file == measured(loaded["sd"], captions, cache=tmp_path / "cache")
    assert of_file == pytest.approx(measured(loaded["sd"], captions.prompts), rel=1e-6)
    assert of_file != pytest.approx(measured(loaded["sd"], captions.prompts[::-1], num_images=3), rel=1e-3)

    def called(prompt: list[str], generator: Any, output_type: str) -> Any:
        return loaded["sd"].pipeline(prompt, generator=generator, output_type=output_type, **worlds.ARGUMENTS["sd"])

    assert measured(called, captions) == pytest.approx(of_file, rel=1e-6)


@pytest.mark.parametrize("name", ["a.npz", "pngs"])
def test_an_interrupted_run_resumes_with_another_batch_size(
    loaded: Mapping[str, LoadedPipeline], captions: Captions, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_PART", 3)
    write_samples(sample_set(source(loaded["sd"], 9, captions, batch_size=3), tmp_path / "whole" / name))
    broken = source(loaded["sd"], 9, captions, batch_size=3)
    make = broken._made

    def failing(start: int, stop: int) -> Any:
        if start >= 3:
            raise KeyboardInterrupt
        return make(start, stop)

    broken._made = failing
    with pytest.raises(KeyboardInterrupt):
        write_samples(sample_set(broken, tmp_path / name))
    again = sample_set(source(loaded["sd"], 9, captions, batch_size=2), tmp_path / name)
    assert again.missing() == [(3, 6), (6, 9)]
    assert write_samples(again)
    made, whole = (fdr.open_images(tmp_path / place / name) for place in ("", "whole"))
    for batch, other in zip(made.batches(9, 0), whole.batches(9, 0), strict=True):
        assert all(abs(a.int() - b.int()).max() <= 1 for a, b in zip(batch.images, other.images, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_write_what_one_does(
    loaded: Mapping[str, LoadedPipeline], captions: Captions, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_PART", 2)
    write_samples(sample_set(source(loaded[kind], 6, captions), tmp_path / "whole.npz"))
    lock = threading.Lock()  # threads stand in for processes, and a pipeline is not safe in threads

    def run(group: Any) -> bool:
        one = source(loaded[kind], 6, captions)
        make = one._made

        def alone(start: int, stop: int) -> Any:
            with lock:
                return make(start, stop)

        one._made = alone
        return write_samples(sample_set(one, tmp_path / "a.npz"), group=group)

    assert on_ranks(2, run) == [True, True]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_files_are_called_as_their_prompts(
    loaded: Mapping[str, LoadedPipeline], captions: Captions, tmp_path: Path
) -> None:
    assert write_samples(sample_set(source(loaded["sd"], 6, captions), tmp_path / "a"))
    names = ["animals/cat", "dog", "x-1.5", "9", "animals/cat-1", "dog-1"]
    lines = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert lines == [
        {"file_name": f"{name}.png", "prompt": prompt}
        for name, prompt in zip(names, [*captions.prompts, *captions.prompts[:2]], strict=True)
    ]
    of = source(loaded["sd"], 6, captions)
    assert list(of.ids) == names
    assert Prompts(captions, [], ExtractionOptions()).rows_of(of).tolist() == [0, 1, 2, 3, 0, 1]
    for name, image in zip(names, images(of), strict=True):
        assert np.array_equal(np.array(Image.open(tmp_path / "a" / f"{name}.png")), image.transpose(1, 2, 0))
    again = read_captions(tmp_path / "a" / "metadata.jsonl")
    assert len(again.rows_of(fdr.open_images(tmp_path / "a").ids, "a")) == 6
    assert abs(images(of)[0].astype(int) - images(of)[4]).max() > 1  # another seed for the second image of a prompt


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["../a", "b"], r"calls an image '\.\./a', which is no name for a file of a folder"),
        (["/etc/a.png", "b"], "no name for a file"),
        ([".hidden", "b"], "no name for a file"),
        (["a\n", "b"], "no name for a file"),
        (["c:a", "b"], "no name for a file"),
        (["a.png", "a.jpg"], "two samples the name 'a'"),
    ],
)
def test_names_that_no_file_can_have(loaded: Mapping[str, LoadedPipeline], names: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        source(loaded["sd"], 2, Captions("c.jsonl", ["x", "y"], names))


def test_prompts_without_names_are_numbered(loaded: Mapping[str, LoadedPipeline]) -> None:
    captions = Captions("c.txt", ["x", "y"], ["0", "1"], has_names=False)
    assert list(source(loaded["sd"], 3, captions).ids) == ["00000000", "00000001", "00000000-1"]


def test_inputs_that_do_not_fit_the_pipeline(loaded: Mapping[str, LoadedPipeline], captions: Captions) -> None:
    with pytest.raises(InputError, match=r"sd \(3 steps\) makes images of texts; give a file of them with prompts"):
        source(loaded["sd"])
    with pytest.raises(InputError, match="makes images without texts; leave out prompts"):
        fdr.evaluate(loaded["ddpm"], prompts=captions)
    with pytest.raises(InputError, match="takes no class labels; leave out num_classes"):
        fdr.evaluate(loaded["ddpm"], num_classes=3)
    with pytest.raises(InputError, match="takes class labels; say how many classes with num_classes"):
        fdr.evaluate(loaded["dit"], num_classes=0)
    with pytest.raises(InputError, match=r"Prompts are a file, a list of texts, or a dict .*; got int"):
        fdr.evaluate(loaded["sd"], prompts=3)

    def edits(prompt: list[str], image: Any, generator: Any) -> None: ...

    with pytest.raises(InputError, match="needs image beside texts and labels"):
        fdr.evaluate(edits, prompts=captions)
    with pytest.raises(RunError, match=r"ddpm \(3 steps\) failed in samples 0 to 1 \(ValueError: no luck"):
        broken = source(loaded["ddpm"])
        broken._pipeline = lambda **_: (_ for _ in ()).throw(ValueError("no luck"))
        images(broken)


def test_an_object_keeps_its_progress_bar_setting() -> None:
    pipeline = worlds.ddpm()
    pipeline.set_progress_bar_config(desc="mine")
    report = fdr.evaluate(
        partial(pipeline, num_inference_steps=2), np.zeros((9, 8, 8, 3), np.uint8), "random", num_images=2
    )
    assert report.samples["count"] == 2 and pipeline._progress_bar_config == {"desc": "mine"}
