"""The timm family: parity with timm's own forward pass, the preprocessing of FDr^6, and files that do not fit.

The six production networks are too large for a test; small siblings of each kind go through the same code, because a
row of the catalogue is data: a model name, a pooling and an input size.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision.transforms.v2.functional as vision
from safetensors.torch import save_file

from fdr.encoders import BUNDLES, ROWS, EncoderOptions, find_row, timm_models
from fdr.encoders.catalogue import timm_weights
from fdr.encoders.timm_models import _mean, load, load_row
from fdr.errors import InputError, WeightsError
from fdr.runtime import devices as runtime

IMAGES = torch.rand((2, 3, 72, 96), generator=torch.Generator().manual_seed(1))

SIBLINGS = {
    "dinov2": ("vit_small_patch14_dinov2.lvd142m", 384),
    "siglip": ("test_vit3.r160_in1k", 96),
    "clip": ("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", 256),
    "mae": ("vit_small_patch16_224.dino", 384),
    "convnext": ("convnextv2_atto.fcmae_ft_in1k", 320),
}
"""A small network of the kind of each preset, and its width."""


def seeded_state(model_name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights in timm's layout, classifier included, drawn so that every block matters."""
    with torch.device("meta"):
        shapes = {
            key: value.shape for key, value in timm.create_model(model_name, pretrained=False).state_dict().items()
        }
    generator = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(shape, generator=generator) * 0.05 for key, shape in shapes.items()}
    for key in state:
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 1
    return state


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("timm")


@pytest.fixture(scope="session")
def weights_of(folder):
    @cache
    def write(model_name: str) -> Path:
        path = folder / f"{model_name}.safetensors"
        save_file(seeded_state(model_name), path)
        return path

    return write


def sibling_row(preset: str):
    model, width = SIBLINGS[preset]
    row = find_row(preset)
    return replace(row, model=model, width=width, weights=timm_weights(model))


@pytest.fixture(scope="session")
def sibling(weights_of):
    @cache
    def build(preset: str):
        row = sibling_row(preset)
        return load_row(row, EncoderOptions(weights=weights_of(row.model), device="cpu"))

    return build


def options(path, **kwargs):
    return EncoderOptions(weights=path, device="cpu", **kwargs)


# --- parity --------------------------------------------------------------------------------------------------------


def reference(preset: str, path: Path) -> dict[str, torch.Tensor]:
    """The features by timm's own loader, torchvision's resize, and poolings written out."""
    row = sibling_row(preset)
    settings = {} if preset == "convnext" else {"dynamic_img_size": True, "dynamic_img_pad": True}
    model = timm.create_model(
        row.model, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(path)}, **settings
    ).eval()
    config = timm.get_pretrained_cfg(row.model)
    size = {"dinov2": 256, "siglip": 224, "clip": 256, "mae": 224, "convnext": 224}[preset]
    inputs = vision.resize(IMAGES, [size, size], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)
    with torch.inference_mode():
        features = model.forward_features(vision.normalize(inputs, list(config.mean), list(config.std)))
        if preset == "convnext":
            return {"mean": features.flatten(2).mean(2)}
        if preset == "siglip":
            # this sibling has a register token, which its pooling includes; SigLIP itself has no prefix
            return {"attention-pool": model.attn_pool(features), "mean": features[:, 1:].mean(1)}
        return {"cls": features[:, 0], "mean": features[:, 1:].mean(1)}


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_the_mean_is_that_of_the_patches_alone(num_prefix):
    """SigLIP has no token before them, ViTs have one, and those with registers more."""
    tokens = torch.randn(2, 9, 3)
    found = _mean(SimpleNamespace(num_prefix_tokens=num_prefix), tokens)
    np.testing.assert_allclose(found.numpy(), tokens.numpy()[:, num_prefix:].mean(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", SIBLINGS)
def test_features_equal_timms_own(preset, sibling, weights_of):
    encoder = sibling(preset)
    with torch.inference_mode():
        features = encoder(IMAGES)
    expected = reference(preset, weights_of(encoder.spec.model))
    assert features.keys() == expected.keys() == set(encoder.outputs)
    for name, value in features.items():
        assert value.shape == (2, SIBLINGS[preset][1])
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
        assert value.std() > 0.01


@pytest.mark.parametrize("preset", SIBLINGS)
def test_features_equal_those_of_values_from_0_to_255(preset, sibling):
    """fd_evaluator resizes and normalises in 0 to 255, and an image of the right size is not resized."""
    encoder = sibling(preset)
    config, size = timm.get_pretrained_cfg(encoder.spec.model), encoder.spec.input_size
    images = (IMAGES * 255).round()
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    inputs = torch.nn.functional.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=True)
    with torch.inference_mode():
        found = encoder(images / 255)[encoder.spec.output]
        expected = encoder.forward((inputs - mean) / std, [encoder.spec.output])[encoder.spec.output]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10t.c3_in1k", "mobilenetv3_small_050.lamb_in1k", "vit_tiny_patch16_224"])
def test_any_timm_model_gives_its_own_pooled_features(name, weights_of):
    encoder = load(f"timm:{name}", options(weights_of(name)))
    model = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(weights_of(name))}
    ).eval()
    config = model.pretrained_cfg
    size = config["input_size"][-1]
    inputs = vision.resize(IMAGES, [size, size], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)
    with torch.inference_mode():
        expected = model(vision.normalize(inputs, list(config["mean"]), list(config["std"])))
        features = encoder(IMAGES)
    assert list(features) == ["features"]
    assert encoder.spec.dim == expected.shape[1]
    assert encoder.spec.input_size == size
    torch.testing.assert_close(features["features"], expected, rtol=1e-5, atol=1e-5)


