"""Options that several commands share: one spelling, one help text, one default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fdr.cli import _completion
from fdr.cli._command import Command as Command
from fdr.cli._command import listed, trust
from fdr.cli._command import trusts as trusts
from fdr.cli._missing import check_files
from fdr.cli._outputs import Output
from fdr.evaluation import PROTOCOLS, check_is_free, find_protocol
from fdr.runtime import Progress, SilentProgress

if TYPE_CHECKING:
    from fdr.evaluation import Evaluator
    from fdr.images import ImageSource
    from fdr.runtime import Group

F = TypeVar("F", bound=Callable[..., Any])


def stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Apply option decorators so that help shows them in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


reps = listed(
    "--reps",
    shell_complete=_completion.encoders,
    default="inception",
    show_default=True,
    metavar="NAMES",
    help="Encoders that turn images into features, separated by commas: inception, dinov2, fdr6 (six at once), "
    "timm:NAME, ... fdr encoders lists them.",
)
json_out = click.option(
    "--json",
    "json_path",
    type=Output("json"),
    metavar="FILE",
    help="Write the result as JSON to FILE (- for stdout).",
)
quiet = click.option(
    "-q", "--quiet", is_flag=True, default=False, help="Print no progress and no warnings, only errors."
)
dry_run = click.option(
    "--dry-run", is_flag=True, default=False, help="Check the inputs and say what would be done, without doing it."
)

subset = stack(
    click.option("--count", type=int, metavar="N", help="Measure a random subset of N images instead of all."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the random subset."),
)
crop = stack(
    click.option(
        "--crop",
        type=click.Choice(["none", "center", "center-bilinear", "adm"]),
        default="none",
        show_default=True,
        help="How to crop images before any encoder sees them; adm is the centre crop of guided-diffusion.",
    ),
    click.option(
        "--size",
        type=int,
        metavar="PX",
        help="Side of the square images after cropping. Without --crop, images are resized to a square, which may "
        "change their proportions.",
    ),
)
transparency = click.option(
    "--transparency",
    type=click.Choice(["drop", "white", "black"]),
    default="drop",
    show_default=True,
    help="What to do with transparent pixels: drop ignores the alpha channel, as other tools do; white and black put "
    "the image on a background of that colour.",
)
bad_images = stack(
    click.option(
        "--on-bad",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="What to do with unreadable images: stop (fail), or leave them out and list them in the report (skip).",
    ),
    click.option(
        "--max-bad",
        type=float,
        default=0.01,
        show_default=True,
        metavar="SHARE",
        help="Largest share of the images that may be left out, because they are unreadable (with --on-bad skip) or of "
        "an unsupported format.",
    ),
    click.option(
        "--max-pixels",
        type=int,
        default=89_478_485,
        show_default=True,
        metavar="N",
        help="Treat an image of more than N pixels as unreadable. This protects against small files that decode to "
        "huge images.",
    ),
)
images = stack(subset, crop, transparency, bad_images)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="Where to compute: cpu, cuda, cuda:N, or auto, which takes a GPU if there is one.",
)
gpus = click.option(
    "--gpus",
    type=click.IntRange(1),
    metavar="N",
    help="Divide the work among N GPUs of this machine, or among N processes with --device cpu. For several machines, "
    "start fdr with torchrun or srun.",
)
batches = stack(
    click.option(
        "--batch-size",
        type=int,
        metavar="N",
        help="Images per forward pass of an encoder.  [default: 32 on a CPU, 128 on a GPU]",
    ),
    click.option(
        "--num-workers", type=int, metavar="N", help="Threads that decode images.  [default: one per processor]"
    ),
)
precision = stack(
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bf16"]),
        default="float32",
        show_default=True,
        help="Precision of the encoders. bf16 is faster and changes FD by about 1 %; it is refused on hardware that "
        "is slow at it.",
    ),
    click.option(
        "--tf32", is_flag=True, default=False, help="Allow TF32 on the GPU: faster, and changes FD by about 0.3 %."
    ),
)
compute = stack(
    device,
    gpus,
    batches,
    precision,
    click.option(
        "--exact-order",
        is_flag=True,
        default=False,
        help="Compute in the same order of operations as the tool that an encoder comes from; slower.",
    ),
)
_folder = click.Path(path_type=Path, file_okay=False)
cache_dir = click.option(
    "--cache", type=Output("store"), metavar="DIR", help="Folder of cached features.  [default: ~/.cache/fdr/features]"
)
weights_dir = click.option(
    "--weights-dir", type=_folder, metavar="DIR", help="Folder in which to look first for weight files."
)
no_cache = click.option("--no-cache", is_flag=True, default=False, help="Do not read or write cached features.")
offline = click.option(
    "--offline", is_flag=True, default=False, help="Never use the network; a file that is missing ends the run."
)
weight_files = stack(
    weights_dir,
    click.option(
        "--weights",
        multiple=True,
        metavar="NAME=FILE",
        help="Load the weights of encoder NAME from FILE; may be repeated.",
    ),
    offline,
)
storage = stack(
    cache_dir,
    no_cache,
    click.option(
        "--moments-only",
        is_flag=True,
        default=False,
        help="Store running sums instead of features, which saves disk space for very many images. A killed run still "
        "resumes.",
    ),
    weight_files,
)
measurement = stack(
    click.option(
        "--ref",
        "reference",
        default="imagenet256",
        show_default=True,
        shell_complete=_completion.references_and_files,
        metavar="NAME|FILE|IMAGES",
        help="What to compare with: the name of a known reference (see fdr references list), a statistics file of "
        "any tool, or real images. Files for several encoders: ENCODER=FILE,ENCODER=FILE.",
    ),
    reps,
    listed(
        "--metrics",
        shell_complete=_completion.metrics,
        default="fd",
        show_default=True,
        metavar="NAMES",
        help="What to compute, separated by commas: fd, sfid, is, precision, recall, is:adm, precision:adm, "
        "recall:adm. fd includes FDr where the reference has a validation FD.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(list(PROTOCOLS)),
        help="Repeat a published evaluation, in place of --reps and --metrics. adm gives the five numbers of ADM's "
        "evaluator, against its reference npz as --ref (default: imagenet256:adm).",
    ),
    images,
    compute,
    storage,
    trust,
)
"""All that decides what `fdr eval` and `fdr check` measure; `prepare_evaluation` takes it."""


@dataclass(frozen=True)
class Setup:
    """The shared options as the library's own dataclasses."""

    image_options: Any
    encoder_options: Any
    extraction_options: Any
    weights: dict[str, Path]
    """Explicit weight files by encoder name."""

    def check_files(self, reps: str, reference: Any, dry_run: bool) -> None:
        """Say which files of these encoders and this reference are missing, in a dry or an offline run."""
        options, is_main = self.encoder_options, self.extraction_options.group.rank == 0
        check_files(
            reps,
            reference,
            options.weights_dir,
            options.offline,
            dry_run=dry_run,
            explicit=self.weights,
            is_main=is_main,
        )


