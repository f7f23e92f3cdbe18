"""Groups the options in `--help` by theme, with the common ones first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

MOST_WITHOUT_THEMES = 11
"""A command with more options than this has headings in its help. Raising it gives long lists without headings."""
REST = "General"
"""The heading of the options that no theme names."""
THEMES = {
    "Samples": "gen num-images images neighbours count neighbour-count seed",
    "Reference and metrics": "ref reps metrics",
    "Output": "report show closest heat-maps json csv markdown junit openmetrics picture no-annotations name format",
    "Details of metrics": "prompts protocol training-set trained-on audit spectra no-stderr",
    "Images": "size crop transparency on-bad max-bad max-pixels",
    "Speed and devices": "device gpus batch-size num-workers dtype tf32 exact-order memory",
    "Encoders and weights": "offline weights-dir weights",
    "Generator": "labels arch arch-args pipeline-args ema noise-shape num-classes value-range",
    "Cache": "cache no-cache moments-only",
    REST: "dry-run quiet trust help",
}
"""The options under each heading, in the order in which help shows them."""
THEMES_OF = {
    "check": {
        "Limits and baseline": "max min baseline tolerance allow allow-missing confidence inconclusive null "
        "update-baseline force",
    },
    "cas": {"Images": "real val", "Training": "recipe train-on steps seed device", "Output": "out json", "Samples": ""},
    "audit": {"Audit": "reps held-out baseline top-n steps"},
    "compare": {"Comparison": "confidence"},
    "panel": {"Panel": "model confidence"},
    "ifid": {
        "Autoencoder": "vae vae-weights vae-args posterior value-range",
        "Samples": "",
        "Encoders and metrics": "reps lpips compat",
        "Interpolation": "alpha mode top-k same-class",
        "Output": "",
        "Images": "",
        "Decoding": "quantize no-clamp",
        "Speed and devices": "device gpus batch-size num-workers dtype tf32 latent-dtype memory",
    },
    "recon": {
        "Autoencoder": "vae vae-weights vae-args posterior value-range",
        "Samples": "images",
        "Encoders and metrics": "reps lpips",
        "Output": "per-image picture worst",
        "Images": "protocol",
    },
    "sample": {"Samples": "gen num-images prompts out labels seed"},
    "report": {
        "Output": "out format add title images reference-images confidence with-paths",
        "Shared formats": "dataset task model organization relationship source-url date",
    },
    "stats": {"Output": "out name format num-images json", "Encoders and validation": "reps val noise-floor"},
    "train": {
        "Run": "gen out resume",
        "Loss": "ref reps monitor population lag-correction lag-every fill conditional eps gradient solver rho",
        "Optimization": "steps batch-size lr warmup-steps betas weight-decay clip ema-kimg seed max-skipped",
        "Evaluation": "eval-every eval-images",
        "Alarm": "alarm-every alarm-images on-collapse",
        "Logs and checkpoints": "log-every checkpoint-every keep milestone-every grid-every grid-size tensorboard "
        "wandb page",
        "Speed and devices": "device gpus dtype encoder-dtype tf32 chunks encoder-batch-size",
    },
}
"""Headings of single commands. They come before the others; an option stands under the first that names it."""


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command, under headings where there are many."""
    records = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and isinstance(parameter, click.Option):
            records[parameter.opts[-1].lstrip("-")] = record
    if len(records) <= MOST_WITHOUT_THEMES:
        _write(formatter, "Options", records)
        return
    for theme, names in _themes(command.name or "", records).items():
        _write(formatter, theme, {name: records[name] for name in names})


def _write(formatter: click.HelpFormatter, heading: str, records: Mapping[str, Any]) -> None:
    if records:
        with formatter.section(heading):
            formatter.write_dl(list(records.values()), col_max=26)


def _themes(command: str, names: Mapping[str, Any]) -> dict[str, list[str]]:
    """The headings in order, each with its share of `names`."""
    themes: dict[str, list[str]] = {}
    left = list(names)
    for theme, text in (*THEMES_OF.get(command, {}).items(), *THEMES.items()):
        found = [name for name in text.split() if name in left]
        themes[theme] = themes.get(theme, []) + found
        left = [name for name in left if name not in found]
    themes[REST] += left
    return themes
