"""The prompts of the samples, and their embeddings by the text towers of the encoders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fdr.encoders import AbstractEncoder, AbstractTexts
from fdr.errors import InputError
from fdr.evaluation.measurement import Measurement
from fdr.evaluation.protocols import Protocol
from fdr.evaluation.requested import Requested
from fdr.evaluation.text_cache import kept
from fdr.features import ExtractionOptions
from fdr.generators import SampleSource
from fdr.images import BadImage, Captions, ImageSource, select_captions
from fdr.metrics import Context, Metric, Texts
from fdr.reports import result_key


def as_captions(prompts: Any) -> Captions:
    """Captions as they are, those of a file, or prompts in memory: a list in the order of the images, or a dict by the
    names of the images.
    """
    if isinstance(prompts, Captions):
        return prompts
    if isinstance(prompts, str | os.PathLike):
        return select_captions(prompts)
    is_named = isinstance(prompts, Mapping)
    texts: list[Any] = (
        list(prompts.values()) if is_named else list(prompts) if isinstance(prompts, Sequence) else [None]
    )
    if not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"Prompts are a file, a list of texts, or a dict of texts by image name; got {type(prompts).__name__}."
        )
    names = list(map(str, prompts if is_named else range(len(texts))))
    return Captions(f"{'dict' if is_named else 'list'} of {len(texts)} prompts", texts, names, has_names=is_named)


class Prompts:
    """The prompts of sample sets. Text towers are loaded at once, and every prompt is embedded at most once a tower."""

    def __init__(self, captions: Captions, encoders: Sequence[AbstractEncoder], options: ExtractionOptions) -> None:
        """Raises `InputError` or `WeightsError` for a text tower that cannot be loaded."""
        self.captions, self._options = captions, options
        self._encoders = {encoder.spec.name: encoder for encoder in encoders if encoder.load_texts is not None}
        self._towers: dict[str, AbstractTexts] = {
            name: encoder.load_texts() for name, encoder in self._encoders.items() if encoder.load_texts is not None
        }
        self._embedded: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def rows_of(self, source: ImageSource) -> np.ndarray:
        """int64 [N]: the position of the prompt of each selected image. Raises `InputError` where partners miss."""
        if source.rows is None:
            raise InputError(
                f"{source.name} has no known length, so prompts cannot be matched with its images; give a folder, an "
                "archive or an array."
            )
        if isinstance(source, SampleSource) and source.prompts is not None:  # made from these prompts
            return np.array([source.prompts.row(number) for number in range(len(source))], np.int64)
        return np.array(self.captions.rows_of(source.all_ids, source.name), np.int64)[source.rows]

    def texts(self, encoder: str, metric: Metric, source: ImageSource, bad: Sequence[BadImage]) -> Texts:
        """The embedded prompts of the images of `source` without its `bad` ones."""
        rows = np.delete(self.rows_of(source), [image.row for image in bad])
        embeddings, is_cut = self._all(encoder, metric.prompt)
        given = self.captions.categories
        categories = None if given is None else np.array(given)[rows]
        return Texts(embeddings[rows], is_cut[rows], self._towers[encoder].max_tokens, categories)

    def _all(self, encoder: str, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        key = encoder, prompt
        if key not in self._embedded:
            own, tower = self._encoders[encoder], self._towers[encoder]
            # not `format`: a prompt may hold braces
            texts = [prompt.replace("{}", text) for text in self.captions.prompts]
            cache = self._options.cache if own.is_cacheable else None
            title = f"{self.captions.source}: {encoder}"
            embed = partial(tower, texts, self._options.progress, title)
            self._embedded[key] = kept(cache, own.spec, tower.tokenizer, texts, embed)
        return self._embedded[key]

    def scores(self, requested: Requested, source: ImageSource, measured: Measurement) -> dict[str, np.ndarray]:
        """The mean score of each prompt, float64 [P], for every number that is a mean over images, by its key.

        Prompts without a measured image have NaN.
        """
        found = {}
        rows = np.delete(self.rows_of(source), [image.row for image in measured.bad])
        for encoder in requested.encoders:
            name = encoder.spec.name
            for metric_name, metric, need in requested.applied(encoder):
                if metric.image_scores is not None and (name, need) in measured.collected:
                    texts = self.texts(name, metric, source, measured.bad)
                    scores = metric.image_scores(measured.collected[name, need], Context(texts=texts))
                    counts = np.bincount(rows, minlength=len(self.captions)).astype(np.float64)
                    sums = np.bincount(rows, scores, minlength=len(self.captions))
                    found[result_key(metric_name, name)] = sums / np.where(counts > 0, counts, np.nan)
        return found

    def settings(self, encoder: str) -> dict[str, str]:
        """The fields of the signature: the digest of the prompts, and what identifies the tokenizer."""
        return {"txt": self.captions.digest[:8], "tok": self._towers[encoder].tokenizer}

    @property
    def described(self) -> dict[str, Any]:
        """The facts about the samples in a report, beside their images."""
        found = {"source": self.captions.source, "count": len(self.captions), "digest": self.captions.digest}
        return {"prompts": found}


def read_prompts(
    metrics: Mapping[str, Metric],
    captions: Captions | None,
    encoders: Sequence[AbstractEncoder],
    options: ExtractionOptions,
) -> Prompts | None:
    """The prompts if a metric reads them, else None."""
    is_read = any(metric.prompt for metric in metrics.values())
    return Prompts(captions, encoders, options) if is_read and captions is not None else None


def check_prompts(metrics: Mapping[str, Metric], captions: Captions | None, protocol: Protocol | None) -> None:
    """Raise `InputError` if a metric needs prompts and there are none."""
    needy = [name for name, metric in metrics.items() if metric.prompt]
    if needy and captions is None:
        what = "a file of captions" if protocol is None or not protocol.prompts else f"such as {protocol.prompts}"
        raise InputError(f"Metric {needy[0]!r} compares images with their prompts; give them with --prompts, {what}.")
