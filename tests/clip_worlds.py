"""A tiny CLIP of transformers with a tiny tokenizer, and an encoder whose images and prompts have given embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from worlds import TinyEncoder

from fdr.encoders import AbstractTexts

CONTEXT = 16
"""Tokens that the tiny text tower reads."""
WORDS = ["a", "red", "green", "blue", "bus", "dog", "cat", "house", "photo", "depicts", "of", "two"]


def tiny_clip(folder: Path, seed: int = 3) -> Path:
    """A CLIPModel with its processor, as save_pretrained writes them."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges: list[tuple[str, str]] = []
    vocab = [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in WORDS:  # the last piece of each word ends it
        left = word[0]
        for place, letter in enumerate(word[1:], 1):
            pair = (left, letter + ("</w>" if place == len(word) - 1 else ""))
            left = "".join(pair)
            if left not in vocab:
                merges.append(pair)
                vocab.append(left)
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocab)}, merges=merges, model_max_length=CONTEXT
    )
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = len(vocab) - 1
    text = {**small, "vocab_size": len(vocab), "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = {**small, "image_size": 32, "patch_size": 8, "projection_dim": 24}
    torch.manual_seed(seed)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessorPil(**sizes), tokenizer)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if not (folder / "preprocessor_config.json").is_file():  # transformers 5 puts it into processor_config.json
        transformers.CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


class GivenTexts(AbstractTexts):
    """Embeds the prompt "1 0" as [1, 0]; counts the prompts that it has embedded."""

    max_tokens, tokenizer = 3, "given"

    def __init__(self) -> None:
        self.num_embedded = 0

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        self.num_embedded += len(prompts)
        return [[int(word) for word in prompt.removeprefix("A photo depicts ").split()] for prompt in prompts]

    def embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(own[:2]) for own in tokens], dtype=torch.float32)


class GivenClip(TinyEncoder):
    """Embeds an image as the mean of its red, and of its green minus a half, so that tests choose the angle."""

    def __init__(self) -> None:
        super().__init__("given", 2)
        self.outputs = self.stored_outputs = ("embedding",)
        self.spec = self.spec.__class__(**{**self.spec.__dict__, "output": "embedding"})
        self.tower = GivenTexts()
        self.load_texts = lambda: self.tower

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return {"embedding": torch.stack([inputs[:, 0].mean((1, 2)), inputs[:, 1].mean((1, 2)) - 0.5], 1)}


def coloured(*colours: tuple[int, int]) -> np.ndarray:
    """uint8 [N, 8, 8, 3]: images with these values of red and green; one pixel of blue tells them apart."""
    found = np.zeros((len(colours), 8, 8, 3), np.uint8)
    found[..., :2] = np.array(colours)[:, None, None]
    found[:, 0, 0, 2] = np.arange(1, len(colours) + 1)
    return found
