"""Class labels of images, from class folders, from a dataset.json, or from an array beside the images."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fdr.errors import warn
from fdr.runtime import DAMAGE

DATASET_JSON = "dataset.json"
"""The file of labels of StyleGAN and EDM, in the folder of the images or above it."""
MAX_JSON_BYTES = 1 << 30
"""A longer dataset.json is not read. Raising it lets a hostile file take more memory."""
_MAX_CLASSES = 100_000
"""A one-hot array with more columns is not taken as labels."""
_SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "eval", "dev", "test", "testing", "holdout", "unlabeled")
)
_WORDS = (
    "rank|shard|part|gpu|cuda|device|chunk|split|batch|worker|proc|process|node|job|task|thread|seed|run|fold|subset|"
    "block|bucket|slice|out|output|sample|image|img|step|epoch|iter|dir|folder"
)
_CHUNK = re.compile(
    rf"([-_. ]*({_WORDS})s?[-_. ]*\d+)+([-_. ]*of[-_. ]*\d+)?|\d+[-_. ]*(of|to|-)[-_. ]*\d+", re.IGNORECASE
)
_PADDED = re.compile(r"0\d{4,}|\d{5,}")
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class Labels:
    """One class number for each image."""

    values: np.ndarray
    """int64 [N]"""
    names: tuple[str, ...] | None
    """The name of class 0, 1, ...; None if classes have no names."""
    origin: str
    """Where the labels were found: "class folders", "dataset.json", "arr_1"."""


def labels_of_files(
    where: str, images: Sequence[str], others: Iterable[str], read: Callable[[str], bytes]
) -> Labels | None:
    """The labels of image files: those of the dataset.json above them, which `read` reads, or of class folders.

    Names are POSIX paths. Warns if several parts of a split (train, val) are measured as one set.
    """
    if splits := split_folders(images):
        warn(f"{where} holds {', '.join(splits)}, which are measured as one set; give one folder to take it alone.")
    lists = sorted(
        (name for name in others if name.rpartition("/")[2] == DATASET_JSON), key=lambda n: (n.count("/"), n)
    )
    folder = lists[0].removesuffix(DATASET_JSON) if lists else ""
    if lists and all(name.startswith(folder) for name in images):
        names = [name.removeprefix(folder) for name in images]
        is_read, labels = json_labels(read(lists[0]), f"{where}: {lists[0]}", names)
        if is_read:
            return labels
    return folder_labels(images)


def folder_labels(names: Sequence[str]) -> Labels | None:
    """Labels by the first level of folders that are classes, numbered in sorted order; None if no level is.

    These folders are not classes: one around all images, the parts of a split (train, val), numbered parts of one set
    (rank0, shard-00001), and chunks of consecutive images (00000, 00001).
    """
    below = without_common_folder(names)
    while below and all("/" in name for name in below):
        firsts = [name.partition("/")[0] for name in below]
        classes = tuple(sorted(set(firsts)))
        if len(classes) > 1 and not _are_parts(classes, below):
            number = {name: index for index, name in enumerate(classes)}
            return Labels(np.array([number[name] for name in firsts], dtype=np.int64), classes, "class folders")
        below = [name.partition("/")[2] for name in below]
    return None


def without_common_folder(names: Sequence[str]) -> list[str]:
    """The names below the deepest folder that holds all of them. Archives often have one folder around everything."""
    folders = {name[: name.rfind("/") + 1] for name in names}
    common = os.path.commonprefix([min(folders, default=""), max(folders, default="")])  # noqa: RUF071
    below = common.rfind("/") + 1
    return [name[below:] for name in names]


def _are_parts(folders: Sequence[str], names: Sequence[str]) -> bool:
    """True if these folders divide one set in another way than by class."""
    if all(folder.lower() in _SPLITS for folder in folders) or all(_CHUNK.fullmatch(folder) for folder in folders):
        return True
    if not all(folder.isascii() and folder.isdigit() for folder in folders):
        return False
    return all(_PADDED.fullmatch(folder) for folder in folders) or _continue_one_count(names)


def _continue_one_count(names: Sequence[str]) -> bool:
    """True if the image numbers of each numbered folder continue those of the folder before."""
    spans: dict[int, list[int]] = {}
    for name in names:
        found = _LAST_NUMBER.search(name.rpartition("/")[2].partition(".")[0])
        if found is None:
            return False
        number = int(found[1])
        low, high = spans.setdefault(int(name.partition("/")[0]), [number, number])
        spans[int(name.partition("/")[0])] = [min(low, number), max(high, number)]
    ordered = [spans[folder] for folder in sorted(spans)]
    return all(before[1] < after[0] for before, after in itertools.pairwise(ordered))


def split_folders(names: Sequence[str]) -> list[str]:
    """The parts of a split that lie side by side, such as train and val; empty if there are fewer than two."""
    found = sorted({name.partition("/")[0] for name in without_common_folder(names) if "/" in name})
    return found if len(found) > 1 and all(folder.lower() in _SPLITS for folder in found) else []


def json_labels(text: bytes, where: str, names: Sequence[str]) -> tuple[bool, Labels | None]:
    """Whether `text` is a dataset.json of StyleGAN or EDM, and the labels that it has for all of `names`.

    The names are relative to the folder of the file. Warns of labels that cannot be used.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or "labels" not in data:
            return False, None
        if data["labels"] is None:
            return True, None
        pairs = list(data["labels"].items()) if isinstance(data["labels"], dict) else data["labels"]
        if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            return False, None
        known = {str(name).replace("\\", "/").removeprefix("./"): label for name, label in pairs}
        missing = [name for name in names if name not in known]
        if missing:
            warn(f"{where} has no label for {len(missing)} of {len(names)} images ({missing[0]}), so none is used.")
            return True, None
        values = np.array([known[name] for name in names])
    except DAMAGE as error:
        warn(f"{where} cannot be read, so there are no labels ({' '.join(str(error).split())[:100]}).")
        return True, None
    labels = array_labels(values, DATASET_JSON) if may_be_labels(values.shape, values.dtype, len(names)) else None
    if labels is None:
        warn(f"{where} has labels that are neither whole numbers nor one-hot, so none is used.")
    return True, labels


def may_be_labels(shape: tuple[int, ...], dtype: np.dtype, count: int) -> bool:
    """True for an array [N], [N, 1] or [N, K] of numbers, N the number of images."""
    is_sized = len(shape) in (1, 2) and shape[0] == count and (len(shape) == 1 or 0 < shape[1] <= _MAX_CLASSES)
    return is_sized and dtype.kind in "iufb"


def array_labels(values: np.ndarray, origin: str, names: Sequence[str] | None = None) -> Labels | None:
    """Whole numbers [N] or [N, 1] of any type, or one-hot rows [N, K], as labels; None for other values."""
    names = None if names is None else tuple(map(str, names))
    if values.ndim == 2 and values.shape[1] > 1:
        is_one_hot = ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()
        return Labels(values.argmax(axis=1).astype(np.int64), names, origin) if is_one_hot else None
    flat = values.reshape(-1)
    if flat.dtype.kind == "f" and not (np.isfinite(flat).all() and (flat == np.rint(flat)).all()):
        return None
    if flat.size and np.abs(flat.astype(np.float64)).max() >= 2**63:
        return None
    return Labels(flat.astype(np.int64), names, origin)
