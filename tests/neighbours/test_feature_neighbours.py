"""Radii, balls and weighted nearest centres are those of brute force, whatever the precision, blocks and memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fdr.errors import InputError
from fdr.neighbours import Balls, ball_hits, feature_points, nearest_centre, nearest_others
from fdr.neighbours.feature_points import Sweep, Tier

CPU = torch.device("cpu")


@pytest.fixture(params=["bfloat16", "float32"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("fdr.neighbours.products.has_fast_bf16", lambda device: request.param == "bfloat16")
    return str(request.param)


@pytest.fixture(params=[2048, 32])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(feature_points, "_BLOCK_ROWS", {"cpu": request.param})
    return int(request.param)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared, [N, M]"""
    return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1)


def worlds() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Two sets each: plain, with copies, far from zero, in tight clusters, on a grid, and with one outlier."""
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(130, 40)).astype(np.float32), draws.normal(0.1, 1, size=(110, 40)).astype(np.float32)
    yield "plain", x, y
    copies = x.copy(), y.copy()
    copies[0][::3] = x[0]
    copies[1][:5] = x[:5]
    yield "copies", *copies
    yield "offset", x * np.float32(1e-2) + 100, y * np.float32(1e-2) + 100
    groups = [np.rint(draws.normal(size=(len(each), 1))) for each in (x, y)]
    yield "clusters", *((each * 1e-4 + group).astype(np.float32) for each, group in zip((x, y), groups, strict=True))
    yield "grid", np.rint(x[:, :2] * 2), np.rint(y[:, :2] * 2)
    outlier = x.copy()
    outlier[7] *= 1e6
    yield "outlier", outlier, y


@pytest.mark.parametrize(("name", "x", "y"), list(worlds()), ids=[name for name, *_ in worlds()])
def test_everything_is_that_of_brute_force(
    name: str, x: np.ndarray, y: np.ndarray, precision: str, block_rows: int
) -> None:
    own, cross = distances(x, x), distances(x, y)
    np.fill_diagonal(own, np.inf)
    nearest = np.sort(own, 1)
    np.testing.assert_allclose(nearest_others(x, 5, CPU).numpy(), nearest[:, :5], rtol=1e-12)
    assert torch.equal(nearest_others(x, 5, CPU)[:, 2], nearest_others(x, 3, CPU)[:, 2])

    radii, others = nearest_others(x, 3, CPU)[:, -1], nearest_others(y, 4, CPU)[:, -1]
    exact = torch.from_numpy(
        feature_points.Sweep(x, y, CPU, 1 << 28).exact(*torch.ones(cross.shape).nonzero().T).numpy()
    )
    exact = exact.view(cross.shape)
    np.testing.assert_allclose(exact, cross, rtol=1e-12)
    for is_open in (True, False):
        inside = torch.lt if is_open else torch.le
        in_x, in_y = inside(exact, radii[:, None]), inside(exact, others)
        for is_counted in (True, False):
            balls = [Balls(radii, True, is_open, is_counted), Balls(others, False, is_open, is_counted)]
            first, second = ball_hits(x, y, balls, CPU)
            if is_counted:
                assert torch.equal(first.by_point, in_x.sum(0)) and torch.equal(first.by_ball, in_x.sum(1))
                assert torch.equal(second.by_point, in_y.sum(1)) and torch.equal(second.by_ball, in_y.sum(0))
                assert torch.equal(first.index_sum, (in_x * torch.arange(len(y))).sum(1))
            else:
                assert torch.equal(first.by_point > 0, in_x.any(0)) and torch.equal(second.by_point > 0, in_y.any(1))

    weights = torch.from_numpy(np.random.default_rng(1).uniform(0.1, 10, len(x)))
    least, centre = nearest_centre(y, x, CPU, weights)
    weighted = exact * weights[:, None]
    assert torch.equal(least, weighted.amin(0)) and torch.equal(centre, weighted.argmin(0))
    assert torch.equal(nearest_centre(y, x, CPU)[0], exact.amin(0))


@pytest.mark.parametrize(("name", "x", "y"), list(worlds()), ids=[name for name, *_ in worlds()])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_bounds_hold_for_every_pair(dtype: str, name: str, x: np.ndarray, y: np.ndarray) -> None:
    sweep = Sweep(x, y, CPU, 1 << 28)
    spread = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "float32": 2.0**-23, "float64": 2.0**-52}[dtype]
    slack = 2.0**-45 if dtype == "float64" else 2.0**-20
    sweep.tiers = [Tier(feature_points.arithmetic(dtype, CPU), spread, slack)]
    block = sweep.block(slice(0, len(x)), slice(0, len(y)))
    i, j = torch.ones(len(x), len(y)).nonzero().T
    low, high = block.bounds(i, j)
    true = sweep.scaled(sweep.exact(i, j))
    assert (block.low[i, j] <= true).all() and (low <= true).all() and (true <= high).all()
    if name == "plain":
        width = {"bfloat16": 0.05, "float16": 0.01, "float32": 1e-4, "float64": 1e-11}[dtype]
        assert ((high - low) < width * true.mean()).all()


def test_many_doubtful_pairs_are_multiplied_again_in_a_finer_dtype(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In clusters that low precision cannot resolve, few distances are computed one by one."""
    draws, asked = np.random.default_rng(2), []
    x = (draws.normal(size=(600, 16)) * 1e-5 + np.repeat(draws.normal(size=(3, 16)), 200, axis=0)).astype(np.float32)
    exact = Sweep.exact
    monkeypatch.setattr(Sweep, "exact", lambda self, i, j: asked.append(len(i)) or exact(self, i, j))
    found = nearest_others(x, 3, CPU)
    own = distances(x, x)
    np.testing.assert_allclose(found.numpy(), np.sort(own, 1)[:, 1:4], rtol=1e-12)
    assert sum(asked) < 20 * 600


