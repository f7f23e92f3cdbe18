"""The parts of the search by themselves: candidates, rules, bounds, plans; and the result by NumPy alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from neighbour_worlds import ArrayRows, CountedRows, brute_force, drawn

from fdr.errors import InputError, PeerError, RunError
from fdr.neighbours import SearchOptions, SetSizes, nearest, plan_search, sizes_of
from fdr.neighbours.candidates import Candidates
from fdr.neighbours.exact_distances import pair_distances, squared_norms
from fdr.neighbours.pair_rules import PairRules
from fdr.neighbours.plan import plan_blocks
from fdr.neighbours.products import arithmetic, make_points, resolve_precision, space_of
from fdr.neighbours.sweep import Sweeper
from fdr.runtime import SOLO

CPU = torch.device("cpu")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_by_numpy_alone(metric: str, precision: str) -> None:
    """Its distances differ in the last digits, its order among well separated latents does not."""
    x, y = drawn("offset", 20, 40, 1), drawn("offset", 700, 40, 2)
    found = nearest(ArrayRows(x, 7), ArrayRows(y, 64), SearchOptions(4, metric, device="cpu", precision=precision))
    q, r = (each.double().numpy() for each in (x, y))
    squared = ((q[:, None] - r) ** 2).sum(2)
    cosine = 1 - q @ r.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(r, axis=1)
    distances = squared if metric == "l2" else cosine
    rows = np.argsort(distances, axis=1)[:, :4]
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, rows, 1), rtol=1e-9)
    np.testing.assert_allclose(found.squared, np.take_along_axis(squared, rows, 1), rtol=1e-8)


def test_candidates_are_the_smallest_lower_bounds_and_know_what_they_lost() -> None:
    """Against all pairs at once; each query loses the bound of the first reference that found no place."""
    random = np.random.default_rng(0)
    low = random.uniform(size=(3, 40))
    high = low + random.uniform(size=(3, 40)) / 4
    found = Candidates(3, 6, 2, CPU)
    for start in range(0, 40, 8):
        part = slice(start, start + 8)
        rows = torch.arange(start, start + 8).expand(3, 8)
        bounds = (torch.from_numpy(side[:, part].copy()) for side in (low, high))
        found.offer(torch.arange(3), rows, *bounds, torch.full((3,), torch.inf, dtype=torch.float64))
    order = np.argsort(low, axis=1)
    np.testing.assert_array_equal(found.rows.numpy(), order[:, :6])
    np.testing.assert_array_equal(found.high.numpy(), np.take_along_axis(high, order[:, :6], 1))
    np.testing.assert_array_equal(found.lost.numpy(), np.take_along_axis(low, order[:, 6:7], 1)[:, 0])
    kept = np.sort(np.take_along_axis(high, order[:, :6], 1), axis=1)
    np.testing.assert_array_equal(found.limit.numpy(), kept[:, 1])
    others = torch.tensor([0.0, 0.001, 9.0], dtype=torch.float64)
    nothing = torch.full((3, 1), torch.inf, dtype=torch.float64)
    lost = found.lost.clone()
    found.offer(torch.arange(3), torch.full((3, 1), -1), nothing, nothing, others)
    np.testing.assert_array_equal(found.lost.numpy(), np.minimum(lost.numpy(), others.numpy()))
    found.refine(torch.tensor([0, 7]), torch.tensor([5.0, 6.0]).double(), torch.tensor([7.0, 8.0]).double())
    assert found.low[0, 0] == found.high[0, 0] == 5 and found.squared[1, 1] == 8
    np.testing.assert_array_equal(found.limit[0].numpy(), np.sort(found.high[0].numpy())[1])


@pytest.mark.parametrize("seed", range(6))
def test_counts_of_pairs_are_those_of_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    identities = random.integers(0, 6, 9), random.integers(0, 6, 30)
    labels = random.integers(0, 3, 9), random.integers(0, 3, 30)
    queries, references = np.array([0, 2, 3, 8]), np.flatnonzero(random.random(30) > 0.3)
    for own, classes in ((identities, None), (None, labels), (identities, labels)):
        counted = np.ones((9, 30), bool)
        if own is not None:
            counted &= own[0][:, None] != own[1]
        if classes is not None:
            counted &= classes[0][:, None] == classes[1]
        counts = counted[queries][:, references].sum(1)
        rules = PairRules(own, classes, (9, 30))
        rules.check_counts(queries, references, int(counts.min()))
        with pytest.raises(InputError, match=f"row {queries[counts.argmin()]} .*has {counts.min():,} latents"):
            rules.check_counts(queries, references, int(counts.min()) + 1)
        scores = torch.zeros(4, len(references))
        rules.forbid(scores, queries, references)
        np.testing.assert_array_equal(scores.numpy() == 0, counted[queries][:, references])


@pytest.mark.parametrize("pair", [(np.zeros(3), np.zeros(4, int)), (np.zeros(2, int), np.zeros(4, int))])
def test_rules_of_another_kind_or_length_are_refused(pair: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="expected integers"):
        PairRules(pair, None, (3, 4))


def test_cosines_of_parallel_latents_are_never_negative() -> None:
    x = drawn("plain", 300, 37, 1)
    y = x * torch.linspace(0.1, 9, 300)[:, None]
    every = torch.arange(300)
    distances, squared = pair_distances("cosine", x, squared_norms(x, every, 7), every, y, every, 7)
    assert float(distances.min()) >= 0 and float(distances.max()) < 1e-14 and float(squared.min()) >= 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_references_at_the_common_shift_have_bounds_that_hold(precision: str) -> None:
    """Their points are 0, so all of the error is that of the query."""
    x, y = 1000 * drawn("plain", 200, 30, 1), drawn("plain", 1, 30, 2).expand(16, 30).contiguous()
    how, space = arithmetic(precision, CPU), space_of("l2", ArrayRows(torch.cat([y, -y + 2 * y])), CPU)
    space = replace(space, unit=1024.0)
    sizes = sizes_of(ArrayRows(x)), sizes_of(ArrayRows(y))
    plan = plan_search(*sizes, SearchOptions(3, device="cpu", precision=precision))
    sweeper = Sweeper(how, space, PairRules(None, None, (200, 16)), plan)
    queries = sweeper.queries(iter([(torch.arange(200), np.arange(200), x)]), np.arange(200), 30)
    (products,) = sweeper.products(queries, np.arange(16), y)
    pairs = products.pairs(torch.arange(200 * 16))
    exact = pair_distances("l2", x, None, pairs.queries, y, pairs.columns, 64)[0]
    assert bool((pairs.low <= exact).all()) and bool((exact <= pairs.high).all())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_queries_at_the_common_shift_have_bounds_that_hold(precision: str) -> None:
    """Their points are 0, so all of the error is that of the references: the rounding of half their squares."""
    x, y = drawn("plain", 1, 30, 2).expand(3, 30).contiguous(), 1000 * drawn("plain", 400, 30, 1)
    how, space = arithmetic(precision, CPU), replace(space_of("l2", ArrayRows(x), CPU), unit=1024.0)
    plan = plan_search(sizes_of(ArrayRows(x)), sizes_of(ArrayRows(y)), SearchOptions(3, device="cpu"))
    sweeper = Sweeper(how, space, PairRules(None, None, (3, 400)), plan)
    queries = sweeper.queries(iter([(torch.arange(3), np.arange(3), x)]), np.arange(3), 30)
    (products,) = sweeper.products(queries, np.arange(400), y)
    pairs = products.pairs(torch.arange(3 * 400))
    exact = pair_distances("l2", x, None, pairs.queries, y, pairs.columns, 64)[0]
    assert bool((pairs.low <= exact).all()) and bool((exact <= pairs.high).all())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_bound_of_a_rounded_point_covers_the_rounding_of_its_own_norm(precision: str) -> None:
    """|x~ - x| and its slack: 2 D u of itself, 4 u of |x|, and sqrt(D) 2^-62 for values that underflow."""
    x, dim = drawn("plain", 9, 300, 1), 300
    how, space = arithmetic(precision, CPU), space_of("l2", ArrayRows(x), CPU)
    points = make_points([(torch.arange(9), np.arange(9), x)], (9, dim), space, how, "queries")
    assert space.shift is not None
    exact = (x.double() - space.shift.double()) / space.unit
    error = torch.linalg.vector_norm(exact.float().double() - points.values.double(), dim=1)
    length = torch.linalg.vector_norm(exact, dim=1)
    slack = 2 * dim * 2.0**-24 * error + 4 * 2.0**-24 * length + dim**0.5 * 2.0**-62
    torch.testing.assert_close(points.residual, error + slack, rtol=1e-6, atol=0)
    torch.testing.assert_close(points.residual - error, slack, rtol=0.05, atol=0)


def test_the_space_of_l2_is_about_the_mean_of_the_first_shard() -> None:
    y = drawn("offset", 40, 12, 2)
    rows = CountedRows(y, 16)
    space = space_of("l2", rows, CPU)
    mean = y[:16].double().numpy().mean(0)
    assert space.shift is not None
    np.testing.assert_allclose(space.shift.numpy(), mean, rtol=1e-6)
    longest = np.linalg.norm(y[:16].double().numpy() - mean, axis=1).max()
    assert space.unit / 2 < longest <= space.unit and np.log2(space.unit) % 1 == 0
    assert space.scale == space.unit**2 and rows.reads == [(0, 16)]
    assert space_of("cosine", rows, CPU).scale == 1 and rows.reads == [(0, 16)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_query_out_of_range_is_judged_by_exact_distances(precision: str) -> None:
    """A query 10^16 times as long as the references would overflow a product."""
    x, y = drawn("plain", 6, 20, 1), drawn("plain", 300, 20, 2)
    x[2] *= 1e16
    found = nearest(ArrayRows(x), ArrayRows(y, 64), SearchOptions(3, "l2", device="cpu", precision=precision))
    np.testing.assert_array_equal(found.rows, brute_force(x, y, 3, "l2")[0])


def test_the_exact_pass_finds_out_a_device_that_breaks_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 products are wrong only, which the first step, in bfloat16, does not need."""
    right = torch.mm

    def wrong(x: torch.Tensor, y: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        found = right(x, y, **more)
        return found.mul_(1.001) if x.dtype == torch.float32 else found

    monkeypatch.setattr(torch, "mm", wrong)
    x, y = drawn("crowd", 12, 64, 1), drawn("crowd", 600, 64, 2)
    with pytest.raises(RunError, match="less exact than it may be"):
        nearest(ArrayRows(x, 5), ArrayRows(y, 256), SearchOptions(device="cpu", precision="bfloat16"))


def test_a_rank_that_failed_ends_the_search_of_the_others_at_the_next_shard() -> None:
    class Failing(type(SOLO)):  # type: ignore[misc]
        num_checks = 0

        def check_peers(self) -> None:
            self.num_checks += 1
            if self.num_checks == 3:
                raise PeerError("another rank failed")

    rows = CountedRows(drawn("plain", 400, 8, 2), 16)
    with pytest.raises(PeerError):
        nearest(ArrayRows(drawn("plain", 5, 8, 1)), rows, SearchOptions(device="cpu"), group=Failing())
    assert len(rows.reads) <= 6


class TestPlan:
    def test_memory_covers_every_array(self) -> None:
        plan = plan_blocks(SetSizes(4000, 1000, 128, 4), SetSizes(90_000, 1000, 256, 4), 10, 2**30, "float32", "cpu")
        assert (plan.num_blocks, plan.tile_rows, plan.score_rows, plan.capacity) == (1, 256, 2048, 32)
        queries, candidates = 4000 * 1000 * 4, 4000 * 32 * 4 * 8
        shards, tile = 4 * 256 * 1000 * 4, 256 * 1000 * 4
        scores, sorting = 2048 * 256 * 12, 2048 * 32 * 128
        packed = (256 + 2048) * 1000 * 4
        pairs = plan.pairs_at_once * 8 * (2 * 4096 + 64 * 32)
        assert plan.device_bytes >= queries + candidates + shards + tile + scores + sorting + packed + pairs

    def test_a_shard_is_counted_four_times(self) -> None:
        """Tiles have their largest size already, so that longer shards add nothing else."""
        plans = [
            plan_blocks(SetSizes(40, 10, 10, 4), SetSizes(90_000, 10, rows, 2), 10, 2**30, "float32", "cpu")
            for rows in (5000, 6000)
        ]
        assert plans[1].device_bytes - plans[0].device_bytes == 4 * 1000 * 10 * 2

    def test_a_shard_of_queries_is_counted_twice(self) -> None:
        """Where it takes more than the four copies of a shard of references."""
        plans = [
            plan_blocks(SetSizes(90_000, 10, rows, 2), SetSizes(90_000, 10, 1, 4), 10, 2**30, "float32", "cpu")
            for rows in (5000, 6000)
        ]
        assert plans[0].query_rows == plans[1].query_rows
        assert plans[1].device_bytes - plans[0].device_bytes == 2 * 1000 * 10 * 2

    def test_pairs_of_exact_distances_have_their_memory(self) -> None:
        """Each has 4,096 terms, their copy, and 64 columns of 32 folds, in float64. A chunk of points has 4 MiB."""
        plan = plan_blocks(SetSizes(1, 1, 1, 4), SetSizes(20, 1, 1, 4), 1, 2**30, "float32", "cpu")
        least = 2 * 2**20 + 2**18 * 16 + 32 * 8 * (2 * 4096 + 64 * 32)
        assert least <= plan.device_bytes < least + 2**16

    def test_queries_have_three_quarters_of_a_small_memory(self) -> None:
        sets = SetSizes(400_000, 1000, 128, 4), SetSizes(90_000, 1000, 256, 4)
        for memory in (2**25, 2**26, 2**27, 2**28):
            plan = plan_blocks(*sets, 10, memory, "float32", "cpu")
            assert plan.query_rows * 1000 * 4 > memory * 0.45 and plan.device_bytes <= memory

    def test_ranks_share_the_queries(self) -> None:
        sets = SetSizes(4001, 1000, 128, 4), SetSizes(9000, 1000, 256, 4)
        assert plan_search(*sets, SearchOptions(device="cpu"), 4).query_rows == 1001

    def test_more_candidates_are_kept_in_low_precision(self) -> None:
        """docs/neighbour-search.md: C = 64 for K = 10, 32 with float32."""
        sets = SetSizes(400, 100, 128, 4), SetSizes(9000, 100, 256, 4)
        counts = [plan_blocks(*sets, 10, 2**28, each, "cpu").capacity for each in ("float32", "bfloat16", "float16")]
        assert counts == [32, 64, 64]


def test_precisions_and_the_errors_of_their_sums() -> None:
    """Higham 2002, section 3.1: n u / (1 - n u); tensor cores truncate, so their u is four times as large."""
    cuda = torch.device("cuda")
    assert resolve_precision("auto", cuda, 200_000) == "float16"
    n = 4096 + 1 + 4
    assert arithmetic("float32", CPU).sum_error(4096) == pytest.approx(n * 2**-24 / (1 - n * 2**-24), rel=1e-12)
    n = 2048 + 2 + 4
    assert arithmetic("float16", cuda).sum_error(4096) == pytest.approx(n * 2**-22 / (1 - n * 2**-22), rel=1e-12)
    assert arithmetic("float16", CPU).sum_error(4096) == pytest.approx(n * 2**-24 / (1 - n * 2**-24), rel=1e-12)
    assert arithmetic("bfloat16", cuda).sum_error(4096) == arithmetic("float16", cuda).sum_error(4096)
    n = 4096 + 1 + 4
    assert arithmetic("bfloat16", CPU).sum_error(4096) == pytest.approx(n * 2**-23 / (1 - n * 2**-23), rel=1e-12)
    n = 8192 + 3 + 4
    assert arithmetic("bfloat16", CPU).sum_error(20_000) == pytest.approx(n * 2**-23 / (1 - n * 2**-23), rel=1e-12)
    assert arithmetic("bfloat16", CPU).output_unit == 2**-8 and arithmetic("float32", CPU).output_unit == 0
