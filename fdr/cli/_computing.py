"""Where and how a command computes: devices, ranks, precision, cache and weight files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from fdr.cli._options import Decorator, cache_dir, offline, stack, switch, theme, weights_dir
from fdr.cli._ranks import ranks
from fdr.errors import WeightsError
from fdr.runtime import Progress, SilentProgress, human_bytes

if TYPE_CHECKING:
    from fdr.encoders import EncoderOptions
    from fdr.features import ExtractionOptions
    from fdr.runtime import Group

device = click.option(
    "--device",
    default="auto",
    metavar="DEVICE",
    help="Where to compute: cpu, cuda, cuda:N, or auto, which takes a GPU if there is one.",
)


def gpus(divided: str) -> Decorator:
    """--gpus, with what it divides among them."""
    return click.option(
        "--gpus",
        type=click.IntRange(1),
        metavar="N",
        help=f"Divide {divided} among N GPUs of this machine, or among N processes with --device cpu. For several "
        "machines, start fdr with torchrun or srun.",
    )


def batch_size(meaning: str) -> Decorator:
    """--batch-size, with what is in a batch."""
    return click.option("--batch-size", type=int, metavar="N", help=f"{meaning}.  [default: 32 on a CPU, 128 on a GPU]")


exact_order = switch(
    "--exact-order", help="Compute in the same order of operations as the tool that an encoder comes from; slower."
)
no_cache = switch("--no-cache", help="Do not read or write cached features.")
moments_only = switch(
    "--moments-only",
    help="Store running sums instead of features, which saves disk space for very many images. A killed run still "
    "resumes.",
)
encoding = stack(
    device,
    gpus("the work"),
    batch_size("Images per forward pass of an encoder"),
    click.option(
        "--num-workers", type=int, metavar="N", help="Threads that decode images.  [default: one per processor]"
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bf16"]),
        default="float32",
        help="Precision of the encoders. bf16 is faster and changes FD by about 1 %; it is refused on hardware that is "
        "slow at it.",
    ),
    switch("--tf32", help="Allow TF32 on the GPU: faster, and changes FD by about 0.3 %."),
    cache_dir,
    weights_dir,
    click.option(
        "--weights",
        multiple=True,
        metavar="NAME=FILE",
        help="Load the weights of encoder NAME from FILE; may be repeated.",
    ),
    offline,
)
"""What every command that runs encoders takes."""


@dataclass(frozen=True)
class Computing:
    """Where and how a command computes; a command has options for those fields that matter to it."""

    device: str
    gpus: int | None
    batch_size: int | None = None
    num_workers: int | None = None
    dtype: str = "float32"
    tf32: bool = False
    exact_order: bool = False
    cache: Path | None = None
    no_cache: bool = False
    moments_only: bool = False
    weights_dir: Path | None = None
    weights: tuple[str, ...] = ()
    offline: bool = False

    @contextmanager
    def on_ranks(self, progress: Progress) -> Iterator[Setup]:
        """What this process does of the command: all of it, or the share of one rank; see `fdr.cli._ranks`."""
        if self.no_cache and self.cache is not None:
            raise click.UsageError("--cache and --no-cache exclude each other.")
        if self.no_cache and self.moments_only:
            raise click.UsageError("--moments-only keeps its sums in the cache; leave out --no-cache.")
        with ranks(self.gpus) as group:
            yield self._setup(progress if group.rank == 0 else SilentProgress(), group)

    def _setup(self, progress: Progress, group: Group) -> Setup:
        from fdr.encoders import EncoderOptions
        from fdr.features import ExtractionOptions
        from fdr.runtime import feature_cache_dir, rank_device, rank_facts, share_processors

        device, num_workers = self.device, self.num_workers
        if group.size > 1:
            facts = rank_facts()
            device = rank_device(device, facts, needs_gpu=self.gpus is not None)
            share = share_processors(facts)
            num_workers = share if num_workers is None else num_workers
        folder = None if self.no_cache else self.cache or feature_cache_dir()
        return Setup(
            EncoderOptions(
                weights_dir=self.weights_dir,
                offline=self.offline or None,
                progress=progress,
                device=device,
                dtype=self.dtype,
                exact_order=self.exact_order,
                tf32=self.tf32,
            ),
            ExtractionOptions(folder, self.batch_size, num_workers, progress, self.moments_only, group),
            _files_by_encoder(self.weights),
        )


def computing(*options: Decorator) -> Decorator:
    """These options as the argument `computing` of a command."""
    return theme("computing", Computing, *options)


@dataclass(frozen=True)
class Setup:
    """The library's options for one process, which may be one of several ranks."""

    encoder_options: EncoderOptions
    extraction_options: ExtractionOptions
    weights: Mapping[str, Path]
    """Explicit weight files by encoder name."""

    @property
    def group(self) -> Group:
        """The ranks that share the work."""
        return self.extraction_options.group

    @property
    def is_main(self) -> bool:
        """True for the rank that prints and writes."""
        return self.group.rank == 0

    def check_files(self, reps: str, reference: str | None, *, dry_run: bool) -> None:
        """List the files that are missing and end the command, in a dry run; raise `WeightsError` in an offline one.

        They are those of the encoders `reps` and of the named reference. A run that may use the network fetches them.
        """
        from fdr.runtime import is_offline

        offline = is_offline(self.encoder_options.offline)
        if not (dry_run or offline):
            return
        encoders, statistics = self._missing_weights(reps), self._missing_statistics(reps, reference)
        found = encoders + statistics
        if not found or (len(found) == 1 and not dry_run):  # the loader has a longer sentence about one file
            return
        where = "the run is offline" if offline else "a run would fetch what is missing"
        unknown = " and more of unknown size" if any(file.size is None for file in found) else ""
        many = "1 file is" if len(found) == 1 else f"{len(found)} files are"
        total = human_bytes(sum(file.size or 0 for file in found))
        head = f"{many} not on this machine ({total}{unknown}), and {where}"
        command = " && ".join(self._fetching(encoders, statistics, reference))
        if not dry_run:
            listed = ", ".join(dict.fromkeys(file.owner for file in found))
            raise WeightsError(f"{head}: {listed}. Where there is a network: {command}.")
        if self.is_main:
            click.echo("\n".join((f"{head}:", *map(str, found), f"Fetch with: {command}")))
        raise click.exceptions.Exit(2 if offline else 0)

    def _missing_weights(self, reps: str) -> list[_Missing]:
        from fdr.encoders import holdings, parse_encoders

        names = [name for name in parse_encoders(reps) if name not in self.weights]
        files = holdings(names, self.encoder_options.weights_dir) if names else []
        return [
            _Missing(",".join(one.encoders), one.file.filename, one.file.size, one.encoders)
            for one in files
            if one.path is None
        ]

    def _missing_statistics(self, reps: str, reference: str | None) -> list[_Missing]:
        from fdr.encoders import parse_encoders
        from fdr.references import files_of, registry

        if reference is None or reference not in registry() or Path(reference).expanduser().exists():
            return []
        entry = registry()[reference]
        names = [name for name in parse_encoders(reps) if name in entry.encoders]
        files = files_of(entry, self.encoder_options.weights_dir, names) if names else []
        return [
            _Missing(reference, one.file.filename, one.file.size, one.encoders) for one in files if one.path is None
        ]

    def _fetching(self, encoders: list[_Missing], statistics: list[_Missing], reference: str | None) -> Iterator[str]:
        folder = self.encoder_options.weights_dir
        place = "" if folder is None else f" --weights-dir {folder}"
        if encoders:
            yield f"fdr weights fetch {','.join(file.owner for file in encoders)}{place}"
        if statistics:
            names = dict.fromkeys(name for file in statistics for name in file.encoders)
            yield f"fdr references fetch {reference} --reps {','.join(names)}{place}"


class _Missing(NamedTuple):
    """A file that a run needs and that is not on this machine."""

    owner: str
    name: str
    size: int | None
    encoders: tuple[str, ...]

    def __str__(self) -> str:
        size = "" if self.size is None else f" ({human_bytes(self.size)})"
        return f"  {self.owner}: {self.name}{size}"


def _files_by_encoder(weights: tuple[str, ...]) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for text in weights:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise click.BadParameter(f"{text!r} is not NAME=FILE.", param_hint="--weights")
        if found.get(name, Path(path)) != Path(path):
            both = f"{str(found[name])!r} and {path!r}"
            raise click.BadParameter(f"{name} was given two files, {both}.", param_hint="--weights")
        found[name] = Path(path)
    return found
