"""openclip:ARCH/TAG equals OpenCLIP's own model and preprocessing, from files as it publishes them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained as tags
from PIL import Image
from safetensors.torch import save_file

from fdr.encoders import EncoderOptions
from fdr.encoders.openclip_models import load, needed_files
from fdr.errors import FdrWarning, InputError, WeightsError

pytestmark = pytest.mark.usefixtures("pillow_before_13")

ARRAYS = [np.random.default_rng(seed).integers(0, 256, (70, 93, 3), dtype=np.uint8) for seed in range(2)]
IMAGES = torch.stack([torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in ARRAYS])

VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
PAIRS = {
    "fdr-tiny/clip": {},
    "fdr-tiny-quickgelu/openai": {"quick_gelu": True},
    "fdr-tiny/siglip": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"},
    "fdr-tiny/mobile": {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear"},
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory):
    """Two small architectures and their tags, known to OpenCLIP as its own are."""
    folder = tmp_path_factory.mktemp("configs")
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    (folder / "fdr-tiny.json").write_text(json.dumps(config))
    (folder / "fdr-tiny-quickgelu.json").write_text(json.dumps({**config, "quick_gelu": True}))
    open_clip.add_model_config(folder)
    known = {}
    for pair, settings in PAIRS.items():
        architecture, tag = pair.split("/")
        known.setdefault(architecture, {})[tag] = tags._pcfg(hf_hub=f"fdr/{tag}/", **settings)
    known["fdr-tiny"]["openai"] = known["fdr-tiny-quickgelu"]["openai"]
    known["fdr-tiny-quickgelu"]["clip"] = known["fdr-tiny"]["clip"]
    known["fdr-tiny"]["old"] = tags._pcfg(hf_hub="fdr/old/weights.bin")
    tags._PRETRAINED.update(known)
    yield
    for architecture in known:
        del tags._PRETRAINED[architecture]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A weights folder with the file of every pair, in OpenCLIP's layout, text tower included."""
    root = tmp_path_factory.mktemp("weights")
    for seed, pair in enumerate(PAIRS):
        architecture, tag = pair.split("/")
        torch.manual_seed(seed)
        state = {key: tensor.clone() for key, tensor in open_clip.create_model(architecture).state_dict().items()}
        for key, tensor in state.items():
            state[key] = tensor + torch.randn_like(tensor) * 0.05
        path = root / f"fdr--{tag}" / "open_clip_model.safetensors"
        path.parent.mkdir()
        save_file(state, path)
    return root


def encoder_of(pair: str, folder: Path, **kwargs):
    return load(f"openclip:{pair}", EncoderOptions(weights_dir=folder, device="cpu", offline=True, **kwargs))


@pytest.mark.parametrize("pair", PAIRS)
def test_input_and_features_equal_openclips(pair, folder, monkeypatch):
    architecture, tag = pair.split("/")
    path = folder / f"fdr--{tag}" / "open_clip_model.safetensors"
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda config, cache_dir=None: str(path))
    model, _, prepare = open_clip.create_model_and_transforms(architecture, pretrained=tag)
    inputs = torch.stack([prepare(Image.fromarray(array)) for array in ARRAYS])
    encoder = encoder_of(pair, folder)
    assert torch.equal(encoder.preprocess(IMAGES), inputs)
    with torch.inference_mode():
        expected = model.eval().encode_image(inputs)
        features = encoder(IMAGES)["embedding"]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_the_activation_of_another_architecture_is_told(folder):
    with pytest.warns(FdrWarning, match=r"trained with QuickGELU.*openclip:fdr-tiny-quickgelu/openai runs them"):
        exact = encoder_of("fdr-tiny/openai", folder)
    quick = encoder_of("fdr-tiny-quickgelu/openai", folder)
    assert exact.spec.hash != quick.spec.hash
    assert not torch.equal(exact(IMAGES)["embedding"], quick(IMAGES)["embedding"])
    sentence = r"trained with exact GELU, and fdr-tiny-quickgelu runs QuickGELU.*openclip:fdr-tiny/clip runs them"
    with pytest.warns(FdrWarning, match=sentence):
        encoder_of("fdr-tiny-quickgelu/clip", folder)


def test_the_spec_says_all_that_moves_the_number(folder):
    spec = encoder_of("fdr-tiny/mobile", folder).spec
    assert (spec.family, spec.model, spec.output, spec.dim) == ("openclip", "openclip-fdr-tiny", "embedding", 24)
    assert (spec.resize, spec.input_size, spec.mean) == ("pil-bilinear+short-crop", 32, (0.0,) * 3)
    assert len(spec.weights) == 64


def test_loading_leaves_logging_as_it_was(folder):
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    encoder_of("fdr-tiny/clip", folder)
    assert (root.level, list(root.handlers)) == before


def test_files_are_those_that_openclip_would_fetch():
    (file,) = needed_files("openclip:fdr-tiny/clip")
    assert [one.hub for one in (file, *file.others)] == [
        ("fdr/clip", "open_clip_model.safetensors"),
        ("fdr/clip", "open_clip_pytorch_model.bin"),
    ]
    (file,) = needed_files("openclip:fdr-tiny/old")
    assert [one.hub[1] for one in (file, *file.others)] == ["weights.safetensors", "weights.bin"]


def test_every_published_pair_has_a_file_and_a_resize_that_fdr_runs():
    for architecture, tag in open_clip.list_pretrained():
        config = tags.get_pretrained_cfg(architecture, tag)
        assert config["hf_hub"] or config["url"]
        assert config["resize_mode"] in ("shortest", "squash")
        assert config["interpolation"] in ("bicubic", "bilinear")


def test_a_file_of_ones_own_needs_no_tag(folder):
    path = folder / "fdr--clip" / "open_clip_model.safetensors"
    assert encoder_of("fdr-tiny", folder, weights=path).spec.weights == encoder_of("fdr-tiny/clip", folder).spec.weights
    spec = encoder_of("fdr-tiny", folder, weights=path).spec  # without a tag, images are prepared as OpenAI's
    assert (spec.resize, spec.mean, spec.std) == (
        "pil-bicubic+short-crop", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"names no weights; add a tag \(.*clip.*\) or give a file"):
        encoder_of("fdr-tiny", folder)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("openclip:ViT-B-23/openai", r"Unknown OpenCLIP architecture 'ViT-B-23'; did you mean .*'ViT-B-32'"),
        ("openclip:ViT-B-32/opena", r"Unknown OpenCLIP weight tag of ViT-B-32 'opena'; did you mean 'openai'"),
        ("openclip:?x=1", "setting of|names nothing"),
    ],
)
def test_unknown_names_get_near_matches(name, sentence):
    with pytest.raises(InputError, match=sentence):
        load(name, EncoderOptions(offline=True))


def test_the_file_of_another_architecture_is_one_sentence(folder, tmp_path):
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit encoder 'openclip:fdr-tiny/clip'") as error:
        encoder_of("fdr-tiny/clip", folder, weights=tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)


def test_offline_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=r"fetch open_clip_model.safetensors from https://.*fdr/clip/resolve"):
        encoder_of("fdr-tiny/clip", tmp_path)