def library_options(
    progress: Progress,
    *,
    group: Group,
    count: int | None = None,
    seed: int = 0,
    crop: str,
    size: int | None,
    transparency: str,
    on_bad: str,
    max_bad: float,
    max_pixels: int,
    device: str,
    gpus: int | None,
    batch_size: int | None,
    num_workers: int | None,
    dtype: str,
    tf32: bool,
    exact_order: bool,
    cache: Path | None,
    no_cache: bool,
    moments_only: bool,
    weights_dir: Path | None,
    weights: tuple[str, ...],
    offline: bool,
) -> Setup:
    """Shared flags to `ImageOptions`, `EncoderOptions` and `ExtractionOptions`."""
    from fdr.encoders import EncoderOptions
    from fdr.features import ExtractionOptions
    from fdr.images import ImageOptions
    from fdr.runtime import feature_cache_dir

    if no_cache and cache is not None:
        raise click.UsageError("--cache and --no-cache exclude each other.")
    if no_cache and moments_only:
        raise click.UsageError("--moments-only keeps its sums in the cache; leave out --no-cache.")
    folder = None if no_cache else cache or feature_cache_dir()
    device, threads = place_rank(device, gpus, group)
    if group.size > 1:
        num_workers = threads if num_workers is None else num_workers
        progress = progress if group.rank == 0 else SilentProgress()
    return Setup(
        ImageOptions(
            count=count,
            seed=seed,
            crop=crop,
            size=size,
            alpha=transparency,
            on_bad=on_bad,
            max_bad=max_bad,
            max_pixels=max_pixels,
        ),
        EncoderOptions(
            weights_dir=weights_dir,
            device=device,
            dtype=dtype,
            exact_order=exact_order,
            tf32=tf32,
            offline=offline or None,
            progress=progress,
        ),
        ExtractionOptions(folder, batch_size, num_workers, progress, moments_only, group),
        _pairs(weights),
    )


