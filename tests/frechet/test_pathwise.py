"""The gradient of the debiased FD: finite differences, printed digits of another implementation, laws, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_features import det_features
from torch import Tensor

import fdr
from fdr.errors import InputError
from fdr.frechet import Moments, debiased_gradient, exact_side, leverages, linalg

GRADED = Moments(np.zeros(16), np.diag(1 / np.arange(1, 17)))


def drawn(count: int = 24, seed: int = 1) -> Tensor:
    return torch.from_numpy(det_features(count, 16, seed))


def dead() -> Moments:
    return Moments(np.zeros(16), np.diag(np.where(np.arange(16) < 11, 1 / np.arange(1, 17), 0)))


def singular() -> Moments:
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0][:, :9]
    return Moments(np.full(16, 0.1), (turn / np.arange(1, 10)) @ turn.T)


def test_the_printed_digits_of_another_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of a narrower grid of ridges."""
    monkeypatch.setattr(leverages, "BEYOND", 1e4)
    gradient = debiased_gradient(drawn(), GRADED, step=0.5).gradient * 24
    found = float(torch.linalg.norm(gradient)), float(gradient[0, 0]), float(gradient[23, 15])
    assert found == pytest.approx((11.75452234, 0.20286897, 0.48735877), abs=6e-9)


@pytest.mark.parametrize("reference", [GRADED, Moments(np.ones(16), np.eye(16)), dead(), singular()])
def test_finite_differences(reference: Moments) -> None:
    rows = drawn()
    gradient = debiased_gradient(rows, reference, step=0.5).gradient
    for row, column in ((0, 0), (5, 13), (23, 15)):
        sides = []
        for step in (1e-5, -1e-5):
            moved = rows.clone()
            moved[row, column] += step
            sides.append(debiased_gradient(moved, reference, step=0.5).value)
        found = float(gradient[row, column])
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(found, rel=1e-6, abs=3e-8)


def test_equal_eigenvalues_take_a_product_of_their_own() -> None:
    """Samples at the corners of two cubes: all eigenvalues of the covariance come in pairs."""
    rows = torch.cat([torch.eye(6), -torch.eye(6)]).double() * torch.tensor([2.0, 2, 1, 1, 0.5, 0.5]).double()
    rows = torch.cat([rows, rows * 0.7])
    reference = Moments(np.zeros(6), np.eye(6))
    gradient = debiased_gradient(rows, reference, step=0.5).gradient
    moved = rows + 1e-3 * torch.from_numpy(det_features(24, 6, 2))
    change = debiased_gradient(moved, reference, step=0.5)
    middle = debiased_gradient((rows + moved) / 2, reference, step=0.5).gradient
    before = debiased_gradient(rows, reference, step=0.5)
    assert change.value - before.value == pytest.approx(float((middle * (moved - rows)).sum()), rel=1e-6)
    assert gradient.isfinite().all()
    assert float((gradient - middle).abs().max()) < 1e-3


def test_the_value_is_that_of_the_metric() -> None:
    found = debiased_gradient(drawn(120), GRADED)
    measured = fdr.debiased_frechet_distance(drawn(120), GRADED, stderr=False)
    assert found.value == pytest.approx(measured.estimate, rel=1e-12)
    assert found.raw == pytest.approx(measured.raw, rel=1e-12)


def test_a_turned_and_scaled_world() -> None:
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0])
    here = debiased_gradient(drawn(), GRADED)
    there = Moments(np.full(16, 5.0), 9 * (turn.T @ torch.from_numpy(GRADED.sigma.copy()) @ turn).numpy())
    other = debiased_gradient(3 * drawn() @ turn + 5, there)
    assert other.value == pytest.approx(9 * here.value, rel=1e-8)
    torch.testing.assert_close(other.gradient, 3 * here.gradient @ turn, rtol=1e-6, atol=1e-8)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = debiased_gradient(drawn(200), GRADED)
    monkeypatch.setattr("fdr.frechet.whitening.CHUNK_VALUES", 1)  # 64 rows at a time
    parts = debiased_gradient(drawn(200), GRADED)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-10, atol=1e-14)


def test_at_the_reference_it_hardly_shrinks_while_fd_does() -> None:
    """The mean of tr(G^T Z) / (B tr S) over batches of 2 d samples: +.120 for FD with n - 1, 0 for the debiased FD."""
    generator, dim = torch.Generator().manual_seed(0), 12
    variances = 1 / torch.arange(1, dim + 1, dtype=torch.float64)
    reference = Moments(np.zeros(dim), np.diag(variances.numpy()))
    found = []
    for _ in range(100):
        rows = torch.randn(2 * dim, dim, generator=generator, dtype=torch.float64) * variances.sqrt()
        found.append(float((debiased_gradient(rows, reference).gradient * rows).sum() / variances.sum()))
    assert abs(np.mean(found)) < 0.04


def test_what_cannot_be_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"16 samples have no debiased gradient in 16 dimensions.*or the solver local"):
        debiased_gradient(drawn(16), GRADED)
    assert debiased_gradient(drawn(17), GRADED).gradient.isfinite().all()
    with pytest.raises(InputError, match="No feature of the reference varies among the samples"):
        debiased_gradient(torch.ones(20, 16, dtype=torch.float64), GRADED)


def test_a_reference_that_stays_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second batch, and one in which another feature does not vary, have the gradient of a fresh reference."""
    factored: list[int] = []
    real = linalg.cholesky_factor
    monkeypatch.setattr(linalg, "cholesky_factor", lambda matrix: factored.append(len(matrix)) or real(matrix))
    kept, still = exact_side(GRADED), drawn(60, 3)
    still[:, 5] = 0.25
    for rows, times in ((drawn(40), 1), (drawn(60, 2), 1), (still, 2), (drawn(40), 3)):
        found = debiased_gradient(rows, kept)
        assert len(factored) == times
        alone = debiased_gradient(rows, GRADED)
        factored.pop()
        assert torch.equal(found.gradient, alone.gradient) and found.value == alone.value
