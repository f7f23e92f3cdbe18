"""`fdr demo`: see it work, the measuring or, with --train, the training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._outputs import Output, is_stdout, write_text
from fdr.cli._progress import progress_for
from fdr.cli._render import print_table

if TYPE_CHECKING:
    from fdr.reports import Report
    from fdr.training import TrainingDemo

_FOLDERS = {False: Path("fdr-demo"), True: Path("fdr-demo-train")}
"""The folder if --out names none, without and with --train."""


@click.command(
    "demo",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr demo --out fdr-demo\n\n  fdr demo --train --out fdr-demo-train",
)
@_options.switch(
    "--train",
    "Show training instead: pretrain a weak one-step generator of such images, post-train it with FD as the "
    "loss, and print FD before and after, for the encoder that it was trained on and two others. This takes under "
    "four minutes on two cores.",
    name="is_training",
)
@_options.option(
    "--out DIR",
    f"Folder for the images, the reference and demo.json.  [default: {_FOLDERS[False]}; with --train: "
    f"{_FOLDERS[True]}]",
    type=Output("new"),
)
@_options.json_out
@_options.quiet
def command(is_training: bool, out: Path | None, json_path: Path | None, quiet: bool) -> None:
    """Draw images (shapes on textures), degrade them, and show which degradation changes which number.

    This needs no data and no network, and takes under two minutes on two cores. The encoder is a random network with a
    fixed seed.
    """
    folder = out or _FOLDERS[is_training]
    if is_training:
        _train(folder, json_path, quiet)
    else:
        _measure(folder, json_path, quiet)


def _measure(out: Path, json_path: Path | None, quiet: bool) -> None:
    from fdr.errors import RunError
    from fdr.evaluation import REFERENCE_COUNT, SELF_CHECK_TOLERANCE, contact_sheet, run_demo
    from fdr.reports import format_number

    _check_folder(out, "reference.npz")
    began = time.monotonic()
    demo = run_demo(out, progress=progress_for(quiet))
    contact_sheet(out, out / "samples.png")
    if not _write(out, json_path, [row.report for row in demo.rows]):
        return
    click.echo(f"{REFERENCE_COUNT} drawn reference images; every sample set against them, encoder random (no FID!)")
    rows = []
    for row in demo.rows:
        fd = row.report["fd", "random"]
        parts = (fd.value, row.report["fdr", "random"].value, fd.details["mean_term"], fd.details["trace_term"])
        rows.append((row.name, row.description, *map(format_number, parts), f"{row.copied:.0%}"))
    headers = ("samples", "what they are", "FD", "FDr", "mean term", "trace term", "in reference")
    print_table(headers, rows, right=headers[2:])
    for line in (
        "FD = mean term + trace term; FDr = FD / FD of held-out real images, so 1.0 is as good as real.",
        "Blur and noise move the mean term most, dropped modes the trace term. Copies of the reference score better",
        "than fresh images do: no FD sees memorisation, so look for copies separately.",
        f"Self-check: these reference moments and the shipped ones differ by FD {demo.self_check:.1e} of their trace.",
        f"images: {out}/samples.png   report: {out}/demo.json   took {time.monotonic() - began:.0f} s",
        f"next: fdr eval {out}/blurred.npz --ref {out}/reference --reps random",
    ):
        click.echo(line)
    if demo.self_check > SELF_CHECK_TOLERANCE:
        raise RunError(
            f"The moments computed here differ from the shipped ones by {demo.self_check:.1e} of their trace (at most "
            f"{SELF_CHECK_TOLERANCE:.0e} is expected); please report this with the output of fdr env."
        )


def _train(out: Path, json_path: Path | None, quiet: bool) -> None:
    from fdr.cli._train_view import view_for
    from fdr.training import HELD_OUT_SET, run_training_demo

    _check_folder(out, HELD_OUT_SET)
    began = time.monotonic()
    demo = run_training_demo(out, view=view_for(quiet, is_main=True))
    if _write(out, json_path, [demo.before, demo.after]):
        _print_training(demo, out, time.monotonic() - began)
    demo.check()


def _print_training(demo: TrainingDemo, out: Path, seconds: float) -> None:
    from fdr.reports import format_number
    from fdr.training import EVALUATION_SEED, HELD_OUT, PIXELS, SIDE, TRAINED, WATCHED, short_name

    settings, names = demo.settings, (TRAINED, *WATCHED)
    click.echo(
        f"A weak one-step generator ({demo.num_parameters:,} parameters; an autoencoder's decoder, stopped after "
        f"{settings.pretraining.steps} steps),\npost-trained {settings.steps} steps with the FD of {TRAINED} as the "
        f"loss. FD of {settings.sample_count} quantised samples of noise that no training\nsees, to "
        f"{settings.held_out_count} drawn images of {SIDE} px that no training sees (no FID!):"
    )
    rows = []
    for name in names:
        values = [report[metric, name].value for metric in ("fd", "fdr") for report in (demo.before, demo.after)]
        fd_before, fd_after, fdr_before, fdr_after = map(format_number, values)
        role = "trained on" if name == TRAINED else "watched"
        rows.append((short_name(name), role, fd_before, fd_after, f"{demo.factor(name):.1f}x", fdr_before, fdr_after))
    headers = ("encoder", "", "FD before", "FD after", "less by", "FDr before", "FDr after")
    print_table(headers, rows, right=headers[2:])
    measure = f"--ref {out}/{HELD_OUT} --reps {','.join(names)} --num-images {settings.sample_count}"
    measure += f" --seed {EVALUATION_SEED}"
    for line in (
        f"{WATCHED[0]} is a random network of another seed, pixels ({PIXELS}) the mean colours of 8 x 8 cells.",
        "FDr = FD / FD of as many held-out images, so 1.0 would be as good as real.",
        f"grids: {out}/before-after.png (before, after, real)   report: {out}/demo.json   run: {demo.run}   took "
        f"{seconds:.0f} s",
        f"next: fdr eval --gen {demo.run} {measure}",
        f"      fdr sample --gen {demo.run} -n 1000 -o {out}/samples.npz",
    ):
        click.echo(line)


def _check_folder(out: Path, first_file: str) -> None:
    """Raise `InputError` for a folder that cannot be written, or holds anything but an earlier demo of this kind."""
    from fdr.errors import InputError
    from fdr.runtime import check_writable

    check_writable(out / "demo.json")
    if out.is_dir() and any(out.iterdir()) and not (out / first_file).is_file():
        raise InputError(f"Folder {str(out)!r} is not empty and not from an earlier demo; name another with --out.")


def _write(out: Path, json_path: Path | None, reports: list[Report]) -> bool:
    """Write the reports into the folder and where --json says. Return True if stdout is free for words."""
    from fdr.reports import reports_to_json

    write_text(out / "demo.json", reports_to_json(reports))
    if json_path is not None:
        write_text(json_path, reports_to_json(reports))
    return not is_stdout(json_path)
