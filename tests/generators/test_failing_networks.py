"""Networks that fail when they are loaded, or later: one sentence that says what they did, and where."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generator_worlds import Classes, Plain, generator, weights
from torch import Tensor, nn

import fdr
from fdr.cli import run
from fdr.errors import FdrError, InputError, RunError
from fdr.generators import Generator, GeneratorSource, sample_set, write_samples
from fdr.generators.base import GeneratorSpec
from fdr.generators.first_images import LabelBounds, check_first_images

GOOD = torch.full((4, 3, 8, 8), 0.5)


@dataclasses.dataclass
class Output:
    sample: Tensor


def end(_: Tensor) -> Tensor:
    raise SystemExit(0)


def stop(_: Tensor) -> Tensor:
    raise StopIteration


def fail(_: Tensor) -> Tensor:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


def later(change: Callable[[Tensor], Any], calls: int = 3) -> Generator:
    """A generator whose images are changed from one of its calls on."""
    made, count = generator(), 0
    forward = made.network.forward

    def changed(noise: Tensor) -> Any:
        nonlocal count
        count += 1
        return forward(noise) if count < calls else change(forward(noise))

    made.network.forward = changed  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (fail, r"failed in samples 4 to 7 \(RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED, raised at"),
        (end, r"failed in samples 4 to 7 \(SystemExit"),
        (stop, r"failed in samples 4 to 7 \(StopIteration"),
        (lambda x: x[..., :4], r"made images of 8 x 4 in samples 4 to 7, and of 8 x 8 before; all its images"),
        (
            lambda x: {"images": x},
            r"In samples 4 to 7: .* must make images .* it made a dict with images \[4, 1, 8, 8\]",
        ),
        (lambda x: x[:2], r"In samples 4 to 7: .* of 4 samples it made \[2, 1, 8, 8\]"),
        (lambda x: x * float("nan"), r"sample\[4\] holds values that are not finite"),
    ],
    ids=["raise", "exit", "stop", "size", "dict", "count", "nan"],
)
def test_what_a_network_does_later_is_told_with_its_samples(
    tmp_path: Path, change: Callable[[Tensor], Any], sentence: str
) -> None:
    made = later(change)
    check_first_images(made)
    samples = sample_set(GeneratorSource(made, 12, batch_size=4), tmp_path / "out.npz")
    with pytest.raises(FdrError, match=sentence):
        write_samples(samples)
    assert not (tmp_path / "out.npz").exists()
    made = later(change)
    check_first_images(made)
    with pytest.raises(FdrError, match=sentence):
        fdr.evaluate(GeneratorSource(made, 12, batch_size=4), np.zeros((9, 8, 8, 3), np.uint8), "random")


def test_an_interrupt_in_a_network_is_one() -> None:
    def interrupt(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        later(interrupt, 1).run(torch.zeros(4, 8), None, "step 1")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((GOOD, GOOD), r"a tuple with 0 \[4, 3, 8, 8\], 1 \[4, 3, 8, 8\]"),
        (Output(GOOD), r"a Output with sample \[4, 3, 8, 8\]"),
        ({"sample": GOOD}, r"a dict with sample \[4, 3, 8, 8\]"),
        ((GOOD * 255).byte(), r"\[4, 3, 8, 8\] of torch.uint8"),
        (GOOD.numpy(), "a ndarray"),
        (None, "a NoneType"),
        (GOOD[:, :2], r"\[4, 2, 8, 8\]"),
    ],
)
def test_what_is_no_tensor_of_images_is_told_when_it_is_loaded(made: Any, words: str) -> None:
    world = generator()
    world.network.forward = lambda noise: made  # type: ignore[method-assign]
    with pytest.raises(
        InputError, match=rf"must make images .* in one floating point tensor; of 4 samples it made {words}"
    ):
        check_first_images(world)


@pytest.mark.parametrize("error", [SystemExit(0), StopIteration(), RuntimeError("no luck")])
def test_a_network_that_fails_at_once(error: BaseException) -> None:
    def raises(noise: Tensor) -> Tensor:
        raise error

    world = generator()
    world.network.forward = raises  # type: ignore[method-assign]
    with pytest.raises(InputError, match=rf"failed on noise of shape \[4, 8\] \({type(error).__name__}"):
        check_first_images(world)


class OneHot(nn.Module):
    """Classes as one-hot rows rather than a table."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 8)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        hot = nn.functional.one_hot(labels, 4).float()
        return torch.sigmoid(noise + self.line(hot)).unflatten(1, (1, 2, 4))


