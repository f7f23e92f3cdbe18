"""Reconstructions beside their originals: rFD under any encoders, PSNR, SSIM, MS-SSIM and LPIPS, image by image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fdr.encoders import AbstractEncoder
from fdr.errors import InputError, collected_warnings
from fdr.evaluation import Measurement, Provenance, describe_samples, measure
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import Moments, fd_influence, has_rows
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.decoded import extraction_of, reconstructions
from fdr.ifid.latents import LatentEncoder, encode, latents_folder
from fdr.ifid.originals import Originals, first_size, match
from fdr.ifid.picture import try_to_draw
from fdr.ifid.quality import ENCODER, QualityEncoder, check_size
from fdr.ifid.results import decoding_of, quality_results
from fdr.images import ImageSource, images_at, write_sheet
from fdr.metrics import CollectedFeatures, Context, Lpips, Need, fd_score, metric_info
from fdr.reports import Origin, Report, Result
from fdr.runtime import package_versions, propagate_failures, run_on_rank0, write_atomically


@dataclass(frozen=True)
class Pairs:
    """Reconstructions with their originals."""

    source: ImageSource
    originals: Originals
    settings: Mapping[str, str]
    """Fields of the signature that say how the reconstructions were made."""
    matching: str | None
    """The digest of the matching, if reconstructions are not in the order of their originals."""


@dataclass(frozen=True)
class Reconstructed:
    """What was measured."""

    report: Report
    ids: Sequence[str]
    """The name of each measured reconstruction."""
    qualities: Mapping[str, np.ndarray]
    """Each score [N] of the measured reconstructions."""

    def to_csv(self, path: Path | None = None) -> str:
        """A line for each image: its name and its scores, in full precision. It is also written to `path` if given."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("image", *self.qualities))
        writer.writerows(zip(self.ids, *(map(float, values) for values in self.qualities.values()), strict=True))
        if path is not None:
            write_atomically(path, buffer.getvalue())
        return buffer.getvalue()

    def worst(self, count: int, by: str | None = None) -> np.ndarray:
        """Positions of the `count` worst reconstructions, the worst first, by a score: LPIPS if it was measured, else
        the last of PSNR, SSIM and MS-SSIM that was.
        """
        name = by or list(self.qualities)[-1]
        info = metric_info(name)
        assert info is not None
        values = self.qualities[name]
        return np.argsort(-values if info.lower_is_better else values, kind="stable")[:count]


