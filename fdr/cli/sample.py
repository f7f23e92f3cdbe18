"""`fdr sample`: images of a generator, as a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _computing, _generator, _options
from fdr.cli._outputs import Output
from fdr.cli._progress import progress_for
from fdr.runtime import human_bytes

if TYPE_CHECKING:
    from fdr.generators import SampleSet


@click.command(
    "sample",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr sample --gen runs/a -n 50000 -o samples.npz\n\n"
    "  fdr sample --gen weights.safetensors --arch my_model:build --labels balanced -o samples/\n\n"
    "  fdr sample --gen stable-diffusion/ --prompts captions.jsonl --pipeline-args num_inference_steps=50 -o samples/",
)
@_generator.sampled
@_options.option(
    "--prompts FILE",
    "The texts that a pipeline makes images of, one sample for each: JSON lines with prompt and file_name, CSV, text "
    "with one prompt a line, or the set of a published file, coco-30k:captions_val2014.json or "
    "mjhq-30k:meta_data.json (docs/text-to-image.md).",
)
@_options.option(
    "-o, --out PATH",
    "Where to write: an .npz in the layout of ADM (arr_0 for images, arr_1 for labels if there are classes), or a "
    "folder of PNG files.",
    required=True,
    type=Output("new"),
)
@_options.option("--seed N", "Seed for noise and labels.", type=int, default=0)
@_computing.computing(
    _computing.device,
    _computing.gpus("the samples"),
    _computing.batch_size("Samples per forward pass", ", 16 for a whole pipeline"),
    _options.offline,
)
@_options.dry_run
@_options.trust
@_options.quiet
def command(
    drawn: _generator.Drawn,
    prompts: str | None,
    out: Path,
    seed: int,
    computing: _computing.Computing,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Generate samples and write them as 8-bit images, round(255 x).

    The noise and label of sample i depend only on the seed and i, not on the batch size, the device or the number of
    GPUs. To resume a killed run, repeat the command.
    """
    from fdr.generators import sample_set, write_samples
    from fdr.images import ImageOptions, select_captions

    captions = None if prompts is None else select_captions(prompts)
    progress = progress_for(quiet)
    with computing.on_ranks(progress) as setup:
        source = drawn.samples(setup.encoder_options, setup.extraction_options, ImageOptions(), seed, captions)
        if captions is not None and source.prompts is None:
            raise click.UsageError(f"--prompts goes with a pipeline that makes images of texts; {drawn.gen} is none.")
        samples = sample_set(source, out)
        if dry_run:
            if setup.is_main:
                click.echo(_plan(samples))
            return
        is_new = write_samples(samples, progress if setup.is_main else None, setup.group)
        if setup.is_main:
            click.echo(f"{out}: {_described(samples)}{'' if is_new else ' (finished already)'}")


def _described(samples: SampleSet) -> str:
    source = samples.source
    made = source.made_by
    size = "" if source.image_size is None else " {1} x {0}".format(*source.image_size)
    of = "" if made["labels"] is None else f", labels {made['labels']}"
    if source.prompts is not None:
        of += f", {min(len(source), len(source.prompts.captions))} prompts"
    return (
        f"{len(source)} samples{size} of {source.described}, seed {source.seed}{of}; "
        f"digest {source.digest[:8] if source.digest else 'unknown'}"
    )


def _plan(samples: SampleSet) -> str:
    if samples.is_finished():
        return f"{samples.path} is finished: {_described(samples)}"
    total = len(samples.source)
    done = total - sum(stop - start for start, stop in samples.missing())
    height, width = samples.source.image_size or (0, 0)
    size = f"; {human_bytes(total * height * width * 3)} of pixels" if height else ";"
    return f"would write {_described(samples)}{size} to {samples.path}, {done} samples are there"
