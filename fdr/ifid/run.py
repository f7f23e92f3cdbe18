"""Interpolated FID (arXiv 2603.05630): pairs are found, decoded, and measured against the images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fdr.encoders import AbstractEncoder
from fdr.errors import FdrWarning, collected_warnings
from fdr.evaluation import Measurement, describe_samples, measure
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import Moments
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.decoded import NEIGHBOURS, RECONSTRUCTIONS, DecodedSource, Take, between, decoded_sources, extraction_of
from fdr.ifid.drawn import DrawnLatents, gather, gathered
from fdr.ifid.latents import latents_folder
from fdr.ifid.options import IfidOptions
from fdr.ifid.pairs import FOLDER, Paired, Pairing, digest_of, labels_of
from fdr.ifid.picture import sheet, spread, try_to_draw
from fdr.ifid.quality import ENCODER, OUTSIDE, QualityEncoder
from fdr.ifid.results import Scores, results
from fdr.images import ImageSource, write_sheet
from fdr.metrics import OVERSHOOT, CollectedFeatures, Lpips, Need
from fdr.reports import Report
from fdr.runtime import memory_for, package_versions, propagate_failures, run_on_rank0


class InterpolatedFid:
    """The run of an interpolated FID; all inputs are checked when it is made, before the first image is encoded.

    Neighbours come from the image set `neighbours`, or from `images` if it is None. Raises `InputError` for anything
    unusable.
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
        self.autoencoder, self.images, self.lpips = autoencoder, images, lpips
        self.encoders = {encoder.spec.name: encoder for encoder in encoders}
        self.options = options
        self.extraction_options = extraction_options
        self.group = extraction_options.group
        self.pairing = Pairing(autoencoder, images, neighbours, options, extraction_options)

    def plan(self) -> Iterator[str]:
        """Describe what `run` would do, a line for each step, without computing or writing anything."""
        yield from self.pairing.plan()
        variants = [RECONSTRUCTIONS, NEIGHBOURS, *map(between, self.options.decoded_alphas)]
        yield f"decode: {', '.join(variants)}, {len(self.images)} images each; measured with {', '.join(self.encoders)}"
        if self.options.same_class:
            yield f"classes: {len(np.unique(labels_of(self.images)))}, from {self.images.labels_from}"

    def run(self, picture: Path | None = None) -> Report:
        """Measure everything and return the report; whatever is in the cache already is not computed again.

        If `picture` is given, a sheet of originals, reconstructions, neighbours and interpolants is written there.
        """
        with propagate_failures(self.group), ExitStack() as stack:
            folder = self._folder(stack)
            with collected_warnings() as texts:
                if self.options.surprise is not None:
                    warnings.warn(self.options.surprise, FdrWarning, stacklevel=2)
                paired = self.pairing.find(folder)
                moments, qualities, originals = self._measured(paired, folder)
            all_texts = [text for part in self.group.gather(texts) for text in part]
            report = run_on_rank0(self.group, lambda: self._report(paired, originals, moments, qualities, all_texts))
            if picture is not None and self.group.rank == 0:
                try_to_draw(lambda: self._draw(paired, picture))
            return report

    def _folder(self, stack: ExitStack) -> Path:
        """The folder for latents and neighbours: the cache, or a temporary one that is deleted after the run."""
        return latents_folder(stack, self.autoencoder, self.extraction_options)

    # Decoding and measuring

    def _measured(
        self, paired: Paired, folder: Path
    ) -> tuple[dict[str, Mapping[str, Moments]], dict[str, np.ndarray], Measurement | None]:
        """Decode and measure all variants; the numbers are on rank 0 only.

        Returns moments by variant and encoder, each quality of the reconstructions [N], and the measurement of
        the originals.
        """
        drawn = self._drawn(paired, folder)
        quality = QualityEncoder(
            paired.queries,
            self.pairing.size,
            self.autoencoder.device,
            self.lpips,
            self.extraction_options.num_workers,
            compat=self.options.compat,
            is_clamped=self.options.clamp,
        )
        encoders = list(self.encoders.values())
        passes = {
            name: self._pass(source, [*encoders, quality] if name == RECONSTRUCTIONS else encoders)
            for name, source in self._sources(paired, drawn.at).items()
        }
        if not all(extraction.is_complete for extraction in passes.values()):
            rows, progress = paired.draws.rows, self.extraction_options.progress
            with memory_for("gathering the drawn neighbours", "choose smaller images (--size)"):
                run_on_rank0(self.group, lambda: gather(paired.references, rows, drawn, progress))
        main = {name: encoder.spec.output for name, encoder in self.encoders.items()}
        needs = {name: [Need(output)] for name, output in main.items()}
        originals = measure(self._pass(self.images, encoders), needs)
        moments: dict[str, Mapping[str, Moments]] = {"originals": _by_encoder(originals, main)}
        qualities: dict[str, np.ndarray] = {}
        for name, extraction in passes.items():
            is_compared = name == RECONSTRUCTIONS
            compared = {ENCODER: [Need(output, CollectedFeatures) for output in quality.outputs]} if is_compared else {}
            found = measure(extraction, {**needs, **compared})
            moments[name] = _by_encoder(found, main)
            if is_compared and found is not None:
                scores = {need.output: found.collected[ENCODER, need] for need in compared[ENCODER]}
                qualities = {name: scores[name][:, 0] for name in quality.scores}
                if OUTSIDE in quality.outputs:
                    _warn_of_values_outside(scores[OUTSIDE], 3 * math.prod(self.pairing.size))
        if between(0.0) not in passes and 0.0 in self.options.alphas:
            moments[between(0.0)] = moments[RECONSTRUCTIONS]
        self.group.gather(None)  # wait until no rank reads the file any more
        if self.group.rank == 0:
            drawn.path.unlink(missing_ok=True)
        return moments, qualities, originals

    def _pass(self, source: ImageSource, encoders: Sequence[AbstractEncoder]) -> Extraction:
        return extraction_of(source, encoders, self.extraction_options)

    def _drawn(self, paired: Paired, folder: Path) -> DrawnLatents:
        """The file for the latents of the drawn neighbours."""
        key = digest_of([paired.references.entry.digest, paired.drawn_digest])
        encoder = self.pairing.query_encoder if self.pairing.is_one_set else self.pairing.reference_encoder
        path = folder / FOLDER / f"drawn-{key[:16]}.bin"
        return DrawnLatents(path, len(paired.draws.rows), paired.queries.latent_shape, encoder.stored_dtype)

    def _sources(self, paired: Paired, neighbours_at: Take) -> dict[str, DecodedSource]:
        """The image sources that are decoded, by name; `neighbours_at` gives the latents of the drawn neighbours."""
        batch_size = self.extraction_options.batch_size_on(self.autoencoder.device.type)
        stored = self.pairing.reference_encoder.spec.hash
        return decoded_sources(self.autoencoder, paired, neighbours_at, self.options, stored, batch_size)

    # The picture and the report

    def _draw(self, paired: Paired, path: Path) -> None:
        """Write a sheet of a few images beside their reconstructions, neighbours and interpolants."""
        places = spread(len(paired.queries.rows))
        latents = gathered(paired.references, paired.draws.rows[places])
        at = {int(place): latents[number] for number, place in enumerate(places)}
        write_sheet(sheet(paired.queries, self._sources(paired, lambda start, stop: at[start][None]), places), path)

    def _report(
        self,
        paired: Paired,
        originals: Measurement | None,
        moments: Mapping[str, Mapping[str, Moments]],
        qualities: Mapping[str, np.ndarray],
        texts: Sequence[str],
    ) -> Report:
        assert originals is not None
        images, neighbours, autoencoder = self.images, self.pairing.neighbours, self.autoencoder
        scores = Scores(images, neighbours, autoencoder.spec, self.options, originals.count)
        return Report(
            samples=describe_samples(images, originals),
            reference={"name": images.name, "source": f"the originals, {images.name}", "digest": images.digest},
            results=tuple(results(scores, self.encoders, moments, qualities, autoencoder.device)),
            run={
                "device": str(autoencoder.device),
                "ranks": self.group.size,
                "seed": self.options.seed,
                "versions": package_versions(),
                "encoders": {n: {**asdict(e.spec), "hash": e.spec.hash} for n, e in self.encoders.items()},
                "autoencoder": {**asdict(autoencoder.spec), "hash": autoencoder.spec.hash},
                "ifid": {
                    **asdict(self.options),
                    "latent_shape": list(paired.queries.latent_shape),
                    "neighbours": {
                        "source": neighbours.name,
                        "count": len(paired.references.rows),
                        "digest": neighbours.digest,
                    },
                    "neighbour_entropy": paired.draws.entropy,
                },
            },
            warnings=tuple(dict.fromkeys([*images.warnings, *texts])),
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
