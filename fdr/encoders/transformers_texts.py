"""The text towers of CLIP models of transformers, from the weight file of the image tower and a tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fdr.encoders.network import NetworkEncoder
from fdr.encoders.texts import AbstractTexts
from fdr.errors import InputError, first_line
from fdr.runtime import file_digest
from fdr.weights import WeightOptions, file_in, load_library, resolve

TOKENIZER = "tokenizer.json"


class TransformersTexts(AbstractTexts):
    """transformers' `CLIPTextModelWithProjection`, which reads the tokens that tokenizer.json gives."""

    def __init__(self, target: str, options: WeightOptions, encoder: NetworkEncoder, model: Any) -> None:
        """`target` is the repository or folder of `encoder`, and `model` the text tower."""
        name = encoder.spec.name
        file = replace(file_in(target, TOKENIZER), what=("files of the tokenizer of encoder", "tokenizer of encoder"))
        path = resolve(file, replace(options, weights=None), name).path
        try:
            self._tokenizer = load_library("tokenizers", name).Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exceptions
            raise InputError(
                f"Encoder {name!r}: {str(path)!r} is not a tokenizer ({first_line(error)}); save it again with "
                "save_pretrained of CLIPTokenizer."
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._model, self._device = model.to(encoder.device), encoder.device
        self._is_bf16 = encoder.spec.dtype == "bf16"
        self.max_tokens = int(model.config.max_position_embeddings)
        self.tokenizer = file_digest(path)[:8]

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self._tokenizer.encode_batch(list(prompts))]

    def embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, tokens))
        padded = [[*own, *[own[-1]] * (longest - len(own))] for own in tokens]  # with the token for end, as CLIP has it
        mask = [[1] * len(own) + [0] * (longest - len(own)) for own in tokens]
        ids, attention = (torch.tensor(rows, device=self._device) for rows in (padded, mask))
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16):
            return self._model(input_ids=ids, attention_mask=attention).text_embeds.float()
