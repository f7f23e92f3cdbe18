"""The neighbour of an image: drawn by closeness, from (seed, row) alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fdr.ifid.draws import draw
from fdr.ifid.neighbours import Neighbours

DIM = 3


def candidates(squared: np.ndarray, first_row: int = 0) -> Neighbours:
    count, k = squared.shape
    return Neighbours(np.tile(np.arange(k), (count, 1)), squared, squared, np.arange(first_row, first_row + count))


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
