"""Reads and writes moments in fdr's own HDF5 files, with full provenance."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fdr.frechet import Moments, header_h5, read_attributes
from fdr.references.formats.base import Entry, Format, StatisticsFile, Writer, stored_encoders, stored_output, write_own
from fdr.runtime import HDF5_MAGIC, open_h5


def _open(path: Path) -> StatisticsFile:
    dim, count, dtype = header_h5(path)
    attributes = read_attributes(path)
    entry = Entry("mu", "moments", dim, count, dtype, stored_output(attributes), stored_encoders(attributes))
    return StatisticsFile(path, "h5", {entry: partial(Moments.load, path)})


def _has_moments(path: Path) -> bool:
    with open_h5(path) as file:
        return "mu" in file


FORMAT = Format(
    recognises=lambda start, members: start.startswith(HDF5_MAGIC),
    open=_open,
    is_statistics=_has_moments,
    writers={
        "h5": Writer(
            write_own("h5"),
            "fdr's own, with full provenance, the leverage curve and the moments of classes",
            (".h5", ".hdf5"),
            keeps_provenance=True,
        )
    },
)
