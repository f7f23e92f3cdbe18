"""Sets of images of which a page shows some, opened as they were measured and compared with the digests of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError, warn
from fdr.reports import Report

if TYPE_CHECKING:
    import numpy as np

    from fdr.images import ImageOptions, ImageSource


@dataclass(frozen=True)
class ImageSet:
    """An opened set of images."""

    path: str
    source: ImageSource
    name: str | None
    """The name of the report that it belongs to; None if there is none."""
    remark: str = ""
    """Why these are not the images that were measured, in a sentence; "" if they are, or if nothing tells."""
    _known: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.source.ids)}

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """uint8 [H, W, 3] of the images of these names that are there and can be read."""
        import numpy as np

        from fdr.images import images_by_row

        rows = {name: self._rows[name] for name in names if name in self._rows}
        missing = sorted(set(rows.values()) - set(self._known))
        if missing:
            self._known.update(images_by_row(self.source, np.array(missing)))
        return {name: self._known[row] for name, row in rows.items() if row in self._known}


def open_samples_shown(paths: Sequence[str], sets: Mapping[str, Report]) -> list[ImageSet]:
    """The sample sets of `--images`, each with the report that it belongs to.

    That is the report of the same digest, else the one that names the same file, else the only one. Warns of images
    that are not those of their report. Raises `InputError` for images that are not there.
    """
    return [_opened(path, "--images", {name: report.samples for name, report in sets.items()}) for path in paths]


def open_references_shown(paths: Sequence[str], explained: Mapping[str, Report]) -> list[ImageSet]:
    """The references of `--reference-images` in the same way, for explanations by the name of their set.

    Raises `InputError` if there is no explanation, too."""
    if paths and not explained:
        raise InputError(
            "--reference-images shows the nearest reference images of an explanation, and none was given; add the file "
            "that fdr explain --json writes."
        )
    sides = {
        f"the reference of {name}": {**report.reference, "policy": report.samples.get("policy")}
        for name, report in explained.items()
        if report.reference is not None
    }
    return [_opened(path, "--reference-images", sides) for path in paths]


def _opened(path: str, option: str, sides: Mapping[str, Mapping[str, Any]]) -> ImageSet:
    plain = _open(path, option, _lenient())
    like = {name: side for name, side in sides.items() if PurePath(str(side["source"])).name == PurePath(path).name}
    sources = _as_measured(path, plain, {**like, **sides})
    for name, source in sources.items():
        if source is not None and _digest(sides[name]) is not None and _digest(sides[name]) == source.digest:
            return ImageSet(path, source, name)
    likely = next(iter(like), next(iter(sides)) if len(sides) == 1 else None)
    if likely is None:
        remark = f"The images of {path} are those of none of the reports." if sides else ""
        source = None
    else:
        source = sources[likely]
        remark = _difference(path, likely, source, plain, sides[likely])
    if remark:
        warn(remark)
    return ImageSet(path, plain if source is None else source, likely, remark)


def _difference(path: str, name: str, source: ImageSource | None, plain: ImageSource, side: Mapping[str, Any]) -> str:
    """In which way images are not those of a report; "" if nothing tells."""
    measured = _count(side)
    if source is None or (measured is not None and len(source) != measured):
        found = len(plain if source is None else source)
        return f"{path} holds {found:,} images, and {name} was measured on {measured or 0:,}: other images than those."
    if _digest(side) is None or _is_of_other_pillow(side):
        return ""
    return (
        f"{path} does not hold the images that {name} was measured on, for their digests differ; another format of the "
        "same images has another digest, too."
    )


def _count(side: Mapping[str, Any]) -> int | None:
    """The number of images that were given, the skipped ones included."""
    count = side.get("count")
    return None if count is None else int(count) + len(side.get("skipped") or ())


def _digest(side: Mapping[str, Any]) -> str | None:
    digest = side.get("digest")
    return digest if isinstance(digest, str) and digest else None


def _is_of_other_pillow(side: Mapping[str, Any]) -> bool:
    """True if another version of Pillow resized the images, which is a part of their digest."""
    import PIL

    return (side.get("policy") or {}).get("pillow") not in (None, PIL.__version__)


def _as_measured(
    path: str, plain: ImageSource, sides: Mapping[str, Mapping[str, Any]]
) -> dict[str, ImageSource | None]:
    """The source with the crop, size and subset of each report; None where it cannot be taken like that."""
    from fdr.images import open_images

    opened: dict[ImageOptions, ImageSource | None] = {plain.options: plain}
    options = {name: _options_of(side) for name, side in sides.items()}
    for one in options.values():
        if one not in opened:
            try:
                opened[one] = open_images(path, one)
            except InputError:  # such as a subset that is larger than the set
                opened[one] = None
    return {name: opened[one] for name, one in options.items()}


def _options_of(side: Mapping[str, Any]) -> ImageOptions:
    """The image options by which a side of a report was read."""
    policy, subset = side.get("policy") or {}, side.get("subset") or {}
    crop, _, size = str(policy.get("crop", "none")).rpartition("-")
    known = {name: policy[name] for name in ("alpha", "quantize") if name in policy}
    if crop:
        known |= {"crop": "none" if crop == "squash" else crop, "size": int(size)}
    return replace(_lenient(), **known, **{name: subset[name] for name in ("count", "seed") if name in subset})


def _lenient() -> ImageOptions:
    """Bad images are left out, since those of the report are known to be good."""
    from fdr.images import ImageOptions

    return ImageOptions(on_bad="skip", max_bad=1.0)


def _open(path: str, option: str, options: ImageOptions) -> ImageSource:
    from fdr.images import open_images

    try:
        return open_images(path, options)
    except InputError as error:
        raise InputError(
            f"The images of {option} cannot be shown: {str(error).removesuffix('.')}; if they have moved since "
            f"they were measured, name the place where they are now with {option}."
        ) from error
