"""What `fdr eval` and `fdr check` measure: samples, a reference, encoders and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from fdr.cli import _computing, _options, completion
from fdr.cli._generator import Drawn, announce_pipeline, drawn
from fdr.evaluation import PROTOCOLS, check_is_free, find_protocol

if TYPE_CHECKING:
    from fdr.evaluation import Evaluator
    from fdr.images import ImageSource
    from fdr.reports import Report


@dataclass(frozen=True)
class Measurement:
    """The samples, reference, encoders and metrics of a measurement."""

    reference: str
    training_set: str | None
    reps: str
    metrics: str
    protocol: str | None
    trained_on: str | None
    memory: int
    images: _options.Images
    computing: _computing.Computing
    drawn: Drawn | None = None
    """The generator to measure beside the samples."""
    prompts: str | None = None
    """The file with the prompts of the samples."""

    @classmethod
    def of_fd(
        cls,
        reference: str,
        reps: str,
        images: _options.Images,
        computing: _computing.Computing,
        drawn: Drawn | None,
        prompts: str | None,
    ) -> Measurement:
        """The measurement of FD and nothing else."""
        from fdr.neighbours import DEFAULT_MEMORY

        if prompts is not None and drawn is None:
            raise click.UsageError("--prompts goes with --gen, the pipeline that makes images of them.")
        return cls(reference, None, reps, "fd", None, None, DEFAULT_MEMORY, images, computing, drawn, prompts)

    def prepare(
        self,
        samples: Sequence[str],
        setup: _computing.Setup,
        *,
        dry_run: bool,
        audit: bool = False,
        spectra: bool = False,
        stderr: bool = True,
        are_compared: bool = False,
    ) -> tuple[Evaluator, list[ImageSource]]:
        """The evaluator and the opened sample sets; no image is decoded yet.

        A dry run ends here, with a list, when files are missing that would have to be fetched. Sets that `are_compared`
        with each other may be two folders without --ref.
        """
        from fdr.evaluation import Evaluator
        from fdr.metrics import load_metrics
        from fdr.references import open_samples

        protocol = None if self.protocol is None else find_protocol(self.protocol)
        reference, reps, metrics = self.reference, self.reps, self.metrics
        if protocol is not None:
            typed = {name: _options.is_typed(name) for name in ("reps", "metrics")}
            check_is_free(protocol, *typed.values())
            reps = reps if typed["reps"] else protocol.encoder
            metrics = metrics if typed["metrics"] else ",".join(protocol.metrics)
        is_default = _options.source_of("reference") is ParameterSource.DEFAULT
        if is_default:
            reference = reference if protocol is None else protocol.default_reference(metrics)
            if not are_compared:
                _refuse_two_folders(samples, reference)
            if setup.is_main and any(metric.needs_reference for metric in load_metrics(metrics).values()):
                _options.announce_default_reference(reference)
        options = self.images.options()
        options = options if protocol is None else protocol.options(options, is_chosen=_options.is_typed("crop"))
        sources = [open_samples(item, options) for item in samples]
        setup.check_files(reps, reference, dry_run=dry_run)
        evaluator = Evaluator(
            reps,
            _by_encoder(reference, reps),
            metrics,
            image_options=options,
            encoder_options=setup.encoder_options,
            extraction_options=setup.extraction_options,
            weights=setup.weights,
            audit=audit,
            spectra=spectra,
            training_set=self.training_set,
            prompts=self.prompts,
            stderr=stderr,
            trained_on=self.trained_on,
            memory=self.memory,
            protocol=protocol,
            is_default_reference=is_default,
        )
        if self.drawn is not None:
            sources.append(self.drawn.source(evaluator))
            if setup.is_main:
                announce_pipeline(sources[-1])
        for source in sources:
            evaluator.check_source(source)
        return evaluator, sources


def announce_failures(reports: Sequence[Report]) -> int:
    """Say on stderr which numbers could not be computed, and why. Returns the exit code: 1 if there are any, else 0."""
    failed = [(report.samples["source"], failure) for report in reports for failure in report.failed]
    for name, failure in failed:
        click.echo(f"fdr: error: {failure.key} of {name} could not be computed: {failure.sentence}", err=True)
    return 1 if failed else 0


def _refuse_two_folders(samples: Sequence[str], default: str) -> None:
    """Raise for `fdr eval FAKE REAL`, the order of other tools, which would measure both folders as samples."""
    if len(samples) == 2 and all(Path(item).is_dir() for item in samples):
        command = click.get_current_context().info_name
        raise click.UsageError(
            f"Two folders and no --ref: did you mean fdr {command} {samples[0]} --ref {samples[1]}? To measure both "
            f"against {default}, say --ref {default}."
        )


def _by_encoder(reference: str, reps: str) -> str | dict[str, str]:
    """Make "inception=a.npz,dinov2=b.npz" a dict if every part names one of the encoders; else keep the text."""
    from fdr.encoders import parse_encoders

    names = sorted(parse_encoders(reps), key=len, reverse=True)  # a longer one may begin like a shorter
    found = {}
    for part in reference.split(","):
        name = next((name for name in names if part.startswith(f"{name}=")), None)
        if name is None:
            return reference
        found[name] = part[len(name) + 1 :]
    return found


_reference = _options.reference("What to compare with", " Files for several encoders: ENCODER=FILE,ENCODER=FILE.")
_of_samples = _options.stack(
    _reference,
    _options.option(
        "--training-set IMAGES",
        "The images that the model was trained on, for metrics that compare with them; other metrics do not read it. "
        "The cache keeps its features as well.",
    ),
    _options.option(
        "--prompts FILE",
        "The prompts of the samples, for clip_score and for a pipeline that makes images of texts: a file of captions, "
        "or coco-30k:captions_val2014.json (docs/text-to-image.md).",
    ),
    _options.reps,
    _options.listed(
        "--metrics NAMES",
        "What to compute, separated by commas: fd, fd_debiased, precision, recall, density, coverage, kid, cmmd, mind, "
        "vendi, is, clip_score, ... docs/metrics.md lists them all, and the variants after a colon (kid:rbf). fd "
        "includes FDr where the reference has a validation FD.",
        shell_complete=completion.metrics,
        default="fd",
    ),
    _options.option(
        "--protocol",
        "Repeat a published evaluation, in place of --reps and --metrics. adm gives the five numbers of ADM's "
        "evaluator, against its reference npz as --ref (default: imagenet256:adm). coco-30k and mjhq-30k give the "
        "zero-shot FID and CLIPScore of text-to-image models, unless --reps and --metrics ask for others "
        "(docs/text-to-image.md).",
        type=click.Choice(list(PROTOCOLS)),
    ),
    _options.listed(
        "--trained-on NAMES",
        "The encoders that the generator was trained on, such as those of an FD loss. FDr^k is then given for them "
        "and for the held-out encoders apart.  [default: what a run folder of fdr train says, and what fdr sample made "
        "of it]",
        shell_complete=completion.encoders,
    ),
)
_of_computing = _options.stack(
    _computing.computing(_computing.encoding, _computing.exact_order, _computing.no_cache, _computing.moments_only),
    _options.memory("metrics of nearest neighbours"),
    _options.trust,
)
_FIELDS = (
    *("reference", "training_set", "prompts", "reps", "metrics", "protocol", "trained_on", "memory", "images"),
    "computing",
)
measurement = _options.stack(
    drawn,
    _of_samples,
    _options.images_of("the random subset, and with --gen for noise and labels"),
    _of_computing,
    _options.gather("measurement", Measurement, (*_FIELDS, "drawn")),
)
"""The options of `Measurement`, as the argument `measurement` of a command."""
measurement_of_files = _options.stack(
    _of_samples,
    _options.images_of("the random subset"),
    _of_computing,
    _options.gather("measurement", Measurement, _FIELDS),
)
"""`measurement` of a command that takes no generator."""
measurement_of_fd = _options.stack(
    drawn,
    _options.option("--prompts FILE", "The prompts of a pipeline that makes images of texts (docs/text-to-image.md)."),
    _reference,
    _options.reps,
    _options.images_of("the random subset, and with --gen for noise and labels"),
    _computing.computing(_computing.encoding, _computing.exact_order, _computing.no_cache),
    _options.trust,
    _options.gather("measurement", Measurement.of_fd, ("reference", "reps", "images", "computing", "drawn", "prompts")),
)
"""`measurement` of a command that measures FD alone and needs the features of every image."""
