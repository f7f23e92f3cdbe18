"""JSON and TOML nested a hundred thousand levels deep are damaged files like others: one sentence, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fdr.cli._config import find_config
from fdr.errors import FdrError
from fdr.features.cache.manifest import MANIFEST_NAME, DamagedManifestError, load_manifest
from fdr.generators import read_run_folder
from fdr.references import read_index
from fdr.training import read_options
from fdr.weights import load_weights, read_sidecar

READERS: dict[str, Callable[[Path], Any]] = {
    "generator.json": read_run_folder,
    "train.json": read_options,
    "reference.json": read_index,
    "net.pt.json": lambda folder: read_sidecar(folder / "net.pt", {"size": "the size"}),
    "model.safetensors.index.json": lambda folder: load_weights(
        nn.Linear(2, 2), folder / "model.safetensors.index.json", None, "net"
    ),
    MANIFEST_NAME: load_manifest,
    "fdr.toml": find_config,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000])
def test_a_deeply_nested_file_is_one_sentence(name: str, deep: str, tmp_path: Path) -> None:
    text = "a = " + deep.replace('{"a":', "{a=") if name.endswith(".toml") else deep
    (tmp_path / name).write_text(text)
    with pytest.raises((FdrError, DamagedManifestError)) as error:
        READERS[name](tmp_path)
    assert len(str(error.value)) < 600
