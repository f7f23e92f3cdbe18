"""CLIPScore: how well images show what their prompts say, by the cosine of their embeddings (Hessel et al. 2021).

CLIPScore(i, t) = w max(cos(i, t), 0) for the embeddings i [D] of an image and t [D] of its prompt. The paper has w =
2.5 and puts "A photo depicts" before every prompt; torchmetrics and most tables have w = 100 and the bare prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score, Texts

W = 100.0
"""The scale of torchmetrics, which most tables have."""
PAPER_W = 2.5
"""The scale of Hessel et al. 2021, section 3."""
PREFIX = "A photo depicts {}"
"""Their prompt, section 3."""
ROWS = 4096
"""Pairs that are multiplied at once. More take more memory."""


def cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float64 [N]: the cosine of each row of `images` [N, D] and the same row of `texts` [N, D].

    Raises `InputError` for an embedding of length 0.
    """
    found = np.empty(len(images))
    for start in range(0, len(images), ROWS):
        part = slice(start, start + ROWS)
        left, right = (rows[part].astype(np.float64) for rows in (images, texts))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        if not lengths.all():
            raise InputError("An image or a prompt has an embedding of length 0, which has no direction to compare.")
        found[part] = np.einsum("nd,nd->n", left, right) / lengths
    return found


def image_scores(samples: np.ndarray, context: Context, w: float = W) -> np.ndarray:
    """float64 [N]: w max(cos, 0) of each image and its prompt."""
    assert context.texts is not None
    return w * np.maximum(cosines(samples, context.texts.embeddings), 0)


def paper_image_scores(samples: np.ndarray, context: Context) -> np.ndarray:
    """float64 [N]: 2.5 max(cos, 0) of each image and its prompt."""
    return image_scores(samples, context, PAPER_W)


def _clip_score(scores: np.ndarray, context: Context) -> Score:
    texts = context.texts
    assert texts is not None
    details: dict[str, Any] = {"cut_prompts": int(texts.is_cut.sum())}
    if texts.categories is not None:
        details["classes"] = _by_category(scores, texts.categories)
    return Score(*_mean(scores), details=details, notes=_notes(texts))


def _mean(scores: np.ndarray) -> tuple[float, float | None]:
    """The mean over images and its standard error; None for a single image."""
    error = None if len(scores) < 2 else float(scores.std(ddof=1) / np.sqrt(len(scores)))
    return float(scores.mean()), error


def _by_category(scores: np.ndarray, categories: np.ndarray) -> dict[str, Mapping[str, float | int | None]]:
    found: dict[str, Mapping[str, float | int | None]] = {}
    for name in np.unique(categories).tolist():
        value, error = _mean(own := scores[categories == name])
        found[name] = {"clip_score": value, "stderr": error, "n": len(own)}
    return found


def _notes(texts: Texts) -> tuple[str, ...]:
    cut = int(texts.is_cut.sum())
    if not cut:
        return ()
    count = f"{cut} of {len(texts.is_cut)} prompts"
    return (f"{count} have more than {texts.max_tokens} tokens, and what comes after these is not read",)


def clip_score(samples: np.ndarray, reference: None, context: Context) -> Score:
    """The mean of 100 max(cos, 0) over images, from 0 to 100, with its standard error."""
    return _clip_score(image_scores(samples, context), context)


def paper_clip_score(samples: np.ndarray, reference: None, context: Context) -> Score:
    """The mean of 2.5 max(cos, 0) over images, from 0 to 2.5, for prompts after "A photo depicts"."""
    return _clip_score(paper_image_scores(samples, context), context)


CLIP_SCORE = Metric(
    clip_score,
    CollectedFeatures,
    output="embedding",
    needs_reference=False,
    prompt="{}",
    image_scores=image_scores,
    settings={"mult": f"{W:g}"},
)
PAPER_CLIP_SCORE = Metric(
    paper_clip_score,
    CollectedFeatures,
    output="embedding",
    needs_reference=False,
    prompt=PREFIX,
    image_scores=paper_image_scores,
    settings={"mult": f"{PAPER_W:g}", "pre": PREFIX.removesuffix(" {}")},
)
