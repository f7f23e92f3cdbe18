"""The encoders known by name, and the bundles: data only. `registry.py` loads them, `docs/encoders.md` shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fdr.weights import WeightsFile, hub_file

NON_COMMERCIAL = "CC-BY-NC-4.0 (non-commercial)"

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
TF128 = (128 / 255, 128 / 255, 128 / 255)
"""(x - 128/255) / (128/255) is the (v - 128) / 128 of TensorFlow's graph for v = 255 x."""
_SCALES: dict[tuple[float, ...], str] = {
    IMAGENET_MEAN: "ImageNet mean/std",
    CLIP_MEAN: "CLIP mean/std",
    HALF: "2x-1",
    TF128: "(v-128)/128",
}
"""Means, and how the table of encoders calls them."""


@dataclass(frozen=True)
class EncoderRow:
    """An encoder as its name describes it, before anything is loaded; the fields are those of `EncoderSpec`."""

    name: str
    model: str
    """The architecture; for the timm family timm's own name with its weight tag."""
    width: int
    """D of the main output."""
    output: str
    """The main output: "pool", "cls", "mean", "attention-pool", "embedding", "embedding-l2" or "features"."""
    input_size: int
    """Side of the square that the network sees, in pixels, before any padding."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: WeightsFile | None = None
    """None for an encoder without a published file."""
    note: str = ""
    resize: str = "bicubic-antialias"
    family: str = "timm"
    """The key in the registry's `FAMILIES`, whose module loads the encoder."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further settings that change features, as in `EncoderSpec.extra`."""

    @property
    def licence(self) -> str:
        """The licence of the weights."""
        return "Apache-2.0" if self.weights is None else self.weights.licence

    @property
    def preprocessing(self) -> str:
        """One short line: "bicubic-antialias 256, ImageNet mean/std"."""
        return f"{self.resize} {self.input_size}, {_SCALES[self.mean]}"


