"""How much of an FD is class frequencies, on real and generated images, by `fdr audit`.

    python benchmarks/audit_classes.py --data FOLDER [--worlds photos,digits,faces] [--images 2000] [--cache CACHE]

FOLDER holds `cifar10/train10k.npz`, `mnist/train20k.npz`, `mnist/vae.safetensors`, `mnist/mlp_gan.safetensors` and, in
`weights/`, `dcgan_faces64`, `efficientnet_lite0`, `squeezenet1_1` and `inception_v3_nsfwjs_f16` (.safetensors). The
classes are ImageNet classes by EfficientNet-Lite0, for whose features the weights are optimised. Held out are
SqueezeNet 1.1 and an Inception-v3 that was fine-tuned for another task, which is not the network of FID.

Each world has a reference, samples, and a baseline. The first tables have FD of the last two under weights, and in
brackets FD under the same weights in a random order; the last one has the gain of the samples over the baseline.
Prints Markdown. It takes some 25 minutes of one processor; CACHE keeps the features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
from audit_worlds import WORLDS, World, encoders

import fdr
from fdr.evaluation import AuditedSets, audit_classes
from fdr.features import ExtractionOptions
from fdr.images import open_images

Row = tuple[str, ...]
CLASSES = ("set", "other classes", "share of gain by Top-1", "iterations")
GAINS = ("encoder", "FD of baseline", "FD of samples", "gain", "class frequencies", "range", "left")


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--worlds", default=",".join(WORLDS), help="which worlds, with commas")
    parser.add_argument("--images", type=int, default=2000, help="images of each set")
    parser.add_argument("--side", type=int, default=224, help="pixels of the input of the other two")
    parser.add_argument("--inception-side", type=int, default=149, help="pixels of the input of Inception")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    judges = encoders(options.data, options.side, options.inception_side)
    extraction = ExtractionOptions(cache=options.cache, num_workers=0)
    found = {}
    for name in options.worlds.split(","):
        began = time.process_time()
        world = WORLDS[name](options.data, options.images)
        found[name] = audits(world, judges, extraction, options.steps)
        print(f"\n## {name}\n\n{tables(found[name])}", flush=True)
        if world.labels is not None:
            found[name]["true classes"] = by_labels(world, judges, options.cache)
            print(f"\nWith the true classes:\n\n{harness.table(GAINS, gains(found[name]['true classes']))}")
        print(f"\n{time.process_time() - began:.0f} processor seconds", flush=True)
    print(f"\n{harness.machine_line()}")
    harness.write_json(options.json, results=found)


def audits(world: World, judges: list[Any], extraction: ExtractionOptions, steps: int) -> dict[str, dict[str, Any]]:
    """The reports of the baseline, and of the samples with the baseline, by the name of the set."""
    reference, samples, baseline = (
        open_images(images) for _, images in (world.reference, world.samples, world.baseline)
    )
    alone = AuditedSets(baseline, reference, judges, extraction).audit(steps=steps)
    beside = AuditedSets(samples, reference, judges, extraction, baseline).audit(steps=steps)
    assert alone is not None and beside is not None
    return {world.baseline[0]: alone, world.samples[0]: beside}


def by_labels(world: World, judges: list[Any], cache: Path | None) -> dict[str, Any]:
    """The report of the samples with the baseline, with labels in the place of predicted classes."""
    assert world.labels is not None
    names = [encoder.spec.name for encoder in judges]
    sets = [
        {
            name: np.concatenate(list(fdr.extract(images, one, cache=cache)))
            for name, one in zip(names, judges, strict=True)
        }
        for _, images in (world.samples, world.reference, world.baseline)
    ]
    logits = tuple(np.eye(world.labels[0].max() + 1)[one] for one in world.labels)
    return audit_classes(sets[0], sets[1], logits, baseline=sets[2], top_n=2, steps=1).to_dict()


def tables(reports: dict[str, dict[str, Any]]) -> str:
    """The three tables of a world."""
    last = list(reports.values())[1]
    names = [one["name"] for one in last["matchings"]]
    header = ("set", "encoder", "FD", *names, "effective images")
    parts = [
        harness.table(CLASSES, (classes(name, report) for name, report in reports.items())),
        harness.table(header, (row for name, report in reports.items() for row in weighted(name, report)), num_text=2),
        harness.table(GAINS, gains(last)),
    ]
    return "\n\n".join(parts)


def classes(name: str, report: dict[str, Any]) -> Row:
    share = report["matchings"][0]["share_of_gain"]
    steps = " and ".join(str(one["steps"]) for one in report["matchings"][1:])
    return name, f"{report['classes']['distance']:.0%}", "none to win" if share is None else f"{share:.0%}", steps


def weighted(name: str, report: dict[str, Any]) -> Iterator[Row]:
    """A row for each encoder: FD under each weighting, and in brackets in a random order."""
    counts = ", ".join(f"{one['effective_count']:.0f}" for one in report["matchings"])
    for index, (encoder, before) in enumerate(report["fd"].items()):
        cells = (f"{one['fd'][encoder]:.4g} ({one['control'][encoder]:.4g})" for one in report["matchings"])
        yield "" if index else name, encoder, f"{before:.4g}", *cells, "" if index else counts


def gains(report: dict[str, Any]) -> Iterator[Row]:
    """A row for each encoder."""
    for name, one in report["baseline"]["encoders"].items():
        gain = f"{one['gain']:.4g} ± {one['stderr']:.2g}"
        cells = ("noise", "", "")
        if one["share_of_gain"] is not None:
            low, high = sorted(one["shares"])
            cells = f"{one['share_of_gain']:.0%}", f"{low:.0%} to {high:.0%}", f"{one['left'] / one['gain']:.0%}"
        yield name, f"{one['fd']:.4g}", f"{report['fd'][name]:.4g}", gain, *cells


if __name__ == "__main__":
    main()
