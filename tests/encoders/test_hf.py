"""hf:REPO equals transformers' own model on its Pillow processor's input, from files in the official layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from fdr.encoders import EncoderOptions
from fdr.encoders.transformers_models import load, preprocessing_of
from fdr.errors import InputError, WeightsError
from fdr.weights.hub import resolve_files

pytestmark = pytest.mark.usefixtures("pillow_before_13")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SMALL, "num_hidden_layers": 1, "vocab_size": 50}
ARRAYS = [np.random.default_rng(seed).integers(0, 256, (70, 93, 3), dtype=np.uint8) for seed in range(2)]
SQUARES = [np.random.default_rng(seed).integers(0, 256, (70, 70, 3), dtype=np.uint8) for seed in range(2)]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def as_images(arrays) -> torch.Tensor:
    return torch.stack([torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in arrays])


def model_of(kind: str):
    """A small network of the family, as its repositories save it: CLIP, SigLIP and MAE whole."""
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    t = transformers
    if kind == "clip":
        config = t.CLIPConfig(text_config=TEXT, vision_config={**vision, "projection_dim": 24}, projection_dim=24)
        return t.CLIPModel(config)
    if kind == "siglip":
        return t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=vision))
    if kind == "siglip2":
        vision = {**SMALL, "num_patches": 16, "patch_size": 8}
        return t.Siglip2Model(t.Siglip2Config(text_config=TEXT, vision_config=vision))
    if kind == "vit_mae":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        return t.ViTMAEForPreTraining(t.ViTMAEConfig(**vision, **decoder, decoder_intermediate_size=32))
    if kind == "dinov3_vit":
        return t.DINOv3ViTModel(t.DINOv3ViTConfig(**vision, num_register_tokens=2))
    sizes = {**SMALL, "image_size": 56, "patch_size": 14}
    del sizes["intermediate_size"]
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**sizes))
    return t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**sizes, num_register_tokens=3))


PROCESSORS = {
    "clip": lambda t: t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "siglip": lambda t: t.SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "siglip2": lambda t: t.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    "vit_mae": lambda t: t.ViTImageProcessorPil(size={"height": 32, "width": 32}, **IMAGENET),
    "dinov3_vit": lambda t: t.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}),
    "dinov2": lambda t: t.BitImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, **IMAGENET
    ),
}
PROCESSORS["dinov2_with_registers"] = PROCESSORS["dinov2"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A repository's files per family, written once by save_pretrained."""
    made = {}
    transformers.utils.logging.disable_progress_bar()
    for kind in PROCESSORS:
        torch.manual_seed(7)
        folder = tmp_path_factory.mktemp(kind)
        model = model_of(kind)
        for parameter in model.parameters():  # so that the features see the image
            parameter.data += torch.randn_like(parameter) * 0.1
        model.save_pretrained(folder)
        PROCESSORS[kind](transformers).save_pretrained(folder)
        made[kind] = folder
    return made


def encoder_of(folder: Path, query: str = "", **kwargs):
    return load(f"hf:{folder}{query}", EncoderOptions(device="cpu", offline=True, **kwargs))


