"""The search finds what brute force finds, bit for bit, whatever the latents, the precision and the memory."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbour_worlds import ArrayRows, CountedRows, HoledRows, assert_is, brute_force, drawn, least_memory
from thread_ranks import on_ranks

from fdr.errors import InputError, RunError
from fdr.neighbours import SearchOptions, SetSizes, nearest, plan_search, sizes_of
from fdr.neighbours.block import BlockSearch
from fdr.neighbours.exact_distances import pair_distances, squared_norms
from fdr.neighbours.pair_rules import PairRules
from fdr.neighbours.plan import plan_blocks
from fdr.neighbours.products import arithmetic, resolve_precision, space_of
from fdr.neighbours.sweep import Sweeper

KINDS = ("plain", "offset", "whole", "crowd", "outliers")
PRECISIONS = ("float32", "bfloat16", "float16")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def options(**changes: object) -> SearchOptions:
    return replace(SearchOptions(device="cpu", precision="float32"), **changes)


class TestBruteForce:
    """The same rows and the same bits of distances."""

    @settings(max_examples=60)
    @given(st.data())
    def test_any_search(self, data: st.DataObject) -> None:
        draw = data.draw
        num_queries, num_references = draw(st.integers(1, 24)), draw(st.integers(12, 260))
        dim, seed = draw(st.integers(1, 130)), draw(st.integers(0, 1000))
        kind, metric, precision = (draw(st.sampled_from(x)) for x in (KINDS, ("cosine", "l2"), PRECISIONS))
        x, y = drawn(kind, num_queries, dim, seed), drawn(kind, num_references, dim, seed + 1)
        first, second = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
        if kind != "outliers":
            x, y = x.to(first), y.to(second)
        random = np.random.default_rng(seed)
        pairs = {}
        if draw(st.booleans()):
            pairs["identities"] = (random.integers(0, 40, num_queries), random.integers(0, 40, num_references))
        if draw(st.booleans()):
            pairs["labels"] = (random.integers(0, 2, num_queries), random.integers(0, 2, num_references))
        top_k = draw(st.integers(1, 12))
        sizes = draw(st.integers(1, 30)), draw(st.integers(1, 100))
        rows = ArrayRows(x, sizes[0]), ArrayRows(y, sizes[1])
        asked = options(top_k=top_k, metric=metric, precision=precision)
        if draw(st.booleans()):
            asked = replace(asked, memory=least_memory(*rows, asked) + draw(st.integers(0, 20_000)))
        expected = brute_force(x, y, top_k, metric, **pairs)
        if np.isinf(expected[1]).any():
            with pytest.raises(InputError, match="to choose from"):
                nearest(*rows, asked, **pairs)
        else:
            assert_is(nearest(*rows, asked, **pairs), expected)

    @pytest.mark.parametrize("metric", ["cosine", "l2"])
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_many_references(self, metric: str, precision: str) -> None:
        x, y = drawn("offset", 70, 48, 1), drawn("offset", 6000, 48, 2)
        found = nearest(ArrayRows(x, 32), ArrayRows(y, 512), options(metric=metric, precision=precision))
        assert_is(found, brute_force(x, y, 10, metric))

    @pytest.mark.parametrize("metric", ["cosine", "l2"])
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_very_wide_latents(self, metric: str, precision: str) -> None:
        x, y = drawn("offset", 3, 196_608, 1).bfloat16(), drawn("offset", 40, 196_608, 2).bfloat16()
        rows = ArrayRows(x, 2), ArrayRows(y, 8)
        asked = options(metric=metric, precision=precision, top_k=3)
        assert_is(nearest(*rows, replace(asked, memory=least_memory(*rows, asked))), brute_force(x, y, 3, metric))

    def test_of_nobody(self) -> None:
        found = nearest(ArrayRows(torch.zeros(0, 4)), ArrayRows(torch.ones(20, 4)), options())
        assert found.rows.shape == found.distances.shape == (0, 10)

    def test_missing_rows_keep_the_numbers_of_the_others(self) -> None:
        x, y = drawn("plain", 30, 16, 1), drawn("plain", 200, 16, 2)
        gone, lost = {0, 7, 29}, {0, *range(64, 128), 131}
        labels = np.arange(30) % 2, np.arange(200) % 2
        found = nearest(HoledRows(x, 8, gone), HoledRows(y, 64, lost), options(), labels=labels)
        here, there = (np.array([i for i in range(n) if i not in out]) for n, out in ((30, gone), (200, lost)))
        expected = brute_force(x[here], y[there], 10, "cosine", labels=(labels[0][here], labels[1][there]))
        np.testing.assert_array_equal(found.query_rows, here)
        np.testing.assert_array_equal(found.rows, there[expected[0]])
        np.testing.assert_array_equal(found.distances, expected[1])

    def test_equal_latents_are_at_distance_0_and_in_the_order_of_rows(self) -> None:
        y = drawn("plain", 100, 33, 0)
        y[[5, 50, 99]] = y[20].clone()
        y[61] = 3 * y[20]
        cosine = nearest(ArrayRows(y[20:21]), ArrayRows(y, 16), options(top_k=4))
        np.testing.assert_array_equal(cosine.rows, [[5, 20, 50, 99]])
        np.testing.assert_array_equal(cosine.distances, 0)
        np.testing.assert_array_equal(cosine.squared, 0)
        itself = np.array([20]), np.arange(100)
        l2 = nearest(ArrayRows(y[20:21]), ArrayRows(y, 16), options(top_k=4, metric="l2"), identities=itself)
        np.testing.assert_array_equal(l2.rows[0, :3], [5, 50, 99])
        assert (l2.distances[0] == 0).tolist() == [True, True, True, False]

    def test_a_latent_of_zeros_is_at_cosine_distance_1(self) -> None:
        y = drawn("plain", 20, 8, 0)
        y[3] = 0
        found = nearest(ArrayRows(torch.zeros(1, 8)), ArrayRows(y), options(top_k=20))
        np.testing.assert_array_equal(found.distances, 1)
        np.testing.assert_array_equal(found.rows[0], np.arange(20))


class TestDistance:
    """One number per pair, and the right one."""

    @pytest.mark.parametrize("dim", [1, 2, 3, 100, 4096, 4097, 10_000])
    def test_is_that_of_exact_arithmetic(self, dim: int) -> None:
        x, y = drawn("offset", 3, dim, 1), drawn("offset", 3, dim, 2)
        i, j = torch.arange(3), torch.arange(3)
        squared = pair_distances("l2", x, None, i, y, j, 2)[0]
        cosine, also = pair_distances("cosine", x, squared_norms(x, i, 2), i, y, j, 2)
        for row in range(3):
            u, v = ([Fraction(float(value)) for value in side[row]] for side in (x, y))
            exact = sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
            dot, uu, vv = (sum(a * b for a, b in zip(p, q, strict=True)) for p, q in ((u, v), (u, u), (v, v)))
            assert float(squared[row]) == pytest.approx(float(exact), rel=1e-14)
            assert float(cosine[row]) == pytest.approx(1 - float(dot) / math.sqrt(float(uu) * float(vv)), abs=1e-14)
            assert float(also[row]) == pytest.approx(float(exact), abs=1e-13 * float(uu + vv))

    @given(st.integers(1, 9000), st.integers(1, 9), st.integers(1, 9))
    @settings(max_examples=30)
    def test_does_not_depend_on_the_company(self, dim: int, at_once: int, threads: int) -> None:
        x, y = drawn("plain", 4, dim, 1), drawn("plain", 9, dim, 2)
        i, j = torch.tensor([0, 3, 3, 1, 0, 2, 3]), torch.tensor([8, 0, 3, 3, 8, 1, 3])
        norms = squared_norms(x, torch.arange(4), 1)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            together = pair_distances("cosine", x, norms, i, y, j, at_once)[0]
        finally:
            torch.set_num_threads(before)
        alone = [pair_distances("cosine", x, norms, i[n : n + 1], y, j[n : n + 1], 1)[0] for n in range(7)]
        assert torch.equal(together, torch.cat(alone))
        assert together[0] == together[4] and together[2] == together[6]


class TestCertificate:
    """Bounds that hold, and what happens when they do not tell."""

    @pytest.mark.parametrize("metric", ["cosine", "l2"])
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [3, 500, 9000])
    def test_the_bounds_contain_every_distance(self, metric: str, precision: str, kind: str, dim: int) -> None:
        x, y = drawn(kind, 8, dim, 1), drawn(kind, 40, dim, 2)
        how = arithmetic(precision, torch.device("cpu"))
        rows = ArrayRows(x), ArrayRows(y)
        space = space_of(metric, rows[1], how.device)
        plan = replace(
            plan_search(*map(sizes_of, rows), options(precision=precision)), tile_rows=40, score_rows=8, chunk_rows=7
        )
        sweeper = Sweeper(how, space, PairRules(None, None, (8, 40)), plan)
        pieces = ((torch.arange(i, j), np.arange(i, j), x[i:j]) for i, j in ((0, 3), (3, 6), (6, 8)))
        queries = sweeper.queries(pieces, np.arange(8), dim)
        (products,) = sweeper.products(queries, np.arange(40), y)
        hits = products.pairs(torch.arange(320))
        exact = pair_distances(metric, x, squared_norms(x, torch.arange(8), 8), hits.queries, y, hits.columns, 64)[0]
        assert bool((hits.low <= exact).all()) and bool((exact <= hits.high).all())
        if kind == "plain":
            assert float((hits.high - hits.low).max()) < (0.05 if precision != "float32" else 0.01) * float(exact.max())
        limit = exact.view(8, 40).kthvalue(5, dim=1).values
        near = products.near(limit)
        assert set(torch.nonzero(exact <= limit[hits.queries])[:, 0].tolist()) <= set(near.tolist())
        found = products.best(torch.full((8,), torch.inf, dtype=torch.float64), 12)
        assert found is not None
        best, others = found
        left = torch.ones(8, 40, dtype=torch.bool).scatter(1, best.columns, False)
        assert bool((exact.view(8, 40)[left].view(8, 28) >= others[:, None]).all())

    def test_without_it_the_result_would_be_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a crowd the K nearest are not among the candidates of a bfloat16 product; the search notices it."""
        x, y = drawn("crowd", 12, 64, 1), drawn("crowd", 3000, 64, 2)
        expected = brute_force(x, y, 10, "cosine")
        rows, asked = (ArrayRows(x, 5), ArrayRows(y, 256)), options(precision="bfloat16")
        searched: list[int] = []
        search_exactly, certify = BlockSearch._search_exactly, BlockSearch._certify

        def counted(search: BlockSearch, chosen: np.ndarray) -> None:
            searched.extend(chosen.tolist())
            search_exactly(search, chosen)

        monkeypatch.setattr(BlockSearch, "_search_exactly", counted)
        assert_is(nearest(*rows, asked), expected)
        assert len(searched) == 12

        def careless(search: BlockSearch) -> np.ndarray:
            search.candidates.lost.fill_(torch.inf)
            return certify(search)

        monkeypatch.setattr(BlockSearch, "_certify", careless)
        found = nearest(*rows, asked)
        assert (found.rows != expected[0]).any(1).sum() >= 6
        assert (found.distances >= expected[1]).all()

    def test_a_device_that_breaks_its_bound_is_found_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        right = torch.mm
        monkeypatch.setattr(torch, "mm", lambda x, y, **more: right(x, y, **more).mul_(1.01))
        with pytest.raises(RunError, match="less exact than it may be"):
            nearest(ArrayRows(drawn("plain", 5, 64, 1)), ArrayRows(drawn("plain", 100, 64, 2)), options())

    def test_no_setting_of_the_program_makes_products_coarse(self) -> None:
        x, y = drawn("plain", 20, 512, 1), drawn("plain", 500, 512, 2)
        torch.set_float32_matmul_precision("medium")
        try:
            assert_is(nearest(ArrayRows(x), ArrayRows(y), options()), brute_force(x, y, 10, "cosine"))
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")


