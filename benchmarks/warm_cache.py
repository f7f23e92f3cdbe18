"""How long a second run takes to get its features: open, check, read, moments. Prints a Markdown table.

    python benchmarks/warm_cache.py [--rows 50000] [--dim 2048] [--repeats 5] [--folder DIR] [--without-moments]

The features are random; the files were just written and come from the page cache, as in a second run after a first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fdr.features import FeatureCache
from fdr.features.cache.entry import CacheKey

KEY = CacheKey("0" * 64, "0123456789abcdef", ("pool",), label="benchmark")


@dataclass
class Timing:
    """Wall and CPU seconds."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> Timing:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)

    @classmethod
    def median(cls, work: Callable[[], object], repeats: int) -> Timing:
        runs = [cls.of(work) for _ in range(repeats)]
        return cls(statistics.median(run.wall for run in runs), statistics.median(run.cpu for run in runs))


def fill(root: Path, rows: int, dim: int) -> Timing:
    """Write the whole entry; the time without making the features."""
    generator = np.random.default_rng(0)
    cache = FeatureCache.open(root, KEY, num_rows=rows, widths={"pool": dim})
    total = Timing(0, 0)
    for start, stop in cache.missing():
        x = generator.standard_normal((stop - start, dim), dtype=np.float32)
        ids = [f"{row:06d}.png" for row in range(start, stop)]
        write = partial(cache.write_shard, start, stop, np.arange(start, stop), ids, {"pool": x})
        timing = Timing.of(write)
        total = Timing(total.wall + timing.wall, total.cpu + timing.cpu)
    return total


def measure(root: Path, rows: int, dim: int, repeats: int, has_moments: bool) -> dict[str, Timing]:
    """The time of each step."""

    def reopened() -> FeatureCache:
        return FeatureCache.open(root, KEY, num_rows=rows)

    def check_all() -> None:
        cache = reopened()
        assert all(cache.has(*span) for span in cache.ranges)

    def read_all() -> np.ndarray:
        cache = reopened()
        shards = [cache.read_shard(*span) for span in cache.ranges if cache.has(*span)]
        return np.concatenate([shard.features["pool"] for shard in shards])

    timings = {"write, with fsync": fill(root, rows, dim)}
    timings["open"] = Timing.median(reopened, repeats)
    timings["open + check sha256"] = Timing.median(check_all, repeats)
    timings["open + check + read all"] = Timing.median(read_all, repeats)
    if has_moments:
        from fdr.frechet import Moments

        x = read_all()
        timings["moments from features"] = Timing.of(lambda: Moments.from_features(x))
        reopened().save_moments("pool", Moments.from_features(x))
        timings["open + stored moments"] = Timing.median(lambda: reopened().load_moments("pool"), repeats)
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to make the temporary cache")
    parser.add_argument("--without-moments", action="store_true")
    options = parser.parse_args()
    size = options.rows * options.dim * 4 / 1e9
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        timings = measure(Path(folder), options.rows, options.dim, options.repeats, not options.without_moments)
    print(f"| {options.rows:,} x {options.dim} float32 ({size:.2f} GB) | seconds | CPU seconds |\n|---|---|---|")
    for step, timing in timings.items():
        print(f"| {step} | {timing.wall:.3f} | {timing.cpu:.3f} |")


if __name__ == "__main__":
    main()
