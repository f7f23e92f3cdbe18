"""The Classification Accuracy Score (CAS) and the Naive Augmentation Score (NAS) of Ravuri & Vinyals (2019).

A classifier is trained from scratch on samples alone (CAS), on real images alone (the yardstick), and on both (NAS), by
one recipe and for the same number of steps, and tested on real images that none of them saw.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdr._version import __version__
from fdr.errors import InputError
from fdr.evaluation import check_labelled, labels_digest, labels_of
from fdr.images import ImageSource
from fdr.metrics import Labelled, class_keys, in_order, listed
from fdr.runtime import (
    Progress,
    SilentProgress,
    decode_json,
    human_bytes,
    package_versions,
    resolve_device,
    write_atomically,
)
from fdr.training.classifiers.recipes import Recipe
from fdr.training.folder import LOCK_NAME, locked

SCHEMA = "fdr-cas/1"
OPTIONS_NAME = "cas.json"
TRAINED_ON = {"samples": ("samples",), "real": ("real",), "both": ("samples", "real")}
"""The sets that each classifier is trained on."""
TOP = 5


@dataclass(frozen=True)
class CasSets:
    """The sets of images, opened with the options of the recipe."""

    samples: ImageSource
    real: ImageSource
    """Real training images."""
    validation: ImageSource
    """Real images that neither the classifiers nor the generator saw."""

    def items(self) -> Iterator[tuple[str, ImageSource]]:
        """The sets by name."""
        yield from (("samples", self.samples), ("real", self.real), ("validation", self.validation))


@dataclass(frozen=True)
class CasOptions:
    """What is trained."""

    recipe: Recipe
    seed: int = 0
    train_on: tuple[str, ...] = ("samples", "real", "both")
    """Names in `TRAINED_ON`."""
    device: str | None = None
    progress: Progress = field(default_factory=SilentProgress)

    def __post_init__(self) -> None:
        unknown = [name for name in self.train_on if name not in TRAINED_ON]
        if unknown or not self.train_on:
            raise InputError(f"Classifiers are trained on {', '.join(TRAINED_ON)}; got {', '.join(unknown) or 'none'}.")


def plan_cas(sets: CasSets, out: Path, options: CasOptions) -> Iterator[str]:
    """Describe what `cas_scores` would do, a line for each thing; nothing is computed or written."""
    recipe, (names, _, notes) = options.recipe, _classes(sets)
    yield (
        f"recipe {recipe.name}: {recipe.network}, {recipe.steps} steps of {recipe.batch_size} images, "
        f"learning rate {recipe.lr:g}, seed {options.seed}; {len(names)} classes"
    )
    side = recipe.stored_size
    for name, source in sets.items():
        size = "their size" if side is None else f"{side} x {side}, {human_bytes(len(source) * side**2 * 3)} on disk"
        yield f"{name}: {source.name}, {len(source)} images, {size}"
    yield f"classifiers trained on: {', '.join(options.train_on)}; state and pixels in {out}"
    yield from (f"note: {note}" for note in notes)


def cas_scores(sets: CasSets, out: Path, options: CasOptions) -> dict[str, Any]:
    """Train the classifiers, test them, and return the report (schema fdr-cas/1). `out` keeps the state: the same call
    goes on after a kill.

    Raises `InputError` for sets without labels or without a shared class, images of several sizes, and an `out` that
    belongs to other options; `RunError` if a training diverges.
    """
    names, classes, notes = _classes(sets)
    with locked(out):
        _own_folder(out, sets, options)
        return _scores(sets, out, options, names, classes, notes)


def _scores(
    sets: CasSets,
    out: Path,
    options: CasOptions,
    names: Sequence[str],
    classes: Mapping[str, np.ndarray],
    notes: Sequence[str],
) -> dict[str, Any]:
    from fdr.training.classifiers.fitting import Task, fit, ranks_of_truth
    from fdr.training.classifiers.pixels import Batches, store_pixels

    device = resolve_device(options.device)
    stored = {
        name: store_pixels(source, classes[name], out / f"{name}.npy", options.progress)
        for name, source in sets.items()
        if name == "validation" or any(name in TRAINED_ON[one] for one in options.train_on)
    }
    if len({pixels.images.shape[1:] for pixels in stored.values()}) > 1:
        sizes = ", ".join(f"{name} {p.images.shape[2]} x {p.images.shape[1]}" for name, p in stored.items())
        raise InputError(f"All sets must have images of one size; they have {sizes} pixels.")
    _check_size(stored["validation"].images.shape, options.recipe)
    ranks = {}
    for one in options.train_on:
        task = Task(options.recipe, len(names), options.seed, out / f"{one}.pt", device, f"trained on {one}")
        batches = Batches([stored[name] for name in TRAINED_ON[one]], options.recipe, options.seed)
        model = fit(task, batches, options.progress)
        ranks[one] = ranks_of_truth(model, stored["validation"], batches, task, options.progress)
    counts = {one: sum(len(stored[name]) for name in TRAINED_ON[one]) for one in options.train_on}
    return _report(sets, options, names, classes["validation"], ranks, counts, notes, str(device))


def _classes(sets: CasSets) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    """The names of all classes; the class of each image of each set as a place in them; notes."""
    sides = {}
    for name, source in sets.items():
        check_labelled(source, {"samples": "samples", "real": "training"}.get(name, "reference"), "cas")
        labels = labels_of(source)
        assert labels is not None
        sides[name] = Labelled(
            None, labels, None if source.class_names is None else tuple(source.class_names), source.name
        )
    keys, is_by_number = class_keys(list(sides.values()))
    names = in_order(key for side in keys for key in side)
    place = {name: index for index, name in enumerate(names)}
    found = {name: np.array([place[key] for key in side], np.int64) for name, side in zip(sides, keys, strict=True)}
    tested = set(keys[2])
    notes = ["classes were matched by number, as one of the sets has no names"] if is_by_number else []
    for name, side in zip(("samples", "real"), keys, strict=False):
        if not tested & set(side):
            raise InputError(
                f"No class of the {name} ({listed(in_order(side))}) is one of {sets.validation.name} "
                f"({listed(in_order(tested))}); give all sets the same class names or numbers."
            )
        if missing := in_order(tested - set(side)):
            notes.append(f"the {name} lack {len(missing)} classes, whose accuracy is 0: {listed(missing)}")
    return names, found, notes


def _check_size(shape: Sequence[int], recipe: Recipe) -> None:
    size = recipe.input_size
    wrong = size is not None and (
        min(shape[1:3]) < size or (recipe.augmentation == "pad" and set(shape[1:3]) != {size})
    )
    if wrong:
        raise InputError(
            f"The recipe {recipe.name} takes images of {size} x {size} pixels, and these have {shape[2]} x {shape[1]}; "
            "give images of that size, or another --recipe."
        )


def _own_folder(out: Path, sets: CasSets, options: CasOptions) -> None:
    """Make `out` the folder of these options. Raises `InputError` if it belongs to others."""
    identity = {
        "recipe": json.loads(json.dumps(asdict(options.recipe))),
        "seed": options.seed,
        **{name: {"digest": source.digest, "labels": labels_digest(source)} for name, source in sets.items()},
    }
    path = out / OPTIONS_NAME
    if path.exists():
        before = decode_json(path.read_bytes()).get("identity", {})
        differing = [key for key in identity if identity[key] != before.get(key)]
        if differing:
            raise InputError(
                f"{str(out)!r} holds classifiers of other options: {', '.join(differing)} changed; name another --out."
            )
        return
    if any(item.name != LOCK_NAME for item in out.iterdir()):
        raise InputError(f"{str(out)!r} is not empty and holds no run of fdr cas; name another --out.")
    write_atomically(path, json.dumps({"schema": SCHEMA, "identity": identity}, indent=2) + "\n")


def _report(
    sets: CasSets,
    options: CasOptions,
    names: Sequence[str],
    truth: np.ndarray,
    ranks: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
    notes: Sequence[str],
    device: str,
) -> dict[str, Any]:
    recipe = json.loads(json.dumps(asdict(options.recipe)))
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]
    classifiers = {one: _accuracies(found, truth, names, counts[one]) for one, found in ranks.items()}
    pairs = [(one, "real") for one in ("samples", "both") if {one, "real"} <= set(ranks)]
    validation = sets.validation
    return {
        "schema": SCHEMA,
        "fdr_version": __version__,
        "recipe": {**recipe, "digest": digest},
        "seed": options.seed,
        "device": device,
        "versions": package_versions(),
        **{name: _described(source) for name, source in sets.items()},
        "classes": list(names),
        "classifiers": classifiers,
        "cas": classifiers["samples"]["top1"] if "samples" in classifiers else None,
        "nas": classifiers["both"]["top1"] if "both" in classifiers else None,
        "differences": [_difference(one, other, ranks) for one, other in pairs],
        "notes": list(notes),
        "signature": f"cas|recipe:{recipe['name']}@{digest}|seed:{options.seed}|real:{sets.real.name}:"
        f"{(sets.real.digest or '')[:8]}|val:{validation.name}:{(validation.digest or '')[:8]}|v:{__version__}",
    }


def _described(source: ImageSource) -> dict[str, Any]:
    return {
        "source": source.name,
        "digest": source.digest,
        "count": len(source),
        "labels_from": source.labels_from,
        "policy": dict(source.policy),
    }


def _accuracies(ranks: np.ndarray, truth: np.ndarray, names: Sequence[str], count: int) -> dict[str, Any]:
    """Top-1 and top-5 accuracy with their binomial standard errors, and top-1 by class."""
    top1, top5 = float((ranks == 0).mean()), float((ranks < TOP).mean())
    shares = {
        names[c]: {"top1": float((ranks[truth == c] == 0).mean()), "n": int((truth == c).sum())}
        for c in np.unique(truth).tolist()
    }
    found = {"train_count": count, "count": len(truth), "top1": top1, "top1_stderr": _binomial(top1, len(truth))}
    if len(names) > TOP:
        found |= {"top5": top5, "top5_stderr": _binomial(top5, len(truth))}
    return {**found, "classes": shares}


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def _difference(one: str, other: str, ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Top-1 of one classifier minus that of another, with the standard error of a paired difference over the images."""
    moved = (ranks[one] == 0).astype(float) - (ranks[other] == 0)
    base = float((ranks[other] == 0).mean())
    return {
        "of": one,
        "minus": other,
        "top1": float(moved.mean()),
        "stderr": float(moved.std(ddof=1) / math.sqrt(len(moved))),
        "relative": float(moved.mean() / base) if base else None,
    }