INCEPTION_WEIGHTS = WeightsFile(
    filename="pt_inception-2015-12-05-6726825d.pth",
    aliases=("weights-inception-2015-12-05-6726825d.pth",),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
    licence="Apache-2.0",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
"""TensorFlow's 2015-12-05 graph as a state dict: pytorch-fid's file; the alias is torch-fidelity's (release v0.2.0)."""


def timm_weights(model: str, size: int | None = None, licence: str = "", aliases: tuple[str, ...] = ()) -> WeightsFile:
    """The file of `model` in timm's hub account, and the other names under which a weights folder may hold it."""
    return WeightsFile(
        filename=f"{model}.safetensors",
        aliases=(f"{model}.pth", f"{model}.bin", f"timm--{model}/model.safetensors"),
        size=size,
        licence=licence,
        hub=(f"timm/{model}", "model.safetensors"),
    )


DINOV2_POSITIONS = ("positions", "dinov2")
"""Position embeddings are resampled once, as the DINOv2 code does (`as_dinov2`), not by timm in every pass."""

DINOV2_WEIGHTS = WeightsFile(
    filename="dinov2_vitl14_pretrain.pth",
    size=1_217_600_000,
    licence="Apache-2.0",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
)
"""The authors' own file, as torch.hub keeps it; it holds the tensors of timm's file under the same names."""


def openai_clip(name: str, sha256: str, size: int, timm_repo: str, transformers_repo: str) -> WeightsFile:
    """OpenAI's file of a CLIP, and the publications of the same weights that OpenCLIP, timm and transformers fetch."""
    others = ((timm_repo, "open_clip_model.safetensors"), (transformers_repo, "model.safetensors"))
    return WeightsFile(
        filename=f"{name}.pt",
        aliases=(f"~/.cache/clip/{name}.pt",),
        sha256=sha256,
        size=size,
        licence="MIT",
        url=f"https://openaipublic.azureedge.net/clip/models/{sha256}/{name}.pt",
        others=tuple(hub_file(*other, licence="MIT") for other in (*others, (transformers_repo, "pytorch_model.bin"))),
    )


CLIP_B32 = openai_clip(
    "ViT-B-32",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    354_000_000,
    "timm/vit_base_patch32_clip_224.openai",
    "openai/clip-vit-base-patch32",
)
CLIP_L14_336 = openai_clip(
    "ViT-L-14-336px",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    934_000_000,
    "timm/vit_large_patch14_clip_336.openai",
    "openai/clip-vit-large-patch14-336",
)


def _inception(name: str, resize: str, mean: tuple[float, ...], note: str) -> EncoderRow:
    """A row of FID-Inception; both of its normalisations are (x - m) / m."""
    model, weights = "fid-inception-2015", INCEPTION_WEIGHTS
    return EncoderRow(name, model, 2048, "pool", 299, mean, mean, weights, note, resize, family="inception")


def _dinov2(name: str, input_size: int, note: str, resize: str = "bicubic-antialias", **extra: str) -> EncoderRow:
    model = "vit_large_patch14_dinov2.lvd142m"
    weights = replace(timm_weights(model, 1_217_500_000, "Apache-2.0"), others=(DINOV2_WEIGHTS,))
    settings = tuple(extra.items())
    return EncoderRow(
        name, model, 1024, "cls", input_size, IMAGENET_MEAN, IMAGENET_STD, weights, note, resize, extra=settings
    )


ROWS: tuple[EncoderRow, ...] = (
    _inception("inception", "tf1-bilinear", TF128, "FID as ADM's evaluator and torch-fidelity compute it."),
    _inception("inception:pytorch-fid", "torch-bilinear", HALF, "FID as pytorch-fid computes it."),
    _inception("inception:clean", "pil-bicubic-float", TF128, "Clean-FID (Parmar et al. 2022)."),
    _inception(
        "inception:fdloss", "tf1-bilinear", HALF, "The Inception of FDr^6: the FD-loss evaluator scales to 2x-1."
    ),
    _dinov2("dinov2", 256, "DINOv2 as in FDr^6: at 256 px, padded to 266 (19 x 19 tokens). FD-DINOv2 has 224 px."),
    _dinov2(
        "dinov2:dgm",
        224,
        "FD-DINOv2 of dgm-eval (Stein et al. 2023): bytes squashed by Pillow, DINOv2's own position resampling.",
        "pil-bicubic",
        **dict([DINOV2_POSITIONS]),
    ),
    _dinov2(
        "dinov2:edm2",
        224,
        "FD-DINOv2 of EDM2: as dinov2:dgm with torch's antialiased bicubic on floats; runs on the GPU.",
        **dict([DINOV2_POSITIONS]),
    ),
    EncoderRow(
        "siglip",
        "vit_so400m_patch16_siglip_256.v2_webli",
        1152,
        "attention-pool",
        224,
        HALF,
        HALF,
        timm_weights("vit_so400m_patch16_siglip_256.v2_webli", 1_713_000_000, "Apache-2.0"),
        "SigLIP 2 as in FDr^6: made for 256 px, run at 224 with resampled position embeddings.",
    ),
    EncoderRow(
        "clip",
        "vit_large_patch14_clip_224.openai",
        1024,
        "cls",
        256,
        CLIP_MEAN,
        CLIP_STD,
        timm_weights("vit_large_patch14_clip_224.openai", 1_213_000_000, "Apache-2.0"),
        "CLIP as in FDr^6: before the projection, at 256 px padded to 266, with exact GELU (timm's plain variant).",
    ),
    EncoderRow(
        "clip:clean-fid",
        "vit_base_patch32_clip_quickgelu_224.openai",
        512,
        "embedding",
        224,
        CLIP_MEAN,
        CLIP_STD,
        CLIP_B32,
        "CLIP-FID of clean-fid: OpenAI's ViT-B/32, projected; short side to 224 by Pillow, centre crop.",
        "pil-bicubic+short-crop",
    ),
    EncoderRow(
        "clip:cmmd",
        "vit_large_patch14_clip_quickgelu_336.openai",
        768,
        "embedding-l2",
        336,
        CLIP_MEAN,
        CLIP_STD,
        CLIP_L14_336,
        "The embedding of CMMD (Jayasumana et al. 2024): OpenAI's ViT-L/14 at 336, projected, of unit length.",
        "pil-bicubic+square-crop",
    ),
    EncoderRow(
        "mae",
        "vit_large_patch16_224.mae",
        1024,
        "cls",
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        timm_weights("vit_large_patch16_224.mae", 1_213_000_000, NON_COMMERCIAL),
        "MAE, pre-trained and not fine-tuned.",
    ),
    EncoderRow(
        "convnext",
        "convnextv2_base.fcmae_ft_in22k_in1k",
        1024,
        "mean",
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        timm_weights("convnextv2_base.fcmae_ft_in22k_in1k", 355_000_000, NON_COMMERCIAL),
        "ConvNeXt V2 as in FDr^6: the spatial mean of the last feature map, without the head's norm.",
    ),
    EncoderRow(
        "random",
        "random-convnet",
        256,
        "features",
        64,
        HALF,
        HALF,
        note="A network with seeded random weights, for demos and tests; its distances are never called FID.",
        family="random",
    ),
)

BUNDLES: dict[str, tuple[str, ...]] = {
    "fdr6": ("inception:fdloss", "convnext", "dinov2", "mae", "siglip", "clip"),
}
"""fdr6 holds `inception:fdloss`, not `inception`: the published normaliser 1.68 was measured with 2x-1 features, so
only they make FDr^6 comparable with the published figures. To get FID beside it, name `inception,fdr6`."""


def find_row(name: str) -> EncoderRow | None:
    """The row called `name`, or None."""
    return next((row for row in ROWS if row.name == name), None)
