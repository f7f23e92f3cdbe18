"""Computes the numbers of a report from what was collected. A metric that fails costs its own numbers and no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fdr.errors import InputError, RunError
from fdr.evaluation.results import PlannedResult
from fdr.metrics import Context, Metric, Score
from fdr.reports import Failure, Result, result_key
from fdr.runtime import memory_for

ResultKey = tuple[str, str | None]
"""(metric, encoder); a mean over encoders has None."""


class Scoring:
    """Scores, and the errors of those that could not be computed, both by (metric, encoder)."""

    def __init__(self) -> None:
        self.scores: dict[ResultKey, Score] = {}
        self.errors: dict[ResultKey, InputError | RunError] = {}

    def compute(self, metric: Metric, encoder: str, arguments: Callable[[], tuple[Any, Any, Context]]) -> None:
        """Compute all numbers of a metric of one encoder. `arguments` gives its samples, reference and context."""
        keys: list[ResultKey] = [(name, encoder) for name in metric.names]
        self._attempt(keys, lambda: _scores(metric, encoder, arguments))

    def _derive(self, row: PlannedResult) -> None:
        key, broken = (row.metric, row.encoder), [source for source in row.sources if source in self.errors]
        if broken:
            self.errors[key] = InputError(f"It is computed from {result_key(*broken[0])}, which failed.")
        elif row.derive is not None:
            derive = row.derive
            self._attempt([key], lambda: {row.metric: derive(self.scores)})

    def _attempt(self, keys: list[ResultKey], attempt: Callable[[], Mapping[str, Score]]) -> None:
        try:
            found = attempt()
            for metric, encoder in keys:
                _check_finite(result_key(metric, encoder), found[metric])
        except (InputError, RunError) as error:
            self.errors |= dict.fromkeys(keys, error)
        else:
            self.scores |= {key: found[key[0]] for key in keys}

    def rows(self, planned: Iterable[PlannedResult]) -> tuple[tuple[Result, ...], tuple[Failure, ...]]:
        """The planned rows with their numbers, and those that failed. Raises the first error if all of them did."""
        results, failed = [], []
        for row in planned:
            if row.derive is not None:
                self._derive(row)
            key = row.metric, row.encoder
            if key in self.scores:
                results.append(row.result(self.scores[key]))
            else:
                failed.append(Failure(row.metric, row.encoder, str(self.errors[key]), row.signature))
        if not results:
            raise next(iter(self.errors.values()))
        return tuple(results), tuple(failed)


def _scores(metric: Metric, encoder: str, arguments: Callable[[], tuple[Any, Any, Context]]) -> Mapping[str, Score]:
    with memory_for(
        f"{', '.join(metric.names)} of {encoder}",
        "use --device cpu, fewer images, or an encoder of fewer dimensions",
    ):
        return metric.scores(*arguments())


def _check_finite(key: str, score: Score) -> None:
    """Raise `RunError` for a score with NaN or infinity, which no report can hold."""
    numbers = (score.value, score.stderr, score.interval, dict(score.details))
    try:
        json.dumps(numbers, allow_nan=False)
    except ValueError:
        raise RunError(
            f"{key} came out as {score.value:g} with a part that is not finite, so it is left out; look for constant "
            "or huge features."
        ) from None