def test_a_name_without_a_tag_means_timms_default_tag(weights_of):
    encoder = load("timm:resnet10t", options(weights_of("resnet10t.c3_in1k")))
    assert (encoder.spec.name, encoder.spec.model) == ("timm:resnet10t", "resnet10t.c3_in1k")


# --- preprocessing -------------------------------------------------------------------------------------------------


def test_patches_are_padded_and_embeddings_resampled(sibling):
    tokens = {}
    for preset in ("dinov2", "siglip", "clip"):
        encoder = sibling(preset)
        tokens[preset] = encoder.network.forward_features(encoder.preprocess(IMAGES[:1])).shape[1]
    assert tokens["dinov2"] == 19 * 19 + 1  # 256 px at patch 14: padded to 266
    assert tokens["siglip"] == 14 * 14 + 1  # native 160 px, run at 224
    assert tokens["clip"] == 16 * 16 + 1


def test_an_image_of_the_right_size_is_only_normalised(sibling):
    image = torch.rand(1, 3, 224, 224)
    inputs = sibling("siglip").preprocess(image)
    assert torch.equal(inputs, (image - 0.5) / 0.5)


def test_overshoot_is_not_clamped(sibling):
    board = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64)
    inputs = sibling("siglip").preprocess(board)
    assert inputs.max() > 1.01
    assert inputs.min() < -1.01


def test_a_row_does_not_depend_on_its_batch(sibling):
    encoder = sibling("convnext")
    with torch.inference_mode():
        together = encoder(IMAGES)["mean"]
        alone = torch.cat([encoder(image[None])["mean"] for image in IMAGES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_only_asked_outputs_are_given_and_gradients_flow(sibling):
    encoder = sibling("clip")
    images = IMAGES[:1].clone().requires_grad_()
    features = encoder(images, ["mean"])
    assert list(features) == ["mean"]
    features["mean"].square().sum().backward()
    assert images.grad.abs().max() > 0
    assert encoder.stored_outputs == ("cls",)


# --- spec ----------------------------------------------------------------------------------------------------------


def test_the_spec_says_all_that_moves_the_number(sibling, weights_of):
    spec = sibling("dinov2").spec
    assert (spec.family, spec.output, spec.dim, spec.input_size) == ("timm", "cls", 384, 256)
    assert (spec.resize, spec.dtype, spec.compute) == ("bicubic-antialias", "float32", "default")
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.extra == (("dynamic_img_pad", "true"), ("dynamic_img_size", "true"))
    assert len(spec.weights) == 64
    assert spec.weights_source == str(weights_of(spec.model))


def test_the_hash_follows_the_weights_and_not_their_place(weights_of, tmp_path):
    path = weights_of("resnet10t.c3_in1k")
    here = load("timm:resnet10t", options(path)).spec
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(path.read_bytes())
    assert load("timm:resnet10t", options(moved)).spec.hash == here.hash
    save_file(seeded_state("resnet10t.c3_in1k", seed=1), moved)
    assert load("timm:resnet10t", options(moved)).spec.hash != here.hash
    assert load("timm:resnet10t", options(path, tf32=True)).spec.hash != here.hash


def test_bf16_is_recorded_or_refused(weights_of, monkeypatch):
    path = weights_of("resnet10t.c3_in1k")
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda device: False)
    with pytest.raises(InputError, match="no fast bfloat16"):
        load("timm:resnet10t", options(path, dtype="bf16"))
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda device: True)
    encoder = load("timm:resnet10t", options(path, dtype="bf16"))
    exact = load("timm:resnet10t", options(path))
    with torch.inference_mode():
        rough, fine = encoder(IMAGES)["features"], exact(IMAGES)["features"]
    assert (encoder.spec.dtype, rough.dtype) == ("bf16", torch.float32)
    assert not torch.equal(rough, fine)
    torch.testing.assert_close(rough, fine, rtol=0.1, atol=0.1)


# --- files ---------------------------------------------------------------------------------------------------------


def test_weights_are_found_by_model_name(weights_of, folder):
    path = weights_of("convnextv2_atto.fcmae_ft_in1k")
    encoder = load_row(sibling_row("convnext"), EncoderOptions(weights_dir=folder, device="cpu", offline=True))
    assert encoder.spec.weights_source == str(path)


def test_the_authors_layout_of_dinov2_is_read(tmp_path, sibling):
    state = seeded_state("vit_small_patch14_dinov2.lvd142m")
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    encoder = load_row(sibling_row("dinov2"), options(tmp_path / "dinov2_vits14_pretrain.pth"))
    with torch.inference_mode():
        assert torch.equal(encoder(IMAGES[:1])["cls"], sibling("dinov2")(IMAGES[:1])["cls"])


