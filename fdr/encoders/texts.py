"""Text towers: prompts become embeddings in the space of an encoder's image embeddings, from the same weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fdr.runtime import Progress, SilentProgress

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SIZE = 256
"""Prompts in one forward pass. Raising it takes more memory."""


class AbstractTexts(ABC):
    """A text tower and its tokenizer. Subclasses set the fields and give `tokens` and `embed`."""

    max_tokens: int
    """Tokens that the tower reads, with those for begin and end. Longer prompts are cut, and keep the token for end."""
    tokenizer: str
    """The identity of the tokenizer: 8 hex digits of its file, or the name of one that a library brings."""

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of each prompt with those for begin and end, uncut."""

    @abstractmethod
    def embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """float32 [n, D]: the embeddings of prompts with at most `max_tokens` tokens, not normalised."""

    def __call__(
        self, prompts: Sequence[str], progress: Progress | None = None, title: str = "prompts"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings of prompts, float32 [n, D], and which of them were cut, bool [n].

        Equal prompts are embedded once, and prompts of like length share a batch. `progress` shows how far it is.
        """
        unique, places = np.unique(np.array(prompts, dtype=object), return_inverse=True)
        tokens = self.tokens(unique.tolist())
        is_cut = np.array([len(one) > self.max_tokens for one in tokens])
        cut = [[*one[: self.max_tokens - 1], one[-1]] if len(one) > self.max_tokens else one for one in tokens]
        order = sorted(range(len(cut)), key=lambda row: len(cut[row]))
        parts = []
        with (progress or SilentProgress()).task(title, len(order), unit="prompts") as task:
            for start in range(0, len(order), BATCH_SIZE):
                batch = [cut[row] for row in order[start : start + BATCH_SIZE]]
                parts.append(self.embed(batch).cpu().numpy())
                task.advance(len(batch))
        found = np.concatenate(parts)
        embeddings = np.empty_like(found)
        embeddings[order] = found
        return embeddings[places], is_cut[places]
