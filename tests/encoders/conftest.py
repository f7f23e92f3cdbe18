"""Peers run as with the Pillow that their numbers were made with."""

from __future__ import annotations

from collections.abc import Iterator

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
