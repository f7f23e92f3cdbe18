"""Explanations as notebooks show them: a table of the images that raise FD most."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from fdr.reports import format_number

if TYPE_CHECKING:
    from fdr.explanation.results import EncoderInfluences, Explanation

SHOWN = 10
"""Images in the table of each encoder."""


def explanation_to_html(explanation: Explanation) -> str:
    """A table for each encoder, without scripts or styles."""
    return "".join(_table(explanation, found) for found in explanation.encoders)


def _table(explanation: Explanation, found: EncoderInfluences) -> str:
    images = explanation.ranked(found)[:SHOWN]
    columns = list(dict.fromkeys(name for image in images for name in image if name != "row"))
    heads = "".join(f"<th>{name}</th>" for name in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_cell(image.get(name))}</td>" for name in columns) + "</tr>" for image in images
    )
    caption = f"{found.encoder}: FD {format_number(found.fd)} of {len(found.rows)} images; those that raise it most"
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(format_number(value, 3) if isinstance(value, float) else str(value))