class Reconstruction:
    """The run of `fdr recon`; all inputs are checked when it is made.

    `reconstructions` are images that are matched with `images` by name or position (`match`), or an autoencoder that
    makes them. Raises `InputError` for anything unusable.
    """

    def __init__(
        self,
        images: ImageSource,
        made: ImageSource | LoadedAutoencoder,
        encoders: Sequence[AbstractEncoder],
        extraction_options: ExtractionOptions,
        lpips: Lpips | None = None,
    ) -> None:
        self.images, self.encoders, self.lpips = images, list(encoders), lpips
        self.extraction_options, self.group = extraction_options, extraction_options.group
        self.autoencoder = made if isinstance(made, LoadedAutoencoder) else None
        self.size = first_size(images)
        if not images.is_repeatable:
            raise InputError(f"{images.name} can be read only once; give a path, list, array or Dataset.")
        if len(images) < 2:
            raise InputError(f"{images.name} has {len(images)} image; a covariance needs at least 2.")
        self.matched = match(images, made) if isinstance(made, ImageSource) else None
        self._given = made if isinstance(made, ImageSource) else None
        if self.matched is not None and self._given is not None:
            _check_first_pair(self.matched, self._given)
        if self.autoencoder is not None:
            self.autoencoder.check(*self.size)

    def plan(self) -> Iterator[str]:
        """Describe what `run` would do, a line for each step."""
        width, height = self.size[1], self.size[0]
        yield f"originals: {self.images.name}, {len(self.images)} images, {width} x {height}"
        if self._given is not None and self.matched is not None:
            yield f"reconstructions: {self._given.name}, matched by {self.matched.by}"
        elif self.autoencoder is not None:
            yield f"reconstructions: by {self.autoencoder.spec.name} ({self.autoencoder.spec.posterior})"
        scores = "PSNR, SSIM, MS-SSIM" + ("" if self.lpips is None else ", LPIPS")
        yield f"measured: {scores}; rFD with {', '.join(encoder.spec.name for encoder in self.encoders)}"

    def run(self, picture: Path | None = None, num_worst: int = 8) -> Reconstructed | None:
        """Measure everything. Returns None on ranks other than 0.

        If `picture` is given, a sheet of the `num_worst` worst reconstructions beside their originals is written there.
        """
        with propagate_failures(self.group), ExitStack() as stack:
            with collected_warnings() as texts:
                pairs = self._pairs(stack)
                originals = measure(self._pass(self.images, self.encoders), self._needs())
                quality = self._quality(pairs)
                wanted = [Need(output, CollectedFeatures) for output in quality.outputs]
                found = measure(self._pass(pairs.source, [*self.encoders, quality]), {**self._needs(), ENCODER: wanted})
            gathered = [text for part in self.group.gather(texts) for text in part]

            def result() -> Reconstructed | None:
                assert originals is not None and found is not None
                values = {need.output: found.collected[ENCODER, need][:, 0] for need in wanted}
                rows = np.setdiff1d(np.arange(len(pairs.source)), [image.row for image in found.bad])
                report = self._report(pairs, originals, found, values, gathered)
                done = Reconstructed(report, [pairs.source.ids[row] for row in rows.tolist()], values)
                if picture is not None:
                    try_to_draw(lambda: self._draw(pairs, rows[done.worst(num_worst)], picture))
                return done

            return run_on_rank0(self.group, result)

    def _pairs(self, stack: ExitStack) -> Pairs:
        if self.matched is not None and self._given is not None:
            is_in_order = np.array_equal(self.matched.rows, np.arange(len(self.images)))
            return Pairs(self._given, self.matched, {}, None if is_in_order else self.matched.digest)
        autoencoder = self.autoencoder
        assert autoencoder is not None
        encoder = LatentEncoder(autoencoder, self.size, "float32")
        folder = latents_folder(stack, autoencoder, self.extraction_options)
        latents = encode(encoder, self.images, self.extraction_options, folder)
        batch_size = self.extraction_options.batch_size_on(autoencoder.device.type)
        made = reconstructions(autoencoder, latents, batch_size)
        return Pairs(made, latents, decoding_of(autoencoder.spec, is_clamped=True), None)

    def _needs(self) -> dict[str, list[Need]]:
        return {e.spec.name: [Need(e.spec.output, rows="wanted")] for e in self.encoders}

    def _quality(self, pairs: Pairs) -> QualityEncoder:
        device, workers = self.encoders[0].device, self.extraction_options.num_workers
        return QualityEncoder(pairs.originals, self.size, device, self.lpips, workers, matching=pairs.matching)

    def _pass(self, source: ImageSource, encoders: Sequence[AbstractEncoder]) -> Extraction:
        return extraction_of(source, encoders, self.extraction_options)

    def _report(
        self,
        pairs: Pairs,
        originals: Measurement,
        found: Measurement,
        values: Mapping[str, np.ndarray],
        texts: Sequence[str],
    ) -> Report:
        images = self.images
        origin = Origin(images.name, images.digest or "", originals.count)
        described = (images, originals) if self.autoencoder is not None else (pairs.source, found)
        policy = described[0].policy
        rows = [self._distance(encoder, pairs, originals, found, policy, origin) for encoder in self.encoders]
        run: dict[str, Any] = {
            "device": str(self.encoders[0].device),
            "ranks": self.group.size,
            "versions": package_versions(),
            "encoders": {e.spec.name: {**asdict(e.spec), "hash": e.spec.hash} for e in self.encoders},
        }
        if self.autoencoder is not None:
            run["autoencoder"] = {**asdict(self.autoencoder.spec), "hash": self.autoencoder.spec.hash}
        if self.matched is not None:
            run["matched_by"] = self.matched.by
        return Report(
            samples=describe_samples(*described),
            reference={"name": images.name, "source": f"the originals, {images.name}", "digest": images.digest},
            results=(*rows, *quality_results(values, policy, origin, pairs.settings)),
            run=run,
            warnings=tuple(dict.fromkeys([*images.warnings, *pairs.source.warnings, *texts])),
        )

    def _distance(
        self,
        encoder: AbstractEncoder,
        pairs: Pairs,
        originals: Measurement,
        found: Measurement,
        policy: Mapping[str, str],
        origin: Origin,
    ) -> Result:
        spec, device = encoder.spec, encoder.device
        key = spec.name, Need(spec.output, rows="wanted")
        samples, reference = found.collected[key], originals.collected[key]
        context = Context(device=str(device) if device.type == "cuda" else None, stderr=False)
        score = fd_score(samples, reference, context)
        if has_rows(samples) and has_rows(reference) and not (found.bad or originals.bad):
            error = stderr_over_pairs(samples, reference, pairs.originals.rows, context.device)
            score = replace(score, stderr=error, details={**score.details, "noise": "pairs"})
        return Provenance(spec, spec.output, policy, found.count, origin, pairs.settings).row("rfd").result(score)

    def _draw(self, pairs: Pairs, places: np.ndarray, path: Path) -> None:
        own = images_at(pairs.originals.source, pairs.originals.rows[places])
        made = images_at(pairs.source, places)
        difference = np.abs(own.astype(np.int16) - made).astype(np.uint8)
        write_sheet({"originals": own, "reconstructions": made, "difference": difference}, path)


def _check_first_pair(originals: Originals, made: ImageSource) -> None:
    """Raise `InputError` if the first pair is of two sizes, before any image is encoded."""
    for batch in made.batches(1, 0, 0, 1):
        for image in batch.images:
            row = int(originals.rows[0])
            for own in next(originals.source.batches(1, 0, row, row + 1)).images:
                check_size(own, image, f"{originals.source.name}: {originals.source.ids[row]}")


def stderr_over_pairs(samples: Moments, reference: Moments, rows: np.ndarray, device: str | None) -> float:
    """The standard error of rFD over draws of originals, each with its reconstruction.

    Both sides of a pair move FD together, so their influences are added before they are squared: to first order the
    variance is var(IF_q + IF_p) / N. `rows` [N] are the originals of the samples.
    """
    found = fd_influence(samples, reference, device=device)
    assert found.reference is not None
    return float(np.std(found.samples + found.reference[rows], ddof=1)) / len(rows) ** 0.5
