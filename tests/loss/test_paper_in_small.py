"""What the scripts of "the paper in small" share: benchmarks/post_training.py."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import fdr
from fdr.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "post_training", raising=False)
    import post_training

    return post_training


class Colours(nn.Module):
    """Noise [B, 3] -> images [B, 3, 4, 4] of one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(3) * 0.05)
            self.linear.bias.fill_(0.3)

    def forward(self, noise: Tensor) -> Tensor:
        return self.linear(noise)[:, :, None, None].expand(-1, -1, 4, 4)


def colour(images: Tensor) -> Tensor:
    return images.mean((2, 3))


def red(images: Tensor) -> Tensor:
    return images[:, :1].mean((2, 3)).repeat(1, 2) * torch.tensor([1.0, 2.0])


def world_of(shared: ModuleType):
    draw = torch.Generator().manual_seed(3)
    reals = (0.6 + 0.1 * torch.randn(2000, 3, 1, 1, generator=draw)).expand(-1, -1, 4, 4)
    encoders = {"colour": colour, "red": red}
    references = {name: shared.moments_of(encoder, reals) for name, encoder in encoders.items()}
    return shared.World(Colours(), (3,), encoders, references, 700)


def test_post_training_lowers_fd_and_leaves_the_generator(shared: ModuleType) -> None:
    world = world_of(shared)
    before = shared.evaluate(world, world.generator)
    recipe = shared.Recipe(120, 16, 3e-2)
    trained, row = shared.post_train(world, ["colour"], fdr.EmaPopulation(0.5), recipe, 32)
    assert row["colour"] < 0.2 * before["colour"] and row["red"] < before["red"]
    assert shared.evaluate(world, world.generator) == before
    assert shared.evaluate(world, trained) == {name: row[name] for name in before}
    again = shared.post_train(world, ["colour"], fdr.EmaPopulation(0.5), recipe, 32)[1]
    assert again["colour"] == row["colour"] and again["numbers kept"] == row["numbers kept"]


def test_evaluation_is_of_so_many_quantised_samples_in_range(shared: ModuleType) -> None:
    world = world_of(shared)
    images = shared.sample(world, lambda noise: 3 * world.generator(noise), world.evaluated)
    assert images.shape == (700, 3, 4, 4) and images.amin() >= 0 and images.amax() <= 1
    assert torch.equal(images, (images * 255).round() / 255)
    expected = fdr.frechet_distance(fdr.Moments.from_features([colour(images)]), world.references["colour"])
    assert shared.distances(world, images)["colour"] == pytest.approx(expected, rel=1e-9)


class Constant(nn.Module):
    """The velocity from one image to noise: to images, every number of steps is exact."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - self.image) / t.view(-1, 1)


def test_a_flow_of_straight_lines_is_its_own_one_step_sampler(shared: ModuleType) -> None:
    image, noise = torch.linspace(-1, 1, 12), torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    for num_steps in (1, 7):
        assert torch.allclose(shared.euler(Constant(image), noise, num_steps), image.expand(5, 12), atol=1e-6)
    found = shared.OneStep(Constant(image), (3, 2, 2))(noise)
    assert torch.allclose(found, ((image + 1) / 2).view(3, 2, 2).expand(5, -1, -1, -1), atol=1e-6)


def test_the_unet_used_once_shows_the_image_that_it_predicts(
    shared: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "cifar_networks", raising=False)
    import cifar_networks

    torch.manual_seed(0)
    unet = cifar_networks.UNet(width=8)
    for block in unet.coarse:
        torch.nn.init.normal_(block.last.weight, std=0.1)  # blocks start as the identity, without a say for time
    noise = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        shown, predicted = shared.OneStep(unet, (3, 32, 32))(noise), unet.predict(noise, torch.ones(2))
        assert not torch.allclose(predicted, unet.predict(noise, torch.full((2,), 0.5)), atol=1e-4)
    assert torch.allclose(shown, ((predicted + 1) / 2).clamp(0, 1), atol=1e-6)


def test_flow_matching_finds_the_mean(shared: ModuleType) -> None:
    torch.manual_seed(0)

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return (x - self.mean) / t.clamp_min(shared.MIN_TIME).view(-1, 1)

    flow = Mean()
    shared.fit_flow(flow, torch.tensor([[0.5, -0.5]]).repeat(8, 1), 200, 64, 2e-2, shared.cosine)
    assert torch.allclose(flow.mean, torch.tensor([0.5, -0.5]), atol=0.05)


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int


def test_rows_are_made_once_and_only_for_their_settings(shared: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert shared.Rows(path, Settings(3)).row("a", lambda: {"fd": 1.5}) == {"fd": 1.5}
    resumed = shared.Rows(path, Settings(3))
    assert resumed.row("a", lambda: pytest.fail("made again")) == {"fd": 1.5}
    assert resumed.row("b", lambda: {"fd": 2.0}) == {"fd": 2.0}
    assert list(shared.Rows(path, Settings(3)).found) == ["a", "b"]
    with pytest.raises(InputError, match="other settings"):
        shared.Rows(path, Settings(4))
