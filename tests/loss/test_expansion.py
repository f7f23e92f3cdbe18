"""The expansion of M^{-1/2}: against float64 formulas and decompositions of the same M."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fdr.loss import expansion as _expansion
from fdr.loss.expansion import Expansion, absorbed_change, sketched_norm

R = 24


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def example(size: float, condition: float = 1e3, rank: int = R) -> Expansion:
    """M = s (I + D) s with |D|_2 = `size`, of few directions or of many."""
    rows = drawn(0, R, rank).double()
    change = rows @ torch.diag(drawn(1, rank).double()) @ rows.T
    change *= size / torch.linalg.matrix_norm(change, ord=2)
    return Expansion(torch.logspace(0, -np.log10(condition), R), change.float())


def matrix(expansion: Expansion) -> Tensor:
    """M in float64."""
    roots = expansion.roots.double()
    return roots[:, None] * (torch.eye(R, dtype=torch.float64) + expansion.change.double()) * roots


def approximation(expansion: Expansion) -> Tensor:
    """N in float64."""
    return torch.diag(1 / expansion.roots.double()) - expansion.correction().double()


def inverse_root(m: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(m)
    return (vectors / values.sqrt()) @ vectors.T


def whitened_gap(n: Tensor, expansion: Expansion) -> float:
    """|s (N - M^{-1/2}) s|_F relative to |s|: the error where the features are."""
    roots = expansion.roots.double()
    gap = roots[:, None] * (n - inverse_root(matrix(expansion))) * roots
    return float(torch.linalg.norm(gap) / torch.linalg.norm(roots))


@pytest.mark.parametrize("block", [5, 8, 512])
def test_absorbing_rows_is_the_average_of_second_moments(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_expansion, "BLOCK", block)
    change, rows, share = example(0.1).change, drawn(2, 40, R), 0.25
    mean = rows.mean(0)
    found = absorbed_change(change, rows, mean, share)
    product = rows.T @ rows / len(rows) - torch.eye(R)
    expected = (1 - share) * change + share * product - share**2 * torch.outer(mean, mean)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-6)
    nothing = torch.zeros(()).expand(R, R)
    torch.testing.assert_close(
        absorbed_change(nothing, rows, mean, share),
        share * product - share**2 * torch.outer(mean, mean),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("steps", [0, 1])
def test_the_residual_is_that_of_the_inverse_root(steps: int) -> None:
    """Also after chord steps for another D, where it holds what they miss here."""
    expansion = example(0.1)
    if steps:
        other, _ = Expansion(expansion.roots, 0.8 * expansion.change).after_chord_steps(0.8 * expansion.correction())
        expansion = Expansion(expansion.roots, expansion.change, other.second)
    n = approximation(expansion)
    expected = torch.eye(R, dtype=torch.float64) - n @ matrix(expansion) @ n
    found = expansion.residual(expansion.correction()).double()
    assert float(torch.linalg.norm(found - expected)) < 1e-4 * float(torch.linalg.norm(expected))


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1, 1e-3, 1e-6])
def test_a_sum_of_exponentials_is_the_inverse_of_the_sums(ratio: float) -> None:
    roots = 3 * torch.logspace(np.log10(ratio), 0, 200)
    decays, weights = Expansion(roots, torch.zeros(200, 200))._exponentials()
    found = (decays * weights) @ decays.T * (roots + roots[:, None])
    assert float((found - 1).abs().max()) < 0.02
    assert len(weights) < 16


@pytest.mark.parametrize("with_second", [False, True])
def test_a_chord_step_times_vectors(with_second: bool) -> None:
    expansion = example(0.1)
    if with_second:
        expansion = Expansion(
            expansion.roots, expansion.change, 0.5 * expansion.after_chord_steps(expansion.correction())[0].second
        )
    correction, vectors = expansion.correction(), drawn(3, R, 5)
    expected = expansion.residual(correction) / expansion.sums() @ vectors
    found = expansion.chord_step_times(correction, vectors)
    assert float(torch.linalg.norm(found - expected)) < 0.02 * float(torch.linalg.norm(expected))


def test_orders_of_the_inverse_root_and_of_its_trace() -> None:
    """An order n in N gives 2 n + 1 in the trace: halving D divides the errors by 4 and 8; by 16 and 64 or more."""
    gaps, traces = [], []
    for size in (0.2, 0.1):
        expansion = example(size)
        correction, roots = expansion.correction(), expansion.roots.double()
        after, beyond = expansion.after_chord_steps(correction)
        true = float(torch.linalg.eigvalsh(matrix(expansion)).sqrt().sum())
        gaps.append([whitened_gap(approximation(e), expansion) for e in (expansion, after)])
        series = float(expansion.root_trace(correction, roots)), float(after.root_trace(after.correction(), roots))
        traces.append([abs(x / true - 1) for x in (series[0], series[1], series[1] + beyond)])
    assert 3.5 < gaps[0][0] / gaps[1][0] < 4.5
    assert gaps[0][1] / gaps[1][1] > 12 and gaps[1][1] < 1e-4 * 0.1
    assert 7 < traces[0][0] / traces[1][0] < 9
    assert 12 < traces[0][1] / traces[1][1] < 20
    assert traces[1][2] < 1e-7


@pytest.mark.parametrize(("rank", "lowest", "highest"), [(R, 0.75, 2.0), (1, 0.5, 2.5)])
def test_the_sketch_is_seldom_too_small(rank: int, lowest: float, highest: float) -> None:
    expansion = example(0.05, rank=rank)
    correction, rows, factor = expansion.correction(), drawn(4, 60, R) * expansion.roots, drawn(5, 30, R)
    dense = rows @ (expansion.residual(correction) / expansion.sums()) @ factor.T
    true = float(torch.linalg.norm(dense))
    ratios = np.array([sketched_norm(expansion, correction, rows, factor, seed) / true for seed in range(300)])
    assert np.mean(ratios < 0.8) < 0.08
    assert lowest < ratios.min() and ratios.max() < highest
    assert sketched_norm(expansion, correction, rows, factor, 7) == sketched_norm(
        expansion, correction, rows, factor, 7
    )
