"""The reference of an evaluation, or its training set: what metrics need of it, by encoder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fdr.encoders import AbstractEncoder, EncoderOptions
from fdr.errors import InputError
from fdr.evaluation.labels import labels_digest
from fdr.evaluation.measurement import Measurement, Needs, outputs_of
from fdr.evaluation.remaining import measure_remaining
from fdr.evaluation.sanity import ImageSet, image_set
from fdr.features import ExtractionOptions
from fdr.frechet import Moments, ValidationFD
from fdr.images import ImageOptions, ImageSource, Preprocessing, open_images
from fdr.metrics import Need
from fdr.references import NoiseFloor, Reference, check_one_encoder_each, find_reference, names_images, reference_for
from fdr.reports import Origin


def open_reference(reference: Any, options: ImageOptions) -> Any:
    """`reference`, opened if it has to be read as images; in a dict by encoder name every entry is statistics.

    Raises `InputError` for an unknown name or no images.
    """
    if isinstance(reference, Mapping):
        for name, item in reference.items():
            if names_images(item):
                raise InputError(
                    f"The reference of {name!r} is images; a dict gives each encoder a registry name, a statistics "
                    "file or Moments. Give the images alone: they serve every encoder."
                )
        return reference
    return open_images(reference, _reference_options(options)) if names_images(reference) else reference


def open_training_set(images: Any, options: ImageOptions) -> ImageSource:
    """The images that a model was trained on. Raises `InputError` for statistics, which are not enough."""
    if isinstance(images, str | os.PathLike) and not names_images(images):
        raise InputError(
            f"The training set {os.fspath(images)!r} is statistics, and metrics need its images; give them."
        )
    return open_images(images, _reference_options(options))


def _reference_options(options: ImageOptions) -> ImageOptions:
    """Image options for the reference: a subset applies to the samples only, crop and size apply to both."""
    return replace(options, count=None, seed=0)


class ReferenceSide:
    """A reference, as `open_reference` gives it, for several encoders; images are measured when `prepare` is called. A
    training set is one as well, as `open_training_set` gives it.

    Moments come from statistics where the reference has them, else from its images; all else comes from images. A file
    can hold both: ADM's references have the moments of a whole dataset, and 10,000 of its images in `arr_0`.
    """

    def __init__(
        self,
        reference: Any,
        encoders: Sequence[AbstractEncoder],
        needs: Needs,
        *,
        image_options: ImageOptions,
        encoder_options: EncoderOptions,
        extraction_options: ExtractionOptions,
    ) -> None:
        self._encoders = {encoder.spec.name: encoder for encoder in encoders if needs[encoder.spec.name]}
        self._extraction_options = extraction_options
        self.moments: dict[tuple[str, str], Reference] = {}
        """The moments by (encoder, output); those of images are added by `prepare`."""
        self.images: ImageSource | None = None
        """The images to measure; None if statistics are enough."""
        self.image_set: ImageSet | None = None
        """The decoded images of the reference and what the decoder recorded about each; set by `prepare`."""
        self.preprocessing: Preprocessing | None = None
        """How the images were read and resized; set by `prepare`."""
        self._needs: Needs = {name: needs[name] for name in self._encoders}
        """What must be collected from the images."""
        self._measured: Measurement | None = None
        self._is_measured = False
        if not self._encoders:
            return
        if isinstance(reference, ImageSource):
            self.images, self._name = reference, reference.name
            return
        self._statistics, self._options = reference, encoder_options
        self._take_statistics(_reference_options(image_options))

    def _take_statistics(self, options: ImageOptions) -> None:
        """Find the moments that the needs can be met with, and the images that the file has for the others."""
        found = {
            (name, need.output): self._find(name, need.output)
            for name, wanted in self._needs.items()
            for need in wanted
            if need.is_moments or need.or_classes
        }
        if not isinstance(self._statistics, Mapping):
            check_one_encoder_each(found)
        self.moments = found
        needs = [(name, need) for name, wanted in self._needs.items() for need in wanted]
        rest = [(name, need) for name, need in needs if self._moments_for(name, need) is None]
        met = {(name, need.output) for name, need in needs if (name, need) not in rest}
        self.moments = {key: reference for key, reference in found.items() if key in met}
        self._needs = {name: [need for owner, need in rest if owner == name] for name in dict(rest)}
        if rest:
            name, need = rest[0]
            first = next(iter(found.values()), None) or self._find(name, need.output)
            lacks = "classes" if all(need.or_classes for _, need in rest) else "features"
            self.images, self._name = _images_in(first, options, lacks), first.name

    def _find(self, name: str, output: str) -> Reference:
        return find_reference(
            reference_for(self._statistics, name),
            self._encoders[name],
            output=output,
            weights_dir=self._options.weights_dir,
            offline=self._options.offline,
            progress=self._options.progress,
        )

    def prepare(self) -> None:
        """Measure the images if there are any. Only the first call does something."""
        if self.images is None or self._is_measured:
            return
        source = self.images
        digest = source.find_digest(self._extraction_options.group, self._extraction_options.progress) or ""
        encoders = [self._encoders[name] for name in self._needs]
        extraction, measured = measure_remaining(source, encoders, self._needs, self._extraction_options)
        self.image_set, self.preprocessing = image_set(extraction), extraction.preprocessing
        self._is_measured = True
        if measured is not None:
            self._take(measured, source, digest)

    def take(self, measured: Measurement, source: ImageSource) -> None:
        """Use images that were measured elsewhere, in place of those that were taken before."""
        self.images, self._name, self._is_measured = source, source.name, True
        self._take(measured, source, source.digest or "")

    def _take(self, measured: Measurement, source: ImageSource, digest: str) -> None:
        self._measured = measured
        for (name, output), moments in measured.moments.items():
            spec_hash = self._encoders[name].spec.hash
            self.moments[name, output] = Reference(source.name, source.name, digest, moments, digest, spec_hash)

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """The outputs that must be extracted from the images, by encoder."""
        return outputs_of(self._needs)

    def collected(self, encoder: str, need: Need) -> Any:
        """What a metric needs of the reference, on rank 0 after `prepare`."""
        found = self._moments_for(encoder, need)
        if found is not None:
            return found.moments
        assert self._measured is not None
        return self._measured.of(encoder, need)

    @property
    def _count(self) -> int | None:
        """The number of images that were measured; None before `prepare`."""
        return None if self._measured is None else self._measured.count

    @property
    def measured(self) -> Measurement | None:
        """The measurement of the images, on rank 0 after `prepare`; None for a reference without images."""
        return self._measured

    @property
    def label(self) -> str:
        """The images as signatures name them: NAME:DIGEST."""
        assert self.images is not None
        return f"{self.images.name}:{(self.images.digest or '')[:8]}".rstrip(":")

    @property
    def labels_digest(self) -> str:
        """sha256 over the classes of the images; "" without labels."""
        return "" if self.images is None else labels_digest(self.images)

    def origin(self, encoder: str, need: Need) -> Origin:
        """Where that comes from; the count of images is known after `prepare`."""
        found = self._moments_for(encoder, need)
        if found is None:
            assert self.images is not None
            return Origin(self._name, self.images.digest or "", self._count)
        return Origin(
            found.name, found.digest, found.moments.count, None if found.val_fd is None else found.val_fd.value
        )

    def val_fd(self, encoder: str, need: Need, metric: str) -> ValidationFD | None:
        """The denominator of the ratio of a metric, "fd" or "fd_debiased", if the reference has one above 0."""
        below = _denominator(self._moments_for(encoder, need), metric)
        return below if below is not None and below.is_above_zero else None

    def notes(self, encoder: str, need: Need, metric: str) -> Iterator[str]:
        """What a reader of FD must know of the reference: its noise floor, and why there is no debiased FDr."""
        found = self._moments_for(encoder, need)
        if found is None or metric not in _DENOMINATORS:
            return
        floor = NoiseFloor.of(found.moments.attributes)
        if floor is not None:
            yield f"noise floor of the reference: {floor}"
        below = _denominator(found, metric)
        if metric == "fd_debiased" and below is None and found.val_fd is not None:
            yield (
                "no debiased FDr: the validation FD of the reference is raw, and a debiased FD divided by it would be "
                "too small; fdr stats --val stores a debiased one"
            )
        if below is not None and not below.is_above_zero:
            yield (
                f"no debiased FDr: the debiased validation FD of the reference is {below.value:.4g} ± "
                f"{below.stderr or 0:.2g}, which is consistent with 0"
            )

    def known_moments(self, encoder: str, need: Need) -> Moments | None:
        """The moments of the reference; None for images that are not measured yet."""
        found = self._moments_for(encoder, need)
        return None if found is None else found.moments

    def _moments_for(self, encoder: str, need: Need) -> Reference | None:
        found = self.moments.get((encoder, need.output))
        has_classes = found is not None and need.or_classes and found.moments.classes is not None
        return found if need.is_moments or has_classes else None

    def describe(self) -> dict[str, Any] | None:
        """The reference in a report, on rank 0; None if no metric needed one.

        Digests that differ are by encoder, and by "encoder:output" for more outputs.
        """
        if self.moments:
            described = self._describe_moments()
        elif self.images is not None:
            name = self.images.name
            described = {"name": name, "source": name, "digest": self.images.digest, "count": self._count}
        else:
            return None
        left_out = {} if self.images is None else dict(self.images.left_out)
        has_labels = any(need.has_labels for wanted in self._needs.values() for need in wanted)
        labels_from = self.images.labels_from if self.images is not None and has_labels else None
        return {
            **described,
            **({"left_out": left_out} if left_out else {}),
            **({"labels_from": labels_from} if labels_from else {}),
        }

    def _describe_moments(self) -> dict[str, Any]:
        found: dict[str, Reference] = {}
        for (name, output), reference in self.moments.items():
            found[f"{name}:{output}" if name in found else name] = reference
        first = next(iter(found.values()))
        digests = {name: reference.digest for name, reference in found.items()}
        return {
            "name": ", ".join(dict.fromkeys(reference.name for reference in found.values())),
            "source": ", ".join(dict.fromkeys(reference.source for reference in found.values())),
            "digest": first.digest if len(set(digests.values())) == 1 else digests,
            "count": first.moments.count,
        }


_DENOMINATORS = {"fd": "val_fd", "fd_debiased": "val_fd_debiased"}
"""The field of `Reference` with the denominator of the ratio of a metric."""


def _denominator(found: Reference | None, metric: str) -> ValidationFD | None:
    is_known = found is not None and metric in _DENOMINATORS
    below: ValidationFD | None = getattr(found, _DENOMINATORS[metric]) if is_known else None
    return below


def _images_in(found: Reference, options: ImageOptions, lacks: str) -> ImageSource:
    """The images that a statistics file contains besides its moments; `lacks` is what metrics need of them."""
    reason = "it holds moments only"
    if found.path is not None:
        try:
            return open_images(found.path, options)
        except InputError as error:
            reason = str(error).partition("; ")[0].rstrip(".")  # what to do about images is said here
    if lacks == "classes":
        raise InputError(
            f"Conditional metrics need the moments of each class, and the reference {found.name!r} holds those of all "
            "images alone; write it again with fdr stats --labels, or give --ref real images with labels."
        )
    raise InputError(
        f"Metrics of features, such as precision, need images of the reference, which {found.name!r} does not give "
        f"({reason}); give --ref real images, or an npz with arr_0 beside its moments (fdr stats --format adm)."
    )
