"""Exact nearest neighbours among latents: rate, memory and agreement beside the way they are usually searched.

    python benchmarks/neighbours.py                                    # 2,000 x 100,000 x 4,096: some minutes
    python benchmarks/neighbours.py --quick                            # 500 x 10,000 x 1,024: seconds
    python benchmarks/neighbours.py --metric l2 --data correlated --precision float32
    python benchmarks/neighbours.py --device cuda --queries 50000

References are drawn shard by shard into one file, which the ways read: `gaussian`, where nothing stands out, or
`correlated`, with a mean, a decaying spectrum and a few images close to each other. Every way runs in a process of its
own, one after the other, `--repeats` times in turn:

- `product`: nothing but the matrix products of the search, in its precision, on data at hand;
- `fdr`: the whole of `fdr.ifid.nearest`: reading, products, candidates, exact distances;
- `fdr float32`: the same with a float32 product;
- `batches`: all references normalised in memory, 25 queries at a time, their float32 costs to all of them, `topk`;
- `matrix`: the same with all queries at once.

CPU seconds are those of all threads (set OMP_NUM_THREADS=1 on a busy machine), with a GPU seconds of the clock. The
share is that of the product's rate which a way reaches, end to end. Memory is the peak above what was held before, on
the device where there is one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from fdr.neighbours import SearchOptions, SearchPlan, nearest, plan_search, sizes_of
from fdr.neighbours.block import BlockSearch
from fdr.neighbours.products import arithmetic, resolve_precision
from fdr.runtime import faithful_products, resolve_device

WAYS = ("product", "fdr", "fdr float32", "batches", "matrix")


class FileRows:
    """float32 [N, D] in a file, read shard by shard."""

    def __init__(self, path: Path, dim: int, shard_size: int) -> None:
        self._path, self.dim, self._shard_size = path, dim, shard_size
        self.num_rows, self.item_size = path.stat().st_size // (4 * dim), 4
        self.rows = np.arange(self.num_rows)

    def shards(self) -> list[tuple[int, int]]:
        return [(i, min(i + self._shard_size, self.num_rows)) for i in range(0, self.num_rows, self._shard_size)]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, torch.Tensor]:
        values = np.fromfile(self._path, np.float32, (stop - start) * self.dim, offset=4 * start * self.dim)
        return np.arange(start, stop), torch.from_numpy(values.reshape(stop - start, self.dim))


def draw(path: Path, count: int, args: argparse.Namespace, seed: int) -> None:
    """Rows into a file, 1,024 at a time, each block from its own seed."""
    scale, mean = np.ones(args.dim, np.float32), np.zeros(args.dim, np.float32)
    if args.data == "correlated":
        scale = (1 + np.arange(args.dim, dtype=np.float32) / 64) ** -0.5
        mean = np.random.default_rng(7).normal(size=args.dim).astype(np.float32) * scale / 2
    with open(path, "wb") as file:
        for start in range(0, count, 1024):
            random = np.random.default_rng((seed, start))
            block = random.standard_normal((min(1024, count - start), args.dim), np.float32) * scale + mean
            if args.data == "correlated":
                block[1::16] = block[::16][: len(block[1::16])] + block[1::16] / 10
            block.tofile(file)


def product(args: argparse.Namespace) -> None:
    """The products of the search on one tile, as often as it has tiles."""
    device = resolve_device(args.device)
    how = arithmetic(resolve_precision(args.precision, device, args.dim), device)
    plan = plan_of(args)
    x, y = (torch.randn(n, args.dim, device=device).to(how.dtype) for n in (args.queries, plan.tile_rows))
    with faithful_products():
        for _ in range(-(-args.references // plan.tile_rows)):
            for part in x.split(plan.score_rows):
                torch.mm(part, y.T)


def options(args: argparse.Namespace, precision: str) -> SearchOptions:
    return SearchOptions(args.top_k, args.metric, args.memory * 2**20, args.device, precision)


def rows_of(args: argparse.Namespace) -> tuple[FileRows, FileRows]:
    return tuple(FileRows(args.folder / name, args.dim, args.shard_size) for name in ("queries", "references"))  # type: ignore[return-value]


def plan_of(args: argparse.Namespace) -> SearchPlan:
    return plan_search(*map(sizes_of, rows_of(args)), options(args, args.precision))


def search(args: argparse.Namespace, precision: str) -> np.ndarray:
    return nearest(*rows_of(args), options(args, precision)).rows


def usual(args: argparse.Namespace, batch: int) -> np.ndarray:
    """Costs of a batch of queries to all references at once, in float32, and the smallest of each row."""
    device = resolve_device(args.device)
    queries, references = (
        torch.from_numpy(np.fromfile(args.folder / name, np.float32).reshape(-1, args.dim)).to(device)
        for name in ("queries", "references")
    )
    if args.metric == "cosine":
        for x in (queries, references):
            x /= x.norm(dim=1, keepdim=True).clamp_(min=1e-8)
    square = references.square().sum(1) if args.metric == "l2" else None
    found = []
    for part in queries.split(batch):
        cost = part @ references.T
        cost = cost.neg_() if square is None else cost.mul_(-2).add_(square).add_(part.square().sum(1)[:, None])
        found.append(cost.topk(args.top_k, dim=1, largest=False).indices.cpu())
    return torch.cat(found).numpy()


def one_way(way: str, **options: Any) -> dict[str, float]:
    """Measure one way in a process of its own, and write its neighbours to a file."""
    args = argparse.Namespace(**options | {"folder": Path(options["folder"])})
    ways: dict[str, Callable[[], np.ndarray | None]] = {
        "product": lambda: product(args),
        "fdr": lambda: search(args, args.precision),
        "fdr float32": lambda: search(args, "float32"),
        "batches": lambda: usual(args, 25),
        "matrix": lambda: usual(args, args.queries),
    }
    is_gpu = resolve_device(args.device).type == "cuda"
    counts = {"searched again": 0}
    search_exactly = BlockSearch._search_exactly

    def counted(search: BlockSearch, chosen: np.ndarray) -> None:
        counts["searched again"] += len(chosen)
        search_exactly(search, chosen)

    BlockSearch._search_exactly = counted  # type: ignore[method-assign]
    torch.mm(torch.ones(64, 64).bfloat16(), torch.ones(64, 64).bfloat16())
    harness.reset_peak()
    held = harness.peak_mib()
    clock = time.perf_counter if is_gpu else time.process_time
    wall, start = time.perf_counter(), clock()
    found = ways[way]()
    if is_gpu:
        torch.cuda.synchronize()
    measured = {"seconds": clock() - start, "wall": time.perf_counter() - wall, "memory": harness.peak_mib() - held}
    if is_gpu:
        measured["memory"] = torch.cuda.max_memory_allocated() / 2**20
    if found is not None:
        np.save(args.folder / f"{way}.npy", found)
    return measured | counts


def main() -> None:
    """Draw, run the ways in turn, print a table."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--references", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--shard-size", type=int, default=1024)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--metric", default="cosine", choices=("cosine", "l2"))
    parser.add_argument("--data", default="gaussian", choices=("gaussian", "correlated"))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", type=int, default=256, help="MiB the search may hold")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--folder", type=Path, help="where the drawn latents go, and stay")
    args = parser.parse_args()
    if args.quick:
        args.queries, args.references, args.dim = 500, 10_000, 1024
    with tempfile.TemporaryDirectory() as made:
        args.folder = args.folder or Path(made)
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """The table."""
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("queries", args.queries, 1), ("references", args.references, 2)):
        path = args.folder / name
        if not path.exists() or path.stat().st_size != 4 * count * args.dim:
            draw(path, count, args, seed)
    plan = plan_of(args)
    print(plan, f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {args.data}, {args.metric}\n")
    ways = args.ways.split(",")
    shared = {name: value for name, value in vars(args).items() if name not in ("ways", "quick", "repeats", "json")}
    shared["folder"] = str(args.folder)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(args.repeats):
        for way in ways:
            runs[way].append(harness.in_child(__file__, "one_way", way=way, **shared))
    flop = 2 * args.queries * args.references * args.dim
    seconds = {way: statistics.median(run["seconds"] for run in of) for way, of in runs.items()}
    found = {way: np.load(args.folder / f"{way}.npy") for way in ways if way != "product"}
    rows = []
    for way, of in runs.items():
        share = seconds["product"] / seconds[way] if "product" in seconds else float("nan")
        same = (found[way] == found["fdr"]).all(1).mean() if way in found and "fdr" in found else float("nan")
        wall = statistics.median(run["wall"] for run in of)
        rate, memory = flop / seconds[way] / 1e9, max(run["memory"] for run in of)
        cells = [f"{seconds[way]:.2f}", f"{rate:.0f}", f"{share:.2f}", f"{wall:.2f}", f"{memory:.0f}"]
        rows.append([way, *cells, of[0]["searched again"], f"{same:.4f}"])
    header = ("way", "seconds", "GFLOP/s", "share of the product", "wall s", "memory, MiB", "searched again")
    print(harness.table((*header, "same neighbours"), rows))
    harness.write_json(args.json, runs=runs)


if __name__ == "__main__":
    main()
