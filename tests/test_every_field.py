"""Every field of every spec, key, digest and signature changes it, or is in a list that says that it must not.

The fields come from the dataclasses, so a new field fails here until somebody decides where it belongs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator_worlds import Plain
from worlds import TinyEncoder, images, npz

import fdr
from fdr.features.cache.shards import CacheKey
from fdr.frechet import Moments
from fdr.generators.base import Generator, GeneratorSpec
from fdr.ifid import AutoencoderSpec, IfidOptions
from fdr.images import ImageOptions, open_images
from fdr.references import moments_digest
from fdr.reports import Origin, parse_signature, result_signature

SPEC = TinyEncoder().spec
AUTOENCODER = AutoencoderSpec("dct:4", "weight-free", "dct:4", "none", posterior="sample")


@dataclass(frozen=True)
class Identity:
    """What identifies an object: `of(object)`, and which fields must leave it as it is."""

    example: Any
    of: Any
    silent: frozenset[str] = frozenset()
    others: Mapping[str, Any] = ()  # type: ignore[assignment]
    """Another valid value of a field whose values are few."""


def _other(value: Any) -> Any:
    """A value of the same type that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return "x" + value
    if isinstance(value, tuple):
        return (*value[:-1], _other(value[-1])) if value else (("a", "b"),)
    raise AssertionError(f"say in `others` what else {value!r} may be")


IDENTITIES = {
    "EncoderSpec.hash": Identity(SPEC, lambda spec: spec.hash, frozenset({"name", "weights_source"})),
    "AutoencoderSpec.hash": Identity(
        AUTOENCODER, lambda spec: spec.hash, frozenset({"name"}), {"posterior": "mean", "dtype": "bf16"}
    ),
    "CacheKey.directory": Identity(CacheKey("a" * 64, "b" * 16, ("pool",), "net"), lambda key: key.directory),
    "generator": Identity(
        GeneratorSpec((4,)),
        lambda spec: Generator(Plain(), spec).digest(),
        others={"num_classes": 3, "value_range": (-1.0, 1.0), "noise_shape": (8,)},
    ),
    "signature, encoder": Identity(
        SPEC,
        lambda spec: result_signature("fd", spec, "pool", {}, 9, None),
        frozenset({"weights_source"}),
    ),
    "signature of FDr, reference": Identity(
        Origin("r", "c" * 64, 9, 0.5),
        lambda origin: result_signature("fdr", SPEC, "pool", {}, 9, origin),
        frozenset({"count"}),
    ),
}


def _changes() -> Iterator[Any]:
    for name, identity in IDENTITIES.items():
        for field in fields(identity.example):
            yield pytest.param(name, field.name, id=f"{name}, {field.name}")


@pytest.mark.parametrize(("name", "field"), list(_changes()))
def test_a_field_changes_what_it_identifies(name: str, field: str) -> None:
    identity = IDENTITIES[name]
    others = dict(identity.others)
    other = others[field] if field in others else _other(getattr(identity.example, field))
    changed = identity.of(replace(identity.example, **{field: other}))
    assert (changed == identity.of(identity.example)) == (field in identity.silent)


PIXELS = {
    "count": {"count": 5},
    "seed": {"count": 5, "seed": 1},
    "crop": {"size": 8, "crop": "center"},
    "size": {"size": 8},
    "alpha": {"alpha": "white"},
    "quantize": {"quantize": "none"},
    "max_pixels": {"max_pixels": 10_000},
}
"""Options that decide which pixels are measured, each with values that differ from the other rows."""


def test_every_option_that_decides_pixels_is_in_the_digest_of_the_images(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", images(8))
    digests = {name: open_images(path, ImageOptions(**given)).digest for name, given in PIXELS.items()}
    digests["default"] = open_images(path).digest
    assert len(set(digests.values())) == len(digests)
    same = {"on_bad": "skip", "max_bad": 0.5}
    assert open_images(path, ImageOptions(**same)).digest == digests["default"]
    assert {field.name for field in fields(ImageOptions)} == PIXELS.keys() | same.keys()


@pytest.mark.parametrize("field", ["crop", "alpha", "quantize"])
def test_every_pixel_policy_is_in_the_signature(field: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", images(8))
    texts = {
        result_signature("fd", SPEC, "pool", open_images(path, ImageOptions(**given)).policy, 8, None)
        for given in ({}, PIXELS[field])
    }
    assert len(texts) == 2 and len({frozenset(parse_signature(text).fields.items()) for text in texts}) == 2


def test_the_digest_of_moments_is_that_of_both(rng: np.random.Generator = np.random.default_rng(0)) -> None:  # noqa: B008
    moments = Moments.from_features(rng.normal(size=(20, 3)))
    other = Moments.from_features(rng.normal(size=(20, 3)))
    arrays = [(moments.mu, moments.sigma), (other.mu, moments.sigma), (moments.mu, other.sigma)]
    assert len({moments_digest(Moments(mu=mu, sigma=sigma, count=20)) for mu, sigma in arrays}) == 3


IFID = {
    "mode": {"mode": "linear"},
    "alphas": {"alphas": (0.25,)},
    "top_k": {"top_k": 5},
    "seed": {"seed": 1},
    "clamp": {"clamp": False, "quantize": "none"},
    "quantize": {"quantize": "none"},
    "latent_dtype": {"latent_dtype": "bfloat16"},
    "compat": {"mode": "mask", "compat": "reference", "clamp": False, "quantize": "none"},
}
"""Options of an interpolated FD that decide its images."""


def test_no_option_of_an_interpolated_fd_finds_the_features_of_another(tmp_path: Path) -> None:
    """Each is measured with a cache that holds all the others, and without one."""
    path = npz(tmp_path / "a.npz", images(12))
    measured = {}
    for name, given in {"default": {}, **IFID}.items():
        options = IfidOptions(**{"top_k": 3, **given})
        warm, cold = (
            fdr.interpolated_fid("haar", path, encoders=TinyEncoder(), cache=cache, ifid_options=options)["ifd"]
            for cache in (tmp_path / "cache", None)
        )
        assert warm.value == pytest.approx(cold.value, rel=1e-12), name
        measured[name] = warm
    assert len({result.signature for result in measured.values()}) == len(measured)
    still = {"same_class", "memory", "lpips"}
    assert {field.name for field in fields(IfidOptions)} == IFID.keys() | still


MUTABLE = {
    "CompressedTar", "FilePart", "Hdf5Rows", "IndexedRows", "PlainTar", "RunningSums", "StatisticsFile", "ZipPart",
    "CollapseAlarm", "OverfitWatch", "Watch", "_Table",
}  # fmt: skip
"""Dataclasses that change while they are used: open files, sums that grow, and what follows a run."""


def _dataclasses() -> Iterator[tuple[str, bool]]:
    """The name of every dataclass of fdr, and whether it is frozen, from the source."""
    for path in Path(fdr.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for text in map(ast.unparse, node.decorator_list) if isinstance(node, ast.ClassDef) else ():
                if re.match(r"(dataclasses\.)?dataclass\b", text):
                    yield node.name, "frozen=True" in text  # type: ignore[union-attr]


def test_data_between_functions_is_frozen() -> None:
    found = list(_dataclasses())
    assert {name for name, is_frozen in found if not is_frozen} == MUTABLE
    assert len(found) > 100
