"""`fdr explain`: which images and which classes raise FD most?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._measurement import Measurement, announce_failures, measurement_of_fd
from fdr.cli._outputs import Output, all_of, is_stdout, write_json, write_text
from fdr.cli._progress import progress_for
from fdr.cli._render import print_notes, print_table

if TYPE_CHECKING:
    from fdr.explanation import ClassShare, EncoderInfluences, Explanation


@click.command(
    "explain",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr explain samples.npz --ref real_images/ --reps dinov2\n\n"
    "  fdr explain samples/ --ref real_images/ --reps dinov2 --picture worst.png --heat-maps\n\n"
    "  fdr explain samples/ --ref stats.npz --reps inception,dinov2 --csv influences.csv --json explained.json\n\n"
    "  fdr explain --gen runs/a --ref real_images/ --reps dinov2 --picture worst.png",
)
@click.argument("samples", metavar="[SAMPLES]", nargs=-1)
@measurement_of_fd
@_options.option(
    "--show N", "Images, and classes, that the terminal lists from each end.", type=click.IntRange(1, 64), default=8
)
@_options.option(
    "--closest N",
    "Also find the N images that lie nearest to a reference image, which are copies if the reference is the training "
    "set. This compares all images with all reference images.",
    type=click.IntRange(0, 64),
    default=0,
)
@_options.option(
    "--picture FILE",
    "Write a PNG of the most and the least harmful images, as many as --show says, each beside its nearest reference "
    "image.",
    type=Output("png"),
)
@_options.switch(
    "--heat-maps",
    "Add maps of what FD looks at in the most and the least harmful images, to --picture and --json. They need an "
    "encoder with a spatial output (docs/explain.md).",
)
@_options.text_file("csv", "the influence of every image, in order, as CSV")
@_options.text_file("json", "FD, the influence of every image, the table of classes and heat-maps as JSON")
@_options.dry_run
@_options.quiet
def command(
    samples: tuple[str, ...],
    measurement: Measurement,
    show: int,
    closest: int,
    picture: Path | None,
    heat_maps: bool,
    csv_path: Path | None,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Say which images and which classes of SAMPLES, or of a generator (--gen), raise FD most.

    The influence of an image is the amount by which FD would fall if the image were left out. It is above 0 for an
    image that raises FD and below 0 for one that lowers it. Samples with labels also give a table of classes; a
    reference of images with labels adds the debiased FD of each class that has images enough. SAMPLES is one sample
    set, of any kind that fdr eval takes (docs/explain.md).
    """
    from fdr.explanation import check_drawable, explain_with, plan_of, write_picture

    _check_one_set(samples, measurement)
    if heat_maps and picture is None and json_path is None:
        raise click.UsageError("--heat-maps goes with --picture, which shows them, or --json, which stores them.")
    with measurement.computing.on_ranks(progress_for(quiet)) as setup:
        evaluator, (source,) = measurement.prepare(samples, setup, dry_run=dry_run)
        if picture is not None:
            check_drawable(source)
        if dry_run:
            for line in plan_of(evaluator, source, closest, heat_maps=heat_maps) if setup.is_main else ():
                click.echo(line)
            return 0
        found = explain_with(evaluator, source, show, closest, heat_maps=heat_maps)
    if found is None:
        return 0  # another rank prints
    draws: list[Callable[[], object]] = []
    if picture is not None:
        draws.append(lambda: write_picture(found, source, evaluator.reference.images, picture, show))
    all_of(lambda: _write(found, csv_path, json_path, show), *draws)
    if picture is not None and not (is_stdout(csv_path) or is_stdout(json_path)):
        click.echo(f"picture: {picture}")
    return announce_failures([found.report])


def _check_one_set(samples: tuple[str, ...], measurement: Measurement) -> None:
    count = len(samples) + (measurement.drawn is not None)
    if count == 0:
        raise click.UsageError("Name a sample set, or a generator with --gen.")
    if count > 1:
        raise click.UsageError(
            f"fdr explain explains one sample set, and {count} were named, but an influence belongs to its set. Run it "
            "once for each."
        )


