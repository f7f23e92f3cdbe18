"""Writes a verdict as sentences, JSON, Markdown, JUnit and OpenMetrics. These functions return text; none prints."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

from fdr._version import __version__
from fdr.gate.limits import Limit
from fdr.gate.verdict import Check, Missing, Verdict
from fdr.reports import format_number, format_value, json_text, metric_label

SCHEMA = "fdr-check/1"
JUNIT_NAME = "fdr check"
_JUNIT_COUNTS = {"tests": "testcase", "failures": "failure", "skipped": "skipped", "errors": "error"}
_OUTCOMES = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}


def title_of(check: Check) -> str:
    """One line: "fd:random of samples.npz fails: 0.4701 > 0.3"."""
    sign = ">" if check.result.lower_is_better else "<"
    detail = f": {format_number(check.result.value)} {sign} {format_number(check.limit)}" if check.excess > 0 else ""
    return f"{check.result.key} of {check.samples} {_OUTCOMES[check.outcome]}{detail}"


def sentences_of(check: Check) -> tuple[str, ...]:
    """One sentence each for the value, the limit, how far the value is from it, and the signature."""
    result = check.result
    encoder = f" with {result.encoder}" if result.encoder else ""
    return (
        f"{metric_label(result)}{encoder} of {check.samples} ({result.key}) is {format_value(result)}.",
        _limit_sentence(check),
        _margin_sentence(check),
        f"Signature: {result.signature}",
    )


def missing_title(missing: Missing) -> str:
    """One line: "fd:random of samples.npz was not measured"."""
    return f"{missing.key} of {missing.samples} was not measured"


def missing_sentence(missing: Missing, is_allowed: bool) -> str:
    """One sentence: which number is missing and what to do about it."""
    advice = "it was left out, as --allow-missing says" if is_allowed else "measure it, or give --allow-missing"
    return f"{missing}: {advice}."


def _limit_sentence(check: Check) -> str:
    bound = "most" if check.result.lower_is_better else "least"
    if check.baseline is None:
        return f"The limit is at {bound} {format_number(check.limit)} (--{check.rule})."
    text = (
        f"The limit is at {bound} {format_number(check.limit)}: {format_number(check.baseline.value)} in baseline "
        f"{check.baseline_name} and a tolerance of {check.tolerance}."
    )
    if check.allowed:
        text += " The two differ in " + ", ".join(f"{d.field} ({d.a}; {d.b})" for d in check.allowed) + ", as allowed."
    return text


def _margin_sentence(check: Check) -> str:
    amount = format_number(abs(check.excess))
    if check.relative_excess is not None:
        amount += f" ({100 * abs(check.relative_excess):.2f} %)"
    side = "beyond" if check.excess > 0 else "within"
    text = f"It is {amount} {side} the limit" if check.excess else "It is exactly at the limit"
    if check.outcome == "inconclusive":
        low, high = format_number(check.low), format_number(check.high)
        text += f", which lies inside the uncertainty from {low} to {high}, so neither pass nor fail is shown"
    return text + "."


def bound_of(check: Check) -> str:
    """The limit as a table shows it: "≤ 3.0000", "≤ 3.0300 (3.0000 + 1 %)"."""
    sign = "≤" if check.result.lower_is_better else "≥"
    text = f"{sign} {format_number(check.limit)}"
    if check.baseline is None:
        return text
    direction = "+" if check.result.lower_is_better else "−"
    return f"{text} ({format_number(check.baseline.value)} {direction} {check.tolerance})"


def margin_of(check: Check) -> str:
    """`excess` with its sign, and as a share of the limit if that is defined."""
    amount = ("+" if check.excess > 0 else "") + format_number(check.excess)
    return amount if check.relative_excess is None else f"{amount} ({100 * check.relative_excess:+.1f} %)"


def table_of(verdict: Verdict) -> Iterator[tuple[str, ...]]:
    """One row for each check and each missing number: samples, number, value, limit, margin, outcome."""
    for check in verdict.checks:
        value, bound, margin = format_value(check.result), bound_of(check), margin_of(check)
        yield check.samples, check.result.key, value, bound, margin, check.outcome
    for missing in verdict.missing:
        yield missing.samples, missing.key, "", "", "", "skipped"


def verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    """The stable JSON form (schema fdr-check/1)."""
    return {
        "schema": SCHEMA,
        "fdr_version": __version__,
        "result": verdict.result,
        "outcome": verdict.result,
        "passes": verdict.passes,
        "inconclusive_is": verdict.options.inconclusive,
        "allow": list(verdict.options.allow),
        "allow_missing": verdict.options.allow_missing,
        "warnings": list(verdict.warnings),
        "checks": [_check_to_dict(check) for check in verdict.checks],
        "missing": [_missing_to_dict(missing, verdict.options.allow_missing) for missing in verdict.missing],
        "unchecked": [{"samples": name, "key": row.key, "value": row.value} for name, row in verdict.unchecked],
    }


def _check_to_dict(check: Check) -> dict[str, Any]:
    result, baseline = check.result, check.baseline
    return {
        "samples": check.samples,
        "key": result.key,
        "metric": result.metric,
        "encoder": result.encoder,
        "lower_is_better": result.lower_is_better,
        "value": result.value,
        "stderr": result.stderr,
        "range": [check.low, check.high],
        "rule": check.rule,
        "limit": check.limit,
        "baseline": None if baseline is None else {"name": check.baseline_name, **vars(baseline)},
        "tolerance": None if check.tolerance is None else str(check.tolerance),
        "allowed": [difference.to_dict() for difference in check.allowed],
        "excess": check.excess,
        "relative_excess": check.relative_excess,
        "outcome": check.outcome,
        "signature": result.signature,
        "message": " ".join(sentences_of(check)[:3]),
    }


def _missing_to_dict(missing: Missing, is_allowed: bool) -> dict[str, Any]:
    bound = missing.bound
    return {
        "samples": missing.samples,
        "key": missing.key,
        "rule": missing.rule,
        "limit": bound.bound if isinstance(bound, Limit) else None,
        "baseline": None if isinstance(bound, Limit) else {"name": missing.baseline_name, **vars(bound)},
        "outcome": "skipped",
        "message": missing_sentence(missing, is_allowed),
    }


def verdict_to_json(verdict: Verdict) -> str:
    """One JSON object, full precision."""
    return json_text(verdict_to_dict(verdict), allow_nan=False)


def verdict_to_markdown(verdict: Verdict) -> str:
    """A heading with the result, a row per check, a sentence per check that does not pass."""
    lines = [f"### fdr check: {verdict.result}", ""]
    lines += ["| samples | number | value | limit | beyond the limit | outcome |", "|---|---|---:|---:|---:|---|"]
    for samples, key, *rest in table_of(verdict):
        lines.append("| " + " | ".join(map(_cell, (samples, f"`{key}`", *rest))) + " |")
    open_points = [" ".join(sentences_of(check)[:3]) for check in verdict.checks if check.outcome != "pass"]
    open_points += [missing_sentence(missing, verdict.options.allow_missing) for missing in verdict.missing]
    notes = [*open_points, *verdict.warnings]
    lines += ["", *(f"- {_line(note)}" for note in notes)] if notes else []
    signatures = dict.fromkeys(check.result.signature for check in verdict.checks)
    lines += ["", *(f"    {_line(signature)}" for signature in signatures)]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def verdict_to_junit(verdict: Verdict) -> str:
    """JUnit XML: a suite per sample set, a case per check.

    Checks that stop the gate are failures; other inconclusive checks and missing numbers are skipped cases.
    """
    by_set: dict[str, list[Check | Missing]] = {}
    items: list[Check | Missing] = [*verdict.checks, *verdict.missing]
    for item in items:
        by_set.setdefault(item.samples, []).append(item)
    root = ET.Element("testsuites", {"name": JUNIT_NAME})
    for name, cases in by_set.items():
        suite = ET.SubElement(root, "testsuite", {"name": _xml(name)})
        for item in cases:
            if isinstance(item, Check):
                _add_case(suite, item, verdict.stops(item))
            else:
                _add_skipped(suite, item, verdict.options.allow_missing)
    return _junit(root)


def _junit(root: ET.Element) -> str:
    """Add the counts of cases to every suite and to the whole, and return the text."""
    for element in root.iter():
        if element.tag in ("testsuites", "testsuite"):
            for name, tag in _JUNIT_COUNTS.items():
                element.set(name, str(sum(1 for _ in element.iter(tag))))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ET.Element, check: Check, is_broken: bool) -> None:
    rule = "baseline" if check.rule == "baseline" else f"--{check.rule}"
    case = ET.SubElement(suite, "testcase", classname=_xml(check.samples), name=_xml(f"{check.result.key} {rule}"))
    text = _xml("\n".join(sentences_of(check)))
    if is_broken:
        ET.SubElement(case, "failure", message=_xml(title_of(check)), type=check.outcome).text = text
        return
    if check.outcome == "inconclusive":
        ET.SubElement(case, "skipped", message=_xml(title_of(check)))
    ET.SubElement(case, "system-out").text = text


def _add_skipped(suite: ET.Element, missing: Missing, is_allowed: bool) -> None:
    name = f"{missing.key} {'baseline' if missing.rule == 'baseline' else f'--{missing.rule}'}"
    case = ET.SubElement(suite, "testcase", classname=_xml(missing.samples), name=_xml(name))
    ET.SubElement(case, "skipped", message=_xml(missing_sentence(missing, is_allowed)))


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
        labels = f'samples="{_label(check.samples)}",number="{_label(check.result.key)}",rule="{check.rule}"'
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
    rows = [(check.samples, check.result) for check in verdict.checks] + list(verdict.unchecked)
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