def run(encoder, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return encoder(images)


# --- parity --------------------------------------------------------------------------------------------------------


def by_the_library(kind: str, folder: Path, arrays) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Network input and features by transformers alone."""
    t = transformers
    inputs = PROCESSORS[kind](t)([Image.fromarray(array) for array in arrays], return_tensors="pt")
    load_options = {"dtype": torch.float32, "local_files_only": True}
    with torch.inference_mode():
        if kind == "clip":
            model = t.CLIPModel.from_pretrained(folder, **load_options).eval()
            hidden = model.vision_model(**inputs)
            embedding = model.visual_projection(hidden.pooler_output)
            tokens = hidden.last_hidden_state
            return inputs["pixel_values"], {"embedding": embedding, "cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
        if kind in ("siglip", "siglip2"):
            whole = (t.SiglipModel if kind == "siglip" else t.Siglip2Model).from_pretrained(folder, **load_options)
            result = whole.eval().vision_model(**inputs)
            return inputs["pixel_values"], {
                "attention-pool": result.pooler_output,
                "mean": result.last_hidden_state.mean(1),
            }
        if kind == "vit_mae":
            model = t.ViTMAEModel.from_pretrained(folder, mask_ratio=0.0, **load_options).eval()
            tokens = model(**inputs).last_hidden_state  # in a random order, which neither pooling sees
            return inputs["pixel_values"], {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
        model = t.AutoModel.from_pretrained(folder, **load_options).eval()
        result = model(**inputs)
        prefix = 1 + getattr(model.config, "num_register_tokens", 0)
        return inputs["pixel_values"], {
            "cls": result.pooler_output,
            "mean": result.last_hidden_state[:, prefix:].mean(1),
        }


@pytest.mark.parametrize("kind", PROCESSORS)
def test_features_equal_the_librarys(kind, folders):
    arrays = SQUARES if kind == "siglip2" else ARRAYS
    encoder = encoder_of(folders[kind])
    inputs, expected = by_the_library(kind, folders[kind], arrays)
    images = as_images(arrays)
    if kind != "siglip2":  # its input are flattened patches
        torch.testing.assert_close(
            encoder.preprocess(images), inputs, rtol=0, atol=1e-6 if kind != "dinov3_vit" else 3e-6
        )
    features = run(encoder, images)
    assert features.keys() == expected.keys()
    for name, value in expected.items():
        assert (value[0] - value[1]).abs().max() > 0.01
        torch.testing.assert_close(features[name], value, rtol=0, atol=2e-5 * float(value.abs().max()))


def test_every_family_is_compared():
    from fdr.encoders.transformers_models import FAMILIES

    assert set(FAMILIES) == set(PROCESSORS)


def test_mae_is_the_same_every_time(folders):
    encoder = encoder_of(folders["vit_mae"])
    first, second = (run(encoder, as_images(ARRAYS)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_flow_where_torch_resizes(folders):
    images = as_images(ARRAYS).requires_grad_()
    encoder_of(folders["dinov3_vit"])(images)["cls"].square().sum().backward()
    assert images.grad.abs().max() > 0


# --- spec ----------------------------------------------------------------------------------------------------------


def test_the_spec_says_all_that_moves_the_number(folders, tmp_path):
    spec = encoder_of(folders["dinov2"]).spec
    assert (spec.family, spec.model, spec.output, spec.dim) == ("hf", "transformers-dinov2", "cls", 32)
    assert (spec.resize, spec.input_size) == ("pil-bicubic+short32-crop-floor", 28)
    moved = shutil.copytree(folders["dinov2"], tmp_path / "moved")
    assert encoder_of(moved).spec.hash == spec.hash
    for name, key, value in (("config.json", "layer_norm_eps", 1e-3), ("preprocessor_config.json", "resample", 2)):
        data = json.loads((moved / name).read_text())
        (moved / name).write_text(json.dumps({**data, key: value}))
        assert encoder_of(moved).spec.hash != spec.hash
        (moved / name).write_text(json.dumps(data))


def test_another_main_output_is_another_encoder(folders):
    mean = encoder_of(folders["dinov2"], "?output=mean")
    assert mean.spec.output == mean.outputs[0] == mean.stored_outputs[0] == "mean"
    assert mean.spec.hash != encoder_of(folders["dinov2"]).spec.hash
    with pytest.raises(InputError, match=r"Unknown output of .* 'pool'; known: cls, mean"):
        encoder_of(folders["dinov2"], "?output=pool")
    with pytest.raises(InputError, match=r"Unknown setting of .* 'outptu'; did you mean 'output'"):
        encoder_of(folders["dinov2"], "?outptu=mean")


def test_half_precision_files_run_in_float32(folders, tmp_path):
    half = shutil.copytree(folders["dinov2"], tmp_path / "half")
    state = {name: tensor.bfloat16() for name, tensor in load_file(half / "model.safetensors").items()}
    save_file(state, half / "model.safetensors")
    save_file({name: tensor.float() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    whole = encoder_of(folders["dinov2"], weights=tmp_path / "model.safetensors")
    found, expected = run(encoder_of(half), as_images(ARRAYS)), run(whole, as_images(ARRAYS))
    assert torch.equal(found["cls"], expected["cls"])
    files, _ = resolve_files(str(half), EncoderOptions(device="cpu"), "x")
    assert {tensor.dtype for tensor in files.state_dict().values()} == {torch.float32}


# --- where the files are -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch, folders):
    """A hub cache with the commit "abc" of a repository, and an older one, as huggingface_hub lays them out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "own"))
    root = tmp_path / "hub" / "models--facebook--tiny"
    shutil.copytree(folders["dinov2"], root / "snapshots" / ("a" * 40))
    shutil.copytree(folders["dinov2"], root / "snapshots" / ("b" * 40))
    state = load_file(folders["dinov2"] / "model.safetensors")
    save_file(
        {name: tensor * 2 for name, tensor in state.items()}, root / "snapshots" / ("b" * 40) / "model.safetensors"
    )
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    return root


def test_the_hub_cache_is_used_and_a_revision_is_honoured(hub, folders):
    options = EncoderOptions(device="cpu", offline=True)
    main, pinned = load("hf:facebook/tiny", options), load(f"hf:facebook/tiny@{'b' * 40}", options)
    assert main.spec.hash == encoder_of(folders["dinov2"]).spec.hash
    assert main.spec.weights != pinned.spec.weights
    assert "a" * 40 in main.spec.weights_source
    assert "b" * 40 in pinned.spec.weights_source