def test_wide_latents_are_not_told_apart_by_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.neighbours.products.has_fast_bf16", lambda device: True)
    cpu = torch.device("cpu")
    assert [resolve_precision("auto", cpu, dim) for dim in (4096, 196_608)] == ["bfloat16", "float32"]
    assert resolve_precision("bfloat16", cpu, 196_608) == "bfloat16"


class TestMemory:
    """The plan keeps within the limit, and says when it cannot."""

    @given(
        st.integers(1, 60_000),
        st.integers(1, 1_300_000),
        st.integers(1, 200_000),
        st.integers(1, 1024),
        st.integers(20, 36),
    )
    def test_a_plan_is_within_its_limit(self, queries: int, references: int, dim: int, shard: int, power: int) -> None:
        for precision, device in (("float32", "cpu"), ("bfloat16", "cpu"), ("float16", "cuda:0")):
            sets = SetSizes(queries, dim, min(queries, shard), 4), SetSizes(references, dim, min(references, shard), 2)
            try:
                plan = plan_blocks(*sets, 10, 2**power, precision, device)
            except InputError:
                continue
            assert max(plan.device_bytes, plan.host_bytes) <= 2**power
            assert plan.query_rows * plan.num_blocks >= queries > plan.query_rows * (plan.num_blocks - 1)
            assert 1 <= plan.score_rows <= plan.query_rows and 1 <= plan.tile_rows <= sets[1].shard_rows

    @pytest.mark.parametrize(
        ("dim", "shard", "itemsize", "passes"), [(4096, 1024, 4, 1), (16_384, 1024, 2, 1), (196_608, 64, 2, 2)]
    )
    def test_imagenet_on_a_card_of_24_gb(self, dim: int, shard: int, itemsize: int, passes: int) -> None:
        sets = (SetSizes(count, dim, shard, itemsize) for count in (50_000, 1_281_167))
        assert plan_blocks(*sets, 10, 20 * 2**30, "float16", "cuda").num_blocks == passes

    def test_the_sentence_names_the_least_that_would_do(self) -> None:
        rows = ArrayRows(torch.zeros(100, 5000), 64), ArrayRows(torch.zeros(200, 5000), 64)
        with pytest.raises(InputError, match=r"do not fit a search memory of 1 MiB; allow at least (\d+) MiB") as error:
            plan_search(*map(sizes_of, rows), options(memory=2**20))
        least = int(str(error.value).split("allow at least ")[1].split(" ")[0])
        assert plan_search(*map(sizes_of, rows), options(memory=least * 2**20)).query_rows >= 1
        with pytest.raises(InputError):
            plan_search(*map(sizes_of, rows), options(memory=(least - 1) * 2**20))

    def test_less_memory_means_more_passes(self) -> None:
        x, y = drawn("plain", 60, 2000, 1), drawn("plain", 300, 2000, 2)
        asked = options()
        queries, references = ArrayRows(x, 8), CountedRows(y, 16)
        asked = replace(asked, memory=least_memory(queries, references, asked) + 100_000)
        plan = plan_search(sizes_of(queries), sizes_of(references), asked)
        assert plan.num_blocks > 1
        references.reads.clear()
        assert_is(nearest(queries, references, asked), brute_force(x, y, 10, "cosine"))
        assert references.reads.count((64, 80)) == 2 * plan.num_blocks  # once to sweep, once to re-rank


