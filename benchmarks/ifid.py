"""iFID of a wavelet transform and of the small autoencoders of benchmarks/autoencoders.py, on CIFAR-10.

    python benchmarks/autoencoders.py --data FOLDER/cifar10 --out AUTOENCODERS
    python benchmarks/ifid.py --data FOLDER --autoencoders AUTOENCODERS --out RESULTS

FOLDER holds `cifar10/train10k.npz`, `cifar10/test5k.npz` and `weights/squeezenet1_1.safetensors`. Images are a seeded
subset of the test set, their neighbours come from the training set; the encoders are SqueezeNet at 64 px and a random
network. Prints the table of docs/ifid.md; RESULTS gets a report and a sheet of images for every autoencoder, and keeps
what is done, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import harness
from squeezenet import SqueezeNetEncoder

import fdr
from fdr.reports import Report, format_number

ALPHAS = (0.25, 0.5)
WEIGHT_FREE = ("haar:3",)
TRAINED = ("plain", "kl", "strong")
COLUMNS = ("ifd", "rfd", "nfd")


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--autoencoders", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000, help="images; all neighbours are taken")
    parser.add_argument("--mode", default="slerp", choices=("slerp", "linear", "mask"))
    options = parser.parse_args()
    reports = dict(measured(options))
    for encoder in ("squeezenet", "random"):
        print(f"\n{encoder}\n")
        header = ("autoencoder", "iFD", "rFD", "neighbour FD", *(f"at {alpha:g}" for alpha in ALPHAS[:-1]), "PSNR")
        metrics = (*COLUMNS, *(f"ifd:{alpha:g}" for alpha in ALPHAS[:-1]))
        rows = (
            [name, *(format_number(report[metric, encoder].value) for metric in metrics), f"{report['psnr'].value:.1f}"]
            for name, report in reports.items()
        )
        print(harness.table(header, rows))
    harness.write_json(options.json, results={name: report.to_dict() for name, report in reports.items()})


def measured(options: argparse.Namespace) -> Iterator[tuple[str, Report]]:
    """(name, report) of every autoencoder."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks.autoencoders, by name
    encoders = [SqueezeNetEncoder(options.data / "weights" / "squeezenet1_1.safetensors", 64), "random"]
    for name in (*WEIGHT_FREE, *TRAINED):
        weights = options.autoencoders / f"{name}.safetensors"
        is_trained = name in TRAINED
        autoencoder = fdr.load_autoencoder(
            f"benchmarks.autoencoders:{name}" if is_trained else name, weights=weights if is_trained else None
        )
        began = time.process_time()
        label = name.replace(":", "-")
        report = fdr.interpolated_fid(
            autoencoder,
            options.data / "cifar10" / "test5k.npz",
            options.data / "cifar10" / "train10k.npz",
            encoders,
            ifid_options=fdr.IfidOptions(mode=options.mode, alphas=ALPHAS),
            image_options=fdr.ImageOptions(count=options.count),
            cache=options.out / "cache",
            picture=options.out / f"{label}-{options.mode}.png",
        )
        report.to_json(options.out / f"{label}-{options.mode}.json")
        entropy = report.run["ifid"]["neighbour_entropy"]
        print(f"{name}: {time.process_time() - began:.0f} CPU seconds, entropy {entropy:.4f}", file=sys.stderr)
        yield name, report


if __name__ == "__main__":
    main()
