"""Differences that `fdr compare SAMPLES --json` measured, in which noise that the sets share has been cancelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fdr.comparison import Contrast, Ranking, rank
from fdr.errors import InputError
from fdr.reports import Report
from fdr.runtime import NUMBER, TABLES, TEXT, decode_json, field_problems

SCHEMA = "fdr-compare/1"
_RANKING = {"key": TEXT, "pairs": TABLES, "ranks": TABLES}
_PAIR = {"a": TEXT, "b": TEXT, "difference": NUMBER, "stderr": NUMBER.or_nothing, "dof": NUMBER.or_nothing}
_SAME = 1e-9
"""Relative difference that is allowed between two statements of one difference, because sums are rounded."""


def load_compared(path: Path) -> Mapping[str, Any] | None:
    """What `fdr compare --json` wrote to `path`; None if the file is of another kind, or is none.

    Raises `InputError` if it is damaged.
    """
    try:
        data = decode_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_one = isinstance(data, Mapping) and data.get("schema") == SCHEMA
    return compared_from(data, repr(str(path))) if is_one else None


def compared_from(data: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The comparison in the JSON of the file `where`. Raises `InputError` if it is damaged, or of another version."""
    if data.get("schema") != SCHEMA:
        raise InputError(
            f"{where} is a comparison of schema {data.get('schema')!r}, expected {SCHEMA!r}; another version of fdr "
            "wrote it, so run fdr compare again with this one."
        )
    problems = list(field_problems("the file", data, {"rankings": TABLES}))
    for ranking in () if problems else data["rankings"]:
        problems += field_problems("a ranking", ranking, _RANKING)
        for pair in () if problems else ranking["pairs"]:
            problems += field_problems(f"a pair of {ranking['key']}", pair, _PAIR)
    if problems:
        raise InputError(f"Damaged comparison {where}: {problems[0]}; write it again with fdr compare --json.")
    return data


def with_compared(rankings: Sequence[Ranking], data: Mapping[str, Any], sets: Mapping[str, Report]) -> list[Ranking]:
    """The rankings with the differences of a comparison in place of their own, where it has them.

    Raises `InputError` if the comparison is of other sets, or of other values.
    """
    found = {item["key"]: _contrasts(item, sets) for item in data["rankings"]}
    return [_replaced(ranking, found.get(ranking.key, {})) for ranking in rankings]


def _replaced(ranking: Ranking, compared: Mapping[tuple[str, str], Contrast]) -> Ranking:
    contrasts = [compared.get((own.a, own.b), own) for own in ranking.contrasts]
    values = {rank.name: rank.value for rank in ranking.ranks}
    ordered = {name: values[name] for name in ranking.names}
    return rank(ranking.key, ordered, contrasts, ranking.lower_is_better, ranking.confidence)


def _contrasts(item: Mapping[str, Any], sets: Mapping[str, Report]) -> dict[tuple[str, str], Contrast]:
    """The differences of one number by pair of sets, in both directions."""
    key = item["key"]
    rows = {name: {row.key: row.value for row in report} for name, report in sets.items()}
    for name in dict.fromkeys(name for pair in item["pairs"] for name in (pair["a"], pair["b"])):
        if key not in rows.get(name, {}):
            raise InputError(
                f"The comparison has {key} of {name!r}, which the reports lack (they have {', '.join(sets)}); give the "
                "reports of the same command (fdr compare SAMPLES --report FILE --json FILE)."
            )
    one_way = [
        _contrast(pair, {name: found.get(key, 0.0) for name, found in rows.items()}, key) for pair in item["pairs"]
    ]
    both_ways = [*one_way, *(replace(one, a=one.b, b=one.a, difference=-one.difference) for one in one_way)]
    return {(one.a, one.b): one for one in both_ways}


def _contrast(pair: Mapping[str, Any], values: Mapping[str, float], key: str) -> Contrast:
    a, b, difference = pair["a"], pair["b"], values[pair["b"]] - values[pair["a"]]
    if abs(pair["difference"] - difference) > _SAME * max(abs(values[a]), abs(values[b])):
        raise InputError(
            f"The comparison says that {key} of {a!r} and {b!r} differ by {pair['difference']:g}, and the reports "
            f"{difference:g}; give the reports of the same command (fdr compare SAMPLES --report FILE --json FILE)."
        )
    dof = math.inf if pair.get("dof") is None else pair["dof"]
    return Contrast(a, b, difference, pair.get("stderr"), dof, str(pair.get("kind", "unpaired")))