def place_rank(device: str, gpus: int | None, group: Group) -> tuple[str, int | None]:
    """The device of this process, and its share of the processors where it is one of several."""
    from fdr.runtime import rank_device, rank_facts, share_processors

    if group.size == 1:
        return device, None
    facts = rank_facts()
    return rank_device(device, facts, needs_gpu=gpus is not None), share_processors(facts)


def prepare_evaluation(
    samples: Sequence[str],
    progress: Progress,
    *,
    reference: str,
    reps: str,
    metrics: str,
    protocol: str | None = None,
    audit: bool = False,
    dry_run: bool = False,
    **shared: Any,
) -> tuple[Evaluator, list[ImageSource]]:
    """The evaluator and the opened samples for the options of `measurement`; no image is decoded yet.

    A dry run ends here, with a list, when files are missing that would have to be fetched.
    """
    from fdr.evaluation import Evaluator
    from fdr.metrics import load_metrics
    from fdr.references import open_samples

    chosen = None if protocol is None else find_protocol(protocol)
    if chosen is not None:
        check_is_free(chosen, is_typed("reps"), is_typed("metrics"))
        reps, metrics = chosen.encoder, ",".join(chosen.metrics)
    is_default = _source_of("reference") is ParameterSource.DEFAULT
    if is_default:
        reference = reference if chosen is None else chosen.reference
        _refuse_two_folders(samples, reference)
        if shared["group"].rank == 0 and any(metric.needs_reference for metric in load_metrics(metrics)):
            tell_default_reference(reference)
    setup = library_options(progress, **shared)
    sources = [open_samples(item, setup.image_options) for item in samples]
    setup.check_files(reps, reference, dry_run)
    evaluator = Evaluator(
        reps,
        _by_encoder(reference, reps),
        metrics,
        image_options=setup.image_options,
        encoder_options=setup.encoder_options,
        extraction_options=setup.extraction_options,
        weights=setup.weights,
        audit=audit,
        protocol=chosen,
        is_default_reference=is_default,
    )
    return evaluator, sources


def tell_default_reference(reference: str) -> None:
    """A line for the terminal where no --ref was given, unless --quiet was."""
    if _source_of("reference") is ParameterSource.DEFAULT and not click.get_current_context().params.get("quiet"):
        click.echo(f"fdr: note: no --ref was given; the reference is {reference}.", err=True)


def _refuse_two_folders(samples: Sequence[str], default: str) -> None:
    """Raise for `fdr eval FAKE REAL`, as other tools take the reference; both would be measured as samples."""
    if len(samples) == 2 and all(Path(item).is_dir() for item in samples):
        command = click.get_current_context().info_name
        raise click.UsageError(
            f"Two folders and no --ref: did you mean fdr {command} {samples[0]} --ref {samples[1]}? To measure both "
            f"against {default}, say --ref {default}."
        )


def _by_encoder(reference: str, reps: str) -> str | dict[str, str]:
    """ "inception=a.npz,dinov2=b.npz" as a dict, where every part names one of the encoders; else the text as it is."""
    from fdr.encoders import parse_encoders

    names = sorted(parse_encoders(reps), key=len, reverse=True)  # a longer one may begin like a shorter
    found = {}
    for part in reference.split(","):
        name = next((name for name in names if part.startswith(f"{name}=")), None)
        if name is None:
            return reference
        found[name] = part[len(name) + 1 :]
    return found


def is_typed(option: str) -> bool:
    """True when the option is on the command line; a default of a file or of the environment gives way."""
    return _source_of(option) is ParameterSource.COMMANDLINE


def flag(option: str) -> str:
    """A parameter of the command as it is typed: "num_images" -> "--num-images"."""
    parameters = click.get_current_context().command.params
    return next(parameter.opts[-1] for parameter in parameters if parameter.name == option)


def _source_of(option: str) -> ParameterSource | None:
    return click.get_current_context().get_parameter_source(option)


def _pairs(weights: tuple[str, ...]) -> dict[str, Path]:
    pairs: dict[str, Path] = {}
    for text in weights:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise click.BadParameter(f"{text!r} is not NAME=FILE.", param_hint="--weights")
        if pairs.get(name, Path(path)) != Path(path):
            both = f"{str(pairs[name])!r} and {path!r}"
            raise click.BadParameter(f"{name} was given two files, {both}.", param_hint="--weights")
        pairs[name] = Path(path)
    return pairs
