"""`fdr cas`: classifiers that are trained on samples and tested on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fdr.cli import _computing, _options
from fdr.cli._outputs import write_json
from fdr.cli._progress import progress_for
from fdr.cli._render import print_table


@click.command(
    "cas",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr cas samples.npz --real train.npz --val test.npz --recipe cifar -o runs/cas\n\n"
    "  fdr cas samples/ --real imagenet/train --val imagenet/val --recipe imagenet -o runs/cas --json cas.json\n\n"
    "  fdr cas samples.npz --real train.npz --val test.npz --train-on samples -o runs/cas",
)
@click.argument("samples", metavar="SAMPLES")
@_options.option("--real IMAGES", "Real training images, with the class of each.", required=True)
@_options.option(
    "--val IMAGES",
    "Real images to test on, with the class of each; neither the generator nor a classifier is trained on them.",
    name="validation",
    required=True,
)
@_options.option(
    "-o, --out DIR",
    "Folder for the state of the trainings, from which the same command resumes, and for decoded pixels.",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
)
@_options.option(
    "--recipe",
    "How classifiers are trained: cifar is ResNet-56 (He et al. 2016), imagenet is ResNet-50, and tiny is ResNet-8 for "
    "a few hundred steps, to try the command.",
    type=click.Choice(["cifar", "imagenet", "tiny"]),
    default="cifar",
)
@_options.option(
    "--steps N", "Steps of each training, in place of the recipe's; its milestones scale with them.", type=int
)
@_options.listed(
    "--train-on NAMES",
    "Which classifiers to train: on samples (CAS), on real images, on both (NAS).",
    default="samples,real,both",
)
@_options.option("--seed N", "Seed for initial weights, order and augmentation.", type=int, default=0)
@_computing.device
@_options.json_out
@_options.dry_run
@_options.quiet
def command(
    samples: str,
    real: str,
    validation: str,
    out: Path,
    recipe: str,
    steps: int | None,
    train_on: str,
    seed: int,
    device: str,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Measure the Classification Accuracy Score (CAS) and the Naive Augmentation Score (NAS) of samples with classes.

    A classifier is trained from scratch on SAMPLES, one on real images, and one on both, by the same recipe. CAS and
    NAS are the accuracies on --val of the first and the last; the second says what they could be. To resume a killed
    run, repeat the command.
    """
    from fdr.images import open_images
    from fdr.training import CasOptions, CasSets, cas_scores, find_recipe, plan_cas

    chosen = find_recipe(recipe).with_steps(steps)
    names = tuple(dict.fromkeys(name.strip() for name in train_on.split(",")))
    options = CasOptions(chosen, seed, names, device, progress_for(quiet))
    sets = CasSets(*(open_images(path, chosen.image_options()) for path in (samples, real, validation)))
    if dry_run:
        for line in plan_cas(sets, out, options):
            click.echo(line)
        return
    report = cas_scores(sets, out, options)
    if write_json(json_path, report):
        _print(report)


def _print(report: dict[str, Any]) -> None:
    """A row for each classifier, then the differences, the classes that are furthest behind, and the signature."""
    columns = ("top-1 ↑", "top-5 ↑", "minus real")
    differences = {item["of"]: item for item in report["differences"]}
    rows = []
    for name, one in report["classifiers"].items():
        score = {"samples": "CAS", "both": "NAS"}.get(name, "")
        rows.append((name, score, str(one["train_count"]), *_cells(one, differences.get(name))))
    print_table(("trained on", "score", "images", *columns), rows, right=("images", *columns))
    if {"samples", "real"} <= set(report["classifiers"]):
        _print_classes(*(report["classifiers"][name]["classes"] for name in ("samples", "real")))
    for note in report["notes"]:
        click.echo(f"note: {note}")
    click.echo(report["signature"])


def _cells(one: dict[str, Any], difference: dict[str, Any] | None) -> tuple[str, str, str]:
    top1 = f"{one['top1']:.4f} ± {one['top1_stderr']:.4f}"
    top5 = f"{one['top5']:.4f} ± {one['top5_stderr']:.4f}" if "top5" in one else ""
    behind = "" if difference is None else f"{difference['top1']:+.4f} ± {difference['stderr']:.4f}"
    return top1, top5, behind


def _print_classes(samples: dict[str, Any], real: dict[str, Any], most: int = 5) -> None:
    gaps = sorted((samples[name]["top1"] - real[name]["top1"], name) for name in samples)
    worst = ", ".join(f"{name} ({gap:+.2f})" for gap, name in gaps[:most] if gap < 0)
    if worst:
        click.echo(f"classes furthest behind the real images: {worst}")
