"""Interpolated FID (arXiv 2603.05630): the run that encodes, finds neighbours, interpolates, decodes and measures."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fdr.encoders import AbstractEncoder
from fdr.errors import FdrError, FdrWarning, InputError, collected_warnings
from fdr.evaluation import Measurement, describe_samples, measure
from fdr.features import Extraction, ExtractionOptions, cached_rows
from fdr.frechet import Moments
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.decoded import NEIGHBOURS, RECONSTRUCTIONS, DecodedSource, Paired, Take, between, decoded_sources
from fdr.ifid.drawn import DrawnLatents, gather, gathered
from fdr.ifid.interpolation import draw
from fdr.ifid.latents import LatentEncoder, Latents, encode, stored_bytes
from fdr.ifid.neighbours import Neighbours, SearchOptions, nearest, plan_search
from fdr.ifid.neighbours.pair_rules import PairRules
from fdr.ifid.options import IfidOptions
from fdr.ifid.quality import ENCODER, OUTSIDE, QualityEncoder
from fdr.ifid.results import Scores, results
from fdr.images import ImageSource
from fdr.metrics import OVERSHOOT, CollectedFeatures, Lpips, Need
from fdr.reports import Report
from fdr.runtime import human_bytes, memory_for, package_versions, propagate_failures, run_on_rank0

FOLDER = "ifid"
"""The folder in the cache that keeps the progress and the results of the neighbour search."""


class InterpolatedFid:
    """The run of an interpolated FID; all inputs are checked when it is made, before the first image is encoded.

    `neighbours` is the image set that neighbours are taken from. If it is None they come from `images`, where an image
    is never its own neighbour. Raises `InputError` for anything unusable.
    """

    def __init__(
        self,
        autoencoder: LoadedAutoencoder,
        images: ImageSource,
        neighbours: ImageSource | None,
        encoders: Sequence[AbstractEncoder],
        options: IfidOptions,
        extraction_options: ExtractionOptions,
        lpips: Lpips | None = None,
    ) -> None:
        self.autoencoder = autoencoder
        self.images = images
        self.neighbours = neighbours
        self.encoders = {encoder.spec.name: encoder for encoder in encoders}
        self.options = options
        self.extraction_options = extraction_options
        self.group = extraction_options.group
        self.lpips = lpips
        self.size = _first_size(images)
        self._check()
        dtype = options.latent_dtype
        self._query_encoder = LatentEncoder(autoencoder, self.size, "float32")
        self._reference_encoder = LatentEncoder(autoencoder, self.size, dtype, is_neighbours=neighbours is not None)

    def _check(self) -> None:
        for source in filter(None, (self.images, self.neighbours)):
            if not source.is_repeatable:
                raise InputError(
                    f"{source.name} can be read only once, but its images are needed several times; give a path, list, "
                    "array or Dataset."
                )
        if len(self.images) < 2:
            raise InputError(f"{self.images.name} has {len(self.images)} image; a covariance needs at least 2.")
        others = len(self.images) - 1 if self.neighbours is None else len(self.neighbours)
        if others < self.options.top_k:
            raise InputError(
                f"{(self.neighbours or self.images).name} has {others} images that can be a neighbour, fewer than the "
                f"{self.options.top_k} to draw from; lower --top-k, or give more images."
            )
        if self.neighbours is not None and (found := _first_size(self.neighbours)) != self.size:
            theirs, ours = (f"{width} x {height}" for height, width in (found, self.size))
            raise InputError(
                f"The neighbours of {self.neighbours.name} are {theirs} and the images {ours}; bring both to one size "
                "with --size (and --crop)."
            )
        if self.options.same_class:
            self._check_classes()
        self.autoencoder.check(*self.size)

    def _check_classes(self) -> None:
        sources = [self.images] if self.neighbours is None else [self.images, self.neighbours]
        own, theirs = _labels_of(sources[0]), _labels_of(sources[-1])
        if len({source.class_names for source in sources}) > 1:
            raise InputError(
                "The two sets have other classes (the names of their class folders differ), so --same-class cannot "
                "match them."
            )
        itself = (np.arange(len(own)), np.arange(len(theirs))) if self.neighbours is None else None
        rules = PairRules(itself, (own, theirs), (len(own), len(theirs)))
        rules.check_counts(np.arange(len(own)), np.arange(len(theirs)), self.options.top_k)  # before hours of encoding

    # The run

    def plan(self) -> Iterator[str]:
        """Describe what `run` would do, a line for each step, without computing or writing anything."""
        about = self.autoencoder.spec
        shape = "x".join(map(str, self._query_encoder.latent_shape))
        yield (
            f"autoencoder: {about.name} ({about.posterior}), {self.size[1]} x {self.size[0]} -> latents {shape}, on "
            f"{self.autoencoder.device}"
        )
        for title, source, encoder in self._encodings():
            yield (
                f"{title}: {source.name}, {len(source)} images, {self._num_encoded(source, encoder)} encoded already; "
                f"latents {encoder.stored_dtype}, {human_bytes(stored_bytes(encoder, len(source)))} on disk"
            )
        plan = plan_search(
            self._query_encoder.sizes(len(self.images)),
            self._reference_encoder.sizes(len(self.neighbours or self.images)),
            self._search_options(),
            self.group.size,
        )
        yield (
            f"search: {plan.query_rows} images at a time, in {plan.num_blocks} passes over the neighbours' latents; "
            f"{plan.precision} products, {human_bytes(max(plan.device_bytes, plan.host_bytes))}"
        )
        variants = [RECONSTRUCTIONS, NEIGHBOURS, *map(between, filter(self.options.used_alpha, self.options.alphas))]
        yield f"decode: {', '.join(variants)}, {len(self.images)} images each; measured with {', '.join(self.encoders)}"
        if self.options.same_class:
            yield f"classes: {len(np.unique(_labels_of(self.images)))}, from {self.images.labels_from}"

    def _encodings(self) -> Iterator[tuple[str, ImageSource, LatentEncoder]]:
        """Each image set to encode: its title, its images and its encoder."""
        yield "images", self.images, self._query_encoder
        if not self._is_one_set:
            yield "neighbours", self.neighbours or self.images, self._reference_encoder

    def _num_encoded(self, source: ImageSource, encoder: LatentEncoder) -> int:
        cache = self.extraction_options.cache
        return 0 if cache is None else cached_rows(cache, source, encoder, ())

    @property
    def _is_one_set(self) -> bool:
        """True if the neighbours come from `images` and are stored like them, so that one set serves both."""
        return self.neighbours is None and self._reference_encoder.spec == self._query_encoder.spec

    def run(self, picture: Path | None = None) -> Report:
        """Measure everything and return the report; whatever is in the cache already is not computed again.

        If `picture` is given, a sheet of originals, reconstructions, neighbours and interpolants is written there.
        """
        with propagate_failures(self.group), ExitStack() as stack:
            folder = self._folder(stack)
            with collected_warnings() as texts:
                for doubt in self.options.doubts():
                    warnings.warn(doubt, FdrWarning, stacklevel=2)
                paired = self._paired(folder)
                measured, qualities, originals = self._measured(paired, folder)
            gathered_texts = [text for part in self.group.gather(texts) for text in part]
            report = run_on_rank0(
                self.group, lambda: self._report(paired, originals, measured, qualities, gathered_texts)
            )
            if picture is not None:
                run_on_rank0(self.group, lambda: self._try_to_draw(paired, picture))
            return report

    def _try_to_draw(self, paired: Paired, path: Path) -> None:
        """Draw the picture; a failure is a warning only, so that it costs no result."""
        try:
            self.draw_picture(paired, path)
        except FdrError as error:
            warnings.warn(f"The picture was not drawn: {error}", FdrWarning, stacklevel=3)

    def _folder(self, stack: ExitStack) -> Path:
        """The folder for latents and neighbours: the cache, or a temporary one that is deleted after the run."""
        cache = self.extraction_options.cache
        if cache is not None and self.autoencoder.is_cacheable:
            return cache
        scratch = tempfile.TemporaryDirectory
        return Path(run_on_rank0(self.group, lambda: stack.enter_context(scratch(prefix="fdr-ifid-"))))

    def _paired(self, folder: Path) -> Paired:
        """Encode both sets, find the nearest neighbours, and draw one for each image."""
        options = self.extraction_options
        queries = encode(self._query_encoder, self.images, options, folder)
        references = queries
        if not self._is_one_set:
            references = encode(self._reference_encoder, self.neighbours or self.images, options, folder)
        found = self._search(queries, references, folder)
        return Paired(queries, references, draw(found, queries.dim, self.options.seed))

    def _search_options(self) -> SearchOptions:
        return SearchOptions(
            top_k=self.options.top_k,
            metric=self.options.distance,
            memory=self.options.memory,
            device=str(self.autoencoder.device),
        )

    def _search(self, queries: Latents, references: Latents, folder: Path) -> Neighbours:
        labels = (_labels_of(queries.source), _labels_of(references.source)) if self.options.same_class else None
        facts = {
            "queries": [queries.source.digest, queries.entry.digest],
            "references": [references.source.digest, references.entry.digest],
            "same_class": self.options.same_class,
        }
        key = _digest(facts)
        with memory_for("the neighbour search", "lower --memory"):
            return nearest(
                queries,
                references,
                self._search_options(),
                identities=_identities(queries, references),
                labels=labels,
                state=folder / FOLDER / key[:16],
                state_key=key,
                progress=self.extraction_options.progress,
                group=self.group,
            )

    # Decoding and measuring

    def _measured(
        self, paired: Paired, folder: Path
    ) -> tuple[dict[str, Mapping[str, Moments]], dict[str, float], Measurement | None]:
        """Decode and measure all variants; the numbers are on rank 0 only.

        Returns moments by variant and encoder, the mean of each quality of the reconstructions, and the measurement of
        the originals.
        """
        drawn = self._drawn(paired, folder)
        sources = self.sources(paired, drawn.at)
        quality = QualityEncoder(
            paired.queries,
            self.size,
            self.autoencoder.device,
            self.options.compat,
            self.lpips,
            self.extraction_options.num_workers,
            self.options.clamp,
        )
        encoders = list(self.encoders.values())
        passes = {
            name: self._pass(source, [*encoders, quality] if name == RECONSTRUCTIONS else encoders)
            for name, source in sources.items()
        }
        if not all(extraction.is_complete for extraction in passes.values()):
            rows, progress = paired.draws.rows, self.extraction_options.progress
            with memory_for("gathering the drawn neighbours", "choose smaller images (--size)"):
                run_on_rank0(self.group, lambda: gather(paired.references, rows, drawn, progress))
        main = {name: encoder.spec.output for name, encoder in self.encoders.items()}
        needs = {name: [Need(output)] for name, output in main.items()}
        originals = measure(self._pass(self.images, encoders), needs)
        moments: dict[str, Mapping[str, Moments]] = {"originals": _by_encoder(originals, main)}
        qualities: dict[str, float] = {}
        for name, extraction in passes.items():
            is_compared = name == RECONSTRUCTIONS
            compared = {ENCODER: [Need(output, CollectedFeatures) for output in quality.outputs]} if is_compared else {}
            found = measure(extraction, {**needs, **compared})
            moments[name] = _by_encoder(found, main)
            if is_compared and found is not None:
                scores = {need.output: found.collected[ENCODER, need] for need in compared[ENCODER]}
                qualities = {name: float(scores[name].mean(dtype=np.float64)) for name in quality.scores}
                if OUTSIDE in quality.outputs:
                    _warn_of_values_outside(scores[OUTSIDE], 3 * math.prod(self.size))
        if between(0.0) not in passes and 0.0 in self.options.alphas:
            moments[between(0.0)] = moments[RECONSTRUCTIONS]
        self.group.gather(None)
        run_on_rank0(self.group, drawn.remove)
        return moments, qualities, originals

    def _pass(self, source: ImageSource, encoders: Sequence[AbstractEncoder]) -> Extraction:
        options = self.extraction_options
        if not self.autoencoder.is_cacheable and isinstance(source, DecodedSource):
            options = replace(options, cache=None)
        return Extraction(source, encoders, options=replace(options, moments_only=False))

    def _drawn(self, paired: Paired, folder: Path) -> DrawnLatents:
        """The file for the latents of the drawn neighbours."""
        key = _digest([paired.references.entry.digest, paired.drawn_digest])
        path = folder / FOLDER / f"drawn-{key[:16]}.bin"
        encoder = self._query_encoder if self._is_one_set else self._reference_encoder
        return DrawnLatents(path, len(paired.draws.rows), paired.queries.latent_shape, encoder.stored_dtype)

    def sources(self, paired: Paired, neighbours_at: Take) -> dict[str, DecodedSource]:
        """The image sources that are decoded, by name; `neighbours_at` gives the latents of the drawn neighbours."""
        batch_size = self.extraction_options.batch_size_on(self.autoencoder.device.type)
        stored = self._reference_encoder.spec.hash
        return decoded_sources(self.autoencoder, paired, neighbours_at, self.options, stored, batch_size)

    @memory_for("the picture", "leave out --picture")
    def draw_picture(self, paired: Paired, path: Path) -> None:
        """Write a sheet of a few images beside their reconstructions, neighbours and interpolants."""
        from fdr.ifid.picture import sheet, spread, write_sheet

        places = spread(len(paired.queries.rows))
        latents = gathered(paired.references, paired.draws.rows[places])
        at = {int(place): latents[number] for number, place in enumerate(places)}
        sources = self.sources(paired, lambda start, stop: at[start][None])
        write_sheet(sheet(paired.queries, sources, places), path)

    # Report

    def _report(
        self,
        paired: Paired,
        originals: Measurement | None,
        moments: Mapping[str, Mapping[str, Moments]],
        qualities: Mapping[str, float],
        warnings: Sequence[str],
    ) -> Report:
        assert originals is not None
        scores = Scores(
            self.images, self.neighbours or self.images, self.autoencoder.spec, self.options, originals.count
        )
        device = self.autoencoder.device
        return Report(
            samples=describe_samples(self.images, originals),
            reference={
                "name": self.images.name,
                "source": f"the originals, {self.images.name}",
                "digest": self.images.digest,
            },
            results=tuple(results(scores, self.encoders, moments, qualities, device)),
            run={
                "device": str(device),
                "ranks": self.group.size,
                "seed": self.options.seed,
                "versions": package_versions(),
                "encoders": {n: {**asdict(e.spec), "hash": e.spec.hash} for n, e in self.encoders.items()},
                "autoencoder": {**asdict(self.autoencoder.spec), "hash": self.autoencoder.spec.hash},
                "ifid": {
                    **asdict(self.options),
                    "latent_shape": list(paired.queries.latent_shape),
                    "neighbours": {
                        "source": paired.references.source.name,
                        "count": len(paired.references.rows),
                        "digest": paired.references.source.digest,
                    },
                    "neighbour_entropy": paired.draws.entropy,
                },
            },
            warnings=tuple(dict.fromkeys([*self.images.warnings, *warnings])),
        )


def _by_encoder(measured: Measurement | None, outputs: Mapping[str, str]) -> dict[str, Moments]:
    return {} if measured is None else {name: measured.moments[name, output] for name, output in outputs.items()}


def _warn_of_values_outside(counts: np.ndarray, num_values: int) -> None:
    """Warn if decoded values lie far outside of [0, 1].

    `counts` [N, 1] says how many do in each reconstruction, which has `num_values`.
    """
    affected = int((counts > 0).sum())
    if affected:
        warnings.warn(
            f"{affected:,} of {len(counts):,} reconstructions have values below {-OVERSHOOT:g} or above "
            f"{1 + OVERSHOOT:g} ({int(counts.sum(dtype=np.float64)):,} of {len(counts) * num_values:,} values); they "
            "are measured as they are, because decoded values are not clamped.",
            FdrWarning,
            stacklevel=2,
        )


def _identities(queries: Latents, references: Latents) -> tuple[np.ndarray, np.ndarray] | None:
    """A number for each image of both sets, the same for equal images; None if the sets cannot be compared."""
    if queries.pixels is not None and references.pixels is not None:
        _, numbers = np.unique(np.concatenate([queries.pixels, references.pixels]), return_inverse=True)
        return numbers[: queries.num_rows], numbers[queries.num_rows :]
    if queries.source is references.source:
        return np.arange(queries.num_rows), np.arange(references.num_rows)
    return None


def _labels_of(source: ImageSource) -> np.ndarray:
    """The class of each image, int64 [N]. Raises `InputError` for a set without classes."""
    if source.labels is None:
        raise InputError(
            f"{source.name} has no classes, so neighbours cannot be kept to one (--same-class); give a folder with "
            "class subfolders, one with a dataset.json, or an npz with arr_1."
        )
    return source.labels


def _first_size(source: ImageSource) -> tuple[int, int]:
    """(H, W) of the first image that decodes."""
    for batch in source.batches(1, 0):
        for image in batch.images:
            return image.shape[1], image.shape[2]
    raise InputError(f"{source.name} has no image that decodes.")


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
