"""Looks for common mistakes after a measurement: wrong value range, repeated or copied images, JPEG files and others.

Each check returns a sentence or None, and the evaluation issues the sentences as warnings; nothing is refused. There is
no warning for something that the reference has to the same degree: a data set of real images may contain a few repeats.
docs/footguns.md lists the thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.images import FORMATS, Preprocessing, other_preprocessing

if TYPE_CHECKING:
    from fdr.evaluation.reference_side import ReferenceSide
    from fdr.features import Extraction
    from fdr.frechet import Moments
    from fdr.references import Reference

FLAT_SHARE = 0.001
"""Share of one-coloured images above which there is a warning."""
REPEATED_SHARE = 0.01
"""Share of samples that repeat an earlier sample above which there is a warning."""
COPIED_SHARE = 0.01
"""Share of samples that are images of the reference above which there is a warning."""
JPEG_SHARE = 0.05
"""Share of JPEG files above which there is a warning."""
NARROW_SPAN = 128
"""There is a warning if all values of all images lie within a range this wide (of 255): half of the full range."""
NARROW_COUNT = 8
"""Smallest number of images whose common value range is judged."""
COLLAPSED_SHARE = 0.01
"""There is a warning if the variance of the samples' features is below this share of the reference's variance."""


@dataclass(frozen=True)
class ImageSet:
    """What the checks need to know about a set of images."""

    name: str
    images: np.ndarray
    """One record (`fdr.images.IMAGE_RECORD`) for each image that decoded, [n]."""
    ids: Sequence[str]
    """The id of each image, by row of the selection."""
    digest: str | None
    is_resized: bool
    """True if the images were resized when they were read, so that JPEG artefacts are older than the resize."""

    def examples(self, chosen: np.ndarray) -> str:
        """The first few ids of a boolean mask over the images."""
        rows = self.images["row"][chosen][:3]
        return ", ".join(self.ids[int(row)] for row in rows) + (", ..." if chosen.sum() > 3 else "")


def image_set(extraction: Extraction) -> ImageSet | None:
    """The image set of an extraction after its pass; None if the records of some images are missing."""
    images, source = extraction.images, extraction.source
    if images is None or len(images) == 0:
        return None
    return ImageSet(source.name, images, source.ids, source.digest, source.policy["crop"] != "none")


def sanity_warnings(
    samples: Extraction, moments: Mapping[tuple[str, str], Moments], side: ReferenceSide
) -> Iterator[str]:
    """Run all checks on the samples. `moments` are those of the samples, by (encoder, output); they may be missing."""
    images, reference_images, references = image_set(samples), side.image_set, side.moments
    first = next(iter(references.values()), None)
    theirs = side.preprocessing
    if theirs is None and first is not None:
        theirs = Preprocessing.of_attributes(first.moments.attributes)
    name = first.name if first is not None else "" if reference_images is None else reference_images.name
    yield from filter(None, [other_preprocessing(samples.preprocessing, theirs, name)])
    share = None if first is None else first.moments.attributes.get("jpeg_share")
    about_images = list(image_warnings(images, reference_images, None if share is None else float(share)))
    yield from about_images
    for (encoder, output), reference in references.items():
        if encoder not in samples.encoders:  # it failed on the samples
            continue
        is_main = output == samples.encoders[encoder].spec.output
        own = moments.get((encoder, output))
        sentence = collapsed(own, reference, encoder) if own and is_main and not about_images else None
        if sentence is not None:
            yield sentence
    if first is not None and (own := moments.get(next(iter(references)))) is not None:
        yield from filter(None, [other_count(own.count, first, next(iter(references))[0])])


def image_warnings(images: ImageSet | None, reference: ImageSet | None, share: float | None) -> Iterator[str]:
    """Run the checks on the images. `share` is the JPEG share that the statistics of the reference state, if any."""
    if images is None:
        return
    sentences = (
        narrow_range(images, reference) or flat_images(images, reference),  # a wrong range also makes images flat
        compressed(images, share if reference is None else jpeg_share(reference)),
        repeated(images, reference),
        copied(images, reference),
    )
    yield from filter(None, sentences)


def flat_images(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Warn of images of one colour: the generator overflowed, or the array was not filled."""
    flat = samples.images["is_flat"] > 0
    tolerated = FLAT_SHARE + (0 if reference is None else _share(reference.images["is_flat"] > 0))
    if _share(flat) <= tolerated:
        return None
    return (
        f"{_of(flat)} samples are of one colour all over ({samples.examples(flat)}): the generator failed there or the "
        "array was never filled; draw these samples again."
    )