class TestErrors:
    """One sentence each."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("metric", ["cosine", "l2"])
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_what_is_not_finite_is_named(self, value: float, metric: str, precision: str) -> None:
        x, y = drawn("plain", 10, 8, 1), drawn("plain", 100, 8, 2)
        asked = options(metric=metric, precision=precision)
        y[77, 3] = value
        with pytest.raises(InputError, match="row 77 of the references holds NaN or infinity"):
            nearest(ArrayRows(x), ArrayRows(y, 16), asked)
        with pytest.raises(InputError, match="row 77 of the queries holds NaN or infinity"):
            nearest(ArrayRows(y), ArrayRows(x, 16), asked)

    def test_too_few_references(self) -> None:
        x, y = drawn("plain", 6, 8, 1), drawn("plain", 12, 8, 2)
        with pytest.raises(InputError, match=r"row 0 has 12 latents .* but 13 nearest .* lower top-k to 12"):
            nearest(ArrayRows(x), ArrayRows(y), options(top_k=13))
        labels = np.array([0, 0, 0, 7, 0, 7]), np.array([0] * 9 + [7] * 3)
        reads = CountedRows(y, 4)
        with pytest.raises(InputError, match=r"row 3 \(class 7\) has 3 latents of its class"):
            nearest(ArrayRows(x), reads, options(top_k=5), labels=labels)
        assert not reads.reads  # before any work
        itself = np.arange(6), np.arange(12)
        with pytest.raises(
            InputError, match="has 11 latents of the reference set to choose from, the image itself not"
        ):
            nearest(ArrayRows(x), ArrayRows(y), options(top_k=12), identities=itself)
        with pytest.raises(InputError, match=r"row 3 \(class 7\) has 2 latents of its class .* itself not"):
            nearest(
                ArrayRows(x),
                ArrayRows(y),
                options(top_k=3),
                labels=labels,
                identities=(np.arange(6), np.arange(12) - 6),
            )

    def test_too_few_because_some_are_missing(self) -> None:
        x, y = drawn("plain", 6, 8, 1), drawn("plain", 12, 8, 2)
        with pytest.raises(InputError, match="row 0 has 10 latents"):
            nearest(ArrayRows(x), HoledRows(y, 5, {3, 4}), options(top_k=11))

    def test_options(self) -> None:
        with pytest.raises(InputError, match="top-k, is 0; expected 1 or more"):
            SearchOptions(top_k=0)
        with pytest.raises(InputError, match="metric 'dot'"):
            SearchOptions(metric="dot")
        with pytest.raises(InputError, match="precision 'int8'"):
            nearest(ArrayRows(torch.ones(20, 4)), ArrayRows(torch.ones(20, 4)), options(precision="int8"))

    def test_latents_of_two_autoencoders(self) -> None:
        with pytest.raises(InputError, match="have 4 values and the reference latents 5"):
            nearest(ArrayRows(torch.ones(20, 4)), ArrayRows(torch.ones(20, 5)), options())


class TestRanks:
    """What several find together is what one finds."""

    @pytest.mark.parametrize("size", [2, 3, 8])
    def test_ranks_divide_the_queries(self, size: int, tmp_path: Path) -> None:
        x, y = drawn("offset", 7, 20, 1), drawn("offset", 300, 20, 2)
        rows, labels = (ArrayRows(x, 3), ArrayRows(y, 64)), (np.arange(7) % 3, np.arange(300) % 3)
        alone = nearest(*rows, options(), labels=labels)
        for _ in range(2):  # the second time from what was kept
            for found in on_ranks(
                size, lambda group: nearest(*rows, options(), labels=labels, group=group, state=tmp_path)
            ):
                assert_is(found, (alone.rows, alone.distances, alone.squared))
                np.testing.assert_array_equal(found.query_rows, np.arange(7))
