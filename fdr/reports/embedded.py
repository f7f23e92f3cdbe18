"""JSON inside of an HTML page, so that the page is also the data: it is written there, and read back."""

from __future__ import annotations

import json
import re
from typing import Any

DATA_ID = "fdr-report"
"""The id of the element that holds the reports of a page."""
_ELEMENT = re.compile(
    rb'<script type="application/json" id="' + DATA_ID.encode() + rb'">(.*?)</script>', flags=re.DOTALL
)


def embedded_json(data: Any) -> str:
    """JSON that can stand in a script element: no text in it ends the element or begins a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def is_page(content: bytes) -> bool:
    """True for the beginning of an HTML page."""
    return content.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html"))


def json_of(content: bytes) -> bytes:
    """The JSON of a file: its content, or what a page of `fdr report` holds. Raises `ValueError` for other pages."""
    if not is_page(content):
        return content
    found = _ELEMENT.search(content)
    if found is None:
        raise ValueError("it is an HTML page without the data of a report")
    return found[1]
