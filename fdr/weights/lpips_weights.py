"""The two weight files of LPIPS: AlexNet's as torchvision publishes them, and the linear heads of the package lpips."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from fdr.weights.files import WeightsFile

ALEXNET_WEIGHTS = WeightsFile(
    filename="alexnet-owt-7be5be79.pth",
    sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    size=244_408_911,
    licence="BSD-3-Clause",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    what=("AlexNet weights of", "AlexNet weight file of"),
)
LPIPS_HEADS = WeightsFile(
    filename="lpips-v0.1-alex.pth",
    sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    size=6_009,
    licence="BSD-2-Clause",
    url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
    what=("linear heads of", "linear heads of"),
)
"""The digest is also that of the file in the package lpips 0.1.4."""


def lpips_files() -> tuple[WeightsFile, WeightsFile]:
    """AlexNet's file and the heads, which may lie in the installed package lpips as well."""
    inside = packaged_heads()
    return ALEXNET_WEIGHTS, LPIPS_HEADS if inside is None else replace(LPIPS_HEADS, aliases=(str(inside),))


def packaged_heads() -> Path | None:
    """Where the package lpips keeps the heads; None where it is not installed. It is not imported."""
    spec = importlib.util.find_spec("lpips")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "weights" / "v0.1" / "alex.pth"
