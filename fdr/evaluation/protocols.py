"""Published evaluation protocols: one name selects the encoders, the metrics, and how images are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fdr.errors import InputError, unknown, warn

if TYPE_CHECKING:
    from fdr.evaluation.measurement import Measurement
    from fdr.evaluation.reference_side import ReferenceSide
    from fdr.images import Captions, ImageOptions, Preprocessing


@dataclass(frozen=True)
class Protocol:
    """A published evaluation protocol."""

    name: str
    title: str
    encoder: str
    """The encoders, separated by commas."""
    metrics: tuple[str, ...]
    """The metrics, in the order in which the original code prints them."""
    reference: str | None
    """The reference that is used if the user names none; None if one must be named."""
    takes_stored_moments: bool = False
    """True if moments (`mu`, `sigma`, `mu_s`, `sigma_s`) in a sample file are used instead of its images."""
    is_fixed: bool = True
    """False if the user may choose other encoders and metrics."""
    crop: str = "none"
    """With `size`, how images of both sides are cropped and resized."""
    size: int | None = None
    side: int | None = None
    """The side of the samples in pixels, where they are measured as they are."""
    count: int | None = None
    """The number of samples."""
    reference_count: int | None = None
    real: str = ""
    """The real images, in words."""
    prompts: str = ""
    """The prompts, as they are given to --prompts."""

    def options(self, given: ImageOptions, *, is_chosen: bool = False) -> ImageOptions:
        """The given options with the crop and size of the protocol. Raises `InputError` for options with their own, or
        if the user chose the crop, which may be none at all.
        """
        if self.size is None:
            return given
        if is_chosen or given.size is not None or given.crop != "none":
            raise InputError(f"Protocol {self.name!r} sets --size and --crop; leave them out, or the protocol.")
        return replace(given, crop=self.crop, size=self.size)

    def default_reference(self, metrics: str | Sequence[str]) -> str:
        """The reference of the metrics if the user names none, "" if they read none. Raises `InputError` if one must be
        named."""
        from fdr.metrics import load_metrics

        if self.reference is not None:
            return self.reference
        if any(metric.needs_reference for metric in load_metrics(metrics).values()):
            raise InputError(f"Protocol {self.name!r} compares with {self.real}; give these images with --ref.")
        return ""

    def departures(
        self, count: int, reference_count: int | None, pixels: Preprocessing | None, captions: Captions | None
    ) -> Iterator[str]:
        """A sentence for each way in which sets depart from the protocol.

        `count` and `pixels` are the number and the size of the samples; what is None is not known.
        """
        end = "so that the numbers are not comparable with published ones."
        if self.count is not None and count != self.count:
            yield f"{self.name} has {self.count:,} samples, and {count:,} were measured: FID rises as N falls, {end}"
        if self.reference_count is not None and reference_count not in (None, self.reference_count):
            yield f"{self.name} compares with {self.real}, and the reference has {reference_count:,} images, {end}"
        if captions is not None and self.count is not None and len(captions) != self.count:
            yield f"{self.name} has {self.count:,} prompts, and {captions.source} has {len(captions):,}, {end}"
        if self.side is not None and pixels is not None and not _is_square(pixels, self.side):
            yield f"{self.name} has samples of {self.side} x {self.side} pixels, and these are {pixels}, {end}"


def _is_square(pixels: Preprocessing, side: int) -> bool:
    return pixels.is_uniform and (pixels.width, pixels.height) == (side, side)


ADM = Protocol(
    "adm",
    "the evaluator of guided-diffusion (Dhariwal & Nichol 2021)",
    "inception",
    ("is:adm", "fd", "sfid", "precision:adm", "recall:adm"),
    "imagenet256:adm",
    takes_stored_moments=True,
)
COCO_30K = Protocol(
    "coco-30k",
    "zero-shot FID-30K on COCO (Saharia et al. 2022), as the code of GigaGAN computes it (Kang et al. 2023)",
    "inception:clean,openclip:ViT-B-32-quickgelu/openai",
    ("fd", "clip_score"),
    None,
    is_fixed=False,
    crop="lanczos",
    size=256,
    count=30_000,
    reference_count=40_504,
    real="all 40,504 images of COCO val2014",
    prompts="coco-30k:captions_val2014.json",
)
MJHQ_30K = Protocol(
    "mjhq-30k",
    "MJHQ-30K (Li et al. 2024): images as they are, at 1024 pixels",
    "inception:clean,openclip:ViT-L-14-quickgelu/openai",
    ("fd", "clip_score"),
    None,
    is_fixed=False,
    side=1024,
    count=30_000,
    reference_count=30_000,
    real="the 30,000 images of mjhq30k_imgs",
    prompts="mjhq-30k:meta_data.json",
)
PROTOCOLS = {protocol.name: protocol for protocol in (ADM, COCO_30K, MJHQ_30K)}


def find_protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name. Raises `InputError` with near matches."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def check_is_free(protocol: Protocol, has_encoders: bool, has_metrics: bool) -> None:
    """Raise an error if the user chose something that the protocol fixes."""
    for is_chosen, option, fixed in (
        (has_encoders, "--reps", protocol.encoder),
        (has_metrics, "--metrics", ", ".join(protocol.metrics)),
    ):
        if is_chosen and protocol.is_fixed:
            raise InputError(f"Protocol {protocol.name!r} measures {fixed} alone; leave out {option}, or the protocol.")


def warn_of_departures(
    protocol: Protocol | None,
    measured: Measurement,
    reference: ReferenceSide,
    pixels: Preprocessing | None,
    captions: Captions | None,
) -> None:
    """Warn of each way in which what was measured departs from a protocol, if there is one."""
    if protocol is not None:
        reference_count = (reference.describe() or {}).get("count")
        for sentence in protocol.departures(measured.count, reference_count, pixels, captions):
            warn(sentence)
