"""Checks that a report does not contradict itself, such as an FD and its two terms, or a count and its signature.

The checks read decoded JSON that matches the schema. A field that is missing cannot be checked and causes no error,
because older and hand-made reports have fewer fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdr.errors import InputError
from fdr.metrics import GROUPS, OF_OTHER_TOOLS, mean_of, metric_info, ratio_of
from fdr.reports.schema import result_key, schema_problems
from fdr.reports.signature import Signature, image_fields, parse_signature, short_digest
from fdr.runtime import are_texts, is_count, is_number, quoted

RELATIVE = 1e-9
"""Relative difference that is allowed between two statements of one number, because sums are rounded."""
ABSOLUTE = 1e-6
"""Rounding may put a number this far outside of its possible values, such as an FD just below 0."""


@dataclass(frozen=True)
class Row:
    """One result of a report that matches the schema."""

    data: Mapping[str, Any]
    signature: Signature

    @property
    def metric(self) -> str:
        return self.data["metric"]

    @property
    def is_distance(self) -> bool:
        """True for a Fréchet distance between moments."""
        info = metric_info(self.metric)
        return info is not None and info.is_distance

    @property
    def has_own_images(self) -> bool:
        """True for a benchmark of another tool, which measures images of its own prompts."""
        return self.metric in OF_OTHER_TOOLS

    @property
    def encoder(self) -> str | None:
        return self.data.get("encoder")

    @property
    def key(self) -> str:
        return result_key(self.metric, self.encoder)

    @property
    def value(self) -> float:
        return self.data["value"]

    def detail(self, name: str) -> Any:
        return (self.data.get("details") or {}).get(name)

    def number(self, name: str) -> float | None:
        """A detail that is a number."""
        value = self.detail(name)
        return value if is_number(value) else None


@dataclass(frozen=True)
class Parts:
    """A report that matches the schema, with its results as rows."""

    data: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def samples(self) -> Mapping[str, Any]:
        return self.data["samples"]

    @property
    def reference(self) -> Mapping[str, Any] | None:
        return self.data.get("reference")

    def run(self, *names: str) -> Mapping[str, Any]:
        """A table inside of `run`; an empty one if it is missing."""
        found: Any = self.data.get("run") or {}
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def row(self, key: str) -> Row | None:
        return next((row for row in self.rows if row.key == key), None)


def _differ(a: float, b: float, rounding: float = 0.0) -> bool:
    return abs(a - b) > max(rounding, RELATIVE * max(abs(a), abs(b)))


# Rules. Each yields a sentence for each contradiction in one row of a report.


def each_number_once(report: Parts, row: Row) -> Iterator[str]:
    many = sum(other.key == row.key for other in report.rows)
    if many > 1:
        yield f"{row.key} is there {many} times"


def computed_or_failed(report: Parts, row: Row) -> Iterator[str]:
    failed = (result_key(other["metric"], other.get("encoder")) for other in report.data.get("failed") or ())
    if row.key in failed:
        yield f"{row.key} is there with a value, and among the numbers that failed"


def directions(report: Parts, row: Row) -> Iterator[str]:
    info = metric_info(row.metric)
    if info is not None and row.data["lower_is_better"] != info.lower_is_better:
        better, flag = ("lower", "false") if info.lower_is_better else ("higher", "true")
        yield f"lower_is_better of {row.key} is {flag}, and {info.label} is better when it is {better}"


def possible_values(report: Parts, row: Row) -> Iterator[str]:
    problem = impossible(row.metric, row.value, 10.0 * abs(row.number("rounding") or 0.0))
    if problem is not None:
        yield f"{row.key} {problem}"


def impossible(metric: str, value: float, rounding: float = 0.0) -> str | None:
    """The rest of a sentence about a value that the metric cannot have; None for a possible one."""
    info, room = metric_info(metric), max(ABSOLUTE, rounding)
    if info is None or info.low - room <= value <= info.high + room:
        return None
    return f"is {value:g}, and {info.label} is {info.values}"


def intervals(report: Parts, row: Row) -> Iterator[str]:
    low, high = row.data.get("interval") or (row.value, row.value)
    room = RELATIVE * abs(row.value)
    if not low - room <= row.value <= high + room:
        yield f"the interval of {row.key} is {low:g} to {high:g}, and its value {row.value:g} lies outside"


def signature_names_the_number(report: Parts, row: Row) -> Iterator[str]:
    if row.signature.metric != row.metric:
        yield f"the signature of {row.key} is one of {row.signature.metric}"
    encoder = row.signature.value("enc")
    if mean_of(row.metric) is None and encoder != row.encoder:
        yield f"the signature of {row.key} names the encoder {encoder}"


def counts(report: Parts, row: Row) -> Iterator[str]:
    count, signed = row.data["count"], row.signature.value("n")
    if count != report.samples["count"] and not row.has_own_images:
        yield f"{row.key} is of {count} images, and the samples are {report.samples['count']}"
    if signed is not None and signed != str(count):
        yield f"{row.key} is of {count} images, and its signature says n:{signed}"


def subsets(report: Parts, row: Row) -> Iterator[str]:
    asked = (report.samples.get("subset") or {}).get("count")
    found = report.samples["count"] + len(report.samples["skipped"])
    if is_count(asked) and found != asked:
        yield f"{found} images entered or were skipped, of a subset of {asked}"


def signature_agrees(report: Parts, row: Row) -> Iterator[str]:
    """Fields of the signature that another part of the report has as well."""
    if row.has_own_images:
        return
    for where, stated in _statements(report, row):
        for field, value in stated.items():
            own = row.signature.value(field)
            if None not in (own, value) and own != str(value):
                yield f"the signature of {row.key} has {field}:{own}, and {where} says {value}"


def _statements(report: Parts, row: Row) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a report that repeat fields of a signature, each with the values it states; None states nothing."""
    val_fd = row.number("val_fd")
    yield (
        "the row",
        {
            "out": row.data.get("output"),
            "s": _prefix(row.data.get("spec_hash")),
            "k": row.detail("k"),
            "val": None if val_fd is None else f"{val_fd:.6g}",
        },
    )
    spec = report.run("encoders", row.encoder or "")
    size, weights = spec.get("input_size"), spec.get("weights")
    yield (
        "the description of the encoder",
        {
            "enc": spec.get("name"),
            "s": _prefix(spec.get("hash")),
            "w": short_digest(weights) if isinstance(weights, str) else None,
            "rs": f"{spec.get('resize')}-{size}" if size else spec.get("resize"),
            "dt": spec.get("dtype"),
            "cm": spec.get("compute"),
        },
    )
    trained = report.data.get("training_set")
    if trained is not None and isinstance(trained.get("digest"), str):
        yield "the description of the training set", {"train": f"{trained['name']}:{trained['digest'][:8]}"}
    model, options = report.run("autoencoder"), report.run("ifid")
    has_neighbours = row.metric.partition(":")[0] in ("ifd", "nfd")
    drawn = {"k": options.get("top_k"), "draw": options.get("seed")} if has_neighbours else {}
    name = f"{model.get('name')}:{_prefix(model['hash'])}" if "hash" in model else None
    yield "the description of the run", {"ae": name, **drawn}
    policy, own = report.samples.get("policy"), options.get("quantize")  # decoded images are quantised on their own
    if policy and are_texts([*policy.values()]):
        policy = {**policy, **({"quantize": own} if isinstance(own, str) else {})}
        yield "the description of the samples", image_fields(policy, report.samples["count"])


