"""Heat-maps: the exact route, an update of mean and covariance by autograd, is the oracle; it does not import fdr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from worlds import TinyEncoder, folder, images

import fdr
from fdr.errors import InputError, RunError
from fdr.explanation import Explanation, HeatMap, overlay, write_picture
from fdr.explanation.colours import coloured

SIDE, COUNT = 16, 40


class Grid(nn.Module):
    """Two convolutions with activations of both signs, means and mean squares over a 4 x 4 grid."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        layers = [nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 5, 1), *([nn.ReLU()] if relu else [])]
        self.body = nn.Sequential(*layers)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.4

    def head(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)), maps.square().mean((2, 3))], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def drawn() -> np.ndarray:
    return images(COUNT, seed=1, side=SIDE)


def explained(network: nn.Module, **options) -> Explanation:
    return fdr.explain(list(drawn()), list(images(60, side=SIDE)), network, ends=6, heat_maps=True, **options)


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def fd_with(f: Tensor, others: Tensor, reference: Tensor) -> Tensor:
    """FD of `others` and f by the rank-one update of their mean and covariance."""
    n, mean = len(others) + 1, others.mean(0)
    x = f - mean
    s = (n - 2) / (n - 1) * torch.cov(others.T) + torch.outer(x, x) / n
    s_r, m = torch.cov(reference.T), mean + x / n
    values, vectors = torch.linalg.eigh(s_r)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s @ root).clamp(min=0).sqrt().sum()
    return (m - reference.mean(0)).square().sum() + s.trace() + s_r.trace() - 2 * cross


def exact_map(network: Grid, place: int) -> np.ndarray:
    """By autograd from the exact FD down to the maps, all in float64."""
    network = network.double()
    own, other = tensor(drawn()).double(), tensor(images(60, side=SIDE)).double()
    with torch.no_grad():
        features, reference = network(own), network(other)
        maps = network.body(own[place : place + 1])
    maps.requires_grad_()
    others = torch.cat([features[:place], features[place + 1 :]])
    (gradient,) = torch.autograd.grad(fd_with(network.head(maps)[0], others, reference), maps)
    alpha = gradient.square().mean((2, 3), keepdim=True)
    heat = (alpha * maps.abs()).sum(1)[0].detach().numpy()
    return (heat - heat.min()) / np.ptp(heat)


@pytest.mark.parametrize("relu", [True, False])
def test_the_closed_form_is_the_exact_route(relu: bool) -> None:
    (found,) = explained(Grid(relu)).encoders
    assert set(found.heat_maps) == set(np.concatenate(found.ends(6)).tolist())
    assert found.heat_map_layer == "body"
    for place in list(found.heat_maps)[:4]:
        heat = found.heat_maps[place]
        assert heat.values.shape == (4, 4) and heat.box == pytest.approx((0, 0, 1, 1))
        np.testing.assert_allclose(heat.values, exact_map(Grid(relu), place), atol=2e-4)


