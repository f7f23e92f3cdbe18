"""Named protocols for reconstructions: which images, in which order of cropping and resizing, and how many."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fdr.errors import unknown
from fdr.images import ImageOptions


@dataclass(frozen=True)
class ReconProtocol:
    """A set of originals on which reconstructions are usually measured."""

    title: str
    count: int
    """The number of images in the whole set."""
    size: int
    crop: str

    def options(self, given: ImageOptions) -> ImageOptions:
        """The given options with the crop and size of the protocol."""
        return replace(given, crop=self.crop, size=self.size)

    def warning(self, name: str, count: int) -> str | None:
        """A sentence if `count` images are not those of the protocol."""
        if count == self.count:
            return None
        return (
            f"{name} is {self.title}, {self.count:,} images, and {count:,} were given: rFID rises as the number of "
            "images falls, so that the value is not comparable with published ones."
        )


PROTOCOLS = {
    "imagenet-val-256": ReconProtocol(
        "the validation set of ImageNet, by shorter side and centre crop", 50_000, 256, "center"
    ),
    "imagenet-val-256-adm": ReconProtocol("the validation set of ImageNet, by the crop of ADM", 50_000, 256, "adm"),
    "coco-val2017-256": ReconProtocol(
        "the validation set of COCO 2017, by shorter side and centre crop", 5_000, 256, "center"
    ),
}


def find_recon_protocol(name: str) -> ReconProtocol:
    """The protocol of that name. Raises `InputError` with near matches."""
    if name not in PROTOCOLS:
        raise unknown("protocol of reconstructions", name, PROTOCOLS)
    return PROTOCOLS[name]
