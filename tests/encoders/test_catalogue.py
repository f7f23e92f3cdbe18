"""The catalogue is consistent data, and its names mean what the literature's protocols say."""

from __future__ import annotations

import pytest

from fdr.encoders import BUNDLES, ROWS, find_row
from fdr.encoders.catalogue import INCEPTION_WEIGHTS, NON_COMMERCIAL
from fdr.encoders.inception import InceptionEncoder

NAMES = [row.name for row in ROWS]


def test_names_are_unique_and_complete():
    assert len(set(NAMES)) == len(NAMES)
    inception = {"inception", "inception:pytorch-fid", "inception:clean", "inception:fdloss"}
    protocols = {"dinov2:dgm", "dinov2:edm2", "clip:clean-fid", "clip:cmmd"}
    assert set(NAMES) == inception | protocols | {"dinov2", "siglip", "clip", "mae", "convnext", "random"}


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_every_row_says_what_a_reader_needs(row):
    assert row.width > 0
    assert row.input_size > 0
    assert row.licence
    assert row.note.endswith(".")
    assert row.preprocessing
    assert (row.weights is None) == (row.family == "random")
    if row.weights is not None:
        assert row.weights.size > 0
        assert row.weights.licence == row.licence
        assert row.weights.source.startswith("https://")


@pytest.mark.parametrize(
    ("name", "output", "size", "width"),
    [
        ("inception", "pool", 299, 2048),
        ("convnext", "mean", 224, 1024),
        ("dinov2", "cls", 256, 1024),
        ("mae", "cls", 224, 1024),
        ("siglip", "attention-pool", 224, 1152),
        ("clip", "cls", 256, 1024),
        ("dinov2:dgm", "cls", 224, 1024),
        ("dinov2:edm2", "cls", 224, 1024),
        ("clip:clean-fid", "embedding", 224, 512),
        ("clip:cmmd", "embedding-l2", 336, 768),
    ],
)
def test_the_encoders_are_those_of_their_papers(name, output, size, width):
    row = find_row(name)
    assert (row.output, row.input_size, row.width) == (output, size, width)


@pytest.mark.parametrize(
    ("name", "resize", "black", "white"),
    [
        ("inception", "tf1-bilinear", -1.0, 127 / 128),
        ("inception:clean", "pil-bicubic-float", -1.0, 127 / 128),
        ("inception:pytorch-fid", "torch-bilinear", -1.0, 1.0),
        ("inception:fdloss", "tf1-bilinear", -1.0, 1.0),
    ],
)
def test_inception_variants_normalise_as_their_owners(name, resize, black, white):
    row = find_row(name)
    assert row.resize == resize
    for value, expected in ((0.0, black), (1.0, white)):
        assert (value - row.mean[0]) / row.std[0] == pytest.approx(expected, abs=1e-12)


def test_inception_keeps_its_logits_beside_its_main_output():
    """The Inception Score of cached images then needs no second pass."""
    assert InceptionEncoder.outputs == ("pool", "logits", "spatial")
    assert InceptionEncoder.stored_outputs == ("pool", "logits")


def test_non_commercial_weights_are_said_to_be():
    assert {row.name for row in ROWS if row.licence == NON_COMMERCIAL} == {"mae", "convnext"}


def test_the_bundle_names_six_rows_with_the_inception_of_its_paper():
    assert len(BUNDLES["fdr6"]) == len(set(BUNDLES["fdr6"])) == 6
    assert all(find_row(name) for name in BUNDLES["fdr6"])
    assert BUNDLES["fdr6"][0] == "inception:fdloss"


def test_the_inception_file_carries_its_digest_in_its_names():
    published = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    assert (INCEPTION_WEIGHTS.sha256, INCEPTION_WEIGHTS.size) == (published, 95_628_359)
    for name in (INCEPTION_WEIGHTS.filename, *INCEPTION_WEIGHTS.aliases):
        assert INCEPTION_WEIGHTS.sha256[:8] in name


def test_an_unknown_name_has_no_row():
    assert find_row("vgg") is None
