"""Where weight files are looked for, and whether they may be fetched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fdr.runtime import Progress, SilentProgress


@dataclass(frozen=True)
class WeightOptions:
    """How the files of a network are found; the defaults here are the only ones."""

    weights: Path | None = None
    """The weight file to use; None searches the usual places and then fetches it."""
    weights_dir: Path | None = None
    """The folder that is searched first, and where fetched files are saved."""
    offline: bool | None = None
    """True never touches the network; None follows the environment."""
    progress: Progress = field(default_factory=SilentProgress)
