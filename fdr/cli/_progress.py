"""The progress of a command on stderr."""

from __future__ import annotations

import warnings

from fdr.errors import FdrWarning
from fdr.runtime import Progress, as_progress


def progress_for(quiet: bool) -> Progress:
    """Bars on a terminal, lines elsewhere; nothing when quiet, and then no warnings either."""
    if quiet:
        warnings.simplefilter("ignore", FdrWarning)
    return as_progress(not quiet)
