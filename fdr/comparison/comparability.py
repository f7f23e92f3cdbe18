"""Compares two reports: which numbers are comparable, and if not, which field of the signature differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fdr.comparison.effects import Effect, usual_effect
from fdr.errors import InputError, unknown
from fdr.metrics import metric_info
from fdr.reports import Report, Result, Signature, format_number, parse_signature

MEANINGS = {
    "metric": "the metric",
    "k": "the number of encoders, or of neighbours",
    "enc": "the encoder",
    "w": "the weights of the encoder",
    "rs": "the resize and the input size",
    "dt": "the dtype",
    "cm": "the order of computation",
    "s": "a setting of the encoder that has no field of its own: normalisation, architecture",
    "out": "the output of the encoder",
    "d": "the rule of distances",
    "m": "whose moments count",
    "est": "the estimator",
    "rb": "how the bias of the reference was removed",
    "ae": "the autoencoder",
    "z": "the posterior: sampled, with its seed, or the mean",
    "clamp": "whether decoded values are clamped",
    "nb": "the set that neighbours come from",
    "by": "the distance that neighbours are nearest by",
    "draw": "the seed of the draw of neighbours",
    "lat": "what the latents of the neighbours are stored as",
    "mix": "the interpolation and its alpha",
    "compat": "the published code whose conventions hold",
    "crop": "the crop and size of the images",
    "alpha": "what is done with transparency",
    "left": "how many images were left out because they could not be read or were there twice",
    "q": "the quantisation of the images",
    "n": "the number of images",
    "ref": "the reference",
    "train": "the training set",
    "lab": "the classes of the reference",
    "scale": "the rule for the scale of labels beside features",
    "txt": "the prompts",
    "tok": "the tokenizer of the prompts",
    "mult": "the factor before the cosine",
    "pre": "the words before every prompt",
    "val": "the validation FD below the ratio",
    "kernel": "the kernel",
    "subsets": "the random subsets: how many, and of how many images",
    "smallest": "the smallest of the subsets",
    "shuffles": "how often the images were shuffled",
    "directions": "the number of random directions",
    "r": "the number of runs that are averaged",
    "cells": "the number of cells that the training set is divided into",
    "pca": "the number of principal components that distances are of",
    "centres": "the largest number of centres of the density",
    "seed": "the seed of what the metric draws",
    "l2": "the penalty on the weights of the classifier",
    "tool": "the tool that measured it",
    "tasks": "the tasks or categories",
    "prompts": "the prompts",
    "v": "the version of fdr",
}
"""What each field of a signature means, in words."""
INFORMATIVE = {"v", "ae", "z"}
"""Fields that may differ between comparable numbers. The changelog names each release that changes numbers, and the
autoencoder is the thing that is measured, like samples elsewhere."""
_PARTS_OF_SPEC = {"enc", "w", "rs", "dt", "cm"}
"""Fields that are part of the spec hash `s`. If one of them differs, the hash differs as well and is not listed."""
_UNHASHED = {"name", "weights_source", "hash"}
"""Entries of an encoder spec that do not affect the features."""
_ABSENT = "not stated"
MAX_EFFECTS = 4
"""Largest number of measured effects that are listed for one field."""
SAME_SHARE, SAME_SHARE_SHORT = 0.01, 0.1
"""Largest relative difference that other hardware can cause, in float32 and in shorter types."""
SAME_ROUNDING = 1e-6
"""Largest absolute difference that other hardware can cause, for numbers near 0."""
SIZE_HINT = (
    "an FD of few images is larger than one of many images of one population; the metric fd_debiased has no such "
    "bias, and it compares sets of different size"
)


@dataclass(frozen=True)
class Difference:
    """One field in which two signatures differ."""

    field: str
    a: str
    b: str
    meaning: str
    is_decisive: bool
    """True if numbers that differ in this field are not comparable."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"field": self.field, "a": self.a, "b": self.b, "meaning": self.meaning, "decisive": self.is_decisive}


