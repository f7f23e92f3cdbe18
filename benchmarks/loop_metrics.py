"""FID within a training loop: time and memory of fdr.torchmetrics beside torchmetrics' own FrechetInceptionDistance.

    python benchmarks/loop_metrics.py                          # some minutes
    python benchmarks/loop_metrics.py --images 32 --repeats 1
    python benchmarks/loop_metrics.py --network none           # without a network: what the metrics themselves cost
    python benchmarks/loop_metrics.py --json out.json

Both metrics get the same images in the same batches, half of them as real ones. With `--network inception` each runs
its own implementation of FID-Inception with the same random weights and TensorFlow's resize. With `--network none` both
call the same function, which returns 2,048 given features, so that the time is that of checking images and summing
features. Every turn is a process of its own with one thread, the metrics take turns, and shown are medians. `update`
and `compute` are processor seconds of all images; memory is the peak of the process, from the first update on.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

OURS, THEIRS = "fdr", "torchmetrics"
DIM = 2048


def made(side: str, weights: str | None, batch_size: int) -> Any:
    """The metric of a side."""
    import torch

    class Given(torch.nn.Module):
        """The same features for every batch; stands for a network that takes no time."""

        num_features = DIM

        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.rand(batch_size, DIM, generator=torch.Generator().manual_seed(0))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.rows[: len(images)]

    if side == OURS:
        from fdr.encoders import EncoderOptions
        from fdr.torchmetrics import FrechetDistance

        if weights is None:
            return FrechetDistance(Given())
        return FrechetDistance("inception", encoder_options=EncoderOptions(weights=Path(weights), device="cpu"))
    from torchmetrics.image.fid import FrechetInceptionDistance

    if weights is None:
        return FrechetInceptionDistance(Given())
    return FrechetInceptionDistance(DIM, feature_extractor_weights_path=weights, antialias=False)


def measure(side: str, weights: str | None, images: int, batch_size: int, size: int) -> dict[str, float]:
    """Processor seconds of the updates and of `compute`, the peak of memory and the number, in this process."""
    import torch

    torch.set_num_threads(1)
    metric = made(side, weights, batch_size)
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=random)
    harness.reset_peak()
    start = time.process_time()
    for number, at in enumerate(range(0, images, batch_size)):
        batch = drawn[: min(batch_size, images - at)]
        metric.update(batch.roll(number, 3).add(number), real=at < images // 2)
    updated = time.process_time()
    value = float(metric.compute())
    return {
        "update_s": updated - start,
        "compute_s": time.process_time() - updated,
        "peak_mib": harness.peak_mib(),
        "value": value,
    }


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--network", choices=("inception", "none"), default="inception")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as folder:
        weights = None
        if options.network == "inception":
            sys.path.insert(0, str(harness.TEST_HELPERS))
            from inception_state import save_inception_state

            weights = str(save_inception_state(Path(folder)))
        for _ in range(options.repeats):
            for side, turns in found.items():
                work = {"images": options.images, "batch_size": options.batch_size, "size": options.size}
                environment = harness.environment_with(1)
                turns.append(
                    harness.in_child(__file__, "measure", environment=environment, side=side, weights=weights, **work)
                )
    medians = {
        side: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        for side, turns in found.items()
    }
    print(harness.machine_line("torchmetrics", threads=1))
    print(f"{options.images} images of {options.size} x {options.size}, network: {options.network}\n")
    rows = [
        (side, f"{one['update_s']:.3f}", f"{one['compute_s']:.2f}", f"{one['peak_mib']:,.0f}", f"{one['value']:.6g}")
        for side, one in medians.items()
    ]
    ratios = [f"{medians[OURS][name] / medians[THEIRS][name]:.2f}" for name in ("update_s", "compute_s", "peak_mib")]
    rows.append((f"{OURS} / {THEIRS}", *ratios, ""))
    print(harness.table(("metric", "update, CPU s", "compute, CPU s", "peak MiB", "number"), rows))
    harness.write_json(options.json, images=options.images, network=options.network, medians=medians)


if __name__ == "__main__":
    main()
