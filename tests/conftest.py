"""Every test gets a cache home of its own, no network settings of the user, and few threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fdr", deadline=None, derandomize=True)  # a busy machine is slow, not wrong
settings.load_profile("fdr")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the processors; what they start inherits it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup; tests interrupt runs, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def isolate(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let nothing of the user's caches or settings be seen; `home` takes their place."""
    monkeypatch.setenv("FDR_CACHE", str(home / "fdr"))
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("FDR_WEIGHTS", "FDR_OFFLINE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session", autouse=True)
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of fixtures that many tests share, since those are made before `own_home`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield isolate(tmp_path_factory.mktemp("home"), monkeypatch)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home for each test, with `$FDR_CACHE` in it."""
    return isolate(tmp_path_factory.mktemp("home"), monkeypatch)
