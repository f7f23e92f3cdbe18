"""The neighbour of an image is drawn by closeness; latents are interpolated as in the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ifid_worlds import picked, slerp_of

from fdr.ifid.interpolation import MODES, draw, interpolate, slerp
from fdr.neighbours import Neighbours

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


def test_a_small_angle_is_still_an_angle() -> None:
    """At an angle of 0.01 slerp of unit vectors keeps the length; the chord would be shorter by 1.25e-5 half way."""
    a, b = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[np.cos(0.01), np.sin(0.01)]]).double()
    torch.testing.assert_close(slerp(a, b, 0.5).norm(dim=1), torch.ones(1).double(), rtol=1e-9, atol=0)


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


DIM = 3


def candidates(squared: np.ndarray, first_row: int = 0) -> Neighbours:
    """With cosine distances in another order, which must not decide the draw."""
    count, k = squared.shape
    cosine = np.tile(np.linspace(2, 0, k), (count, 1))
    return Neighbours(np.tile(np.arange(k), (count, 1)), cosine, squared, np.arange(first_row, first_row + count))


def test_every_draw_is_the_one_of_its_seed_and_row() -> None:
    squared = np.random.default_rng(0).uniform(0, 9, (40, 5))
    found = draw(candidates(squared, 7), DIM, seed=11)
    picks = [picked(squared[i], DIM, 11, 7 + i) for i in range(40)]
    np.testing.assert_array_equal(found.rows, [place for place, _ in picks])
    np.testing.assert_allclose(found.entropy, np.mean([entropy for _, entropy in picks]), rtol=1e-12)


def test_the_shares_are_those_of_the_softmax() -> None:
    row = np.array([0.0, 1.0, 6.0])
    found = draw(candidates(np.tile(row, (20_000, 1))), DIM, seed=0)
    weights = np.exp(-row / DIM) / np.exp(-row / DIM).sum()
    shares = np.bincount(found.rows, minlength=3) / len(found.rows)
    assert np.abs(shares - weights).max() < 4 * 0.5 / np.sqrt(20_000)
    np.testing.assert_allclose(found.entropy, -(weights * np.log(weights)).sum(), rtol=1e-12)


def test_alike_candidates_have_the_entropy_log_k_and_a_single_one_none() -> None:
    np.testing.assert_allclose(draw(candidates(np.full((5, 10), 7.0)), DIM, 0).entropy, np.log(10))
    assert draw(candidates(np.full((5, 1), 7.0)), DIM, 0).entropy == 0


def test_far_candidates_are_never_drawn_and_overflow_nothing() -> None:
    found = draw(candidates(np.tile([1e8, 1e8 + 1e6], (50, 1))), DIM, 0)
    assert (found.rows == 0).all() and found.entropy == 0


@given(st.integers(0, 1000), st.integers(1, 30))
def test_a_draw_depends_on_seed_and_row_alone(seed: int, start: int) -> None:
    squared = np.random.default_rng(1).uniform(0, 5, (40, 4))
    whole = draw(candidates(squared), DIM, seed)
    part = draw(candidates(squared[start:], start), DIM, seed)
    assert (whole.rows[start:] == part.rows).all()


def test_another_seed_is_another_draw() -> None:
    squared = np.zeros((200, 10))
    assert (draw(candidates(squared), DIM, 0).rows != draw(candidates(squared), DIM, 1).rows).mean() > 0.7