def _write(found: Explanation, csv_path: Path | None, json_path: Path | None, show: int) -> None:
    actions: list[Callable[[], object]] = []
    if csv_path is not None:
        actions.append(lambda: write_text(csv_path, found.to_csv()))
    if json_path is not None:
        actions.append(lambda: write_json(json_path, found.to_dict()))
    if not (is_stdout(csv_path) or is_stdout(json_path)):
        actions.append(lambda: _print(found, show))
    all_of(*actions)


def _print(found: Explanation, show: int) -> None:
    assert found.report.reference is not None
    click.echo(f"samples    {found.report.samples['source']}\nreference  {found.report.reference['name']}")
    for one in found.encoders:
        click.echo()
        for line in _summary(one):
            click.echo(line)
        _print_images(found, one, show)
        _print_closest(found, one)
        if one.classes is not None:
            _print_classes(one.classes, show)
        for note in one.notes:
            click.echo(f"note: {one.encoder}: {note}")
    print_notes([found.report])


def _summary(one: EncoderInfluences) -> Iterator[str]:
    from fdr.reports import format_number, format_stderr

    error = "" if one.stderr is None else f" ± {format_stderr(one.stderr)}"
    if one.fd <= 0:
        yield "The samples have mean and covariance of the reference, so that no image raises FD."
        return
    images = "1 image" if one.worst_count == 1 else f"{one.worst_count} images"
    yield f"{one.encoder}: FD {format_number(one.fd)}{error}, N = {len(one.rows)}"
    yield (
        f"The worst 1 % ({images}) carry {100 * one.worst_share:.1f} % of the influence that raises FD; FD of the "
        f"others is {format_number(one.fd_without_worst)}."
    )


def _print_images(found: Explanation, one: EncoderInfluences, show: int) -> None:
    """The most harmful images, then the least harmful ones."""
    ranked = found.ranked(one)
    worst, best = one.ends(show)
    texts = [*(["class"] if found.labels is not None else []), *(["nearest"] if one.nearest else [])]
    rows = [
        [str(line["rank"]), line["id"], *_amounts(line["influence"], one), *(line[name] for name in texts)]
        for line in [*ranked[: len(worst)], *ranked[len(ranked) - len(best) :]]
    ]
    numbers = ("influence", "of FD")
    headers = {"class": "class", "nearest": "nearest reference image"}
    print_table(("rank", "image", *numbers, *(headers[name] for name in texts)), rows, right=("rank", *numbers))


def _print_closest(found: Explanation, one: EncoderInfluences) -> None:
    """The images nearest to a reference image, where they were asked for."""
    if one.median_distance is None:
        return
    rows = [
        [found.ids[one.rows[place]], f"{near.distance:.4g}", found.reference_ids[near.row]]
        for place in one.closest
        for near in [one.nearest[place]]
    ]
    print_table(("closest image", "distance", "nearest reference image"), rows, right=("distance",))
    click.echo(f"The median distance of all images to their nearest reference image is {one.median_distance:.4g}.")


def _amounts(influence: float, one: EncoderInfluences) -> tuple[str, str]:
    """An influence, and its share of FD."""
    share = f"{100 * influence / one.fd:+.3g} %" if one.fd > 0 else ""
    return f"{influence:+.4g}", share


def _print_classes(classes: Sequence[ClassShare], show: int) -> None:
    from fdr.reports import format_number

    shown = classes if len(classes) <= 2 * show else [*classes[:show], *classes[-show:]]
    rows = [
        (
            one.name,
            str(one.count),
            "" if one.reference_count is None else str(one.reference_count),
            f"{one.influence:+.4g}",
            "" if one.fd_debiased is None else format_number(one.fd_debiased),
        )
        for one in shown
    ]
    headers = ("class", "N", "N of reference", "influence", "debiased FD")
    print_table(headers, rows, right=headers[1:])
    if len(shown) < len(classes):
        click.echo(f"{len(classes) - len(shown)} of {len(classes)} classes are not listed; --json has all.")