class Indexed(OneHot):
    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return torch.sigmoid(noise + self.line.weight.T[labels]).unflatten(1, (1, 2, 4))


@pytest.mark.parametrize("kind", [OneHot, Indexed])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_more_classes_than_the_network_has(
    kind: type[nn.Module], on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the look-ups are watched, since one that fails there ends the process."""
    with LabelBounds() if on_gpu else torch.no_grad():
        check_first_images(Generator(kind().eval(), GeneratorSpec((8,), 4)))
        with pytest.raises(
            InputError, match=r"takes label 0, but fails on labels up to 4 .* fewer classes than num_cl"
        ):
            check_first_images(Generator(kind().eval(), GeneratorSpec((8,), 5)))


TABLE = torch.arange(10.0).reshape(5, 2)
LOOKUPS = {
    "embedding": lambda index: nn.functional.embedding(index, TABLE),
    "index_select": lambda index: TABLE.index_select(0, index),
    "gather": lambda index: TABLE.gather(0, index[:, None].expand(-1, 2)),
    "one_hot": lambda index: torch.zeros(1, 5).scatter(1, index[None], 1.0),
    "one_hot in place": lambda index: torch.zeros(1, 5).scatter_(1, index[None], 1.0),
    "brackets": lambda index: TABLE[index],
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_label_bounds_are_those_of_the_table(name: str) -> None:
    """The sentence is that of `LabelBounds`: on a GPU no other would come."""
    with LabelBounds():
        LOOKUPS[name](torch.tensor([0, 4]))
        with pytest.raises(IndexError, match="index 5 in a table of 5 rows"):
            LOOKUPS[name](torch.tensor([0, 5]))
        with pytest.raises(IndexError, match="index -6 in a table of 5 rows"):
            LOOKUPS[name](torch.tensor([-6, 4]))


def test_the_check_leaves_the_random_numbers_of_the_user_alone() -> None:
    class Noisy(nn.Module):
        def forward(self, noise: Tensor) -> Tensor:
            return torch.rand(len(noise), 3, 4, 4)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    check_first_images(Generator(Noisy(), GeneratorSpec((8,))))
    assert torch.equal(torch.get_rng_state(), before)


def test_label_bounds_reach_into_programs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(Classes(), (torch.zeros(2, 2, 4, 4), torch.zeros(2, dtype=torch.int64)))
    with LabelBounds():
        check_first_images(Generator(program, GeneratorSpec((2, 4, 4), 5, (-1.0, 1.0))))
        with pytest.raises(InputError, match=r"takes label 0, but fails on labels up to 5 "):
            check_first_images(Generator(program, GeneratorSpec((2, 4, 4), 6, (-1.0, 1.0))))


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_more_classes_than_the_network_has_on_the_command_line(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    path = weights(tmp_path / "a.safetensors", Classes)
    given = ["--gen", str(path), "--arch", "generator_worlds:Classes", "--num-classes", "1000"]
    np.savez(tmp_path / "real.npz", arr_0=np.zeros((9, 8, 8, 3), np.uint8))
    rest = ["-o", str(tmp_path / "out.npz")] if command == "sample" else ["--ref", str(tmp_path / "real.npz")]
    assert run([command, *given, *rest, *(["--reps", "random"] if command == "eval" else [])]) == 2
    said = capsys.readouterr().err
    assert "it holds fewer classes than --num-classes 1000." in said and "Traceback" not in said


def hollow() -> Plain:
    return Plain().to("meta")


def test_a_network_without_values(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hollow' has tensors on the device meta.*\(first.weight and 3 more\)"):
        fdr.load_generator(weights(tmp_path / "a.safetensors"), "test_failing_networks:hollow")
    with pytest.raises(InputError, match="generator has tensors on the device meta"):
        check_first_images(Generator(hollow(), GeneratorSpec((8,))))


def test_the_images_of_a_run_are_of_one_size_from_its_first_batch() -> None:
    made = later(lambda x: x[..., :4], calls=2)
    made.run(torch.zeros(2, 8), None, "step 1")
    with pytest.raises(RunError, match="made images of 8 x 4 in step 2, and of 8 x 8 before"):
        made.run(torch.zeros(2, 8), None, "step 2")
    assert json.dumps(made.image_size) == "[8, 8]"