def test_the_region_that_differs_lights_up() -> None:
    """Grey noise on both sides; in eight samples one cell of the 4 x 4 grid is magenta."""
    generator = np.random.default_rng(0)
    real, own = (generator.integers(118, 138, (60, SIDE, SIDE, 3)).astype(np.uint8) for _ in range(2))
    cells = [(at % 4, at // 4 + 1) for at in range(8)]
    for at, (row, column) in enumerate(cells):
        own[at, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = (255, 0, 255)
    (found,) = fdr.explain(list(own), list(real), Grid(relu=True), ends=8, heat_maps=True).encoders
    assert set(found.ranking[:8].tolist()) == set(range(8))
    for at, cell in enumerate(cells):
        assert np.unravel_index(found.heat_maps[at].values.argmax(), (4, 4)) == cell


def test_an_image_that_is_cropped_has_its_map_where_the_network_looks() -> None:
    class Encoder(TinyEncoder):
        def __init__(self) -> None:
            super().__init__(dim=10)
            self.network = Grid(relu=False)

        def preprocess(self, x: Tensor) -> Tensor:
            return x[:, :, 4:12, 8:16] * 2 - 1

        def forward(self, inputs: Tensor, outputs) -> dict[str, Tensor]:
            return {name: self.network(inputs) for name in outputs}

    (found,) = explained(Encoder()).encoders
    heat = next(iter(found.heat_maps.values()))
    assert heat.values.shape == (2, 2) and heat.box == pytest.approx((0.5, 0.25, 1, 0.75), abs=1e-6)


class TestBadInput:
    def test_an_encoder_without_a_spatial_output_is_refused_before_the_measurement(self) -> None:
        encoder = TinyEncoder()
        with pytest.raises(InputError, match="Encoder 'tiny' has no spatial output for heat-maps"):
            fdr.explain(list(drawn()), list(images(60)), encoder, heat_maps=True)
        assert encoder.num_seen <= 1

    def test_images_that_can_be_read_once(self) -> None:
        with pytest.raises(InputError, match="can be read only once, so its images get no heat-maps"):
            fdr.explain(iter(list(drawn())), list(images(60)), Grid(relu=True), heat_maps=True)

    @pytest.mark.parametrize("on_bad", ["fail", "skip"])
    def test_images_that_moved_since(self, tmp_path: Path, on_bad: str) -> None:
        place = folder(tmp_path / "s", drawn())
        options = fdr.ImageOptions(on_bad=on_bad)
        found, source = fdr.explain(place, list(images(60)), Grid(relu=True), ends=2), fdr.open_images(place, options)
        for path in place.iterdir():
            path.rename(tmp_path / path.name)
        with pytest.raises(
            RunError, match=r"^\d+\.png of s was measured and is not there any more: .*No such file.* Images were moved"
        ):
            write_picture(found, source, None, tmp_path / "p.png", 2)


class TestPicture:
    def test_each_image_stands_beside_its_map(self, tmp_path: Path) -> None:
        found, source = explained(Grid(relu=True)), fdr.open_images(list(drawn()))
        write_picture(found, source, fdr.open_images(list(images(60, side=SIDE))), tmp_path / "p.png", 3)
        with Image.open(tmp_path / "p.png") as picture:
            assert picture.size == (6 * 132 + 4, 18 + 3 * 146 + 4)
            tile = np.asarray(picture)[22 : 22 + 128, 136 : 136 + 128]
        (one,) = found.encoders
        place = int(one.ranking[0])
        expected = overlay(drawn()[place], one.heat_maps[place], 128)
        np.testing.assert_array_equal(tile, expected)

    def test_json_has_the_maps(self) -> None:
        found = explained(Grid(relu=True))
        (one,) = found.to_dict()["encoders"]
        assert one["heat_map_layer"] == "body"
        first, middle = one["images"][0]["heat_map"], one["images"][COUNT // 2]
        values = found.encoders[0].heat_maps[int(found.encoders[0].ranking[0])].values
        np.testing.assert_allclose(first["values"], values, atol=1e-4)
        assert first["box"] == [0, 0, 1, 1] and "heat_map" not in middle
        assert "heat_map" not in found.to_csv()

    def test_an_explanation_without_them_has_no_trace_of_them(self) -> None:
        found = fdr.explain(list(drawn()), list(images(60)), TinyEncoder())
        (one,) = found.to_dict()["encoders"]
        assert "heat_map_layer" not in one and not any("heat_map" in image for image in one["images"])


class TestColours:
    def test_lightness_rises_evenly(self) -> None:
        """L* of CIELAB, from the luminance of sRGB (IEC 61966-2-1)."""
        encoded = coloured(np.linspace(0, 1, 101)) / 255
        linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
        steps = np.diff(lightness)
        assert steps.min() > 0 and steps.max() < 2.5 * steps.mean()
        assert lightness[0] < 15 and lightness[-1] > 85

    def test_the_image_is_bare_outside_of_the_box(self) -> None:
        image = np.full((32, 64, 3), 120, np.uint8)
        shown = overlay(image, HeatMap(np.ones((2, 2), np.float32), (0.5, 0.0, 1.0, 1.0)), 128)
        assert shown.shape == (64, 128, 3)
        assert (shown[:, :64] == 120).all() and (shown[:, 64:] == shown[0, 64]).all()
        assert (shown[0, 64] != 120).any()

    def test_a_map_that_reaches_beyond_the_image_is_cut(self) -> None:
        image = np.zeros((100, 100, 3), np.uint8)
        ramp = np.tile(np.linspace(0, 1, 10, dtype=np.float32), (10, 1))
        cut = overlay(image, HeatMap(ramp, (0.0, 0.0, 2.0, 2.0)), 100)
        whole = overlay(image, HeatMap(ramp, (0.0, 0.0, 1.0, 1.0)), 100)
        assert cut.shape == whole.shape == image.shape
        assert int(whole[50, 99].sum()) > int(cut[50, 99].sum()) > int(whole[50, 20].sum())
