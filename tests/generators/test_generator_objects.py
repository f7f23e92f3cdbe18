"""Generators that are objects in Python: networks, functions and pipelines, loaded and measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from generator_worlds import Classes, Plain, generator, seeded, weights
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

import fdr
from fdr.errors import FdrWarning, InputError, RunError
from fdr.generators import Generator, GeneratorSource, noise_of

REAL = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
CPU = fdr.EncoderOptions(device="cpu")
pytestmark = pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")


def measure(samples: Any, **more: Any) -> fdr.Report:
    return fdr.evaluate(samples, REAL, "random", encoder_options=CPU, **more)


def test_a_network_becomes_a_generator() -> None:
    network = seeded(Classes)
    loaded = fdr.load_generator(network)
    assert isinstance(loaded, Generator) and not network.training
    assert (loaded.noise_shape, loaded.num_classes, loaded.spec.value_range) == ((2, 4, 4), 5, (-1.0, 1.0))
    assert (loaded.name, loaded.image_size) == ("Classes", (4, 4))
    assert fdr.load_generator(loaded) is loaded


def test_a_function_becomes_a_generator() -> None:
    network = seeded()

    def draw(noise: Tensor) -> Tensor:
        return network(noise)

    loaded = fdr.load_generator(draw, noise_shape=8)
    noise = noise_of(0, range(3), (8,))
    assert torch.equal(loaded(noise)[:, :1], network(noise)) and loaded.name == "draw"
    assert loaded.digest() is None  # another function of this name would have the same
    draw.noise_shape = (8,)  # type: ignore[attr-defined]
    assert fdr.load_generator(draw).noise_shape == (8,)


@pytest.mark.parametrize(
    ("value", "given", "sentence"),
    [
        (42, {}, r"A generator is a Generator .*, an nn.Module or function .* a pipeline of diffusers .*; got a int"),
        (Plain, {}, "Plain is a class: make an object of it"),
        (nn.Linear(8, 3), {}, "Nothing says which noise Linear takes; give noise_shape"),
        (nn.Linear(8, 3), {"noise_shape": 8}, r"must make images .* of 4 samples it made \[4, 3\]"),
        (seeded(), {"arch": "a:b"}, "they are about files of weights, and this is an object"),
        (seeded(), {"ema": "ema"}, "they are about files of weights, and this is an object"),
        (generator(), {"noise_shape": 8}, "is a Generator already; leave out noise_shape"),
        (seeded(), {"noise_shape": "8 x 8"}, "noise shape is the sizes"),
    ],
)
def test_objects_that_are_none(value: Any, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fdr.load_generator(value, **given)


def test_a_network_and_a_function_measure_as_a_file_does(tmp_path: Path) -> None:
    loaded = fdr.load_generator(weights(tmp_path / "a.safetensors"), "generator_worlds:Plain", device="cpu")
    expected = measure(GeneratorSource(loaded, 20, seed=3))["fd", "random"].value
    network = seeded().train()
    network.first.eval()
    network.last.requires_grad_(False)
    report = measure(network, num_images=20, seed=3)
    assert report["fd", "random"].value == expected
    assert network.training and not network.first.training and network.last.training  # as it was
    assert report.samples["count"] == 20 and report.samples["made_by"]["seed"] == 3
    given = {"num_images": 20, "seed": 3}
    assert measure(lambda noise: network(noise), noise_shape=8, **given)["fd", "random"].value == expected
    assert measure(loaded, **given)["fd", "random"].value == expected
    assert measure(loaded, num_images=20)["fd", "random"].value != expected
    classes = seeded(Classes)
    balanced = measure(classes, num_images=20, labels="balanced")["fd", "random"].value
    assert measure(classes, num_images=20)["fd", "random"].value != balanced


def test_the_choice_of_weights_is_in_the_report(tmp_path: Path) -> None:
    torch.save({"model": seeded().state_dict(), "ema": seeded(seed=1).state_dict()}, tmp_path / "a.pt")
    with pytest.warns(FdrWarning, match="measured: ema"):
        loaded = fdr.load_generator(tmp_path / "a.pt", "generator_worlds:Plain", device="cpu")
    report = measure(loaded, num_images=20)
    assert report.samples["made_by"]["weights"] == "ema"
    assert any("holds the trained weights and the average ema; measured: ema" in text for text in report.warnings)


def test_arguments_of_a_generator_for_images() -> None:
    with pytest.raises(InputError, match="num_images, seed: only a generator has this; got a ndarray"):
        measure(REAL, num_images=3, seed=1)
    with pytest.raises(InputError, match=r"A generator makes as many images as asked for .*; leave out count"):
        measure(seeded(), image_options=fdr.ImageOptions(count=3))
    with pytest.raises(InputError, match="number of images is 0; it must be at least 1"):
        measure(seeded(), num_images=0)


class Pipeline:
    """As DDPMPipeline: drawn from random generators, with an output that has `images`."""

    form: Any = "np"

    def __call__(
        self, batch_size: int = 1, generator: Any = None, num_inference_steps: int = 10, output_type: str = "pil"
    ) -> Any:
        assert output_type == "np" and len(generator) == batch_size
        images = torch.stack([torch.rand(3, 8, 8, generator=one) for one in generator])
        rows = images.permute(0, 2, 3, 1).numpy()
        if not isinstance(self.form, str):
            return SimpleNamespace(images=self.form)
        if self.form == "pil":
            return SimpleNamespace(images=[Image.fromarray((row * 255).round().astype(np.uint8)) for row in rows])
        if self.form == "tuple":
            return (rows,)
        return SimpleNamespace(images=images if self.form == "tensor" else rows)


class OneGenerator(Pipeline):
    """As Pipeline, of one random generator for a whole batch."""

    def __call__(self, batch_size: int = 1, generator: torch.Generator | None = None, output_type: str = "pil") -> Any:
        return SimpleNamespace(images=torch.rand(batch_size, 8, 8, 3, generator=generator).numpy())


class Labelled:
    """As DiTPipeline."""

    def __call__(self, class_labels: list[int], generator: Any = None, output_type: str = "pil") -> Any:
        return SimpleNamespace(images=np.stack([np.full((8, 8, 3), label / 9, np.float32) for label in class_labels]))


@pytest.mark.parametrize("form", ["np", "pil", "tuple", "tensor"])
def test_a_pipeline_is_measured(form: str) -> None:
    pipeline = Pipeline()
    pipeline.form = form
    report = measure(pipeline, num_images=20, seed=3, batch_size=8)
    expected = measure(Pipeline(), num_images=20, seed=3, batch_size=5)
    assert report["fd", "random"].value == pytest.approx(expected["fd", "random"].value, rel=1e-6)
    assert report.samples["made_by"] == {"generator": "Pipeline", "count": 20, "seed": 3, "labels": None}
    assert measure(Pipeline(), num_images=20, seed=4)["fd", "random"].value != expected["fd", "random"].value


def test_other_pipelines() -> None:
    first = measure(OneGenerator(), num_images=20)["fd", "random"].value
    assert measure(OneGenerator(), num_images=20)["fd", "random"].value == first
    report = measure(Labelled(), num_images=20, num_classes=10, labels="balanced")
    assert report.samples["made_by"]["labels"] == "balanced"
    with pytest.raises(InputError, match="Labelled takes class labels; say how many classes with num_classes"):
        measure(Labelled(), num_images=20)
    with pytest.raises(InputError, match="draws its own noise; leave out noise_shape"):
        measure(Pipeline(), num_images=20, noise_shape=3)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), r"returned float32 \[3, 8, 8, 3\]; expected 20 images"),
        (np.full((20, 8, 8, 3), -1, np.float32), r"returned values from -1 to -1; expected \[0, 1\]"),
        (["a cat"], "expected 20 images"),
        (None, "that is no batch of images"),
    ],
)
def test_pipelines_that_return_something_else(form: Any, sentence: str) -> None:
    pipeline = Pipeline()
    pipeline.form = form
    with pytest.raises((InputError, RunError), match=rf"Pipeline, in samples 0 to 19, .*{sentence}"):
        measure(pipeline, num_images=20)


class Items(Dataset[Any]):
    """Images and their numbers."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= 12:
            raise IndexError
        return torch.from_numpy(REAL[index]).permute(2, 0, 1), index


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(Items())


