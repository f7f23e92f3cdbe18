"""The digests of generators and of their samples follow everything that decides the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from generator_worlds import Classes, Plain, seeded

from fdr.generators import Architecture, Generator, GeneratorSource, source
from fdr.generators.base import GeneratorSpec


def digest(
    kind: str = "factory",
    seed: int = 0,
    code: str = "c" * 64,
    arguments: Mapping[str, Any] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> str:
    spec = GeneratorSpec((2, 4, 4), 5, value_range)
    architecture = Architecture(kind, "module:Classes", arguments or {}, code)
    found = Generator(seeded(Classes, seed), spec, architecture=architecture).digest()
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["factory", "torchscript", "export"])
def test_weights_code_arguments_and_spec_decide(kind):
    others = [
        digest(kind),
        digest(kind, seed=1),
        digest(kind, code="d" * 64),
        digest(kind, arguments={"steps": 2}),
        digest(kind, arguments={"steps": 3}),
        digest(kind, value_range=(0.0, 1.0)),
    ]
    assert len(set(others)) == 6 and digest(kind) == others[0]


def test_one_changed_weight_decides():
    made = Generator(seeded(Plain), GeneratorSpec((8,)))
    before = made.digest()
    with torch.no_grad():
        made.network.last.bias[63] += 1e-6
    assert made.digest() != before


def test_another_way_to_draw_noise_gives_other_samples(monkeypatch):
    made = Generator(seeded(Plain), GeneratorSpec((8,)))
    before = GeneratorSource(made, 9).digest
    monkeypatch.setattr(source, "SAMPLING_VERSION", source.SAMPLING_VERSION + 1)
    assert GeneratorSource(made, 9).digest != before
