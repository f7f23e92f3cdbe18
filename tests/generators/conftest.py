"""Tiny pipelines of diffusers, saved and loaded once a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pipeline_worlds as worlds
import pytest

from fdr.images import Captions, read_captions


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    place = tmp_path_factory.mktemp("pipelines")
    return {kind: worlds.save(kind, place / kind) for kind in worlds.ARGUMENTS}


@pytest.fixture(scope="module")
def loaded(folders: Mapping[str, Path]) -> Mapping[str, Any]:
    from fdr.generators import load_pipeline

    return {kind: load_pipeline(folders[kind], given, device="cpu") for kind, given in worlds.ARGUMENTS.items()}


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Captions:
    return read_captions(worlds.captions(tmp_path_factory.mktemp("captions") / "captions.jsonl"))