def _prefix(digest: Any) -> str | None:
    """The part of a hash that signatures show."""
    return str(digest)[:8] if digest else None


def signature_is_of_the_reference(report: Parts, row: Row) -> Iterator[str]:
    signed = row.signature.value("ref")
    if signed is None:
        return
    if report.reference is None:
        yield f"the signature of {row.key} names the reference {signed}, and the report has none"
        return
    name, digest = report.reference["name"], report.reference.get("digest")
    if isinstance(digest, Mapping):
        digest = digest.get(f"{row.encoder}:{row.data.get('output')}") or digest.get(row.encoder or "")
    if not digest or not _is_of_moments(row):  # features may be of other images than the moments
        return
    if signed != f"{name}:{digest[:8]}" and signed.rpartition(":")[2] != digest[:8]:
        yield f"the signature of {row.key} has the reference {signed}, and the reference is {name}:{digest[:8]}"


def reference_counts(report: Parts, row: Row) -> Iterator[str]:
    if report.reference is None or isinstance(report.reference.get("digest"), Mapping):
        return  # moments of several files may be of several counts
    count, own = report.reference.get("count"), row.data.get("reference_count")
    if None not in (count, own) and count != own and _is_of_moments(row):
        yield f"{row.key} is against {own} images, and the reference has {count}"


