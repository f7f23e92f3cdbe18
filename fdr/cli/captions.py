"""`fdr captions`: the prompts of an evaluation, as one CSV."""

from __future__ import annotations

from pathlib import Path

import click

from fdr.cli import _options
from fdr.cli._outputs import Output, is_stdout, write_text


@click.command(
    "captions",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr captions coco-30k:annotations/captions_val2014.json -o prompts.csv\n\n"
    "  fdr captions mjhq-30k:meta_data.json -o prompts.csv",
)
@click.argument("prompts", metavar="PROMPTS")
@_options.option(
    "-o, --out FILE",
    "Write the prompts as CSV to FILE (- for stdout): names of images, prompts, categories.",
    type=Output("csv"),
    required=True,
    name="out",
)
@_options.option("--seed N", "Seed of the draw of COCO-30k. Seed 0 is that of the protocol.", type=int, default=0)
def command(prompts: str, out: Path, seed: int) -> None:
    """Select the prompts of an evaluation, the same ones on every machine.

    PROMPTS is coco-30k:captions_val2014.json (one caption of each of 30,000 images), mjhq-30k:meta_data.json, or any
    file of captions (docs/text-to-image.md). Name the images that a model makes from them as the column file_name says;
    then fdr eval --prompts matches them.
    """
    from fdr.images import select_captions

    found = select_captions(prompts, seed)
    write_text(out, found.to_csv())
    if not is_stdout(out):
        click.echo(f"wrote {out}: {len(found):,} prompts, digest {found.digest[:8]}")