def signature_differences(a: str, b: str) -> tuple[Difference, ...]:
    """All fields in which two signatures differ, decisive ones first. Raises `InputError` if a text is none."""
    first, second = parse_signature(a), parse_signature(b)
    fields = dict.fromkeys((*MEANINGS, *first.fields, *second.fields))
    found = [_difference(field, first, second) for field in fields]
    differing = [difference for difference in found if difference is not None]
    if _PARTS_OF_SPEC & {difference.field for difference in differing}:
        differing = [difference for difference in differing if difference.field != "s"]
    return tuple(sorted(differing, key=lambda difference: not difference.is_decisive))


def _difference(field: str, first: Signature, second: Signature) -> Difference | None:
    if field == "metric":
        a, b = first.metric, second.metric
    else:
        a, b = (signature.value(field) or _ABSENT for signature in (first, second))
    if a == b:
        return None
    meaning = MEANINGS.get(field, "a field that this version of fdr does not know")
    is_name_only = (field in ("ref", "train") and _same_digest(a, b)) or (field == "enc" and _same_spec(first, second))
    is_size_only = field == "n" and _is_size_free(first.metric) and _is_size_free(second.metric)
    return Difference(field, a, b, meaning, field not in INFORMATIVE and not is_name_only and not is_size_only)


def _is_size_free(metric: str) -> bool:
    """True for a metric whose expected value is the same for any number of images."""
    info = metric_info(metric)
    return info is not None and info.is_size_free


def _same_spec(first: Signature, second: Signature) -> bool:
    """True if both signatures name the same encoder: equal spec hashes, whatever the names."""
    return first.value("s") is not None and first.value("s") == second.value("s")


def _same_digest(a: str, b: str) -> bool:
    """True if both texts name the same reference: equal digests, whatever the names."""
    digests = {text.rpartition(":")[2] for text in (a, b) if ":" in text}
    return len(digests) == 1 and all(":" in text for text in (a, b)) and len(next(iter(digests))) == 8


def check_fields(fields: Iterable[str]) -> tuple[str, ...]:
    """Check names of signature fields and drop repeats. Raises `InputError` with near matches for an unknown name."""
    given = tuple(dict.fromkeys(fields))
    for field in given:
        if field not in MEANINGS or field == "metric":
            known = ", ".join(f"{name} ({meaning})" for name, meaning in MEANINGS.items() if name != "metric")
            raise unknown("field of a signature", field, MEANINGS.keys() - {"metric"}, f"Fields: {known}.")
    return given


@dataclass(frozen=True)
class Pair:
    """The same metric in two reports."""

    a: Result
    b: Result
    differences: tuple[Difference, ...]
    is_contradiction: bool = False
    """True if the two values differ although images, reference and settings are the same."""

    @property
    def is_comparable(self) -> bool:
        """True if no decisive field differs and there is no contradiction."""
        return not self.is_contradiction and not any(difference.is_decisive for difference in self.differences)

    @property
    def change(self) -> float:
        """b minus a."""
        return self.b.value - self.a.value

    @property
    def relative_change(self) -> float | None:
        """(b - a) / |a|; None when a is 0."""
        return self.change / abs(self.a.value) if self.a.value else None

    @property
    def noise(self) -> float | None:
        """The standard error of the change, sqrt(a² + b²) of both stderrs; None unless both numbers have one."""
        return combined_stderr(self.a.stderr, self.b.stderr)

    def to_dict(self, effects: tuple[Effect, ...] = ()) -> dict[str, Any]:
        """For JSON."""
        sides = {
            name: {"key": row.key, "value": row.value, "stderr": row.stderr, "signature": row.signature}
            for name, row in (("a", self.a), ("b", self.b))
        }
        differences = []
        for d in self.differences:
            usual = usual_effect(d.field, d.a, d.b, self.a.encoder, effects) if d.is_decisive else ()
            differences.append({**d.to_dict(), "effects": [vars(effect) for effect in usual]})
        return {
            **sides,
            "change": self.change,
            "relative_change": self.relative_change,
            "noise": self.noise,
            "comparable": self.is_comparable,
            "contradiction": self.is_contradiction,
            "differences": differences,
        }


