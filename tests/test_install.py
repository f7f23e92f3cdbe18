"""What is tested is what users get: the installed wheel, with the shipped references inside."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

import fdr
from fdr.references import load_reference, registry
from fdr.references.manifest import reference_stats_dir

SOURCE = Path(__file__).parent.parent


@pytest.mark.skipif("FDR_TEST_INSTALLED" not in os.environ, reason="runs against a source tree are fine by hand")
def test_the_tests_run_against_the_installed_package() -> None:
    assert not Path(fdr.__file__).is_relative_to(SOURCE / "fdr")
    assert reference_stats_dir().is_relative_to(Path(fdr.__file__).parent)
    assert importlib.metadata.version("fdr-eval") == fdr.__version__


def test_the_shipped_references_are_there() -> None:
    assert {"demo", "imagenet256"} <= registry().keys()
    assert load_reference("demo", "random").count == registry()["demo"].count
