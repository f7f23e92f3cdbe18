"""Where and how a command computes: devices, ranks, precision, cache and weight files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._options import Decorator, cache_dir, offline, option, stack, switch, theme, weights_dir
from fdr.cli._ranks import ranks
from fdr.errors import WeightsError
from fdr.runtime import Progress, SilentProgress, human_bytes

if TYPE_CHECKING:
    from fdr.encoders import EncoderOptions
    from fdr.features import ExtractionOptions
    from fdr.runtime import Group
    from fdr.weights import Holding

device = option(
    "--device DEVICE",
    "Where to compute: cpu, cuda, cuda:N, or auto, which takes a GPU if there is one.",
    default="auto",
)


def gpus(divided: str) -> Decorator:
    """--gpus, with what it divides among them."""
    return option(
        "--gpus N",
        f"Divide {divided} among N GPUs of this machine, or among N processes with --device cpu. For several "
        "machines, start fdr with torchrun or srun.",
        type=click.IntRange(1),
    )


def batch_size(meaning: str, others: str = "") -> Decorator:
    """--batch-size, with what is in a batch, and the defaults of `others` than networks."""
    return option("--batch-size N", f"{meaning}.  [default: 32 on a CPU, 128 on a GPU{others}]", type=int)


exact_order = switch(
    "--exact-order", "Compute in the same order of operations as the tool that an encoder comes from; slower."
)
no_cache = switch("--no-cache", "Do not read or write cached features.")
moments_only = switch(
    "--moments-only",
    "Store running sums instead of features, which saves disk space for very many images. A killed run still resumes.",
)
encoding = stack(
    device,
    gpus("the work"),
    batch_size("Images per forward pass of an encoder"),
    option("--num-workers N", "Threads that decode images.  [default: one per processor]", type=int),
    option(
        "--dtype",
        "Precision of the encoders. bf16 is faster and changes FD by about 1 %; it is refused on hardware that is "
        "slow at it.",
        type=click.Choice(["float32", "bf16"]),
        default="float32",
    ),
    switch("--tf32", "Allow TF32 on the GPU: faster, and changes FD by about 0.3 %."),
    cache_dir,
    weights_dir,
    option("--weights NAME=FILE", "Load the weights of encoder NAME from FILE; may be repeated.", multiple=True),
    offline,
)
"""The options of every command that runs encoders."""


@dataclass(frozen=True)
class Computing:
    """Where and how a command computes. A field that is no option of the command keeps its default."""

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
        """Run the block on every rank that shares the work, with the options of that rank; see `fdr.cli._ranks`."""
        if self.no_cache and self.cache is not None:
            raise click.UsageError("--cache and --no-cache exclude each other.")
        if self.no_cache and self.moments_only:
            raise click.UsageError("--moments-only keeps its sums in the cache; leave out --no-cache.")
        with ranks(self.gpus) as group:
            yield self._setup(progress if group.rank == 0 else SilentProgress(), group)

    def _setup(self, progress: Progress, group: Group) -> Setup:
        from fdr.encoders import EncoderOptions
        from fdr.features import ExtractionOptions
        from fdr.runtime import feature_cache_dir, rank_device, rank_place, share_processors

        device, num_workers = self.device, self.num_workers
        if group.size > 1:
            place = rank_place()
            device = rank_device(device, place, needs_gpu=self.gpus is not None)
            share = share_processors(place)
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
        weights, statistics = self._missing_weights(reps), self._missing_statistics(reps, reference)
        files = [(",".join(one.encoders), one.file) for one in weights]
        files += [(str(reference), one.file) for one in statistics]
        if not files or (len(files) == 1 and not dry_run):  # the loader has a longer sentence about one file
            return
        where = "the run is offline" if offline else "a run would fetch what is missing"
        unknown = " and more of unknown size" if any(file.size is None for _, file in files) else ""
        many = "1 file is" if len(files) == 1 else f"{len(files)} files are"
        total = human_bytes(sum(file.size or 0 for _, file in files))
        head = f"{many} not on this machine ({total}{unknown}), and {where}"
        place = "" if self.encoder_options.weights_dir is None else f" --weights-dir {self.encoder_options.weights_dir}"
        names = ",".join(dict.fromkeys(name for one in statistics for name in one.encoders))
        commands = (
            [f"fdr weights fetch {','.join(','.join(one.encoders) for one in weights)}{place}"] if weights else []
        )
        commands += [f"fdr references fetch {reference} --reps {names}{place}"] if statistics else []
        if not dry_run:
            listed = ", ".join(dict.fromkeys(owner for owner, _ in files))
            raise WeightsError(f"{head}: {listed}. Where there is a network: {' && '.join(commands)}.")
        if self.is_main:
            sizes = ["" if file.size is None else f" ({human_bytes(file.size)})" for _, file in files]
            lines = [f"  {owner}: {file.filename}{size}" for (owner, file), size in zip(files, sizes, strict=True)]
            click.echo("\n".join((f"{head}:", *lines, f"Fetch with: {' && '.join(commands)}")))
        raise click.exceptions.Exit(2 if offline else 0)

    def _missing_weights(self, reps: str) -> list[Holding]:
        from fdr.encoders import holdings, parse_encoders

        names = [name for name in parse_encoders(reps) if name not in self.weights]
        files = holdings(names, self.encoder_options.weights_dir) if names else []
        return [file for file in files if file.path is None]

    def _missing_statistics(self, reps: str, reference: str | None) -> list[Holding]:
        from fdr.encoders import parse_encoders
        from fdr.references import files_of, registry

        if reference is None or reference not in registry() or Path(reference).expanduser().exists():
            return []
        entry = registry()[reference]
        names = [name for name in parse_encoders(reps) if name in entry.encoders]
        files = files_of(entry, self.encoder_options.weights_dir, names) if names else []
        return [file for file in files if file.path is None]


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