def contradict(a: Result, b: float) -> bool:
    """True if the number `a` and another value of the same images and signature cannot both be right.

    Differences that hardware and batch sizes can cause are allowed: 1 % in float32, 10 % in shorter types, and 2 images
    for a share of images. Always False for unknown encoder weights and for images that an autoencoder decodes.
    """
    signature = parse_signature(a.signature)
    if signature.value("w") in (None, "unknown") or signature.value("ae") is not None:
        return False
    share = SAME_SHARE if signature.value("dt") in (None, "float32") else SAME_SHARE_SHORT
    images = min(a.count, a.reference_count or a.count)
    whole = 2 / images if signature.metric.partition(":")[0] in ("precision", "recall") else 0.0
    return abs(a.value - b) > max(share * max(abs(a.value), abs(b)), SAME_ROUNDING, whole)


def images_digest(report: Report) -> str | None:
    """The digest of the samples' pixels. None for a generator, whose images may differ slightly on other hardware."""
    return None if "made_by" in report.samples else report.samples.get("digest")


def combined_stderr(a: float | None, b: float | None) -> float | None:
    """sqrt(a² + b²), the standard error of a difference of independent numbers; None unless both are known."""
    return None if a is None or b is None else math.hypot(a, b)


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two reports row by row."""

    pairs: tuple[Pair, ...]
    only_a: tuple[Result, ...]
    only_b: tuple[Result, ...]
    are_same_samples: bool
    """True if the content of both sample sets is known and equal."""

    @property
    def is_comparable(self) -> bool:
        """True when there is a pair, and every pair is comparable."""
        return bool(self.pairs) and all(pair.is_comparable for pair in self.pairs)

    def to_dict(self, effects: tuple[Effect, ...] = ()) -> dict[str, Any]:
        """For JSON, with the measured effects of every decisive difference."""
        return {
            "comparable": self.is_comparable,
            "same_samples": self.are_same_samples,
            "pairs": [pair.to_dict(effects) for pair in self.pairs],
            "only_a": [result.key for result in self.only_a],
            "only_b": [result.key for result in self.only_b],
        }


def compare_reports(a: Report, b: Report) -> Comparison:
    """Pair the results of two reports by metric and encoder.

    A metric that each report has left exactly once, with different encoders, is paired as well: people compare FID of
    `inception` with FID of `inception:clean`.
    """
    left, right = _by_key(a), _by_key(b)
    keys = [(key, key) for key in left if key in right] + list(_leftovers(left, right))
    digests = [report.samples.get("digest") for report in (a, b)]
    are_same = digests[0] is not None and digests[0] == digests[1]
    have_same_pixels = are_same and images_digest(a) == images_digest(b) is not None
    pairs = tuple(_pair(a, b, left[x], right[y], have_same_pixels) for x, y in keys)
    paired_a, paired_b = {x for x, _ in keys}, {y for _, y in keys}
    return Comparison(
        pairs,
        tuple(result for key, result in left.items() if key not in paired_a),
        tuple(result for key, result in right.items() if key not in paired_b),
        are_same,
    )


def _pair(a: Report, b: Report, first: Result, second: Result, have_same_pixels: bool) -> Pair:
    differences = _differences_explained(a, b, first, second)
    is_same = have_same_pixels and not differences
    return Pair(first, second, differences, is_same and contradict(first, second.value))


def _differences_explained(a: Report, b: Report, first: Result, second: Result) -> tuple[Difference, ...]:
    """The differences of two results; a spec hash that differs is explained by the specs in the reports."""
    specs = [_spec(report.run, row.encoder) for report, row in ((a, first), (b, second))]
    keys = [key for key in specs[0] if key not in _UNHASHED and specs[0][key] != specs[1].get(key)]
    settings = ", ".join(f"{key} {specs[0][key]} and {specs[1].get(key)}" for key in keys)
    return tuple(
        replace(d, meaning=f"settings of the encoder: {settings}") if d.field == "s" and settings else d
        for d in signature_differences(first.signature, second.signature)
    )


def _spec(run: Any, encoder: str | None) -> Mapping[str, Any]:
    """The encoder spec in a report; empty if it is absent or damaged."""
    for key in ("encoders", encoder):
        run = run.get(key) if isinstance(run, Mapping) else None
    return run if isinstance(run, Mapping) else {}


def _by_key(report: Report) -> dict[str, Result]:
    rows: dict[str, Result] = {}
    for result in report:
        if result.key in rows:
            raise InputError(f"The report of {report.samples['source']} has {result.key} twice; write it again.")
        rows[result.key] = result
    return rows


def _leftovers(left: Mapping[str, Result], right: Mapping[str, Result]) -> Iterator[tuple[str, str]]:
    """Pairs of keys with the same metric, if each side has that metric exactly once among its unpaired results."""
    mine = [(result.metric, key) for key, result in left.items() if key not in right]
    theirs = [(result.metric, key) for key, result in right.items() if key not in left]
    for metric, key in mine:
        others = [other for name, other in theirs if name == metric]
        if len(others) == 1 and sum(name == metric for name, _ in mine) == 1:
            yield key, others[0]


def explanations(comparison: Comparison, effects: tuple[Effect, ...]) -> Iterator[str]:
    """Lines of text: each difference and its usual effect, and which numbers only one report has."""
    for difference, pairs in _differences_of(comparison).items():
        verb = "not comparable" if difference.is_decisive else "note"
        keys = ", ".join(dict.fromkeys(pair.a.key for pair in pairs))
        yield f"{verb}: {difference.field} ({difference.meaning}) is {difference.a} in a, {difference.b} in b: {keys}"
        if difference.is_decisive:
            yield from (f"  {line}" for line in _effect_lines(difference, pairs[0].a, effects))
    for pair in comparison.pairs:
        if pair.is_contradiction:
            a, b = format_number(pair.a.value), format_number(pair.b.value)
            yield (
                f"not comparable: {pair.a.key} is {a} in a and {b} in b, of the same images, reference and settings; "
                "one of the two was changed or is faulty: measure again"
            )
    for name, rows in (("a", comparison.only_a), ("b", comparison.only_b)):
        if rows:
            yield f"only in {name}: {', '.join(row.key for row in rows)}"
    if comparison.are_same_samples:
        yield "note: both were measured on the same images"
    if not comparison.pairs:
        yield "not comparable: the reports have no number in common"


def _differences_of(comparison: Comparison) -> dict[Difference, list[Pair]]:
    found: dict[Difference, list[Pair]] = {}
    for pair in comparison.pairs:
        for difference in pair.differences:
            found.setdefault(difference, []).append(pair)
    return found


def _effect_lines(difference: Difference, row: Result, effects: tuple[Effect, ...]) -> Iterator[str]:
    found = usual_effect(difference.field, difference.a, difference.b, row.encoder, effects)
    info = metric_info(row.metric)
    if difference.field == "n" and info is not None and info.is_distance:
        yield SIZE_HINT
    if not found:
        yield "how much this usually moves the number has not been measured"
    for effect in found[:MAX_EFFECTS]:
        label = "measured" if effect.covers(difference.a, difference.b) else "measured of other values"
        yield f"{label}: {effect.sentence()}" + (f"; {effect.note}" if effect.note else "")
    if len(found) > MAX_EFFECTS:
        yield f"and {len(found) - MAX_EFFECTS} more in docs/footguns.md"


def match_sets(ours: Iterable[str], theirs: Iterable[str], what: str) -> dict[str, str]:
    """Match sample sets by name. If both sides have one set, its name may differ. Raises `InputError` if none match."""
    own, other = list(ours), list(theirs)
    if len(own) == len(other) == 1:
        return {own[0]: other[0]}
    missing = [name for name in own if name not in other]
    if missing:
        raise unknown(f"sample set in {what}", missing[0], other)
    return {name: name for name in own}