def loader() -> Any:
    return DataLoader(Items(), batch_size=5)


@pytest.mark.parametrize(
    "samples",
    [
        Items(),
        Stream(),
        loader(),
        DataLoader(Stream(), batch_size=5),
        Subset(Items(), range(12)),
        loader,
        lambda: REAL[:12],
    ],
    ids=["map", "stream", "loader", "loader of a stream", "subset", "function", "function of an array"],
)
def test_datasets_and_functions_measure_as_their_images_do(samples: Any) -> None:
    report = measure(samples, metrics="fd,precision")
    expected = measure(REAL[:12], metrics="fd,precision")
    assert [row.value for row in report] == [row.value for row in expected]
    assert report.samples["count"] == 12
    with pytest.raises(InputError, match="num_images: only a generator has this"):
        measure(samples, num_images=3)


def test_a_function_of_images_is_called_for_every_pass() -> None:
    source = fdr.open_images(loader, fdr.ImageOptions(count=7))
    assert source.name == "first 7 of loader" and source.is_repeatable
    first, again = ([image for batch in source.batches(4, 0) for image in batch.images] for _ in range(2))
    assert len(first) == 7 and all(map(torch.equal, first, again))
    with pytest.raises(InputError, match="gave no images"):
        measure(lambda: iter([]))


@pytest.mark.slow
def test_a_pipeline_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    pipeline = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def sampled(batch_size: int = 1, generator: Any = None, output_type: str = "pil") -> Any:
        return pipeline(batch_size, generator, num_inference_steps=2, output_type=output_type)

    report = measure(sampled, num_images=6, batch_size=3)
    assert report.samples["count"] == 6