def narrow_range(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Warn of pixels that were scaled wrongly before they were converted to 8 bits."""
    low, high = int(samples.images["low"].min()), int(samples.images["high"].max())
    is_usual = not _is_narrow(samples.images) or (reference is not None and _is_narrow(reference.images))
    if is_usual or len(samples.images) < NARROW_COUNT or low == high:
        return None
    if high <= 1:
        cause = "floats in [0, 1] were probably cast to uint8; multiply by 255 before"
    elif low >= 127:
        cause = "(x + 1) / 2 was probably applied to images that were in [0, 1] already"
    else:
        cause = "check whether the generator's range was taken for [-1, 1] or [0, 1]"
    return f"All values of the {len(samples.images)} samples lie between {low} and {high} of 0 to 255: {cause}."


def jpeg_share(images: ImageSet) -> float:
    """Share of the images that are JPEG files; 0 if they were resized, because the resize removes the artefacts."""
    return 0.0 if images.is_resized else _share(images.images["format"] == FORMATS.index("jpeg"))


def compressed(samples: ImageSet, reference_share: float | None) -> str | None:
    """Warn of samples in JPEG files if the reference, as far as known, has no JPEG artefacts at that size."""
    if jpeg_share(samples) <= JPEG_SHARE + (reference_share or 0.0):
        return None
    jpeg = samples.images["format"] == FORMATS.index("jpeg")
    other = "nothing says that the reference images were" if reference_share is None else "the reference images are not"
    return (
        f"{_of(jpeg)} samples are JPEG files ({samples.examples(jpeg)}) and {other}: FD sees the compression; save "
        "samples as PNG or in an npz."
    )


def repeated(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Warn of samples that are equal pixel for pixel: a seed was used twice, or a shard was copied."""
    again = _repeats(samples.images)
    if _share(again) <= REPEATED_SHARE:
        return None
    if reference is not None and _share(again) <= REPEATED_SHARE + _share(_repeats(reference.images)):
        return None
    return (
        f"{_of(again)} samples repeat an earlier sample pixel for pixel ({samples.examples(again)}): FD is that of "
        f"{len(again) - again.sum()} images, not {len(again)}; check the seeds and that no shard is there twice."
    )


def copied(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Warn of samples that are images of the reference. If all of them are, `warn_if_same_images` says so instead."""
    if reference is None or (samples.digest is not None and samples.digest == reference.digest):
        return None
    copies = np.isin(samples.images["digest"], reference.images["digest"]) & (samples.images["is_flat"] == 0)
    if _share(copies) <= COPIED_SHARE:
        return None
    return (
        f"{_of(copies)} samples are pixel for pixel images of the reference {reference.name} "
        f"({samples.examples(copies)}): FD rewards copies; compare with images that were generated."
    )


def collapsed(samples: Moments, reference: Reference, encoder: str) -> str | None:
    """Warn of samples whose features vary far less than those of the reference."""
    own, other = (float(np.trace(moments.sigma)) for moments in (samples, reference.moments))
    if own >= COLLAPSED_SHARE * other:
        return None
    return (
        f"The samples hardly vary: their {encoder} features have {own / other:.2g} of the variance of the reference "
        f"{reference.name}; look at them, they are nearly one image."
    )


def other_count(count: int | None, reference: Reference, encoder: str) -> str | None:
    """Warn if the published numbers use another number of samples, and estimate how much that changes FD.

    The estimate is of first order in 1/N and assumes samples that are distributed like the reference.
    """
    usual = reference.protocol_count
    if usual is None or count is None or count == usual:
        return None
    slope = bias_slope(reference.moments.sigma)
    advice = f"draw {usual} samples" if count < usual else f"take --count {usual}"
    return (
        f"{count} samples, but numbers against {reference.name} are published for {usual}: FD has a bias of about 1/N, "
        f"which for {encoder} differs by roughly {slope / count - slope / usual:+.2g}; {advice} to compare."
    )


def bias_slope(sigma: np.ndarray) -> float:
    """The constant c of the bias of FD, E[FD(N) - FD] = c / N + O(1/N^2), against exact moments.

    It holds for N Gaussian samples with covariance S = `sigma` [D, D]. With the eigenvalues l_i of S,
    c = tr S + 1/2 sum_ij (1 + delta_ij) l_i l_j / (l_i + l_j); the sum is the second-order term of tr sqrt at S^2. For
    the identity matrix c = D + D (D + 1) / 4. Heavy-tailed features have a larger bias.
    """
    scale = float(np.abs(sigma).max()) or 1.0  # float32 is enough for two digits and takes half the time
    values = np.linalg.eigvalsh((sigma / scale).astype(np.float32)).astype(np.float64) * scale
    values = values[values > values[-1] * np.finfo(np.float32).eps]
    harmonic = values[:, None] * values[None, :] / (values[:, None] + values[None, :])
    return float(values.sum() + 0.5 * (harmonic.sum() + np.trace(harmonic)))


def _is_narrow(images: np.ndarray) -> bool:
    return int(images["high"].max()) - int(images["low"].min()) <= NARROW_SPAN


def _repeats(images: np.ndarray) -> np.ndarray:
    """bool [n]: True for images that repeat an earlier image. Images of one colour do not count; `flat_images` does."""
    _, first = np.unique(images["digest"], return_index=True)
    again = np.ones(len(images), dtype=bool)
    again[first] = False
    return again & (images["is_flat"] == 0)


def _share(chosen: np.ndarray) -> float:
    return float(np.mean(chosen)) if len(chosen) else 0.0


def _of(chosen: np.ndarray) -> str:
    return f"{int(np.sum(chosen))} of {len(chosen)}"
