"""The most harmful images of a sample set and those nearest to the reference, with their nearest reference images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fdr.pages.class_tables import ClassTable, class_table
from fdr.pages.explained import Explained, ExplainedEncoder, ExplainedImage, set_of
from fdr.pages.image_sets import ImageSet, open_references_shown
from fdr.pages.paths import without_folders
from fdr.pages.pictures import Picture, PictureSize, embedded
from fdr.reports import Report, format_number

if TYPE_CHECKING:
    import numpy as np

HARMFUL, CLOSEST = "Images that raise FD most", "Images that lie nearest to a reference image"
_HINT = {
    "samples": "fdr report --images SAMPLES shows the images.",
    "reference": "fdr report --reference-images FOLDER shows the reference images beside them.",
    "closest": "fdr explain --closest N finds the images that lie nearest to a reference image.",
}


Cell = tuple[str, float | str]
"""A text, and the number or text that its column is sorted by."""
_NUMBERS = ("influence", "of FD", "distance", "of the median")
_CLASS_COLUMNS = ("influence", "count", "reference_count", "fd_debiased")


@dataclass(frozen=True)
class Pair:
    """An image of a sample set and its nearest reference image."""

    sample: Picture | None
    heat_map: Picture | None
    """The map of what FD looks at in it."""
    reference: Picture | None
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class PairTable:
    """The pairs of one sample set under one encoder."""

    title: str
    text: str
    pairs: tuple[Pair, ...]
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    """Sentences about what else could be shown, and the notes of the explanation."""

    @property
    def right(self) -> list[int]:
        """The columns of numbers."""
        return [place for place, name in enumerate(self.headers) if name in _NUMBERS]

    @property
    def beside(self) -> str:
        """The images that stand beside these, in words; "" if there are none."""
        shown = [pair for pair in self.pairs if pair.sample is not None]
        found = {
            "a heat-map of what FD looks at in it": any(pair.heat_map for pair in shown),
            "its nearest reference image": any(pair.reference for pair in shown),
        }
        return " and ".join(words for words, is_there in found.items() if is_there)

    @property
    def has_heat_maps(self) -> bool:
        return any(pair.heat_map is not None for pair in self.pairs)

    @property
    def has_pictures(self) -> bool:
        return any(pair.sample is not None or pair.reference is not None for pair in self.pairs)


@dataclass(frozen=True)
class Subject:
    """One explanation under the names of the page, with the images that are at hand."""

    name: str
    explained: Explained
    samples: ImageSet | None
    reference: ImageSet | None


def subjects_of(
    explained: Sequence[Explained],
    sets: Mapping[str, Report],
    names: Mapping[str, str],
    samples: Sequence[ImageSet],
    reference_paths: Sequence[str],
) -> list[Subject]:
    """Each explanation with its sets of images; `names` gives the names on the page by those of the sets.

    Raises `InputError` for reference images that are not there."""
    places = [(str(set_of(one, sets)), one) for one in explained]
    references = open_references_shown(reference_paths, {name: one.report for name, one in places})
    return [
        Subject(
            names[name],
            one,
            next((each for each in samples if each.name == name and not each.remark), None),
            next((each for each in references if _is_reference(each, one)), None),
        )
        for name, one in places
    ]


def _is_reference(images: ImageSet, one: Explained) -> bool:
    """True for the images that are the reference of an explanation."""
    digest = (one.report.reference or {}).get("digest")
    return not images.remark and digest in (None, images.source.digest)


def picture_count(subjects: Sequence[Subject]) -> int:
    """The number of pictures in the sections of these explanations."""
    return sum(
        (1 + (image.heat_map is not None)) * (each.samples is not None) + (each.reference is not None)
        for each in subjects
        for one in each.explained.encoders
        for image in (*one.worst, *one.closest)
    )


def pair_sections(
    subjects: Sequence[Subject], size: PictureSize, with_paths: bool
) -> list[tuple[str, list[PairTable]]]:
    """(heading, tables) of the most harmful images and of those nearest to the reference, without empty ones."""
    encoders = [(subject, one) for subject in subjects for one in subject.explained.encoders]
    writers = [_Writer(subject, one, size, with_paths) for subject, one in encoders]
    sections = [
        (HARMFUL, [writer.harmful() for writer in writers if writer.one.worst]),
        (CLOSEST, [writer.closest() for writer in writers if writer.one.closest]),
    ]
    return [(heading, tables) for heading, tables in sections if tables]


@dataclass(frozen=True)
class _Writer:
    """Writes the tables of one explanation under one encoder, with pictures of a size."""

    subject: Subject
    one: ExplainedEncoder
    size: PictureSize
    with_paths: bool

    def harmful(self) -> PairTable:
        one, images = self.one, "image" if self.one.worst_count == 1 else "images"
        text = (
            f"FD is {format_number(one.fd, 4)}. The worst 1 % ({one.worst_count:,} {images} of {one.count:,}) carry "
            f"{100 * one.worst_share:.3g} % of the influence that raises it; FD of the others is "
            f"{format_number(one.fd_without, 4)}."
        )
        hints = [] if one.median_distance is not None else [_HINT["closest"]]
        notes = [*hints, *map(self._kept, one.notes)]
        return self._table(one.worst, [self._cells(image) for image in one.worst], text, notes)

    def closest(self) -> PairTable:
        one, median = self.one, self.one.median_distance or 0.0
        text = (
            "If the reference is the training set, look here for copies. Percentages of distances are of the median "
            f"distance of all images to their nearest reference image, {format_number(median, 4)}."
        )
        return self._table(one.closest, [self._cells(image, median) for image in one.closest], text, [])

    def _table(
        self, images: Sequence[ExplainedImage], cells: Sequence[dict[str, Cell]], text: str, notes: Sequence[str]
    ) -> PairTable:
        near = [image.nearest for image in images if image.nearest is not None]
        samples, reference = self.subject.samples, self.subject.reference
        own = {} if samples is None else samples.read([image.id for image in images])
        other = {} if reference is None else reference.read(near)
        pairs = tuple(
            Pair(
                self._picture(own, image.id, "Sample"),
                self._heat_map(own.get(image.id), image),
                self._picture(other, image.nearest, "Reference image"),
                f"{number}. {facts['image'][0]}",
                tuple(_lines(facts)),
            )
            for number, (image, facts) in enumerate(zip(images, cells, strict=True), start=1)
        )
        columns = tuple(name for name in cells[0] if any(facts[name][0] for facts in cells))
        lacking = [*([] if own else [_HINT["samples"]]), *([] if other or not near else [_HINT["reference"]]), *notes]
        return PairTable(
            f"{self.subject.name}, {self.one.encoder}",
            text,
            pairs,
            columns,
            tuple(tuple(facts[name] for name in columns) for facts in cells),
            tuple(lacking),
        )

    def _picture(self, found: Mapping[str, Any], name: str | None, what: str) -> Picture | None:
        return embedded(found[name], f"{what} {self._kept(name)}", self.size) if name and name in found else None

    def _heat_map(self, pixels: np.ndarray | None, image: ExplainedImage) -> Picture | None:
        if pixels is None or image.heat_map is None:
            return None
        import numpy as np

        from fdr.explanation import HeatMap, overlay

        values, box = np.array(image.heat_map["values"], np.float32), tuple(image.heat_map["box"])
        drawn = overlay(pixels, HeatMap(values, box), self.size.side)
        return embedded(drawn, f"Heat-map of sample {self._kept(image.id)}", self.size)

    def _cells(self, image: ExplainedImage, median: float = 0.0) -> dict[str, Cell]:
        """The facts about an image by the heading of their column; "" for one that is not known."""
        distance = None if image.distance is None else format_number(image.distance, 3)
        return {
            "image": self._text(image.id),
            "class": self._text(image.label),
            "influence": (f"{image.influence:+.3g}", image.influence),
            "of FD": (_percent(image.influence / self.one.fd, "+") if self.one.fd > 0 else "", image.influence),
            "nearest reference image": self._text(image.nearest),
            "distance": (distance or "", image.distance or 0.0),
            "of the median": (
                _percent(image.distance / median) if median and image.distance is not None else "",
                image.distance or 0.0,
            ),
        }

    def _text(self, text: str | None) -> Cell:
        return (self._kept(text or ""),) * 2

    def _kept(self, text: str) -> str:
        return text if self.with_paths else without_folders(text)


def _lines(facts: Mapping[str, Cell]) -> Iterator[str]:
    """The caption of a pair."""
    for names in (("class",), ("influence", "of FD"), ("nearest reference image",), ("distance", "of the median")):
        first, *more = (facts[name][0] for name in names)
        if first:
            yield f"{names[0].removesuffix(' reference image')} {first}" + "".join(
                f" ({part})" for part in more if part
            )


def _percent(share: float, sign: str = "") -> str:
    """A share with two digits, and no exponent where it is large."""
    percent = 100 * share
    return f"{percent:{sign}.2g}\u00a0%" if abs(percent) < 99.5 else f"{percent:{sign},.0f}\u00a0%"


def class_influences(subjects: Sequence[Subject]) -> list[ClassTable]:
    """A table of the classes of every explanation that has them, from the class that raises FD most."""
    return [
        class_table(f"Influence on FD of {one.encoder}{f', {subject.name}' if len(subjects) > 1 else ''}", classes)
        for subject in subjects
        for one in subject.explained.encoders
        if (classes := {each["name"]: {name: each.get(name) for name in _CLASS_COLUMNS} for each in one.classes})
    ]