@pytest.mark.parametrize(
    ("preset", "given", "sentence"),
    [
        ("mae", "resnet10t.c3_in1k", "seems to hold a ResNet"),
        ("mae", "vit_tiny_patch16_224", "seems to hold a ViT of width 192 with 12 blocks"),
        ("mae", "vit_small_patch14_dinov2.lvd142m", "does not fit encoder 'mae'"),
        ("mae", "vit_small_patch16_224.augreg_in1k", "with unexpected head."),
        ("mae", "vit_small_patch32_224.augreg_in21k", "patch_embed.proj.weight"),
        ("dinov2", "vit_small_patch16_224.dino", "without blocks.0.ls1.gamma"),
        ("siglip", "convnextv2_atto.fcmae_ft_in1k", "seems to hold a ConvNeXt V2"),
        ("convnext", "vit_tiny_patch16_224", "seems to hold a ViT"),
    ],
)
def test_the_file_of_another_model_is_refused(preset, given, sentence, weights_of):
    with pytest.raises(WeightsError, match="does not fit encoder") as error:
        load_row(sibling_row(preset), options(weights_of(given)))
    assert sentence in str(error.value)


def test_embeddings_of_another_size_are_not_resampled_silently(tmp_path):
    state = seeded_state("vit_small_patch16_224.dino")
    state["pos_embed"] = torch.zeros(1, 1 + 24 * 24, 384)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"wrong shapes pos_embed \(1x577x384 for 1x197x384\)"):
        load_row(sibling_row("mae"), options(tmp_path / "w.safetensors"))


def test_a_missing_tensor_is_not_left_random(tmp_path):
    state = seeded_state("convnextv2_atto.fcmae_ft_in1k")
    del state["stages.1.blocks.0.mlp.grn.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"without stages.1.blocks.0.mlp.grn.weight"):
        load_row(sibling_row("convnext"), options(tmp_path / "w.safetensors"))


def test_a_truncated_file_is_one_sentence(tmp_path, weights_of):
    data = weights_of("resnet10t.c3_in1k").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        load("timm:resnet10t", options(tmp_path / "w.safetensors"))


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:resnet50.a1_in2k", r"Unknown timm model 'resnet50.a1_in2k'; did you mean 'resnet50.a1_in1k'"),
        ("timm:resnt50", "did you mean .*'resnet50'"),
        ("timm:zzzzzzzzzzzz", "timm.list_models"),
        ("timm:vit_large_patch14_dinov2.lvd", "did you mean 'vit_large_patch14_dinov2.lvd142m'"),
    ],
)
def test_an_unknown_timm_model_gets_near_matches(name, sentence):
    with pytest.raises(InputError, match=sentence):
        load(name, EncoderOptions(offline=True))


def test_a_model_without_published_weights_needs_a_file():
    name = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(InputError, match="timm has no weights"):
        load(f"timm:{name}", EncoderOptions(offline=True))


@pytest.mark.parametrize("failure", [ImportError("No module named timm"), RuntimeError("torchvision::nms\nmissing")])
def test_a_broken_timm_costs_one_sentence(monkeypatch, failure):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "timm":
                raise failure

    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(InputError, match="Encoder 'dinov2' needs timm, which failed to import") as error:
        load("dinov2", EncoderOptions(offline=True))
    assert "\n" not in str(error.value)


# --- the production networks ---------------------------------------------------------------------------------------

PRODUCTION = [row for row in ROWS if row.family == "timm"]


@pytest.mark.parametrize("row", [row for row in PRODUCTION if row.name in BUNDLES["fdr6"]], ids=lambda row: row.name)
def test_the_catalogue_agrees_with_timm(row):
    config = timm.get_pretrained_cfg(row.model)
    assert timm.is_model_pretrained(row.model)
    assert (row.mean, row.std) == (tuple(config.mean), tuple(config.std))
    assert row.weights.hub == (config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    native = {"dinov2": 518, "siglip": 256, "clip": 224, "mae": 224, "convnext": 224}
    assert config.input_size == (3, native[row.name], native[row.name])
    assert row.licence.lower().startswith((config.license or "apache-2.0").lower())
    with torch.device("meta"):
        model = timm.create_model(row.model, pretrained=False)
    assert model.num_features == row.width
    size = sum(tensor.numel() for tensor in model.state_dict().values()) * 4
    assert abs(row.weights.size - size) < 0.01 * size


@pytest.mark.slow
@pytest.mark.parametrize("row", PRODUCTION, ids=lambda row: row.name)
def test_the_production_network_runs_through_the_true_loading_path(row, tmp_path):
    path = tmp_path / f"{row.model}.safetensors"
    save_file(seeded_state(row.model), path)
    encoder = timm_models.load(row.name, EncoderOptions(weights=path, device="cpu", offline=True))
    with torch.inference_mode():
        features = encoder(torch.rand(1, 3, 256, 256))
    assert features[row.output].shape == (1, row.width)
    assert torch.isfinite(features[row.output]).all()
