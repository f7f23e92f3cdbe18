"""What N images cost on G devices: rates measured on this machine, and the plan that follows.

    python benchmarks/scale.py --photos FOLDER                          # encoder on this machine's device
    python benchmarks/scale.py --photos FOLDER --images-per-second 900  # forward rate of your GPU, if it is elsewhere

Measured, each as the median of three: forward passes (images of the encoder's own input size, default batch size),
decoding of the photos (per core), sha256 of files (per core), float64 sums (per core), publishing of a shard (with
fsync), the text that a file name costs in memory, and the exchange of sums between two processes on this machine.
The plan adds nothing that was not measured; it takes forward passes, decoding and sums to overlap, and hashing to come
before them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np

COUNTS = {"50 k": 50_000, "1.28 M": 1_281_167, "100 M": 100_000_000}
DEVICES = (1, 8, 64)
SHARD = 1024


@dataclass(frozen=True)
class Rates:
    """Per core or device, per second."""

    encoder: str
    dim: int
    device: str
    images_forward: float
    images_decoded: float
    bytes_per_image: float
    bytes_hashed: float
    rows_summed: float
    seconds_per_shard: float
    bytes_per_name: float
    seconds_per_exchange: float
    """Of one float64 scatter [dim, dim] between two ranks."""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of images like those to be measured")
    parser.add_argument("--encoder", default="inception")
    parser.add_argument("--dim", type=int, default=2048, help="width of its features")
    parser.add_argument("--images-per-second", type=float, help="forward rate of one device; else it is measured here")
    parser.add_argument("--cores-per-device", type=int, default=8)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # rates are per core, and libraries read this when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_NUM_THREADS": "1"})
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(options, Path(folder))
    for name, value in asdict(rates).items():
        print(f"{name}: {value if isinstance(value, str | int) else f'{value:.4g}'}")
    print("\n" + plan(rates, options.cores_per_device))
    harness.write_json(options.json, **asdict(rates))


def measure(options: argparse.Namespace, folder: Path) -> Rates:
    """All rates of this machine."""
    import torch

    torch.set_num_threads(1)
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:512]
    if not files:
        raise SystemExit(f"{options.photos} holds no JPEG or PNG files.")
    forward, device = forward_rate(options, folder)
    return Rates(
        encoder=options.encoder,
        dim=options.dim,
        device=device,
        images_forward=forward,
        images_decoded=decode_rate(files),
        bytes_per_image=sum(path.stat().st_size for path in files) / len(files),
        bytes_hashed=hash_rate(folder),
        rows_summed=sum_rate(options.dim),
        seconds_per_shard=shard_seconds(options.dim, folder),
        bytes_per_name=name_bytes(),
        seconds_per_exchange=exchange_seconds(options.dim),
    )


def plan(rates: Rates, cores: int) -> str:
    """A Markdown table."""
    header = ("images", "devices", "hash", "forward", "decode", "sums", "exchange", "whole")
    header = (*header, "features", "running sums", "names")
    rows = []
    for label, count in COUNTS.items():
        for devices in DEVICES:
            share = math.ceil(count / SHARD / devices) * SHARD  # whole shards: the longest share
            hashed = count * rates.bytes_per_image / (rates.bytes_hashed * min(cores, 16) * devices)
            forward = share / rates.images_forward
            decode = share / (rates.images_decoded * cores)
            sums = share / rates.rows_summed + share / SHARD * rates.seconds_per_shard
            exchange = math.ceil(math.log2(devices)) * rates.seconds_per_exchange if devices > 1 else 0.0
            whole = hashed + max(forward, decode, sums) + exchange
            sizes = (count * rates.dim * 4, devices * rates.dim**2 * 8, count * rates.bytes_per_name)
            cells = [*map(human_seconds, (hashed, forward, decode, sums, exchange, whole)), *map(human_bytes, sizes)]
            rows.append([label, devices, *cells])
    return harness.table(header, rows)


def forward_rate(options: argparse.Namespace, folder: Path) -> tuple[float, str]:
    """Images per second of the network alone."""
    if options.images_per_second is not None:
        return options.images_per_second, "given"
    import torch

    import fdr
    from fdr.features import ExtractionOptions

    sys.path.insert(0, str(harness.TEST_HELPERS))
    from inception_state import save_inception_state

    weights = save_inception_state(folder) if options.encoder.startswith("inception") else None
    encoder = fdr.load_encoder(options.encoder, weights=weights)
    side = encoder.spec.input_size or 64
    size = ExtractionOptions().batch_size_on(encoder.device.type)
    x = torch.rand(size, 3, side, side, device=encoder.device)

    def run() -> None:
        with torch.inference_mode():
            encoder.forward(x, (encoder.spec.output,))[encoder.spec.output].cpu()

    return size / seconds(run), str(encoder.device)


def decode_rate(files: list[Path]) -> float:
    """Images per second and core, from file to pixels."""
    from fdr.images import open_images

    source = open_images(files)

    def run() -> None:
        for _ in source.batches(32, 0):
            pass

    return len(files) / seconds(run)


def hash_rate(folder: Path) -> float:
    """Bytes per second and core, of a file in the page cache."""
    import hashlib

    path = folder / "bytes"
    path.write_bytes(np.random.default_rng(0).bytes(256 << 20))

    def run() -> None:
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")

    return path.stat().st_size / seconds(run)


def sum_rate(dim: int) -> float:
    """Rows per second and core into float64 sums."""
    from fdr.frechet import Sums

    x = np.random.default_rng(0).normal(size=(8192, dim)).astype(np.float32)
    return len(x) / seconds(lambda: Sums(None).add(x))


def shard_seconds(dim: int, folder: Path) -> float:
    """Seconds to publish one shard of features."""
    from fdr.features import FeatureCache
    from fdr.features.cache.entry import CacheKey

    x = np.random.default_rng(0).normal(size=(SHARD, dim)).astype(np.float32)
    cache = FeatureCache.open(folder, CacheKey("0" * 64, "0" * 16, ("pool",)), num_rows=8 * SHARD, shard_size=SHARD)
    spans = iter(cache.ranges)

    def run() -> None:
        start, stop = next(spans)
        cache.write_shard(start, stop, range(start, stop), [f"{row}.png" for row in range(start, stop)], {"pool": x})

    return seconds(run)


def name_bytes(count: int = 100_000) -> float:
    """Bytes of memory that the name of a file costs."""
    from fdr.images import open_images

    tracemalloc.start()
    source = open_images([f"class{index % 1000:04d}/image{index:08d}.jpeg" for index in range(count)])
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(source) == count
    return used / count


def exchange_seconds(dim: int) -> float:
    """Seconds in which one rank takes in the sums of another over loopback."""
    program = f"""
import time, numpy as np, fdr
from fdr.frechet.sums import Sums
group = fdr.join_ranks()
times = []
for _ in range(4):
    sums = Sums(None)
    sums.add(np.random.default_rng(0).normal(size=(64 + {dim}, {dim})).astype(np.float32))
    group.gather(0); began = time.perf_counter(); group.combine(sums); group.gather(0)
    times.append(time.perf_counter() - began)
if group.rank == 0: print(sorted(times)[1])
group.leave()
"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = harness.run([*command, sys.executable, "-c", program], harness.environment_with(threads=1))
    return float(done.stdout.strip().splitlines()[-1])


def seconds(function: Callable[[], object]) -> float:
    """Median of three, after one run to warm up."""
    return harness.take_turns({"": function}, 3)[""].wall_s


def human_seconds(value: float) -> str:
    if value < 120:
        return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.3g} h"


def human_bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


if __name__ == "__main__":
    main()
