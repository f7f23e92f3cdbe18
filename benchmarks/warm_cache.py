"""How long a second run takes to get its features: open, check, read, moments. Prints a Markdown table.

    python benchmarks/warm_cache.py [--rows 50000] [--dim 2048] [--repeats 5] [--folder DIR] [--without-moments]

The features are random; the files were just written and come from the page cache, as in a second run after a first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import numpy as np
from harness import Turns

from fdr.features import FeatureCache
from fdr.features.cache.shards import CacheKey
from fdr.frechet import Moments

KEY = CacheKey("0" * 64, "0123456789abcdef", ("pool",), label="benchmark")


def fill(root: Path, rows: int, dim: int) -> Turns:
    """Write the whole entry; the time without making the features."""
    generator = np.random.default_rng(0)
    cache = FeatureCache.open(root, KEY, num_rows=rows, widths={"pool": dim})
    shards = Turns()
    for start, stop in cache.missing():
        x = generator.standard_normal((stop - start, dim), dtype=np.float32)
        ids = [f"{row:06d}.png" for row in range(start, stop)]
        shards.take(partial(cache.write_shard, start, stop, np.arange(start, stop), ids, {"pool": x}))
    return Turns([sum(shards.wall)], [sum(shards.cpu)])


def measure(root: Path, rows: int, dim: int, repeats: int, has_moments: bool) -> dict[str, Turns]:
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

    steps: dict[str, Callable[[], object]] = {
        "open": reopened,
        "open + check sha256": check_all,
        "open + check + read all": read_all,
    }
    turns = {"write, with fsync": fill(root, rows, dim)}
    turns |= harness.take_turns(steps, repeats, warm_up=False)
    if has_moments:
        x = read_all()
        computed = {"moments from features": lambda: Moments.from_features(x)}
        turns |= harness.take_turns(computed, 1, warm_up=False)
        reopened().save_moments("pool", turns["moments from features"].result)
        turns |= harness.take_turns({"open + stored moments": lambda: reopened().load_moments("pool")}, repeats)
    return turns


def main() -> None:
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="where to make the temporary cache")
    parser.add_argument("--without-moments", action="store_true")
    options = parser.parse_args()
    size = options.rows * options.dim * 4 / 1e9
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        turns = measure(Path(folder), options.rows, options.dim, options.repeats, not options.without_moments)
    header = (f"{options.rows:,} x {options.dim} float32 ({size:.2f} GB)", "seconds", "CPU seconds")
    print(harness.table(header, ([step, f"{turn.wall_s:.3f}", f"{turn.cpu_s:.3f}"] for step, turn in turns.items())))
    harness.write_json(options.json, results={step: turn.to_dict() for step, turn in turns.items()})


if __name__ == "__main__":
    main()
