"""The table of numbers as a Markdown comment for a pull request, and as a LaTeX table for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fdr.pages.table import Entry, NumberRow, NumberTable
from fdr.pages.words import difference_words, notes, value_words, verdict
from fdr.reports import format_number, format_stderr

MAX_COLUMNS = 8
"""A LaTeX table with more numbers has a row for each of them. Raising it makes wider tables."""
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>|#~]")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
_ARROWS = {"↓": r"$\downarrow$", "↑": r"$\uparrow$"}
_SYMBOLS = {"±": r"$\pm$", "−": "$-$", "≤": r"$\leq$", "ρ": r"$\rho$", "τ": r"$\tau$"}


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join((_LATEX | _SYMBOLS).get(sign, sign) for sign in " ".join(text.split()))


def table_to_markdown(table: NumberTable) -> str:
    """The verdict, a table with the best value of each number in bold, and signatures and notes to unfold."""
    several = len(table.names) > 1
    lines = [f"**{sentence.mark}** {markdown_text(sentence.text)}" + "  " for sentence in verdict(table)]
    heads = ["number", "encoder", *map(markdown_text, table.names)]
    lines += ["", _line(heads), "|---|---|" + "---:|" * len(table.names)]
    lines += [_line([_label(row), _encoder(row), *(_cell(row, entry) for entry in row.entries)]) for row in table.rows]
    if several:
        lines += ["", f"Bold: best or tied for the best, at {100 * table.confidence:g} % confidence. "
                  f"Differences are from {markdown_text(table.names[0])}."]  # fmt: skip
    found = [f"- {markdown_text(note)}" for note in notes(table)]
    lines += ["", "<details><summary>Signatures and notes</summary>", "", *_signatures(table, "- `", "`"), *found]
    return "\n".join([*lines, "", "</details>"]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _label(row: NumberRow) -> str:
    return f"{markdown_text(row.label)} {row.arrow}"


def _encoder(row: NumberRow) -> str:
    return markdown_text(row.encoder) + (f" ({row.group})" if row.group else "")


def _cell(row: NumberRow, entry: Entry | None) -> str:
    text = markdown_text(value_words(row, entry))
    if entry is None:
        return text
    if entry.standing == "best":
        text = f"**{text}**"
    if entry.standing == "apart":
        text += " (not comparable)"
    if entry.contrast is not None:
        text += f"<br>{difference_words(entry.contrast)}, {entry.verdict}"
    return text


def _signatures(table: NumberTable, before: str, after: str = "") -> list[str]:
    found = (entry.result.signature for _, _, column in table.columns() for entry in column if entry.result)
    return [f"{before}{signature}{after}" for signature in dict.fromkeys(found)]


def table_to_latex(table: NumberTable) -> str:
    r"""A `tabular` for the package booktabs: a row per set if the numbers are few, else a row per number.

    The best values are bold. Comments hold the signature of every number.
    """
    cells = [[_latex_cell(row, entry) for entry in row.entries] for row in table.rows]
    numbers = [(f"{latex_text(row.label)} {_ARROWS[row.arrow]}", latex_text(row.encoder)) for row in table.rows]
    sets = [latex_text(name) for name in table.names]
    if len(numbers) <= MAX_COLUMNS:
        heads = [["", *(label for label, _ in numbers)], ["samples", *(encoder for _, encoder in numbers)]]
        body = [[name, *column] for name, column in zip(sets, map(list, zip(*cells, strict=True)), strict=True)]
        align = "l" + "r" * len(numbers)
    else:
        heads = [["number", "encoder", *sets]]
        body = [[*number, *row] for number, row in zip(numbers, cells, strict=True)]
        align = "ll" + "r" * len(sets)
    lines = [r"% \usepackage{booktabs}", *_signatures(table, "% ")]
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule", *map(_latex_line, heads), r"\midrule"]
    return "\n".join([*lines, *map(_latex_line, body), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(row: NumberRow, entry: Entry | None) -> str:
    if entry is None:
        return "--"
    if entry.result is None:
        return "failed"
    value = format_number(entry.result.value).replace("-", "$-$")
    text = rf"\textbf{{{value}}}" if entry.standing == "best" else value
    if entry.result.stderr is not None:
        text += rf" {{\scriptsize$\pm$ {format_stderr(entry.result.stderr)}}}"
    return text + (r"\textsuperscript{*}" if entry.standing == "apart" else "")
