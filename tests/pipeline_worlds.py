"""Tiny pipelines of diffusers with random weights: of pixels, of class labels, and of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

PIXELS: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip
NUM_CLASSES = 6
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ddpm": {"num_inference_steps": 3},
    "dit": {"num_inference_steps": 3, "guidance_scale": 1.0},  # more needs the class 1000
    "sd": {"num_inference_steps": 3, "guidance_scale": 4.0},
}
"""Arguments that make few steps."""


def save(kind: str, path: Path) -> Path:
    """Save the pipeline "ddpm", "dit" or "sd" in a folder."""
    torch.manual_seed(0)
    {"ddpm": ddpm, "dit": dit, "sd": sd}[kind]().save_pretrained(path)
    return path


def ddpm() -> Any:
    import diffusers

    unet = diffusers.UNet2DModel(**PIXELS, in_channels=3, out_channels=3)
    return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())


def autoencoder() -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    )  # fmt: skip


def dit() -> Any:
    import diffusers

    network = diffusers.DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_embeds_ada_norm=NUM_CLASSES, norm_num_groups=4,
    )  # fmt: skip
    return diffusers.DiTPipeline(network, autoencoder(), diffusers.DDIMScheduler(), id2label={"0": "a cat, cat"})


def sd() -> Any:
    import diffusers
    import transformers

    tokenizer = _tokenizer()
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=512, eos_token_id=513, projection_dim=16,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    with torch.no_grad():
        for name, weights in unet.named_parameters():
            if "attn2.to" in name:
                weights.mul_(20)  # so that the text shows in the pixels
    return diffusers.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=transformers.CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _tokenizer() -> Any:
    """A tokenizer of CLIP that knows single bytes alone."""
    import tempfile

    import transformers

    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + place for place in range(256 - len(shown))]
    letters = [chr(number) for number in (*shown, *others)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return transformers.CLIPTokenizer(str(vocabulary), str(merges), model_max_length=16)


def captions(path: Path) -> Path:
    """A file of four captions; one has a folder, and one ends in a dot and a number."""
    lines = [("animals/cat.jpg", "a cat"), ("dog.png", "a dog"), ("x-1.5", "a tree"), ("9", "the sea")]
    path.write_text("".join(json.dumps({"file_name": name, "prompt": text}) + "\n" for name, text in lines))
    return path


def source(loaded: Any, count: int | None = 4, captions: Any = None, **more: Any) -> Any:
    """Samples of a loaded pipeline; captions are for the one that takes texts."""
    from fdr.generators import PipelineSource
    from fdr.images import ImageOptions

    options = {"seed": 3, "labels": "random", "batch_size": 2, "options": ImageOptions(), **more}
    is_of_texts = type(loaded.pipeline).__name__ == "StableDiffusionPipeline"
    return PipelineSource(loaded, None, count, captions=captions if is_of_texts else None, **options)


def images(of: Any) -> np.ndarray:
    """[N, 3, H, W]: all images of a source."""
    return np.concatenate([np.stack([image.numpy() for image in batch.images]) for batch in of.batches(2, 0)])