def _is_of_moments(row: Row) -> bool:
    return row.is_distance or ratio_of(row.metric) is not None


def versions(report: Parts, row: Row) -> Iterator[str]:
    version = report.data["fdr_version"]
    found = {
        "run.versions": report.run("versions").get("fdr"),
        f"the signature of {row.key}": row.signature.value("v"),
    }
    for where, other in found.items():
        if other is not None and other != version:
            yield f"{where} says version {other}, and the report is of version {version}"


def distances_are_their_terms(report: Parts, row: Row) -> Iterator[str]:
    mean, trace, rounding = (row.number(name) for name in ("mean_term", "trace_term", "rounding"))
    if not row.is_distance or mean is None or trace is None:
        return
    if row.value == 0:  # a value within its rounding is written as 0
        rounding = ABSOLUTE * max(1.0, abs(mean) + abs(trace)) if rounding is None else abs(rounding)
    if mean < 0:
        yield f"mean_term of {row.key} is {mean:g}, and a squared length is 0 or more"
    if _differ(row.value, mean + trace, max(rounding or 0.0, RELATIVE * abs(mean))):
        yield f"{row.key} is {row.value:g}, and its terms {mean:g} and {trace:g} add up to {mean + trace:g}"


def audits(report: Parts, row: Row) -> Iterator[str]:
    second, rounding = row.number("audit"), row.number("rounding") or 0.0
    if second is not None and abs(second - row.value) > max(ABSOLUTE, 1e6 * rounding, 0.01 * abs(row.value)):
        yield f"{row.key} is {row.value:g}, and {second:g} by the second route of its audit"


def ratios_are_ratios(report: Parts, row: Row) -> Iterator[str]:
    distance, below = report.row(f"{ratio_of(row.metric)}:{row.encoder}"), row.detail("val_fd")
    if ratio_of(row.metric) is None or below is None:
        return
    if not is_number(below) or below <= 0:
        yield f"val_fd of {row.key} is {quoted(below)}, where a number above 0 is expected"
    elif distance is not None and _differ(row.value, distance.value / below):
        yield (
            f"{row.key} is {row.value:g}, and {distance.key} over the validation FD {below:g} is "
            f"{distance.value / below:g}"
        )


def means_are_means(report: Parts, row: Row) -> Iterator[str]:
    """FDr^k: its encoders, their number, its value and its interval."""
    names = row.data.get("encoders")
    ratio = mean_of(row.metric)
    if ratio is None or not names:
        return
    k, signed = row.data.get("k"), row.signature.value("k")
    if {str(len(names)), str(k or len(names)), signed or str(len(names))} != {str(len(names))}:
        yield f"{row.key} has {len(names)} encoders, k is {k}, and its signature says k:{signed}"
    yield from _encoders_of_mean(report, row, names)
    yield from _value_of_mean(report, row, names, ratio)


def groups_share_nothing(report: Parts, row: Row) -> Iterator[str]:
    """An encoder is one that the generator was trained on, or is held out."""
    name, _, group = row.metric.partition(":")
    if mean_of(row.metric) is None or group != GROUPS[0]:
        return
    other = report.row(f"{name}:{GROUPS[1]}")
    shared = set(row.data.get("encoders") or ()) & set((other.data.get("encoders") or ()) if other else ())
    if other is not None and shared:
        yield f"{', '.join(sorted(shared))} are in {row.key} and in {other.key}, and an encoder is in one of the two"


