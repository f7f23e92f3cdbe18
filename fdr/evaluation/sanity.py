"""What makes numbers wrong in practice, told from what is at hand after a measurement: sentences, never a refusal.

Each check gives the sentence it has to say, or None; `fdr.evaluation` makes them warnings. A share that the reference
has as well is no news: a data set of real images with a few repeats is what it is. docs/footguns.md has the thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.images import FORMATS, Preprocessing, other_preprocessing

if TYPE_CHECKING:
    from fdr.features import Extraction
    from fdr.frechet import Moments
    from fdr.references import Reference

FLAT_SHARE = 0.001
"""Largest share of images that says nothing yet; so for the next three."""
REPEATED_SHARE = 0.01
COPIED_SHARE = 0.01
JPEG_SHARE = 0.05
NARROW_SPAN = 128
"""Steps of 1/255 that the values of all images together must exceed; half of the range is never all a set uses."""
NARROW_COUNT = 8
"""Images from which on the range of a set says something."""
COLLAPSED_SHARE = 0.01
"""Variance of the samples' features, as a share of the reference's, below which the samples hardly vary."""


@dataclass(frozen=True)
class ImageSet:
    """A set of images as far as its oddities go."""

    name: str
    images: np.ndarray
    """[n] of `fdr.images.facts.FACTS`: what was noted of every image that decoded."""
    ids: Sequence[str]
    """By row of the selection."""
    digest: str | None
    is_resized: bool
    """True when the images were brought to a size on reading, so that compression came before it."""

    def examples(self, chosen: np.ndarray) -> str:
        """The first few ids of a boolean mask over the images."""
        rows = self.images["row"][chosen][:3]
        return ", ".join(self.ids[int(row)] for row in rows) + (", ..." if chosen.sum() > 3 else "")


def image_set(extraction: Extraction) -> ImageSet | None:
    """The images of an extraction after its pass; None where nothing is known of some of them."""
    images, source = extraction.images, extraction.source
    if images is None or len(images) == 0:
        return None
    images = images[np.argsort(images["row"], kind="stable")]  # several ranks give theirs one after the other
    return ImageSet(source.name, images, source.ids, source.digest, source.policy["crop"] != "none")


def doubts(
    samples: Extraction,
    moments: Mapping[tuple[str, str], Moments],
    references: Mapping[tuple[str, str], Reference],
    reference_images: ImageSet | None,
    reference_preprocessing: Preprocessing | None = None,
) -> Iterator[str]:
    """All that is odd about the samples; moments and references by (encoder, output), where there are such."""
    images = image_set(samples)
    first = next(iter(references.values()), None)
    theirs = reference_preprocessing
    if theirs is None and first is not None:
        theirs = Preprocessing.of_attributes(first.moments.attributes)
    name = first.name if first is not None else "" if reference_images is None else reference_images.name
    yield from filter(None, [other_preprocessing(samples.preprocessing, theirs, name)])
    share = None if first is None else first.moments.attributes.get("jpeg_share")
    about_images = list(image_doubts(images, reference_images, None if share is None else float(share)))
    yield from about_images
    for (encoder, output), reference in references.items():
        is_main = output == samples.encoders[encoder].spec.output
        sentence = collapsed(moments[encoder, output], reference, encoder) if is_main and not about_images else None
        if sentence is not None:
            yield sentence
    if first is not None:
        encoder, output = next(iter(references))
        yield from filter(None, [other_count(moments[encoder, output].count, first, encoder)])


def image_doubts(images: ImageSet | None, reference: ImageSet | None, share: float | None) -> Iterator[str]:
    """All that is odd about the images; `share` of the reference's are JPEG files where only its statistics tell."""
    if images is None:
        return
    sentences = (
        narrow_range(images, reference) or flat_images(images, reference),  # a wrong range makes flat images, too
        compressed(images, share if reference is None else jpeg_share(reference)),
        repeated(images, reference),
        copied(images, reference),
    )
    yield from filter(None, sentences)


def flat_images(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Images of one colour: a generator that overflowed, an array that was not filled."""
    flat = samples.images["is_flat"] > 0
    tolerated = FLAT_SHARE + (0 if reference is None else _share(reference.images["is_flat"] > 0))
    if _share(flat) <= tolerated:
        return None
    return (
        f"{_of(flat)} samples are of one colour all over ({samples.examples(flat)}): the generator failed there or the "
        "array was never filled; draw these samples again."
    )


def narrow_range(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Pixels that were scaled wrongly before they became 8-bit."""
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
    """Share of the images with JPEG artefacts of their final size: none where a resize followed."""
    return 0.0 if images.is_resized else _share(images.images["format"] == FORMATS.index("jpeg"))


def compressed(samples: ImageSet, reference_share: float | None) -> str | None:
    """Samples in JPEG files where the reference has no JPEG artefacts of that size, as far as known."""
    if jpeg_share(samples) <= JPEG_SHARE + (reference_share or 0.0):
        return None
    jpeg = samples.images["format"] == FORMATS.index("jpeg")
    other = "nothing says that the reference images were" if reference_share is None else "the reference images are not"
    return (
        f"{_of(jpeg)} samples are JPEG files ({samples.examples(jpeg)}) and {other}: FD sees the compression; save "
        "samples as PNG or in an npz."
    )


def repeated(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """Samples that are pixel for pixel the same: a seed used twice, a shard copied."""
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
    """Samples that are images of the reference; the whole set being the reference is told elsewhere."""
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
    """Samples whose features hardly vary beside those of the reference."""
    own, other = (float(np.trace(moments.sigma)) for moments in (samples, reference.moments))
    if own >= COLLAPSED_SHARE * other:
        return None
    return (
        f"The samples hardly vary: their {encoder} features have {own / other:.2g} of the variance of the reference "
        f"{reference.name}; look at them, they are nearly one image."
    )


def other_count(count: int | None, reference: Reference, encoder: str) -> str | None:
    """Another number of samples than the published numbers are of, and by how much that moves FD.

    To first order, for samples distributed like the reference.
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
    """c in E[FD(N) - FD] = c / N + O(1/N^2), for N Gaussian samples of covariance `sigma` [D, D] against exact moments.

    c = tr S + 1/2 sum_ij (1 + delta_ij) l_i l_j / (l_i + l_j) with the eigenvalues l of S: the second-order term of
    tr sqrt at S^2. For S = 1 it is D + D (D + 1) / 4. Heavy-tailed features have more.
    """
    scale = float(np.abs(sigma).max()) or 1.0  # single precision is enough for two digits, and takes half the time
    values = np.linalg.eigvalsh((sigma / scale).astype(np.float32)).astype(np.float64) * scale
    values = values[values > values[-1] * np.finfo(np.float32).eps]
    harmonic = values[:, None] * values[None, :] / (values[:, None] + values[None, :])
    return float(values.sum() + 0.5 * (harmonic.sum() + np.trace(harmonic)))


def _is_narrow(images: np.ndarray) -> bool:
    return int(images["high"].max()) - int(images["low"].min()) <= NARROW_SPAN


def _repeats(images: np.ndarray) -> np.ndarray:
    """bool [n]: images that occurred before; flat ones, which are told apart from them, do not count."""
    _, first = np.unique(images["digest"], return_index=True)
    again = np.ones(len(images), dtype=bool)
    again[first] = False
    return again & (images["is_flat"] == 0)


def _share(chosen: np.ndarray) -> float:
    return float(np.mean(chosen)) if len(chosen) else 0.0


def _of(chosen: np.ndarray) -> str:
    return f"{int(np.sum(chosen))} of {len(chosen)}"
