"""The reference of an evaluation: moments and features by encoder and output, from statistics or images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fdr.encoders import AbstractEncoder, EncoderOptions
from fdr.errors import InputError
from fdr.evaluation.measurement import Key, Requested, measure
from fdr.evaluation.sanity import ImageSet, image_set
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import ValidationFD
from fdr.images import ImageOptions, ImageSource, Preprocessing, open_images
from fdr.references import Reference, check_one_encoder_each, find_reference, names_images, reference_for
from fdr.reports import Origin


def opened(reference: Any, options: ImageOptions) -> Any:
    """`reference`, opened if it has to be read as images; of a dict by encoder name, every entry is statistics.

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


def _reference_options(options: ImageOptions) -> ImageOptions:
    """Image options for the reference: a subset applies to the samples only, crop and size apply to both."""
    return replace(options, count=None, seed=0)


class ReferenceSide:
    """A reference, as `opened` gives it, for several encoders; images are measured when `prepare` is called.

    Moments come from statistics where the reference has them, else from its images; features always from images. A
    file can hold both: ADM's references have the moments of a whole dataset, and 10,000 of its images in `arr_0`.
    """

    def __init__(
        self,
        reference: Any,
        encoders: Sequence[AbstractEncoder],
        requested: Mapping[str, Requested],
        *,
        image_options: ImageOptions,
        encoder_options: EncoderOptions,
        extraction_options: ExtractionOptions,
    ) -> None:
        self._encoders = {encoder.spec.name: encoder for encoder in encoders if requested[encoder.spec.name].outputs}
        self._extraction_options = extraction_options
        self.moments: dict[Key, Reference] = {}
        self.features: dict[Key, np.ndarray] = {}
        self.images: ImageSource | None = None
        """The images to measure; None if statistics are enough."""
        self.image_set: ImageSet | None = None
        """The decoded images of the reference and what the decoder recorded about each; set by `prepare`."""
        self.preprocessing: Preprocessing | None = None
        """How the images were read and resized; set by `prepare`."""
        self._requested: dict[str, Requested] = {name: requested[name] for name in self._encoders}
        """What must be measured on the images, by encoder."""
        self._is_measured = False
        if not self._encoders:
            return
        if isinstance(reference, ImageSource):
            self.images, self._name = reference, reference.name
            return
        self._statistics, self._options = reference, encoder_options
        self.moments = {
            (name, output): self._find(name, output) for name in requested for output in requested[name].moments
        }
        if not isinstance(reference, Mapping):
            check_one_encoder_each(self.moments)
        self._requested = {
            name: Requested(features=request.features) for name, request in self._requested.items() if request.features
        }
        if self._requested:
            name, request = next(iter(self._requested.items()))
            found = next(iter(self.moments.values()), None) or self._find(name, request.features[0])
            self.images, self._name = _images_in(found, _reference_options(image_options)), found.name

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
        encoders = [self._encoders[name] for name in self._requested]
        outputs = {name: request.outputs for name, request in self._requested.items()}
        extraction = Extraction(source, encoders, outputs, self._extraction_options)
        measured = measure(extraction, self._requested)
        self.image_set, self.preprocessing = image_set(extraction), extraction.preprocessing
        self.features = dict(measured.features)
        self._is_measured = True
        for (name, output), moments in measured.moments.items():
            spec_hash = self._encoders[name].spec.hash
            self.moments[name, output] = Reference(source.name, source.name, digest, moments, digest, spec_hash)

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """The outputs that must be extracted from the images, by encoder."""
        return {name: request.outputs for name, request in self._requested.items()}

    def origin(self, key: Key, has_features: bool) -> Origin:
        """Where the moments (or the features) of an encoder's output come from; images may be measured later."""
        found = self.moments.get(key)
        if has_features or found is None:
            assert self.images is not None
            count = len(self.features[key]) if key in self.features else None
            return Origin(self._name, self.images.digest or "", count)
        val_fd = None if found.val_fd is None else found.val_fd.value
        return Origin(found.name, found.digest, found.moments.count, val_fd)

    def val_fd(self, key: Key) -> ValidationFD | None:
        """The denominator of FDr, if the reference has one."""
        found = self.moments.get(key)
        return None if found is None else found.val_fd

    def facts(self) -> dict[str, Any] | None:
        """The reference in a report; digests that differ are by encoder, and by "encoder:output" for more outputs."""
        facts = self._moments_facts() if self.moments else self._image_facts()
        if facts is not None and self.images is not None and self.images.left_out:
            facts["left_out"] = dict(self.images.left_out)
        return facts

    def _moments_facts(self) -> dict[str, Any]:
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

    def _image_facts(self) -> dict[str, Any] | None:
        if self.images is None:
            return None
        count = len(next(iter(self.features.values())))
        return {"name": self.images.name, "source": self.images.name, "digest": self.images.digest, "count": count}


def _images_in(found: Reference, options: ImageOptions) -> ImageSource:
    """The images that a statistics file contains besides its moments."""
    reason = "it holds moments only"
    if found.path is not None:
        try:
            return open_images(found.path, options)
        except InputError as error:
            reason = str(error).rstrip(".")
    raise InputError(
        f"Precision and recall need images of the reference, which {found.name!r} does not give ({reason}); give --ref "
        "real images, or an npz with arr_0 beside its moments, as fdr stats --format adm writes."
    )
