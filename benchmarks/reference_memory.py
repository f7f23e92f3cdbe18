"""Read a reference batch of ADM's size and see what memory that takes.

    python benchmarks/reference_memory.py [--images 10000] [--size 256] [--deflate]

Writes a synthetic file in ADM's layout to a temporary folder (10,000 images of 256 x 256 are 2 GB), then finds it as a
reference, as `fdr eval --ref` does, in a fresh process. Prints a Markdown row: the size of the file, the peak memory
above that after the imports, and the time. Linux only.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from pathlib import Path

import harness
import numpy as np

POOL, SPATIAL = 2048, 2023


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


def probe(path: str, output: str | None) -> dict[str, float]:
    """MiB above the imports, and seconds, of finding the reference; in a process of its own."""
    from fdr.frechet import Moments
    from fdr.references import find_reference

    Moments.from_features(np.random.default_rng(0).normal(size=(100, 64)))  # loads the linear algebra
    harness.reset_peak()
    before, start = harness.peak_mib(), time.perf_counter()
    found = find_reference(path, "inception", output=output)
    assert found.moments.dim == (POOL if output is None else SPATIAL), found
    return {"above_mib": harness.peak_mib() - before, "seconds": time.perf_counter() - start}


def main() -> None:
    """Parse, write, measure, print."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--deflate", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.npz"
        write_batch(path, options.images, options.size, options.deflate)
        label = f"{path.stat().st_size / 1e9:.2f} GB, {'deflated' if options.deflate else 'stored'}"
        found = {
            output or "pool": harness.in_child(__file__, "probe", path=str(path), output=output)
            for output in (None, "spatial")
        }
    rows = ([label, output, f"{row['above_mib']:.0f}", f"{row['seconds']:.1f}"] for output, row in found.items())
    print(harness.table(("file", "output", "peak above import, MiB", "s"), rows, num_text=2))
    harness.write_json(options.json, file=label, results=found)


if __name__ == "__main__":
    main()
