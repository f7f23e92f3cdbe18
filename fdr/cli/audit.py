"""`fdr audit`: how much of an FD is class frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fdr.cli import _computing, _options, completion
from fdr.cli._outputs import write_json
from fdr.cli._progress import progress_for
from fdr.cli._render import print_table

COLUMNS = ("FD ↓", "change", "FD, random order", "effective images")


@click.command(
    "audit",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr audit samples.npz --ref real/ --reps inception --held-out dinov2\n\n"
    "  fdr audit samples/ --ref real.npz --held-out dinov2,clip --steps 300 --json audit.json\n\n"
    "  fdr audit new.npz --ref real/ --held-out dinov2 --baseline old.npz",
)
@click.argument("samples", metavar="SAMPLES")
@_options.option(
    "--ref IMAGES", "The real images; statistics are not enough, as they have no classes.", name="reference",
    required=True,
)  # fmt: skip
@_options.option(
    "--reps NAME",
    "The encoder whose FD is audited. It must be a classifier, whose predictions are the classes.",
    default="inception",
    shell_complete=completion.encoders,
)
@_options.listed(
    "--held-out NAMES",
    "Encoders to measure the same weights with, separated by commas.",
    default="",
    shell_complete=completion.encoders,
)
@_options.option(
    "--baseline SAMPLES",
    "The samples of another model, as many, to say how much of the gain over it is class frequencies.",
)
@_options.option("--top-n N", "N of Top-N matching.", type=click.IntRange(2), default=5)
@_options.option(
    "--steps N", "Most iterations of Top-N matching and of the optimised weights.", type=click.IntRange(1), default=100
)
@_options.images_of("the random subset")
@_computing.computing(_computing.encoding, _computing.no_cache)
@_options.trust
@_options.json_out
@_options.dry_run
@_options.quiet
def command(
    samples: str,
    reference: str,
    reps: str,
    held_out: str,
    baseline: str | None,
    top_n: int,
    steps: int,
    images: _options.Images,
    computing: _computing.Computing,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Measure how much of an FD is class frequencies: what weights that match the classes of the reference win.

    The images stay as they are. They get weights that give their predicted classes the frequencies of the reference
    (Top-1), that do so for their N most likely classes (Top-N), or that make FD itself as low as weights can
    (optimised). Held-out encoders show whether the same weights help there, too. With --baseline, the samples and those
    of another model get the class frequencies of each other. See docs/audit.md.
    """
    from fdr.encoders import load_encoders, parse_encoders
    from fdr.evaluation import AuditedSets, open_audited_reference
    from fdr.references import open_samples

    names = ",".join(name for name in (reps, held_out) if name)
    with computing.on_ranks(progress_for(quiet)) as setup:
        if len(parse_encoders(reps)) != 1:
            raise click.UsageError("--reps takes one encoder here; name the others in --held-out.")
        if reps in held_out.split(","):
            raise click.UsageError(f"{reps} is audited and held out at once; leave it out of --held-out.")
        options = images.options()
        source, real = open_samples(samples, options), open_audited_reference(reference, options)
        other = None if baseline is None else open_samples(baseline, options)
        setup.check_files(names, None, dry_run=dry_run)
        encoders = load_encoders(names, setup.encoder_options, setup.weights)
        sets = AuditedSets(source, real, encoders, setup.extraction_options, other)
        if dry_run:
            for line in sets.plan(top_n, steps) if setup.is_main else ():
                click.echo(line)
            return
        report = sets.audit(top_n=top_n, steps=steps)
    if report is not None and write_json(json_path, report):
        _print(report)


def _print(report: dict[str, Any]) -> None:
    """A row for each encoder and matching, one for each encoder and weighting of a baseline, then the sentences."""
    rows: list[tuple[str, ...]] = []
    for name, before in report["fd"].items():
        rows.append((_label(report, name), "none", f"{before:.4g}", "", "", f"{report['count']}"))
        rows += [("", *_weighted(one, name, before)) for one in report["matchings"]]
    print_table(("encoder", "weights", *COLUMNS), rows, right=COLUMNS)
    if "baseline" in report:
        _print_baseline(report, report["baseline"])
    for sentence in report["sentences"]:
        click.echo(sentence)


def _print_baseline(report: dict[str, Any], baseline: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = []
    for name, own in report["fd"].items():
        sides = ("samples", own, report["count"]), ("baseline", baseline["encoders"][name]["fd"], baseline["count"])
        for side, value, count in sides:
            label = _label(report, name) if side == "samples" else ""
            rows.append(
                (label, side, "their own" if side == "samples" else "its own", f"{value:.4g}", "", "", str(count))
            )
            for one in baseline["weightings"]:
                images, _, classes = one["name"].partition(" with the classes of the ")
                if images == side:
                    rows.append(("", "", classes, *_weighted(one, name, value)[1:]))
    print_table(("encoder", "images", "class frequencies", *COLUMNS), rows, right=COLUMNS)


def _label(report: dict[str, Any], name: str) -> str:
    return f"{name} (held out)" if name in report["held_out"] else name


def _weighted(one: dict[str, Any], name: str, before: float) -> tuple[str, ...]:
    """The name of a weighting, and its `COLUMNS` under one encoder."""
    after, control = one["fd"][name], one["control"][name]
    change = f"{round(after / before - 1, 3) + 0.0:+.1%}" if before > 0 else ""
    return one["name"], f"{after:.4g}", change, f"{control:.4g}", f"{one['effective_count']:.0f}"
