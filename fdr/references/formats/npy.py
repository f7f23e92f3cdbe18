"""Reads a .npy file with features, such as the embeddings of CMMD, or with a dictionary of mu and sigma."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fdr.frechet import Moments, damaged
from fdr.images import read_header
from fdr.references.formats.base import Entry, StatisticsFile
from fdr.references.formats.features import check_features, stream_rows
from fdr.runtime import DAMAGE


def open_npy(path: Path) -> StatisticsFile:
    """Open features, or a dictionary that `np.save` stored as an object; nothing is unpickled."""
    try:
        with open(path, "rb") as file:
            shape, _, dtype = read_header(file)
            start = file.tell()
    except DAMAGE as error:
        raise damaged(str(path), error) from None
    if shape == () and np.dtype(dtype).hasobject:
        from fdr.references.formats.pickles import PickleStatistics

        return PickleStatistics(path, start)
    return NpyStatistics(path)


class NpyStatistics(StatisticsFile):
    """One array of features, floats [N, D]."""

    format = "npy"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                shape, _, dtype = read_header(file)
        except DAMAGE as error:
            raise damaged(str(path), error) from None
        check_features(repr(str(path)), shape, np.dtype(dtype))
        self.entries = (Entry("features", "features", shape[1], shape[0], str(np.dtype(dtype))),)

    def _load(self, entry: Entry) -> Moments:
        return Moments.from_features(self.shown_rows(entry))

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        try:
            with open(self.path, "rb") as file:
                shape, is_fortran, dtype = read_header(file)
                yield from stream_rows(file, shape, np.dtype(dtype), is_fortran)
        except DAMAGE as error:
            raise damaged(str(self.path), error) from None
