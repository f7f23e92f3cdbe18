"""Read a reference batch of ADM's size and see what memory that takes.

    python benchmarks/reference_memory.py [--images 10000] [--size 256] [--deflate]

Writes a synthetic file in ADM's layout to a temporary folder (10,000 images of 256 x 256 are 2 GB), then finds it as a
reference, as `fdr eval --ref` does, in a fresh process. Prints a Markdown row: the size of the file, the peak memory
above that after the imports, and the time. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

POOL, SPATIAL = 2048, 2023

PROBE = """
import json, sys, time
import numpy as np
from fdr.encoders.catalogue import find_row
from fdr.frechet.moments import Moments
from fdr.references.find import find_reference
from fdr import _moments_files, statistics
import fdr.references.formats.npz
np.linalg.cholesky(np.eye(64))

def peak():  # of this process alone: ru_maxrss would begin with that of its parent
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

before, start = peak(), time.perf_counter()
if sys.argv[1] != "-":
    found = find_reference(sys.argv[1], "inception", output=sys.argv[2] or None)
    assert found.moments.dim in (2048, 2023), found
print(json.dumps({"before": before, "after": peak(), "seconds": time.perf_counter() - start}))
"""


def covariance(dim: int, rng: np.random.Generator) -> np.ndarray:
    """A full-rank covariance [dim, dim]."""
    return np.cov(rng.standard_normal((dim + 100, dim)), rowvar=False)


def write_batch(path: Path, count: int, size: int, deflate: bool) -> None:
    """A file in ADM's layout; the images are noise of few values, so that deflating them means something."""
    rng = np.random.default_rng(0)
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    with zipfile.ZipFile(path, "w", method) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for start in range(0, count, 100):
                shape = (min(100, count - start), size, size, 3)
                member.write(rng.integers(0, 16, shape, dtype=np.uint8).tobytes())
        arrays = {"mu": rng.standard_normal(POOL).astype(np.float32), "sigma": covariance(POOL, rng)}
        arrays |= {"mu_s": rng.standard_normal(SPATIAL).astype(np.float32), "sigma_s": covariance(SPATIAL, rng)}
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)


def probe(path: str, output: str) -> dict[str, float]:
    """Peak memory before and after, and seconds, of a fresh process."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE, path, output], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Parse, write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--deflate", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.npz"
        write_batch(path, args.images, args.size, args.deflate)
        print("| file | output | peak above import, MB | s |\n|---|---|---:|---:|")
        kind = "deflated" if args.deflate else "stored"
        for output in ("", "spatial"):
            found = probe(str(path), output)
            above = (found["after"] - found["before"]) / 1e6
            size = path.stat().st_size / 1e9
            print(f"| {size:.2f} GB, {kind} | {output or 'pool'} | {above:.0f} | {found['seconds']:.1f} |")


if __name__ == "__main__":
    main()
