"""The encoders of other tools' protocols: dgm-eval's and EDM2's DINOv2, clean-fid's and CMMD's CLIP.

Each is compared with its network written out, or with the library that its tool calls, on files in the official layout.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_timm
import torch
import torch.nn.functional as F
import torchvision.transforms as vision
from PIL import Image
from safetensors.torch import save_file

from fdr.encoders import ROWS, AbstractEncoder, EncoderOptions, find_row
from fdr.encoders.catalogue import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from fdr.encoders.timm_models import as_dinov2, load_row
from fdr.errors import FdrWarning, InputError, WeightsError
from fdr.weights import find

pytestmark = pytest.mark.usefixtures("pillow_before_13")

BICUBIC = vision.InterpolationMode.BICUBIC
ARRAYS = [np.random.default_rng(seed).integers(0, 256, (90, 131, 3), dtype=np.uint8) for seed in range(2)]
IMAGES = torch.stack([torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in ARRAYS])


def seeded(shapes: dict[str, tuple[int, ...]], scale: float = 0.15) -> dict[str, torch.Tensor]:
    """Drawn so that the features depend on the image: gains and layer scales about 1, everything else about 0."""
    generator = torch.Generator().manual_seed(3)
    gains = ("norm.weight", "norm1.weight", "norm2.weight", "rnorm.weight", ".gamma")
    return {
        key: torch.randn(shape, generator=generator) * scale + float(key.endswith(gains))
        for key, shape in shapes.items()
    }


def on_file(row_name: str, model: str, width: int, path: Path) -> AbstractEncoder:
    row = replace(find_row(row_name), model=model, width=width)
    return load_row(row, EncoderOptions(weights=path, device="cpu"))


def run(encoder: AbstractEncoder, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(images)[encoder.spec.output]


# --- DINOv2 --------------------------------------------------------------------------------------------------------

D, DEPTH, HEADS, PATCH = 48, 2, 3, 14


@pytest.fixture(scope="module")
def dinov2_state() -> dict[str, torch.Tensor]:
    """The authors' own names (dinov2_vitl14_pretrain.pth), small."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, D),
        "pos_embed": (1, 1 + 37 * 37, D),
        "mask_token": (1, D),
        "patch_embed.proj.weight": (D, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (D,),
        "norm.weight": (D,),
        "norm.bias": (D,),
    }
    for block in range(DEPTH):
        prefix = f"blocks.{block}."
        for name, rows, columns in (
            ("attn.qkv", 3 * D, D),
            ("attn.proj", D, D),
            ("mlp.fc1", 4 * D, D),
            ("mlp.fc2", D, 4 * D),
        ):
            shapes |= {f"{prefix}{name}.weight": (rows, columns), f"{prefix}{name}.bias": (rows,)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[prefix + name] = (D,)
    return seeded(shapes)


def dinov2_by_hand(state: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """The class token of the paper's pre-norm ViT with layer scale, in float64, attention written out."""
    s = {key: tensor.double() for key, tensor in state.items()}
    positions = as_dinov2(state, (16, 16))["pos_embed"].double()
    x = F.conv2d(inputs.double(), s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([s["cls_token"].expand(len(inputs), 1, D), x.flatten(2).mT], 1) + positions
    for b in range(DEPTH):
        p = f"blocks.{b}."
        y = F.layer_norm(x, (D,), s[p + "norm1.weight"], s[p + "norm1.bias"], 1e-6)
        qkv = y @ s[p + "attn.qkv.weight"].T + s[p + "attn.qkv.bias"]
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, 2))
        y = torch.softmax(q @ k.mT / (D // HEADS) ** 0.5, -1) @ v
        y = y.transpose(1, 2).flatten(2) @ s[p + "attn.proj.weight"].T + s[p + "attn.proj.bias"]
        x = x + s[p + "ls1.gamma"] * y
        y = F.layer_norm(x, (D,), s[p + "norm2.weight"], s[p + "norm2.bias"], 1e-6)
        y = F.gelu(y @ s[p + "mlp.fc1.weight"].T + s[p + "mlp.fc1.bias"])
        x = x + s[p + "ls2.gamma"] * (y @ s[p + "mlp.fc2.weight"].T + s[p + "mlp.fc2.bias"])
    return F.layer_norm(x, (D,), s["norm.weight"], s["norm.bias"], 1e-6)[:, 0]


def as_dgm_eval(array: np.ndarray) -> torch.Tensor:
    steps = [vision.Resize((224, 224), BICUBIC), vision.ToTensor(), vision.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return vision.Compose(steps)(Image.fromarray(array))


def as_edm2(images: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(images * 255, size=(224, 224), mode="bicubic", antialias=True) / 255
    return (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def dinov2_file(tmp_path_factory, dinov2_state) -> Path:
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vitl14_pretrain.pth"
    torch.save(dinov2_state, path)
    return path


@pytest.mark.parametrize("name", ["dinov2:dgm", "dinov2:edm2"])
def test_fd_dinov2_equals_the_authors_network_written_out(name, dinov2_state, dinov2_file):
    encoder = on_file(name, tiny_timm.DINOV2, D, dinov2_file)
    inputs = torch.stack([as_dgm_eval(a) for a in ARRAYS]) if name == "dinov2:dgm" else as_edm2(IMAGES)
    torch.testing.assert_close(encoder.preprocess(IMAGES), inputs, rtol=0, atol=0 if name == "dinov2:dgm" else 2e-6)
    expected = dinov2_by_hand(dinov2_state, inputs)
    torch.testing.assert_close(run(encoder).double(), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    assert (expected[0] - expected[1]).abs().max() > 0.05  # the comparison above sees the image


def test_the_three_numbers_called_fd_dinov2_differ(dinov2_file):
    names = ("dinov2", "dinov2:dgm", "dinov2:edm2")
    encoders = [on_file(name, tiny_timm.DINOV2, D, dinov2_file) for name in names]
    features = [run(encoder) for encoder in encoders]
    assert len({encoder.spec.hash for encoder in encoders}) == 3
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (features[first] - features[second]).abs().max() > 1e-4


def test_the_file_that_torch_hub_keeps_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "none"))
    path = tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find(find_row("dinov2:dgm").weights) == path


def test_positions_of_the_file_of_a_224_model_are_refused(tmp_path, dinov2_state):
    torch.save({**dinov2_state, "pos_embed": torch.zeros(1, 1 + 12, D)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"pos_embed \(1x13x48 for 1x257x48\)"):
        on_file("dinov2:dgm", tiny_timm.DINOV2, D, tmp_path / "w.pth")


# --- CLIP ----------------------------------------------------------------------------------------------------------

WIDTH, PROJECTED = 64, 24
CLIPS = {"clip:clean-fid": (tiny_timm.CLIP_B32, 224, 32), "clip:cmmd": (tiny_timm.CLIP_L14_336, 336, 14)}


def hf_clip(size: int, patch: int):
    """transformers' CLIP vision tower, small, with seeded weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=size,
        patch_size=patch,
        projection_dim=PROJECTED,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    seed = seeded({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
    model.load_state_dict({key: seed.get(key, tensor) for key, tensor in model.state_dict().items()})
    return model


def hf_layout(model) -> dict[str, torch.Tensor]:
    """As in the published files of openai/clip-*: with a text tower and position ids, which are not ours."""
    position_ids = torch.arange(model.vision_model.embeddings.position_embedding.num_embeddings)[None]
    return {
        **model.state_dict(),
        "vision_model.embeddings.position_ids": position_ids,
        "text_model.final_layer_norm.weight": torch.ones(4),
        "text_projection.weight": torch.ones(4, 4),
        "logit_scale": torch.tensor(4.6),
    }


def openai_layout(model) -> dict[str, torch.Tensor]:
    """Written out by hand from OpenAI's names, independently of the reader."""
    s = model.state_dict()
    v = "vision_model."
    named = {
        "visual.class_embedding": s[v + "embeddings.class_embedding"],
        "visual.conv1.weight": s[v + "embeddings.patch_embedding.weight"],
        "visual.positional_embedding": s[v + "embeddings.position_embedding.weight"],
        "visual.proj": s["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": torch.ones(3, 4),
        "logit_scale": torch.tensor(4.6),
    }
    for theirs, ours in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        named |= {f"visual.{ours}.{kind}": s[f"{v}{theirs}.{kind}"] for kind in ("weight", "bias")}
    for layer in range(2):
        from_, to = f"{v}encoder.layers.{layer}.", f"visual.transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            qkv = [s[f"{from_}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{to}attn.in_proj_{kind}"] = torch.cat(qkv)
            named[f"{to}attn.out_proj.{kind}"] = s[f"{from_}self_attn.out_proj.{kind}"]
            for theirs, ours in (
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
            ):
                named[f"{to}{ours}.{kind}"] = s[f"{from_}{theirs}.{kind}"]
    return named


class Holder(torch.nn.Module):
    """Any names as nested parameters: what a TorchScript archive keeps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def as_archive(state: dict[str, torch.Tensor], path: Path) -> None:
    root = Holder()
    for key, tensor in state.items():
        *parents, leaf = key.split(".")
        at = root
        for part in parents:
            if part not in at._modules:
                at.add_module(part, Holder())
            at = at._modules[part]
        at.register_buffer(leaf, tensor)
    root.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.save(torch.jit.script(root), str(path))


def write(layout: str, model, folder: Path) -> Path:
    path = folder / {"transformers": "model.safetensors", "openclip": "open_clip_model.safetensors"}.get(
        layout, "my.pt"
    )
    if layout == "openai":
        as_archive(openai_layout(model), path)
    else:
        state = hf_layout(model) if layout == "transformers" else openai_layout(model)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


def as_clean_fid(array: np.ndarray) -> torch.Tensor:
    steps = [vision.Resize(224, BICUBIC), vision.CenterCrop(224), vision.ToTensor()]
    return vision.Compose([*steps, vision.Normalize(CLIP_MEAN, CLIP_STD)])(Image.fromarray(array))


def as_cmmd(array: np.ndarray) -> torch.Tensor:
    side = min(array.shape[:2])
    top, left = ((length - side) // 2 for length in array.shape[:2])
    image = Image.fromarray(array).crop((left, top, left + side, top + side))
    image = image.resize((336, 336), Image.Resampling.BICUBIC)
    return vision.Compose([vision.ToTensor(), vision.Normalize(CLIP_MEAN, CLIP_STD)])(image)


@pytest.fixture(scope="module", params=CLIPS)
def clip(request, pillow_before_13):
    model, size, patch = CLIPS[request.param]
    network = hf_clip(size, patch)
    prepare = as_clean_fid if request.param == "clip:clean-fid" else as_cmmd
    inputs = torch.stack([prepare(array) for array in ARRAYS])
    with torch.inference_mode():
        embeds = network(pixel_values=inputs).image_embeds
    if request.param == "clip:cmmd":
        embeds = embeds / torch.linalg.norm(embeds, axis=-1, keepdims=True)
    return request.param, model, network, inputs, embeds


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("layout", ["openai", "openclip", "transformers"])
def test_clip_equals_transformers_from_every_published_layout(clip, layout, tmp_path):
    name, model, network, inputs, expected = clip
    encoder = on_file(name, model, PROJECTED, write(layout, network, tmp_path))
    assert torch.equal(encoder.preprocess(IMAGES), inputs)
    features = run(encoder)
    assert (features[0] - features[1]).abs().max() > 0.05 * features.abs().max()
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_unit_length_is_cmmds_alone(clip, tmp_path):
    name, model, network, _, _ = clip
    lengths = run(on_file(name, model, PROJECTED, write("openclip", network, tmp_path))).norm(dim=1)
    is_unit = torch.allclose(lengths, torch.ones(2), atol=1e-6)
    assert is_unit == (name == "clip:cmmd")


def test_the_text_tower_alone_is_refused(clip, tmp_path):
    name, model, network, _, _ = clip
    state = {key: value for key, value in hf_layout(network).items() if not key.startswith("vision_model.")}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="does not fit encoder"):
        on_file(name, model, PROJECTED, tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["clip:clean-fid", "clip:cmmd"])
def test_any_publication_of_openais_weights_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = find_row(name).weights
    for one in (file, *file.others):
        path = tmp_path / one.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert find(file, tmp_path) == path
        path.unlink()
    own = tmp_path / "home" / ".cache" / "clip" / file.filename
    own.parent.mkdir(parents=True)
    own.touch()
    assert find(file) == own


def test_another_file_named_as_openais_is_used_with_a_warning(tmp_path, clip):
    name, model, network, _, _ = clip
    path = tmp_path / find_row(name).weights.filename
    save_file({key: value.contiguous() for key, value in openai_layout(network).items()}, path)
    with pytest.warns(FdrWarning, match="is not the published weight file"):
        on_file(name, model, PROJECTED, path)


# --- all -----------------------------------------------------------------------------------------------------------

PROTOCOLS = [row for row in ROWS if row.name in ("dinov2:dgm", "dinov2:edm2", *CLIPS)]


def test_pillow_resizes_run_on_the_host_and_have_no_gradient(dinov2_file):
    encoder = on_file("dinov2:dgm", tiny_timm.DINOV2, D, dinov2_file)
    assert encoder.host_preprocess
    with pytest.raises(InputError, match="has no gradient"):
        encoder(IMAGES.clone().requires_grad_())
    images = IMAGES.clone().requires_grad_()
    on_file("dinov2:edm2", tiny_timm.DINOV2, D, dinov2_file)(images)["cls"].sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize("row", PROTOCOLS, ids=lambda row: row.name)
def test_the_row_fits_timms_network(row):
    import timm

    from fdr.encoders.timm_models import _settings

    with torch.device("meta"):
        model = timm.create_model(row.model, pretrained=False, **_settings(row))
        tokens = model.forward_features(torch.empty(1, 3, row.input_size, row.input_size))
        assert model.forward_head(tokens).shape == (1, row.width)
    config = timm.get_pretrained_cfg(row.model)
    assert (row.mean, row.std) == (tuple(config.mean), tuple(config.std))
    assert ("quickgelu" in row.model) == row.name.startswith("clip")


@pytest.mark.parametrize(("name", "architecture"), [("clip:clean-fid", "ViT-B-32"), ("clip:cmmd", "ViT-L-14-336")])
def test_openais_files_are_those_that_openclip_fetches(name, architecture):
    """OpenAI's addresses contain the digest."""
    import open_clip

    published, weights = open_clip.get_pretrained_cfg(architecture, "openai"), find_row(name).weights
    assert weights.url == published["url"] and weights.url.split("/")[-2] == weights.sha256
    assert published["hf_hub"] == weights.others[0].hub[0] + "/"