def test_a_weights_folder_holds_repositories_as_folders(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(folders["clip"], tmp_path / "openai--tiny")
    encoder = load("hf:openai/tiny", EncoderOptions(device="cpu", offline=True, weights_dir=tmp_path))
    assert encoder.spec.dim == 24


def test_offline_says_which_file_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        WeightsError, match=r"fetch preprocessor_config.json from https://.*facebook/none/resolve/main/preprocessor"
    ):
        load("hf:facebook/none", EncoderOptions(offline=True, weights_dir=tmp_path))


def test_shards_are_read_through_their_index(folders, tmp_path):
    sharded = shutil.copytree(folders["dinov2"], tmp_path / "sharded")
    state = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    half = len(state) // 2
    weight_map = {}
    for part, names in enumerate((list(state)[:half], list(state)[half:]), 1):
        save_file({name: state[name] for name in names}, sharded / f"model-0000{part}-of-00002.safetensors")
        weight_map |= dict.fromkeys(names, f"model-0000{part}-of-00002.safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    whole, parts = encoder_of(folders["dinov2"]), encoder_of(sharded)
    assert torch.equal(run(whole, as_images(ARRAYS))["cls"], run(parts, as_images(ARRAYS))["cls"])
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(sharded.glob("model-*.safetensors"))]
    assert parts.spec.weights == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_a_folder_comes_before_a_repository_of_the_same_name(folders, tmp_path, monkeypatch):
    shutil.copytree(folders["dinov2"], tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    found = load("hf:owner/name", EncoderOptions(device="cpu", offline=True))
    assert found.spec.weights == encoder_of(folders["dinov2"]).spec.weights


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "..", "a/b.safetensors", "", 3])
def test_an_index_names_files_beside_it_alone(folders, tmp_path, name):
    folder = shutil.copytree(folders["dinov2"], tmp_path / "sharded")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"a": name}} if name != 3 else {"weight_map": 3}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="which is no file name; fetch it again"):
        encoder_of(folder)


def test_the_older_torch_file_is_read_without_running_it(folders, tmp_path):
    old = shutil.copytree(folders["dinov2"], tmp_path / "old")
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    found, expected = run(encoder_of(old), as_images(ARRAYS)), run(encoder_of(folders["dinov2"]), as_images(ARRAYS))
    assert torch.equal(found["cls"], expected["cls"])

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"w": Evil()}, old / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        encoder_of(old)


# --- what does not fit ---------------------------------------------------------------------------------------------


def broken(folders, tmp_path, kind: str, file: str, **changes) -> Path:
    folder = shutil.copytree(folders[kind], tmp_path / "broken")
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**data, **changes}))
    return folder


@pytest.mark.parametrize(
    ("kind", "file", "changes", "sentence"),
    [
        (
            "dinov2",
            "config.json",
            {"model_type": "dinov5"},
            r"Unknown model type of transformers 'dinov5'; did you mean",
        ),
        ("dinov2", "config.json", {"num_hidden_layers": 3}, r"file is without encoder.layer.2"),
        ("dinov2", "config.json", {"hidden_size": 64}, r"with another shape of"),
        ("vit_mae", "preprocessor_config.json", {"size": {"height": 40, "width": 40}}, r"makes images of 40 px"),
        ("clip", "preprocessor_config.json", {"resample": 5}, "asks for resample 5"),
        ("clip", "preprocessor_config.json", {"do_center_crop": False}, "asks for a short side without a crop"),
        ("clip", "preprocessor_config.json", {"image_processor_type": "SamImageProcessor"}, "the processor SamImage"),
        ("siglip", "preprocessor_config.json", {"do_rescale": False}, "rescale_factor"),
        ("siglip", "preprocessor_config.json", {"size": {"height": 32, "width": 48}}, "reproduces a square"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(kind, file, changes, sentence, folders, tmp_path):
    with pytest.raises(InputError, match=sentence) as error:
        encoder_of(broken(folders, tmp_path, kind, file, **changes))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(WeightsError, match=r"is not a folder with a config.json"):
        load(f"hf:{tmp_path}", EncoderOptions())
    (tmp_path / "config.json").write_text("{not json")
    (tmp_path / "preprocessor_config.json").write_text("[]")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match=r"is not readable JSON|holds a list, not an object"):
        load(f"hf:{tmp_path}", EncoderOptions())


@pytest.mark.parametrize(
    ("config", "processor", "resize", "size"),
    [
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32}, "ViT", "+short40-crop", 32),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3}, "CLIP", "", 32),
        ({"image_processor_type": "SiglipImageProcessorFast", "size": {"height": 32, "width": 32}}, "CLIP", "", 32),
    ],
)
def test_older_files_mean_what_they_meant(config, processor, resize, size):
    found = preprocessing_of(config, processor, "x")
    assert (found.resize.removesuffix("-floor"), found.size) == (f"pil-bicubic{resize}", size)
