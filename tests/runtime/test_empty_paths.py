"""An empty text is no path: Python takes it for the current folder, a shell for a variable that is not set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import TinyEncoder, images

import fdr
from fdr.features import CacheStore
from fdr.frechet import Moments
from fdr.reports import Report, load_reports

REAL = images(8)
CALLS: dict[str, Callable[[str], Any]] = {
    "open_images": fdr.open_images,
    "open_images list": lambda empty: fdr.open_images(["a.png", empty]),
    "evaluate samples": lambda empty: fdr.evaluate(empty, REAL, TinyEncoder()),
    "evaluate reference": lambda empty: fdr.evaluate(REAL, empty, TinyEncoder()),
    "evaluate cache": lambda empty: fdr.evaluate(REAL, REAL, TinyEncoder(), cache=empty),
    "extract": lambda empty: fdr.extract(empty, TinyEncoder()),
    "extract cache": lambda empty: fdr.extract(REAL, TinyEncoder(), cache=empty),
    "load_reference": lambda empty: fdr.load_reference(empty, "inception"),
    "load_generator": fdr.load_generator,
    "load_autoencoder": fdr.load_autoencoder,
    "load_autoencoder weights": lambda empty: fdr.load_autoencoder("haar", weights=empty),
    "load_encoder weights": lambda empty: fdr.load_encoder("random", weights=empty),
    "load_encoder weights_dir": lambda empty: fdr.load_encoder("random", weights_dir=empty),
    "open_statistics": fdr.open_statistics,
    "Moments.load": Moments.load,
    "Moments.save": lambda empty: Moments.from_features(REAL.reshape(8, -1)[:, :3]).save(empty),
    "Report.from_json": Report.from_json,
    "load_reports": load_reports,
    "interpolated_fid": lambda empty: fdr.interpolated_fid("haar", empty, encoders=TinyEncoder()),
    "CacheStore": CacheStore,
}


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_path_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for empty in ("", " \t"):
        with pytest.raises(fdr.InputError, match=r"^The path of .* is an empty text; name a file or a folder\."):
            CALLS[name](empty)
    assert not any(tmp_path.iterdir())
