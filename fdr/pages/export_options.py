"""The options of exports to shared formats of results, and their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fdr.comparison import CONFIDENCE
from fdr.errors import InputError, unknown
from fdr.reports import Report, Result

RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
"""Who evaluated, as seen from the developer of the model: the words of Every Eval Ever."""
_NEEDED = {
    "dataset": "--dataset ORG/NAME, the benchmark dataset on the Hugging Face Hub that lists the results",
    "tasks": "--task NUMBER=TASK for each number, with a task that the eval.yaml of the dataset defines",
    "model": "--model ORG/NAME, the model on the Hugging Face Hub, or DEVELOPER/NAME elsewhere",
    "organization": "--organization NAME, who reports the results",
    "relationship": f"--relationship {'|'.join(RELATIONSHIPS)}, of those who evaluated to the developer of the model",
    "date": "--date YYYY-MM-DD, when the model was evaluated, which the report does not hold",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_MODEL_ID = re.compile(r"[^\s/]+(/[^\s/]+)+")
_URL = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class ExportOptions:
    """Facts about a model and its evaluation that a report does not hold. "" is not stated."""

    dataset: str = ""
    """ORG/NAME of a dataset on the Hugging Face Hub."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """The task of the dataset for each exported number, such as {"fd_debiased:dinov2": "fd-dinov2"}."""
    model: str = ""
    """ORG/NAME of the model."""
    organization: str = ""
    """Who reports the results."""
    relationship: str = ""
    """One of `RELATIONSHIPS`."""
    source_url: str = ""
    """Where the report, the images or the paper can be found."""
    date: str = ""
    """When the model was evaluated, in ISO 8601; a time without an offset is in UTC."""
    confidence: float = CONFIDENCE
    """The confidence of intervals."""

    def __post_init__(self) -> None:
        if self.dataset and not _HUB_ID.fullmatch(self.dataset):
            raise InputError(f"The dataset {self.dataset!r} is not ORG/NAME of the Hugging Face Hub.")
        if self.model and not _MODEL_ID.fullmatch(self.model):
            raise InputError(f"The model {self.model!r} is not ORG/NAME, such as stabilityai/sd-turbo.")
        if self.relationship not in ("", *RELATIONSHIPS):
            raise unknown("relationship", self.relationship, RELATIONSHIPS)
        if self.source_url and not _URL.fullmatch(self.source_url):
            raise InputError(f"The source {self.source_url!r} is no address; expected https://...")
        if self.date:
            _time(self.date)

    @property
    def seconds(self) -> int:
        """`date` in whole seconds since 1970."""
        return int(_time(self.date).timestamp())


def _time(date: str) -> datetime:
    try:
        time = datetime.fromisoformat(date)
    except ValueError:
        raise InputError(f"The date {date!r} is not in ISO 8601, such as 2026-11-28 or 2026-11-28T12:00:00Z.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def check_stated(options: ExportOptions, what: str, needed: Sequence[str]) -> None:
    """Raise `InputError` that asks for everything that `what` needs and `options` do not state."""
    missing = [_NEEDED[name] for name in needed if not getattr(options, name)]
    if missing:
        raise InputError(f"{what} needs {'; and '.join(missing)}.")


def only_set(sets: Mapping[str, Report], what: str) -> Report:
    """The report of the one sample set. Raises `InputError` for none and for several."""
    if len(sets) != 1:
        found = f"{len(sets)} sample sets were given ({', '.join(sets)})" if sets else "no numbers were given"
        raise InputError(f"{what} is of one model, and {found}; name the report of one.")
    return next(iter(sets.values()))


def meant(report: Report, name: str) -> Result:
    """The number that a name such as "fd:inception" or "fdr_k" means. Raises `InputError` for no number or several."""
    failed = {failure.key: failure.sentence for failure in report.failed}
    if name in failed:
        raise InputError(f"{name} could not be computed: {failed[name]}")
    found = [row for row in report if row.key == name] or [row for row in report if row.metric == name]
    if not found:
        raise unknown("number", name, {row.key for row in report})
    if len(found) > 1:
        raise InputError(f"{name!r} may mean {', '.join(row.key for row in found)}; name one.")
    return found[0]
