"""Small features whose every value follows from the row, and a loop that extracts them into a cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fdr
from fdr.features import FeatureCache
from fdr.features.cache.entry import CacheKey

KEY = CacheKey("d" * 64, "5bec0123456789ab", ("pool", "logits"), label="FID Inception 2015")
WIDTHS = {"pool": 24, "logits": 5}
NUM_ROWS = 37
SHARD_SIZE = 8
BAD_ROWS = (0, 9, 10, 36)


def features_of(rows: np.ndarray, output: str) -> np.ndarray:
    """float32 [n, D] that depend on row and output alone."""
    grid = np.add.outer(rows * 1.7, np.arange(WIDTHS[output]) * (3.1 if output == "pool" else 0.7))
    return np.sin(grid).astype(np.float32)


def good_rows(start: int, stop: int, bad: tuple[int, ...] = BAD_ROWS) -> np.ndarray:
    return np.array([row for row in range(start, stop) if row not in bad], np.int64)


def truth(start: int = 0, stop: int = NUM_ROWS, bad: tuple[int, ...] = BAD_ROWS) -> dict[str, np.ndarray]:
    rows = good_rows(start, stop, bad)
    return {name: features_of(rows, name) for name in WIDTHS}


def open_cache(root: Path, **changes: object) -> FeatureCache:
    options = {"num_rows": NUM_ROWS, "widths": WIDTHS, "shard_size": SHARD_SIZE}
    options["attributes"] = {"encoder": "inception", "source": "samples.npz", "spec": '{"output": "pool"}'}
    return FeatureCache.open(root, **{"key": KEY, **options, **changes})  # type: ignore[arg-type]


def write(cache: FeatureCache, start: int, stop: int, bad: tuple[int, ...] = BAD_ROWS, shift: float = 0) -> None:
    rows = good_rows(start, stop, bad)
    features = {name: features_of(rows, name) + np.float32(shift) for name in WIDTHS}
    failed = [(row, f"class/{row}.png", "truncated") for row in bad if start <= row < stop]
    cache.write_shard(start, stop, rows, [f"class/{row}.png" for row in rows], features, failed)


def fill(
    cache: FeatureCache,
    bad: tuple[int, ...] = BAD_ROWS,
    pause: float = 0,
    shift: float = 0,
    done: Callable[[int], None] = lambda start: None,
) -> FeatureCache:
    """Extract what is missing, as a run does: the list is made once, and another process may be at it too."""
    for start, stop in cache.missing():
        time.sleep(pause)
        write(cache, start, stop, bad, shift)
        done(start)
    return cache


def read(cache: FeatureCache, start: int = 0, stop: int = NUM_ROWS) -> dict[str, np.ndarray]:
    """The features of the good rows in the shards from `start` to `stop`."""
    shards = [cache.read_shard(*span) for span in cache.ranges if start <= span[0] and span[1] <= stop]
    return {name: np.concatenate([shard.features[name] for shard in shards]) for name in cache.outputs}


def damaged(cache: FeatureCache) -> list[tuple[int, int]]:
    """The shards that are missing or damaged, every byte checked."""
    return [span for span in cache.ranges if not cache.has(*span)]


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """Another Python process with this folder and the very `fdr` under test on its path."""
    here = Path(__file__).parent
    paths = [str(here), str(Path(fdr.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment, cwd=here
    )


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)
