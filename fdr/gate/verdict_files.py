"""Writes a verdict as sentences, JSON, Markdown, JUnit and OpenMetrics. These functions return text; none prints."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fdr._version import __version__
from fdr.gate.checks import Bound, Check
from fdr.gate.verdict import Verdict
from fdr.reports import format_number, format_value, json_text, metric_label

SCHEMA = "fdr-check/1"
JUNIT_NAME = "fdr check"
_JUNIT_COUNTS = {"tests": "testcase", "failures": "failure", "skipped": "skipped", "errors": "error"}
_OUTCOMES = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}


def _title_of(check: Check) -> str:
    """One line: "fd:random of samples.npz fails: 0.4701 > 0.3"."""
    sign = ">" if check.result.lower_is_better else "<"
    detail = f": {format_number(check.result.value)} {sign} {format_number(check.limit)}" if check.excess > 0 else ""
    return f"{check.result.key} of {check.bound.samples} {_OUTCOMES[check.outcome]}{detail}"


def sentences_of(check: Check) -> tuple[str, ...]:
    """One sentence each for the value, the limit, how far the value is from it, and the signature."""
    result = check.result
    encoder = f" with {result.encoder}" if result.encoder else ""
    return (
        f"{metric_label(result)}{encoder} of {check.bound.samples} ({result.key}) is {format_value(result)}.",
        _limit_sentence(check),
        _margin_sentence(check),
        f"Signature: {result.signature}",
    )


def _limit_sentence(check: Check) -> str:
    bound = check.bound
    text = f"The limit is at {'most' if check.result.lower_is_better else 'least'} {format_number(check.limit)}"
    if bound.baseline is None:
        return f"{text} ({bound.source})."
    text += f": {format_number(bound.value)} in baseline {bound.baseline_name} and a tolerance of {bound.tolerance}."
    if bound.allowed:
        text += " The two differ in " + ", ".join(f"{d.field} ({d.a}; {d.b})" for d in bound.allowed) + ", as allowed."
    return text


def _margin_sentence(check: Check) -> str:
    amount = format_number(abs(check.excess))
    if check.relative_excess is not None:
        amount += f" ({100 * abs(check.relative_excess):.2f} %)"
    side = "beyond" if check.excess > 0 else "within"
    text = f"It is {amount} {side} the limit" if check.excess else "It is exactly at the limit"
    if check.outcome == "inconclusive":
        low, high = map(format_number, check.range)
        return (
            f"{text}, which lies inside the uncertainty from {low} to {high} ({_confidence(check)}), so it neither "
            "passes nor fails."
        )
    return f"{text} ({_confidence(check)})." if check.stderr else f"{text}."


def _confidence(check: Check) -> str:
    """The confidence of a verdict, as part of a sentence."""
    percent = f"{100 * check.confidence:g} % confidence"
    return f"{percent}, standard error {format_number(check.stderr)}" if check.stderr else percent


def _bound_of(check: Check) -> str:
    """The limit as a table shows it: "≤ 3.0000", "≤ 3.0300 (3.0000 + 1 %)"."""
    sign, direction = ("≤", "+") if check.result.lower_is_better else ("≥", "−")
    text = f"{sign} {format_number(check.limit)}"
    if check.bound.baseline is None:
        return text
    return f"{text} ({format_number(check.bound.value)} {direction} {check.bound.tolerance})"


def _margin_of(check: Check) -> str:
    """`excess` with its sign, and as a share of the limit if that is defined."""
    amount = ("+" if check.excess > 0 else "") + format_number(check.excess)
    return amount if check.relative_excess is None else f"{amount} ({100 * check.relative_excess:+.1f} %)"


@dataclass(frozen=True)
class Finding:
    """A check or a missing number, as all renderings show it."""

    bound: Bound
    outcome: str
    """"pass", "fail", "inconclusive", or "skipped" for a number that was not measured."""
    stops: bool
    """True if this alone stops the gate."""
    title: str
    """One line: "fd:random of samples.npz fails: 0.4701 > 0.3"."""
    sentences: tuple[str, ...]
    """What `sentences_of` says of a check; one sentence with advice for a missing number."""
    cells: tuple[str, str, str] = ("", "", "")
    """Value, limit and margin."""


def findings_of(verdict: Verdict) -> Iterator[Finding]:
    """The checks, then the missing numbers."""
    for check in verdict.checks:
        cells = format_value(check.result), _bound_of(check), _margin_of(check)
        yield Finding(
            check.bound, check.outcome, verdict.stops(check), _title_of(check), tuple(sentences_of(check)), cells
        )
    is_allowed = verdict.options.allow_missing
    advice = "it was left out, as --allow-missing says" if is_allowed else "measure it, or give --allow-missing"
    for bound in verdict.missing:
        title = f"{bound.key} of {bound.samples} was not measured"
        yield Finding(bound, "skipped", not is_allowed, title, (f"{bound.if_missing}: {advice}.",))


def table_of(verdict: Verdict) -> Iterator[tuple[str, ...]]:
    """One row for each check and each missing number: samples, number, value, limit, margin, outcome."""
    for finding in findings_of(verdict):
        yield finding.bound.samples, finding.bound.key, *finding.cells, finding.outcome


def verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    """The stable JSON form (schema fdr-check/1)."""
    return {
        "schema": SCHEMA,
        "fdr_version": __version__,
        "result": verdict.result,
        "outcome": verdict.result,
        "passes": verdict.passes,
        "inconclusive_is": verdict.options.inconclusive,
        "confidence": verdict.options.confidence,
        "exit_code": verdict.exit_code,
        "allow": list(verdict.options.allow),
        "allow_missing": verdict.options.allow_missing,
        "warnings": list(verdict.warnings),
        "checks": [_check_to_dict(check) for check in verdict.checks],
        "missing": [_missing_to_dict(finding) for finding in findings_of(verdict) if finding.outcome == "skipped"],
        "unchecked": [{"samples": name, "key": row.key, "value": row.value} for name, row in verdict.unchecked],
        "null": [budget.to_dict() for budget in verdict.nulls],
    }


def _check_to_dict(check: Check) -> dict[str, Any]:
    result, bound = check.result, check.bound
    return {
        "samples": bound.samples,
        "key": result.key,
        "metric": result.metric,
        "encoder": result.encoder,
        "lower_is_better": result.lower_is_better,
        "value": result.value,
        "stderr": result.stderr,
        "noise": check.stderr,
        "range": list(check.range),
        "rule": bound.rule,
        "limit": check.limit,
        "baseline": _baseline_of(bound),
        "tolerance": None if bound.tolerance is None else str(bound.tolerance),
        "allowed": [difference.to_dict() for difference in bound.allowed],
        "excess": check.excess,
        "relative_excess": check.relative_excess,
        "outcome": check.outcome,
        "signature": result.signature,
        "message": " ".join(sentences_of(check)[:3]),
    }


def _missing_to_dict(finding: Finding) -> dict[str, Any]:
    bound = finding.bound
    return {
        "samples": bound.samples,
        "key": bound.key,
        "rule": bound.rule,
        "limit": bound.value if bound.baseline is None else None,
        "baseline": _baseline_of(bound),
        "outcome": finding.outcome,
        "message": " ".join(finding.sentences),
    }


def _baseline_of(bound: Bound) -> dict[str, Any] | None:
    return None if bound.baseline is None else {"name": bound.baseline_name, **vars(bound.baseline)}


def verdict_to_json(verdict: Verdict) -> str:
    """One JSON object, full precision."""
    return json_text(verdict_to_dict(verdict), allow_nan=False)


def verdict_to_markdown(verdict: Verdict) -> str:
    """A heading with the result, a row per check, a sentence per check that does not pass."""
    lines = [f"### fdr check: {verdict.result}", ""]
    lines += ["| samples | number | value | limit | beyond the limit | outcome |", "|---|---|---:|---:|---:|---|"]
    for samples, key, *rest in table_of(verdict):
        lines.append("| " + " | ".join(map(_cell, (samples, f"`{key}`", *rest))) + " |")
    open_points = [" ".join(found.sentences[:3]) for found in findings_of(verdict) if found.outcome != "pass"]
    notes = [*open_points, *verdict.warnings, *_confidence_note(verdict)]
    lines += ["", *(f"- {_line(note)}" for note in notes)] if notes else []
    signatures = dict.fromkeys(check.result.signature for check in verdict.checks)
    lines += ["", *(f"    {_line(signature)}" for signature in signatures)]
    return "\n".join(lines) + "\n"


def _confidence_note(verdict: Verdict) -> Iterator[str]:
    """What passing and failing mean where numbers have a standard error."""
    if any(check.stderr for check in verdict.checks):
        percent = f"{100 * verdict.options.confidence:g} %"
        yield f"Numbers with a standard error pass or fail at {percent} confidence, and are inconclusive otherwise."


def _line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def verdict_to_junit(verdict: Verdict) -> str:
    """JUnit XML: a suite per sample set, a case per check.

    Checks that stop the gate are failures; other inconclusive checks and missing numbers are skipped cases.
    """
    by_set: dict[str, list[Finding]] = {}
    for finding in findings_of(verdict):
        by_set.setdefault(finding.bound.samples, []).append(finding)
    root = ET.Element("testsuites", {"name": JUNIT_NAME})
    for name, findings in by_set.items():
        suite = ET.SubElement(root, "testsuite", {"name": _xml(name)})
        for finding in findings:
            _add_case(suite, finding)
    return _junit(root)


def _junit(root: ET.Element) -> str:
    """Add the counts of cases to every suite and to the whole, and return the text."""
    for element in root.iter():
        if element.tag in ("testsuites", "testsuite"):
            for name, tag in _JUNIT_COUNTS.items():
                element.set(name, str(sum(1 for _ in element.iter(tag))))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ET.Element, finding: Finding) -> None:
    bound, title = finding.bound, _xml(finding.title)
    case = ET.SubElement(suite, "testcase", classname=_xml(bound.samples), name=_xml(f"{bound.key} {bound.source}"))
    text = _xml("\n".join(finding.sentences))
    if finding.outcome == "skipped":
        ET.SubElement(case, "skipped", message=text)
        return
    if finding.stops:
        ET.SubElement(case, "failure", message=title, type=finding.outcome).text = text
        return
    if finding.outcome == "inconclusive":
        ET.SubElement(case, "skipped", message=title)
    ET.SubElement(case, "system-out").text = text


def _xml(text: str) -> str:
    """Replace the control characters that XML 1.0 does not allow."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def verdict_to_openmetrics(verdict: Verdict) -> str:
    """OpenMetrics text, a gauge per number, as GitLab's metrics report reads it."""
    lines = ["# TYPE fdr_value gauge"]
    for name, key, value in values_of(verdict):
        lines.append(f'fdr_value{{samples="{_label(name)}",number="{_label(key)}"}} {value!r}')
    lines += ["# TYPE fdr_limit gauge"]
    for check in verdict.checks:
        labels = (
            f'samples="{_label(check.bound.samples)}",number="{_label(check.result.key)}",rule="{check.bound.rule}"'
        )
        lines.append(f"fdr_limit{{{labels}}} {check.limit!r}")
    if verdict.missing:
        lines.append("# TYPE fdr_missing gauge")
    for missing in verdict.missing:
        labels = f'samples="{_label(missing.samples)}",number="{_label(missing.key)}",rule="{missing.rule}"'
        lines.append(f"fdr_missing{{{labels}}} 1")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def values_of(verdict: Verdict) -> Iterator[tuple[str, str, float]]:
    """Sample set, key and value of everything measured, once each."""
    rows = [(check.bound.samples, check.result) for check in verdict.checks] + list(verdict.unchecked)
    yield from dict.fromkeys((name, row.key, row.value) for name, row in rows)


def error_to_json(message: str) -> str:
    """The JSON form of a check that ended with an error."""
    data = {"schema": SCHEMA, "fdr_version": __version__, "result": "error", "outcome": "error", "passes": False}
    return json_text({**data, "message": message, "checks": [], "missing": [], "unchecked": []})


def error_to_markdown(message: str) -> str:
    """A heading with the result, and the sentence."""
    return f"### fdr check: error\n\n- {_line(message)}\n"


def error_to_junit(message: str) -> str:
    """JUnit XML with one case, an error."""
    root = ET.Element("testsuites", {"name": JUNIT_NAME})
    suite = ET.SubElement(root, "testsuite", {"name": JUNIT_NAME})
    case = ET.SubElement(suite, "testcase", classname=JUNIT_NAME, name="the check itself")
    ET.SubElement(case, "error", message=_xml(_line(message)), type="error").text = _xml(message)
    return _junit(root)


def error_to_openmetrics(message: str) -> str:
    """OpenMetrics text without a number; a comment has the sentence."""
    return f"# TYPE fdr_error gauge\n# HELP fdr_error {_label(_line(message))}\nfdr_error 1\n# EOF\n"
