"""A model library that cannot be imported costs one encoder and one sentence, and loading leaves logging alone."""

from __future__ import annotations

import logging
import sys

import pytest

from fdr.encoders import load_encoder
from fdr.errors import InputError
from fdr.weights import load_library, quiet


@pytest.mark.parametrize("library", ["timm", "transformers", "open_clip"])
@pytest.mark.parametrize("failure", [ImportError("No module"), RuntimeError("torchvision::nms\nmissing")])
def test_a_broken_library_is_one_sentence(library, failure, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == library:
                raise failure

    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(InputError, match=rf"Encoder 'x' needs {library}, which failed to import: .*install") as error:
        load_library(library, "x")
    assert "\n" not in str(error.value)
    assert load_encoder("random", device="cpu").spec.name == "random"


def test_quiet_restores_levels_and_handlers(capsys):
    root, other = logging.getLogger(), logging.getLogger("fdr-test")
    before = (root.level, root.handlers[:], other.level)
    with pytest.raises(ValueError), quiet("", "fdr-test"):
        logging.info("unseen")
        other.warning("unseen")
        raise ValueError
    assert (root.level, root.handlers[:], other.level) == before
    assert "unseen" not in capsys.readouterr().err
