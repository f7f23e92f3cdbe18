"""Peers run as with the Pillow that their numbers were made with; places of weights that are empty."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pillow_before_13() -> Iterator[None]:
    """Pillow 13 may resample the vertical axis first, which moves grey levels; every version before it does not."""
    one_call = Image.Image.resize

    def resize(self, size, resample=None, *args, **kwargs):
        return one_call(one_call(self, (size[0], self.height), resample), tuple(size), resample, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        yield


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every usual place points into an empty folder."""
    for name in ("FDR_WEIGHTS", "FDR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
