"""Each check of samples at its threshold, on records made up for it: one image less and there is no warning."""

from __future__ import annotations

import numpy as np
import pytest

from fdr.evaluation import sanity
from fdr.evaluation.sanity import ImageSet
from fdr.frechet import Moments
from fdr.images import FORMATS, IMAGE_RECORD
from fdr.references import Reference


def records(count: int, first_digest: int = 1, **fields: object) -> np.ndarray:
    """`count` different images with the full range of values; `fields` sets some of the first ones."""
    found = np.zeros(count, IMAGE_RECORD)
    found["row"], found["digest"] = np.arange(count), np.arange(first_digest, first_digest + count)
    found["high"], found["format"] = 255, FORMATS.index("png")
    for name, values in fields.items():
        values = np.atleast_1d(values)
        found[name][: len(values)] = values
    return found


def image_set(images: np.ndarray, name: str = "set", is_resized: bool = False, digest: str | None = None) -> ImageSet:
    return ImageSet(name, images, [f"i{row}" for row in range(len(images))], digest, is_resized)


def flat(share_of: int, count: int) -> ImageSet:
    return image_set(records(share_of, is_flat=np.ones(count)))


def test_flat_images() -> None:
    """One of a thousand is tolerated, beside the share of the reference."""
    assert sanity.flat_images(flat(1000, 1), None) is None
    assert str(sanity.flat_images(flat(1000, 2), None)).startswith(
        "2 of 1000 samples are of one colour all over (i0, i1)"
    )
    assert sanity.flat_images(flat(1000, 11), flat(100, 1)) is None
    assert sanity.flat_images(flat(1000, 12), flat(100, 1)) is not None


@pytest.mark.parametrize(
    ("count", "low", "high", "words"),
    [
        (7, 0, 1, None),
        (8, 0, 1, "multiply by 255 before"),
        (8, 0, 2, "taken for [-1, 1] or [0, 1]"),
        (8, 0, 128, "taken for [-1, 1] or [0, 1]"),
        (8, 0, 129, None),
        (8, 126, 254, "taken for [-1, 1] or [0, 1]"),
        (8, 127, 255, "(x + 1) / 2 was probably applied"),
        (8, 126, 255, None),
        (8, 9, 9, None),
    ],
)
def test_a_narrow_range(count: int, low: int, high: int, words: str | None) -> None:
    images = records(count)
    images["low"], images["high"] = low, high
    wide = image_set(records(9))
    for reference in (None, wide):
        found = sanity.narrow_range(image_set(images), reference)
        assert (found is None) == (words is None)
        assert words is None or (words in str(found) and f"between {low} and {high} of 0 to 255" in str(found))
    assert sanity.narrow_range(image_set(images), image_set(images)) is None


def with_repeats(count: int, many: int, **options: object) -> ImageSet:
    """The last `many` of `count` images repeat the first one."""
    images = records(count)
    images["digest"][count - many :] = images["digest"][0]
    return image_set(images, **options)


def test_repeated_images() -> None:
    assert sanity.repeated(with_repeats(100, 1), None) is None
    assert str(sanity.repeated(with_repeats(100, 2), None)).startswith(
        "2 of 100 samples repeat an earlier sample pixel for pixel (i98, i99): FD is that of 98 images, not 100;"
    )
    assert sanity.repeated(with_repeats(100, 4), with_repeats(100, 3)) is None
    assert sanity.repeated(with_repeats(100, 5), with_repeats(100, 3)) is not None
    images = records(100)
    images["digest"][50:], images["is_flat"][50:] = 7, 1
    assert sanity.repeated(image_set(images), None) is None, "flat images have a check of their own"


def test_copied_images() -> None:
    reference = image_set(records(50, first_digest=1000), "real", digest="r")
    copies = [image_set(records(100, digest=1000 + np.arange(many)), digest="s") for many in range(6)]
    assert sanity.copied(copies[1], reference) is None and sanity.copied(copies[5], None) is None
    assert str(sanity.copied(copies[2], reference)).startswith(
        "2 of 100 samples are pixel for pixel images of the reference real (i0, i1):"
    )
    assert "(i0, i1, i2):" in str(sanity.copied(copies[3], reference))
    assert "(i0, i1, i2, ...):" in str(sanity.copied(copies[4], reference))
    flat_copies = records(100, digest=1000 + np.arange(5), is_flat=np.ones(5))
    assert sanity.copied(image_set(flat_copies), reference) is None
    itself = image_set(records(50, first_digest=1000), digest="r")
    assert sanity.copied(itself, reference) is None
    assert sanity.copied(image_set(itself.images), reference) is not None


def jpegs(count: int, is_resized: bool = False) -> ImageSet:
    return image_set(records(100, format=np.full(count, FORMATS.index("jpeg"))), is_resized=is_resized)


def test_jpeg_files() -> None:
    assert sanity.jpeg_share(jpegs(30)) == pytest.approx(0.3) and sanity.jpeg_share(jpegs(30, is_resized=True)) == 0
    assert sanity.compressed(jpegs(5), None) is None and sanity.compressed(jpegs(5), 0.0) is None
    assert "nothing says that" in str(sanity.compressed(jpegs(6), None))
    assert "the reference images are not" in str(sanity.compressed(jpegs(6), 0.0))
    assert sanity.compressed(jpegs(35), 0.3) is None and sanity.compressed(jpegs(36), 0.3) is not None
    assert sanity.compressed(jpegs(100, is_resized=True), 0.0) is None


@pytest.mark.parametrize(("share", "is_collapsed"), [(0.0099, True), (0.01, False), (0.5, False)])
def test_features_that_hardly_vary(share: float, is_collapsed: bool) -> None:
    wide = Moments(np.zeros(2), np.diag([64.0, 36.0]), 99)
    narrow = Moments(np.zeros(2), np.diag([100 * share, 0.0]), 99)
    found = sanity.collapsed(narrow, Reference("real", "", "", wide), "enc")
    assert (found is not None) == is_collapsed
    assert found is None or "enc features have 0.0099 of the variance of the reference real" in found


def test_the_estimate_of_another_count() -> None:
    """White features, D = 2: the bias is (D + D (D + 1) / 4) / N = 3.5 / N."""
    reference = Reference("toy", "", "", Moments(np.zeros(2), np.eye(2), None), protocol_count=100)
    assert "differs by roughly +0.14;" in str(sanity.other_count(20, reference, "enc"))  # 3.5/20 - 3.5/100
    assert "differs by roughly -0.018;" in str(sanity.other_count(200, reference, "enc"))  # 3.5/200 - 3.5/100
    assert sanity.other_count(100, reference, "enc") is None and sanity.other_count(None, reference, "enc") is None
