"""Every image paired with a near neighbour in latent space: both sets are checked, encoded and searched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.features import ExtractionOptions, cached_rows
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.interpolation import Draws, draw
from fdr.ifid.latents import LatentEncoder, Latents, encode
from fdr.ifid.options import IfidOptions
from fdr.ifid.originals import first_size
from fdr.images import ImageSource
from fdr.neighbours import Pair, PairRules, SearchOptions, nearest, plan_search
from fdr.runtime import human_bytes, memory_for

FOLDER = "ifid"
"""The folder in the cache that keeps the results of the neighbour search and the latents of drawn neighbours."""


@dataclass(frozen=True)
class Paired:
    """The latents of the images, the latents of the set of neighbours, and the neighbour drawn for each image."""

    queries: Latents
    references: Latents
    draws: Draws

    @property
    def drawn_digest(self) -> str:
        """sha256 of the rows of the drawn neighbours."""
        return hashlib.sha256(self.draws.rows.tobytes()).hexdigest()


class Pairing:
    """Finds the pairs; all inputs are checked when it is made, before the first image is encoded.

    `neighbours` is the image set that neighbours are taken from. If it is None they come from `images`, where an image
    is never its own neighbour. Raises `InputError` for anything unusable.
    """

    def __init__(
        self,
        autoencoder: LoadedAutoencoder,
        images: ImageSource,
        neighbours: ImageSource | None,
        options: IfidOptions,
        extraction_options: ExtractionOptions,
    ) -> None:
        self.autoencoder, self.images, self.options = autoencoder, images, options
        self.is_within = neighbours is None
        """True if the neighbours of the images come from the images themselves."""
        self.neighbours = neighbours or images
        self.extraction_options = extraction_options
        self.size = first_size(images)
        self._check()
        autoencoder.check(*self.size)
        self.query_encoder = LatentEncoder(autoencoder, self.size, "float32")
        self.reference_encoder = LatentEncoder(
            autoencoder, self.size, options.latent_dtype, is_neighbours=not self.is_within
        )

    def _check(self) -> None:
        images, neighbours, top_k = self.images, self.neighbours, self.options.top_k
        for source in (images, neighbours):
            if not source.is_repeatable:
                raise InputError(
                    f"{source.name} can be read only once, but its images are needed several times; give a path, list, "
                    "array or Dataset."
                )
        if len(images) < 2:
            raise InputError(f"{images.name} has {len(images)} image; a covariance needs at least 2.")
        others = len(neighbours) - self.is_within
        if others < top_k:
            raise InputError(
                f"{neighbours.name} has {others} images that can be a neighbour, fewer than the {top_k} to draw from; "
                "lower --top-k, or give more images."
            )
        if (found := first_size(neighbours)) != self.size:
            theirs, ours = (f"{width} x {height}" for height, width in (found, self.size))
            raise InputError(
                f"The neighbours of {neighbours.name} are {theirs} and the images {ours}; bring both to one size with "
                "--size (and --crop)."
            )
        if self.options.same_class:
            self._check_classes()

    def _check_classes(self) -> None:
        """Raise `InputError` if an image has fewer than K images of its class, before hours of encoding."""
        labels = self._labels()
        if self.images.class_names != self.neighbours.class_names:
            raise InputError(
                "The two sets have other classes (the names of their class folders differ), so --same-class cannot "
                "match them."
            )
        rows = np.arange(len(self.images)), np.arange(len(self.neighbours))
        rules = PairRules(rows if self.is_within else None, labels, (len(rows[0]), len(rows[1])))
        rules.check_counts(*rows, self.options.top_k)

    @property
    def is_one_set(self) -> bool:
        """True if the neighbours come from the images and are stored like them, so that one set serves both."""
        return self.is_within and self.reference_encoder.spec == self.query_encoder.spec

    def plan(self) -> Iterator[str]:
        """Describe what `find` would do, a line for each step, without computing or writing anything."""
        about, cache = self.autoencoder.spec, self.extraction_options.cache
        shape = "x".join(map(str, self.query_encoder.latent_shape))
        yield (
            f"autoencoder: {about.name} ({about.posterior}), {self.size[1]} x {self.size[0]} -> latents {shape}, on "
            f"{self.autoencoder.device}"
        )
        sets = [("images", self.images, self.query_encoder), ("neighbours", self.neighbours, self.reference_encoder)]
        for title, source, encoder in sets[:1] if self.is_one_set else sets:
            count = 0 if cache is None else cached_rows(cache, source, encoder, ())
            yield (
                f"{title}: {source.name}, {len(source)} images, {count} encoded already; latents "
                f"{encoder.stored_dtype}, {human_bytes(encoder.sizes(len(source)).num_bytes)} on disk"
            )
        plan = plan_search(
            self.query_encoder.sizes(len(self.images)),
            self.reference_encoder.sizes(len(self.neighbours)),
            self._search_options(),
            self.extraction_options.group.size,
        )
        yield (
            f"search: {plan.query_rows} images at a time, in {plan.num_blocks} passes over the neighbours' latents; "
            f"{plan.precision} products, {human_bytes(max(plan.device_bytes, plan.host_bytes))}"
        )

    def find(self, folder: Path) -> Paired:
        """Encode both sets into the cache `folder`, find the nearest neighbours, and draw one for each image."""
        options = self.extraction_options
        queries = references = encode(self.query_encoder, self.images, options, folder)
        if not self.is_one_set:
            references = encode(self.reference_encoder, self.neighbours, options, folder)
        settings = {
            "queries": [self.images.digest, queries.entry.digest],
            "references": [self.neighbours.digest, references.entry.digest],
            "same_class": self.options.same_class,
        }
        key = digest_of(settings)
        with memory_for("the neighbour search", "lower --memory"):
            found = nearest(
                queries,
                references,
                self._search_options(),
                identities=_identities(queries, references),
                labels=self._labels() if self.options.same_class else None,
                state=folder / FOLDER / key[:16],
                state_key=key,
                progress=options.progress,
                group=options.group,
            )
        return Paired(queries, references, draw(found, queries.dim, self.options.seed))

    def _search_options(self) -> SearchOptions:
        return SearchOptions(
            top_k=self.options.top_k,
            metric=self.options.distance,
            memory=self.options.memory,
            device=str(self.autoencoder.device),
        )

    def _labels(self) -> Pair:
        return labels_of(self.images), labels_of(self.neighbours)


def labels_of(source: ImageSource) -> np.ndarray:
    """The class of each image, int64 [N]. Raises `InputError` for a set without classes."""
    if source.labels is None:
        raise InputError(
            f"{source.name} has no classes, so neighbours cannot be kept to one (--same-class); give a folder with "
            "class subfolders, one with a dataset.json, or an npz with arr_1."
        )
    return source.labels


def digest_of(settings: Any) -> str:
    """sha256 of what JSON can write."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _identities(queries: Latents, references: Latents) -> Pair | None:
    """A number for each image of both sets, the same for equal images; None if the sets cannot be compared."""
    if queries.pixels is not None and references.pixels is not None:
        _, numbers = np.unique(np.concatenate([queries.pixels, references.pixels]), return_inverse=True)
        return numbers[: queries.num_rows], numbers[queries.num_rows :]
    if queries.source is references.source:
        return np.arange(queries.num_rows), np.arange(references.num_rows)
    return None
