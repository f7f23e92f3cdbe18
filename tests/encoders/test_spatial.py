"""The last spatial layer of every kind of encoder, with tiny random networks, and the gradient that ends at it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from tiny_timm import CLIP_B32, DINOV2
from torch import Tensor, nn

from fdr.encoders import AbstractEncoder, EncoderSpec, find_spatial_layer, load_encoder, view_of
from fdr.encoders.network import NetworkEncoder
from fdr.encoders.preprocessing import Preprocessing
from fdr.encoders.timm_models import encoder_of
from fdr.encoders.transformers_models import _run, _run_pixels
from fdr.errors import InputError

CPU = torch.device("cpu")


def spec(output: str, size: int, resize: str = "none") -> EncoderSpec:
    return EncoderSpec("tiny", "tiny", "tiny", "seed:0", output, 0, size, resize, (0.0,) * 3, (1.0,) * 3)


def of_timm(name: str, output: str = "features", size: int = 56, **sizes) -> AbstractEncoder:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, **sizes).eval().requires_grad_(False)
    return encoder_of(spec(output, size), model, CPU)


def of_openclip() -> AbstractEncoder:
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(24, vision, text).eval().requires_grad_(False)

    def run(network: nn.Module, inputs: Tensor, outputs) -> dict[str, Tensor]:
        return {name: network.encode_image(inputs) for name in outputs}

    return NetworkEncoder(spec("embedding", 32), ("embedding",), model, run, CPU)


def of_siglip() -> AbstractEncoder:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes, image_size=32, patch_size=8))
    run = functools.partial(_run, _run_pixels, 0)
    return NetworkEncoder(spec("attention-pool", 32), ("attention-pool",), model.eval().requires_grad_(False), run, CPU)


def of_transformers(output: str) -> AbstractEncoder:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2WithRegistersConfig(**sizes, image_size=56, patch_size=14, num_register_tokens=3)
    torch.manual_seed(0)
    model = transformers.Dinov2WithRegistersModel(config).eval().requires_grad_(False)
    run = functools.partial(_run, _run_pixels, 4)
    return NetworkEncoder(spec(output, 56), ("cls", "mean"), model, run, CPU)


def of_torchvision(build: Callable[[], nn.Module]) -> AbstractEncoder:
    torch.manual_seed(0)
    return load_encoder(build())


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4])


def small_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32)
    model.heads = nn.Identity()
    return model


DYNAMIC = {"dynamic_img_size": True, "dynamic_img_pad": True}
SMALL_VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2}
CASES: dict[str, tuple[Callable[[], AbstractEncoder], int, str, str, tuple[int, int], int]] = {
    "class token": (lambda: of_timm(DINOV2, "cls", **DYNAMIC), 56, "blocks.1.norm1", "tokens", (4, 4), 1),
    "mean of tokens": (lambda: of_timm(DINOV2, "mean", **DYNAMIC), 56, "norm", "tokens", (4, 4), 1),
    "CLIP of timm": (lambda: of_timm(CLIP_B32), 224, "blocks.1.norm1", "tokens", (7, 7), 1),
    "registers": (
        lambda: of_timm("vit_small_patch14_reg4_dinov2", dynamic_img_size=True, **SMALL_VIT),
        70,
        "blocks.1.norm1",
        "tokens",
        (5, 5),
        5,
    ),
    "attention pool": (
        lambda: of_timm("vit_so400m_patch14_siglip_224", img_size=56, **SMALL_VIT),
        56,
        "norm",
        "tokens",
        (4, 4),
        0,
    ),
    "ConvNet of timm": (lambda: of_timm("convnext_atto", depths=(1, 1, 1, 1)), 64, "norm_pre", "map", (2, 2), 0),
    "registers of transformers": (lambda: of_transformers("cls"), 56, "encoder.layer.1.norm1", "tokens", (4, 4), 4),
    "SigLIP of transformers": (of_siglip, 32, "post_layernorm", "tokens", (4, 4), 0),
    "OpenCLIP": (of_openclip, 32, "visual.transformer.resblocks.1.ln_1", "tokens", (4, 4), 1),
    "mean of transformers": (lambda: of_transformers("mean"), 56, "layernorm", "tokens", (4, 4), 4),
    "ResNet": (lambda: of_torchvision(torchvision.models.resnet18), 64, "layer4", "map", (2, 2), 0),
    "Swin": (lambda: of_torchvision(small_swin), 64, "permute", "map", (8, 8), 0),
    "ViT of torchvision": (
        lambda: of_torchvision(small_vit),
        32,
        "encoder.layers.encoder_layer_1.ln_1",
        "tokens",
        (4, 4),
        1,
    ),
    "random": (lambda: load_encoder("random"), 64, "last_map", "map", (8, 8), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_layer_and_its_gradient(case: str) -> None:
    """What the tap gives equals autograd through the whole network, from the recorded output of the same module."""
    make, size, name, kind, grid, num_prefix = CASES[case]
    encoder, inputs = make(), torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    layer = find_spatial_layer(encoder, inputs)
    assert (layer.name, layer.layout.kind, layer.layout.grid) == (name, kind, grid)
    assert layer.layout.num_prefix == num_prefix and layer.covered == (1, 1)
    output = encoder.spec.output
    direction = torch.randn(
        encoder.forward(inputs, (output,))[output].shape, generator=torch.Generator().manual_seed(2)
    )
    maps, gradients = layer.activations(encoder, inputs, direction)
    assert maps.shape == gradients.shape and maps.shape[2:] == grid and (gradients != 0).any()
    kept: list[Tensor] = []
    hook = layer.module.register_forward_hook(lambda module, arguments, found: kept.append(found))
    features = encoder.forward(inputs.clone().requires_grad_(), (output,))[output]
    hook.remove()
    (expected,) = torch.autograd.grad((features * direction).sum(), kept[0])
    torch.testing.assert_close(gradients, layer.layout.maps(expected))
    torch.testing.assert_close(maps, layer.layout.maps(kept[0].detach()))


class TestUsersOwnNetworks:
    def test_an_image_that_is_no_square_and_a_network_that_overwrites(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        encoder, inputs = load_encoder(network), torch.rand(1, 3, 48, 32)
        layer = find_spatial_layer(encoder, inputs)
        assert (layer.name, layer.layout.grid) == ("1", (23, 15))
        maps, gradients = layer.activations(encoder, inputs, torch.ones(1, 8))
        torch.testing.assert_close(maps.mean((2, 3)), network(inputs).detach())
        torch.testing.assert_close(gradients, torch.full_like(maps, 1 / (23 * 15)))

    def test_a_module_that_serves_twice_is_tapped_at_its_last_call(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mix = nn.Conv2d(3, 3, 3, padding=1, bias=False)

            def forward(self, x: Tensor) -> Tensor:
                return self.mix(self.mix(x)).mean((2, 3))

        network = Twice()
        layer = find_spatial_layer(load_encoder(network), inputs := torch.rand(1, 3, 8, 8))
        assert layer.call == 1
        maps, _ = layer.activations(load_encoder(network), inputs, torch.ones(1, 3))
        torch.testing.assert_close(maps, network.mix(network.mix(inputs)).detach())

    def test_channels_last(self) -> None:
        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(3)

            def forward(self, x: Tensor) -> Tensor:
                return (self.norm(x.permute(0, 2, 3, 1)) * torch.tensor([1.0, 2, 3])).square().mean((1, 2))

        encoder, inputs = load_encoder(Last()), torch.rand(1, 3, 8, 8)
        layer = find_spatial_layer(encoder, inputs)
        assert layer.layout.kind == "map, channels last"
        assert layer.activations(encoder, inputs, torch.ones(1, 3))[0].shape == (1, 3, 8, 8)

    def test_a_method_of_a_network(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert find_spatial_layer(load_encoder(network.forward), torch.rand(1, 3, 8, 8)).name == "0"


def frozen(network: nn.Module) -> nn.Module:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

    return Frozen()


def broken(network: nn.Module) -> nn.Module:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy()).flatten(1)

    return Broken()


POOLED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (lambda x: POOLED(x), "no module of a network gives a map"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "no module of a network gives a map"),
        (frozen(POOLED), "its features carry no gradient"),
        (broken(POOLED), "its forward pass with gradient failed"),
    ],
)
def test_an_encoder_without_one_is_one_sentence(encoder, reason: str) -> None:
    with pytest.raises(InputError, match=rf"has no spatial output for heat-maps: {reason}.*leave out the heat-maps"):
        find_spatial_layer(load_encoder(encoder), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_saved_programs_have_none(kind: str, tmp_path) -> None:
    network, images = POOLED.eval(), torch.rand(2, 3, 8, 8)
    path = tmp_path / "program"
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(network, images), path)
    else:
        path = path.with_suffix(".pt2")
        shapes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(network, (images,), dynamic_shapes=shapes), path)
    with pytest.raises(InputError, match="no spatial output for heat-maps"):
        find_spatial_layer(load_encoder(f"{kind}:{path}"), images[:1])


def test_padding_of_a_vit_is_no_part_of_the_image() -> None:
    layer = find_spatial_layer(of_timm(DINOV2, "cls", **DYNAMIC), torch.rand(1, 3, 64, 64))
    assert layer.layout.grid == (5, 5) and layer.covered == (64 / 70, 64 / 70)


class Seen(AbstractEncoder):
    """An encoder with the preprocessing of a spec."""

    def __init__(self, resize: str, size: int, mean: float = 0.4, std: float = 0.2) -> None:
        self.spec, self.device, self.outputs = spec("features", size, resize), CPU, ("features",)
        self._preprocessing = Preprocessing(resize, size, (mean,) * 3, (std,) * 3)
        self.host_preprocess = self._preprocessing.runs_on_host

    def preprocess(self, images: Tensor) -> Tensor:
        return self._preprocessing(images)

    def forward(self, inputs: Tensor, outputs) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("none", (0, 0, 1, 1)),
        ("bicubic-antialias", (0, 0, 1, 1)),
        ("pil-bicubic+short-crop", (0.25, 0, 0.75, 1)),
        ("pil-bicubic+short80-crop", (0.3, 0.1, 0.7, 0.9)),
        ("pil-bilinear+square-crop", (0.25, 0, 0.75, 1)),
    ],
)
def test_what_the_network_sees_of_an_image(resize: str, expected: tuple[float, ...]) -> None:
    found = view_of(Seen(resize, 64 if resize != "none" else 0), 100, 200)
    assert (found.left, found.top, found.right, found.bottom) == pytest.approx(expected, abs=0.01)
