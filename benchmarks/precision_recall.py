"""Precision and recall: how far ADM's half-precision rule is from exact distances, and what either costs.

    python benchmarks/precision_recall.py --samples 50000 --reference 10000 --device cuda

Features are drawn: 2,048 non-negative values of a 24-dimensional manifold, of the size of Inception's. The samples'
latents are `--spread` times as wide, so that they miss part of the reference. Needs torch alone.
"""

from __future__ import annotations

from functools import partial

import harness
import numpy as np

from fdr.metrics import Context, load_metrics

WIDTH, LATENT = 2048, 24


def features(count: int, spread: float, seed: int) -> np.ndarray:
    """float32 [count, 2048]: a fixed random layer over Gaussian latents, plus a little noise."""
    layer = np.random.default_rng(0).normal(size=(LATENT, WIDTH)).astype(np.float32) / np.sqrt(LATENT)
    random = np.random.default_rng(seed)
    latents = random.normal(size=(count, LATENT)).astype(np.float32) * np.float32(spread)
    noise = random.normal(size=(count, WIDTH)).astype(np.float32) * np.float32(0.1)
    return np.maximum(0.45 * (latents @ layer) + 0.3 + noise, 0).astype(np.float32)


def main() -> None:
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=2000)
    parser.add_argument("--spread", type=float, default=0.95)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    samples, reference = features(options.samples, options.spread, 1), features(options.reference, 1.0, 2)
    print(f"{len(samples)} samples, {len(reference)} reference, mean norm^2 {float((samples**2).sum(1).mean()):.0f}\n")
    sides = {
        names: partial(
            next(iter(load_metrics(names).values())).scores, samples, reference, Context(device=options.device)
        )
        for names in (
            "precision",
            "precision:adm",
            "recall",
            "recall:adm",
            "precision,recall",
            "precision:adm,recall:adm",
        )
    }
    turns = harness.take_turns(sides, options.repeats, warm_up=False)
    rows = {
        names: {"values": [score.value for score in turn.result.values()], **turn.to_dict()}
        for names, turn in turns.items()
    }
    cells = (
        [names, ", ".join(f"{value:.5f}" for value in row["values"]), f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}"]
        for names, row in rows.items()
    )
    print(harness.table(("metric", "value", "wall s", "CPU s"), cells))
    print(f"\npeak memory {harness.peak_mib():.0f} MiB")
    harness.write_json(options.json, results=rows, peak_mib=harness.peak_mib())


if __name__ == "__main__":
    main()
