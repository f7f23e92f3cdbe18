"""COCO-30k and MJHQ-30K: which images, crop and size, and warnings for sets that depart from the protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_worlds import GivenClip
from PIL import Image
from worlds import folder, images, npz

import fdr
from fdr.errors import InputError
from fdr.evaluation import PROTOCOLS
from fdr.evaluation.protocols import COCO_30K, MJHQ_30K
from fdr.images import ImageOptions, Preprocessing
from fdr.images.resize import lanczos_crop

NUM = 5
COCO = replace(COCO_30K, size=8, count=NUM, reference_count=7)
QUIET = "default:.*:fdr.errors.FdrWarning"


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Seven photographs of other sizes."""
    (tmp_path / "val2014").mkdir()
    for row, (width, height) in enumerate([(40, 30), (30, 44), (33, 33), (61, 24), (24, 37), (50, 50), (31, 29)]):
        pixels = np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val2014" / f"COCO_val2014_{row:012d}.png")
    return tmp_path / "val2014"


def prompts() -> list[str]:
    return ["1 0", "0 1", "2 1", "1 2", "1 1"]


def test_coco_crops_both_sides_and_measures_fd_and_clip_score(tmp_path: Path, real: Path) -> None:
    samples = images(NUM, side=20)
    report = fdr.evaluate(npz(tmp_path / "s.npz", samples), real, GivenClip(), protocol=COCO, prompts=prompts())
    assert [row.metric for row in report] == ["fd", "clip_score"]
    assert report.samples["policy"]["crop"] == "lanczos-8" and report.run["protocol"] == "coco-30k"
    assert report.reference is not None and report.reference["count"] == 7
    cropped = np.stack([np.array(lanczos_crop(Image.fromarray(image), 8)) for image in samples])
    others = np.stack([np.array(lanczos_crop(Image.open(file), 8)) for file in sorted(real.iterdir())])
    expected = fdr.evaluate(
        npz(tmp_path / "c.npz", cropped),
        npz(tmp_path / "r.npz", others),
        GivenClip(),
        "fd,clip_score",
        prompts=prompts(),
    )
    for metric in ("fd", "clip_score"):
        assert report[metric].value == pytest.approx(expected[metric].value, rel=1e-12)


def test_the_published_definitions() -> None:
    assert (COCO_30K.crop, COCO_30K.size, COCO_30K.count, COCO_30K.reference_count) == ("lanczos", 256, 30_000, 40_504)
    assert (MJHQ_30K.size, MJHQ_30K.side, MJHQ_30K.count, MJHQ_30K.reference_count) == (None, 1024, 30_000, 30_000)
    assert PROTOCOLS["coco-30k"] is COCO_30K and PROTOCOLS["mjhq-30k"] is MJHQ_30K
    for protocol in (COCO_30K, MJHQ_30K):
        assert protocol.metrics == ("fd", "clip_score") and protocol.encoder.startswith("inception:clean,openclip:")


def test_departures_are_named_one_by_one() -> None:
    whole = Preprocessing(256, 256, 1.0, "lanczos-256")
    assert list(COCO_30K.departures(30_000, 40_504, whole, None)) == []
    assert list(COCO_30K.departures(30_000, None, whole, None)) == []
    (count,) = COCO_30K.departures(5_000, 40_504, whole, None)
    assert count.startswith("coco-30k has 30,000 samples, and 5,000 were measured: FID rises as N falls")
    (reference,) = COCO_30K.departures(30_000, 30_000, whole, None)
    assert "compares with all 40,504 images of COCO val2014, and the reference has 30,000 images" in reference
    square = Preprocessing(1024, 1024, 1.0, "none")
    assert list(MJHQ_30K.departures(30_000, 30_000, square, None)) == []
    (size,) = MJHQ_30K.departures(30_000, 30_000, Preprocessing(512, 512, 1.0, "none"), None)
    assert size.startswith("mjhq-30k has samples of 1024 x 1024 pixels, and these are 512 x 512 pixels, so that")
    (mixed,) = MJHQ_30K.departures(30_000, 30_000, Preprocessing(1024, 1024, 0.5, "none"), None)
    assert "of many sizes" in mixed


@pytest.mark.filterwarnings(QUIET)
def test_a_report_holds_the_departures(tmp_path: Path, real: Path) -> None:
    samples = npz(tmp_path / "s.npz", images(NUM, side=20))
    report = fdr.evaluate(samples, real, GivenClip(), protocol="coco-30k", prompts=prompts())
    told = [text for text in report.warnings if text.startswith("coco-30k")]
    assert len(told) == 3  # samples, reference and prompts


def test_other_encoders_and_metrics_may_be_chosen_and_the_crop_may_not(tmp_path: Path, real: Path) -> None:
    samples = npz(tmp_path / "s.npz", images(NUM, side=20))
    report = fdr.evaluate(samples, real, GivenClip(), "kid:all", protocol=COCO)
    assert [row.metric for row in report] == ["kid:all"]
    with pytest.raises(InputError, match="Protocol 'coco-30k' sets size and crop; leave them out, or the protocol"):
        fdr.evaluate(samples, real, GivenClip(), protocol=COCO, image_options=ImageOptions(size=8), prompts=prompts())


def test_what_is_missing_is_one_sentence(tmp_path: Path, real: Path) -> None:
    samples = folder(tmp_path / "s", images(NUM, side=20))
    with pytest.raises(InputError, match="compares with all 40,504 images of COCO val2014; give these images with ref"):
        fdr.evaluate(samples, None, GivenClip(), protocol="coco-30k", prompts=prompts())
    report = fdr.evaluate(samples, None, GivenClip(), "clip_score", protocol=COCO, prompts=prompts())
    assert report.reference is None
    with pytest.raises(InputError, match=r"give them with prompts, such as coco-30k:captions_val2014\.json"):
        fdr.evaluate(samples, real, GivenClip(), protocol="coco-30k")
