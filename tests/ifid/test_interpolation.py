"""Between two latents: the endpoints, the textbook, and the directions that have no angle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ifid_worlds import slerp_of

from fdr.ifid.interpolation import MODES, interpolate, slerp

PAIRS = torch.randn(2, 6, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def test_half_way_between_two_axes() -> None:
    between = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 0.5)
    torch.testing.assert_close(between, torch.tensor([[0.70710678, 1.41421356]]))


@pytest.mark.parametrize("mode", MODES)
def test_the_ends_are_the_latents_themselves(mode: str) -> None:
    z, w = PAIRS
    assert torch.equal(interpolate(mode, z, w, 0.0), z)
    torch.testing.assert_close(interpolate(mode, z, w, 1.0), w, rtol=1e-6, atol=1e-7)


@given(st.floats(0, 1), st.integers(0, 100))
def test_slerp_is_the_textbooks(alpha: float, seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 7))
    found = slerp(torch.from_numpy(a)[None], torch.from_numpy(b)[None], alpha)[0].numpy()
    np.testing.assert_allclose(found, slerp_of(a, b, alpha), rtol=1e-9, atol=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0.1, 10))
def test_of_vectors_of_one_length_slerp_stays_on_the_sphere(alpha: float, length: float) -> None:
    z, w = (torch.nn.functional.normalize(x.flatten(1).double(), dim=1) * length for x in PAIRS)
    torch.testing.assert_close(slerp(z, w, alpha).norm(dim=1), torch.full((6,), length, dtype=torch.float64))


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0])
def test_where_there_is_no_angle_slerp_is_linear(factor: float) -> None:
    z = PAIRS[0].double()
    torch.testing.assert_close(slerp(z, factor * z, 0.25), (0.75 + 0.25 * factor) * z)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 8, 4), 2), ((2, 8, 3), 1), ((2, 8), 1)])
def test_mask_takes_half_of_the_rows_or_tokens(shape: tuple[int, ...], axis: int) -> None:
    mixed = interpolate("mask", torch.zeros(shape), torch.ones(shape), 0.5)
    assert mixed.narrow(axis, 0, 4).eq(1).all() and mixed.narrow(axis, 4, 4).eq(0).all()


@pytest.mark.parametrize(
    ("rows", "alpha", "taken"),
    [(15, 0.5, 7), (7, 0.5, 3), (5, 0.5, 2), (3, 0.5, 1), (15, 0.1, 1), (15, 0.9, 13), (100, 0.29, 29), (10, 0.7, 7)],
)
def test_mask_takes_whole_rows_only(rows: int, alpha: float, taken: int) -> None:
    z, w = np.random.default_rng(0).normal(size=(2, 3, 4, rows, 5)).astype(np.float32)
    expected = np.concatenate([w[:, :, :taken], z[:, :, taken:]], axis=2)
    mixed = interpolate("mask", torch.from_numpy(z), torch.from_numpy(w), alpha)
    np.testing.assert_array_equal(mixed.numpy(), expected)
