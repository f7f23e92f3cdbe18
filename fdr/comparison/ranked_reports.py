"""Ranks several reports number by number, with the standard error of every difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fdr.comparison.comparability import combined_stderr, contradict, images_digest, signature_differences
from fdr.comparison.significance import CONFIDENCE, Contrast, Ranking, pairs_of, rank
from fdr.reports import Report, Result, format_number, format_stderr
from fdr.runtime import is_number

PairedErrors = Mapping[tuple[str, str], Mapping[str, float]]
"""The standard error of a difference in which shared noise cancels, by pair of sets and number ("fd:inception")."""
UNPAIRED = (
    "unpaired: the two numbers are taken as independent; noise that a shared reference causes counts twice, which is "
    "conservative unless the two sets miss the reference in opposite directions (fdr compare SAMPLES pairs them)"
)


def rank_reports(
    reports: Mapping[str, Report], confidence: float = CONFIDENCE, paired: PairedErrors | None = None
) -> tuple[Ranking, ...]:
    """A ranking for each number that two or more of the reports have, as far as it is comparable with the first's.

    A difference that `paired` does not have gets sqrt(a² + b²) of the standard errors of both numbers, if both have
    one. Two reports of the same images get none, because their noise is the same.
    """
    keys = dict.fromkeys(row.key for report in reports.values() for row in report)
    rankings = []
    for key in keys:
        rows = {name: row for name, report in reports.items() for row in report if row.key == key}
        rows = dict(_comparable(rows, reports))
        if len(rows) < 2:
            continue
        contrasts = [_contrast(key, a, b, rows, reports, paired or {}) for a, b in pairs_of(list(rows))]
        values = {name: row.value for name, row in rows.items()}
        rankings.append(rank(key, values, contrasts, next(iter(rows.values())).lower_is_better, confidence))
    return tuple(rankings)


def _comparable(rows: Mapping[str, Result], reports: Mapping[str, Report]) -> Iterator[tuple[str, Result]]:
    """The first row, and those that are comparable with it."""
    first, base = next(iter(rows.items()))
    for name, row in rows.items():
        differences = signature_differences(base.signature, row.signature)
        is_same = _is_same_images(reports[first], reports[name]) and not differences
        if not any(difference.is_decisive for difference in differences) and not (
            is_same and contradict(base, row.value)
        ):
            yield name, row


def _is_same_images(a: Report, b: Report) -> bool:
    return images_digest(a) is not None and images_digest(a) == images_digest(b)


def _contrast(
    key: str, a: str, b: str, rows: Mapping[str, Result], reports: Mapping[str, Report], paired: PairedErrors
) -> Contrast:
    difference = rows[b].value - rows[a].value
    if _is_same_images(reports[a], reports[b]):
        return Contrast(a, b, difference, None, kind="same images")
    own = paired.get((a, b), {}).get(key)
    stderr = combined_stderr(rows[a].stderr, rows[b].stderr) if own is None else own
    kind = "unpaired" if own is None else "paired"
    return Contrast(a, b, difference, combined_stderr(stderr, _systematic(rows[a], rows[b])), kind=kind)


def _systematic(a: Result, b: Result) -> float:
    """What remains in a difference of the systematic errors of two numbers, where they state one (the debiased FD).

    They are errors of one kind in one direction, so that those of sets of one size cancel.
    """
    found = [row.details.get("systematic") for row in (a, b)]
    known = [float(error) for error in found if error is not None and is_number(error)]
    return abs(known[0] - known[1]) if len(known) == 2 else 0.0


def verdict_of(contrast: Contrast, ranking: Ranking) -> str:
    """One sentence about the only pair of a ranking, a and b: the difference, its noise, the p-value, the verdict."""
    _, difference, stderr, chance, _, kind, verdict = pair_cells(contrast, ranking, "a", "b")
    text = f"{ranking.key}: b − a = {difference}"
    if contrast.stderr is not None:
        text += f" ± {stderr} ({kind}), p = {chance}"
    smallest = contrast.resolves(ranking.confidence)
    if not smallest:
        return f"{text}: {verdict}"
    text += f": {verdict} at {100 * ranking.confidence:g} % confidence"
    if contrast.is_significant(ranking.confidence):
        return text
    return f"{text} (this pair resolves differences above {format_number(smallest)})"


def pair_cells(contrast: Contrast, ranking: Ranking, a: str, b: str) -> tuple[str, ...]:
    """A pair, which is called `a` and `b`, as a row: pair, difference, stderr, p, p after Holm, kind, verdict."""
    stderr, chance, adjusted = contrast.stderr, contrast.p_value, contrast.adjusted
    if contrast.is_significant(ranking.confidence):
        verdict = f"{b if (contrast.difference < 0) == ranking.lower_is_better else a} is better"
    elif contrast.kind == "same images":
        verdict = "no verdict, since both were measured on the same images"
    else:
        verdict = "no verdict, since a standard error is missing" if stderr is None else "inconclusive"
    return (
        f"{b} − {a}",
        format_number(contrast.difference),
        "" if stderr is None else format_stderr(stderr),
        "" if chance is None else f"{chance:.2g}",
        "" if adjusted is None else f"{adjusted:.2g}",
        contrast.kind,
        verdict,
    )


def ranking_notes(rankings: Sequence[Ranking]) -> Iterator[str]:
    """What a reader must know of all rankings together."""
    if any(contrast.kind == "unpaired" and contrast.stderr for found in rankings for contrast in found.contrasts):
        yield UNPAIRED
    bare = [found.key for found in rankings if not found.has_noise]
    if bare:
        yield f"no verdict for {', '.join(bare)}: the numbers have no standard error"
