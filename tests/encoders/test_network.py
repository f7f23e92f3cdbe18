"""What all families share: the spec of a row, and a network behind its preprocessing. Limits of their settings."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdr.encoders import EncoderOptions, EncoderSpec, programs, random_net
from fdr.encoders.catalogue import EncoderRow
from fdr.encoders.network import NetworkEncoder, build_spec
from fdr.encoders.preprocessing import Preprocessing
from fdr.encoders.transformers_models import preprocessing_of
from fdr.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 1.0)
ROW = EncoderRow("tiny", "net-1", 3, "a", 4, MEAN, STD, resize="bilinear-antialias", family="mine")
IMAGES = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))


def encoder(resize: str = "bilinear-antialias", dtype: str = "float32", preprocessing: Preprocessing | None = None):
    """An encoder with the outputs "a" and "b", in half precision, and the states of autocast while it ran."""
    states: list[bool] = []

    def run(network: nn.Module, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        states.append(torch.is_autocast_enabled("cpu"))
        return {name: network(inputs).half() for name in outputs}

    spec = EncoderSpec("tiny", "mine", "net-1", "w", "a", 3, 4, resize, MEAN, STD, dtype=dtype)
    network = nn.AdaptiveAvgPool2d(1)
    return NetworkEncoder(spec, ("a", "b"), network, run, torch.device("cpu"), preprocessing), states


def test_the_spec_of_a_row_has_every_field_of_it_and_of_the_options() -> None:
    options = EncoderOptions(dtype="bf16", tf32=True)
    spec = build_spec(ROW, options, "f" * 64, "net.pt", order="exact-order", extra=(("k", "v"),))
    assert spec == EncoderSpec(
        "tiny", "mine", "net-1", "f" * 64, "a", 3, 4, "bilinear-antialias", MEAN, STD,
        "bf16", "exact-order+tf32", (("k", "v"),), "net.pt",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_network_runs_under_autocast_for_bf16_alone_and_its_features_are_float32(dtype: str) -> None:
    tiny, states = encoder(dtype=dtype)
    features = tiny(IMAGES)
    assert features.keys() == {"a", "b"} and {value.dtype for value in features.values()} == {torch.float32}
    assert states == [dtype == "bf16"]
    with torch.autocast("cpu", torch.bfloat16):
        tiny(IMAGES)
    assert states[1] == (dtype == "bf16")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_of_other_floats_are_taken_as_float32(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []
    tiny, _ = encoder()
    tiny.preprocess = lambda images: seen.append(images.dtype) or images  # type: ignore[method-assign]
    tiny(IMAGES.to(dtype))
    assert seen == [torch.float32]


def test_the_main_output_alone_is_stored_and_pillow_runs_on_the_host() -> None:
    assert encoder()[0].stored_outputs == ("a",) and not encoder()[0].host_preprocess
    assert encoder("pil-bicubic")[0].host_preprocess


def test_images_are_prepared_as_the_spec_or_the_given_preprocessing_says() -> None:
    resized = F.interpolate(IMAGES, (4, 4), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(encoder()[0].preprocess(IMAGES), (resized - mean) / std)
    scaled = Preprocessing("none", 0, (0.0,) * 3, (1.0,) * 3, (-1.0, 3.0))
    torch.testing.assert_close(encoder(preprocessing=scaled)[0].preprocess(IMAGES), IMAGES * 4 - 1)


def test_the_largest_seed() -> None:
    options = EncoderOptions(device="cpu")
    assert random_net.load(f"random:{2**63 - 1}", options).spec.weights == f"seed:{2**63 - 1}"
    with pytest.raises(InputError, match="no valid seed"):
        random_net.load(f"random:{2**63}", options)


def test_a_program_that_fails_is_one_sentence_and_a_lack_of_memory_is_for_the_caller() -> None:
    class Fails(nn.Module):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

        def forward(self, inputs: Tensor) -> Tensor:
            raise self.error

    with pytest.raises(InputError, match=r"'net' failed on a batch of shape \[2, 3, 9, 7\]: no luck; check"):
        programs._run("net", {}, Fails(RuntimeError("trace\nno luck.")), IMAGES, ("features",))
    with pytest.raises(torch.OutOfMemoryError):
        programs._run("net", {}, Fails(torch.OutOfMemoryError("full")), IMAGES, ("features",))


@pytest.mark.parametrize(
    "size", [{"shortest_edge": 4, "longest_edge": 8}, {"height": 4, "width": 5}, {"shortest_edge": 4.5}, "4"]
)
def test_a_size_that_is_neither_square_nor_a_short_side_is_refused(size: object) -> None:
    assert preprocessing_of({"size": {"shortest_edge": 4}, "crop_size": 4}, "CLIP", "x").size == 4
    with pytest.raises(InputError, match="asks for the size"):
        preprocessing_of({"size": size, "crop_size": 4}, "CLIP", "x")
