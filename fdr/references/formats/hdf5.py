"""Reads moments from the HDF5 files that fdr writes."""

from __future__ import annotations

from pathlib import Path

from fdr.frechet import Moments, header_h5, read_attributes
from fdr.references.formats.base import Entry, StatisticsFile, stored_encoders, stored_output


class Hdf5Statistics(StatisticsFile):
    """One set of moments with full provenance."""

    format = "h5"

    def __init__(self, path: Path) -> None:
        self.path = path
        dim, count, dtype = header_h5(path)
        attributes = read_attributes(path)
        self.entries = (
            Entry("mu", "moments", dim, count, dtype, stored_output(attributes), stored_encoders(attributes)),
        )

    def _load(self, entry: Entry) -> Moments:
        return Moments.load(self.path)