@pytest.mark.parametrize("pending", [1, 50, 3000])
def test_pairs_that_wait_are_bounded(pending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(3)
    x, y = (draws.normal(size=(n, 12)).astype(np.float32) for n in (150, 170))
    radii = nearest_others(x, 3, CPU)[:, -1]
    expected = ball_hits(x, y, [Balls(radii, True, is_counted=True)], CPU)[0]
    least = nearest_centre(y, x, CPU)
    monkeypatch.setattr(feature_points, "_PENDING_BYTES", (1 << 28) // 4 // pending)
    monkeypatch.setattr(feature_points, "_BLOCK_ROWS", {"cpu": 32})
    assert torch.equal(nearest_others(x, 3, CPU, 1 << 28)[:, -1], radii)
    found = ball_hits(x, y, [Balls(radii, True, is_counted=True)], CPU, 1 << 28)[0]
    assert torch.equal(found.by_point, expected.by_point) and torch.equal(found.by_ball, expected.by_ball)
    assert all(map(torch.equal, nearest_centre(y, x, CPU, None, 1 << 28), least))


def test_a_million_copies_cost_no_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(4)
    x = np.repeat(draws.normal(size=(2, 8)).astype(np.float32), 600, axis=0)
    asked: list[int] = []
    differences = Sweep._differences
    monkeypatch.setattr(Sweep, "_differences", lambda self, i, j: asked.append(len(i)) or differences(self, i, j))
    hits = ball_hits(x, x.copy(), [Balls(torch.zeros(1200, dtype=torch.float64), True, is_counted=True)], CPU)[0]
    assert (hits.by_point == 600).all() and sum(asked) == 0


def test_memory_that_is_too_small_is_refused_and_features_that_are_not_finite() -> None:
    x = np.random.default_rng(5).normal(size=(40, 2048)).astype(np.float32)
    with pytest.raises(InputError, match=r"width 2048 do not fit a memory of 4 MiB; allow at least \d+ MiB \(memory"):
        nearest_others(x, 3, CPU, 4 << 20)
    y = x.copy()
    y[3, 5] = np.inf
    for first, second in ((x, y), (y, x)):
        with pytest.raises(InputError, match="hold NaN or infinity"):
            ball_hits(first, second, [Balls(torch.ones(40, dtype=torch.float64), True)], CPU)