def _label(metric: str) -> str:
    info = metric_info(metric)
    return metric if info is None else info.label


def _encoders_of_mean(report: Parts, row: Row, names: Sequence[str]) -> Iterator[str]:
    """The signature has NAME@HASH of every encoder."""
    text = row.signature.value("enc") or ""
    if "@" not in text or any("+" in name or "@" in name for name in names):
        return
    signed = dict(part.split("@", 1) for part in text.split("+") if "@" in part)
    if list(signed) != list(names):
        yield f"{row.key} is of {', '.join(names)}, and its signature of {', '.join(signed)}"
    for name, digest in signed.items():
        spec = report.run("encoders", name)
        if "hash" in spec and digest != str(spec["hash"])[:8]:
            yield f"the signature of {row.key} has {name}@{digest}, and the run describes {name} as {spec['hash']}"


def _value_of_mean(report: Parts, row: Row, names: Sequence[str], ratio: str) -> Iterator[str]:
    parts = [report.row(f"{ratio}:{name}") for name in names]
    stated = row.detail(ratio)
    if isinstance(stated, Mapping):
        if sorted(stated) != sorted(names):
            yield f"{row.key} is of {', '.join(names)}, and its details are of {', '.join(map(str, stated))}"
        for part in parts:
            own = None if part is None else stated.get(str(part.encoder))
            if part is not None and own is not None and not (is_number(own) and not _differ(own, part.value)):
                yield f"{part.key} is {part.value:g}, and {quoted(own)} in the details of {row.key}"
    found = [part for part in parts if part is not None]
    if len(found) != len(names):
        if found:
            absent = f"{_label(ratio)} of {len(names) - len(found)} of them"
            yield f"{row.key} is of {', '.join(names)}, and {absent} is not there"
        return
    mean = sum(part.value for part in found) / len(found)
    if _differ(row.value, mean):
        yield f"{row.key} is {row.value:g}, and the mean of its {len(found)} ratios is {mean:g}"
    bounds = [part.data.get("interval") or (part.value, part.value) for part in found]
    for side, own in enumerate(row.data.get("interval") or ()):
        mean = sum(pair[side] for pair in bounds) / len(bounds)
        if _differ(own, mean):
            yield f"the interval of {row.key} ends at {own:g}, and those of its ratios at {mean:g} on average"


def shares_are_of_whole_images(report: Parts, row: Row) -> Iterator[str]:
    """Precision counts samples and recall counts images of the reference, so the share times the count is whole."""
    kind = row.metric.partition(":")[0]
    total = {"precision": row.data["count"], "recall": row.data.get("reference_count")}.get(kind)
    if total is not None and abs(row.value * total - round(row.value * total)) > RELATIVE * total + ABSOLUTE:
        yield f"{row.key} is {row.value:.9g}, which is no share of {total} images"


RULES: tuple[Callable[[Parts, Row], Iterator[str]], ...] = (
    each_number_once, computed_or_failed, directions, possible_values, intervals, signature_names_the_number, counts,
    subsets, signature_agrees, signature_is_of_the_reference, reference_counts, versions, distances_are_their_terms,
    audits, ratios_are_ratios, groups_share_nothing, means_are_means, shares_are_of_whole_images,
)  # fmt: skip


def check_report(data: Mapping[str, Any], where: str = "it") -> None:
    """Raise `InputError` for decoded JSON that is no sound report, or that contradicts itself.

    `where` names the file in the advice at the end of the sentence.
    """
    for problem in schema_problems(data):
        raise InputError(f"Damaged report: {problem}; write {where} again with --json.")
    report = Parts(data, tuple(Row(row, parse_signature(row["signature"])) for row in data["results"]))
    problems = (problem for rule in RULES for row in report.rows for problem in rule(report, row))
    for problem in problems:
        raise InputError(
            f"The report contradicts itself: {problem}; write {where} again with --json, and leave the file as it is "
            "written."
        )
