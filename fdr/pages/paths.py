"""Takes folders out of paths, because a page is sent to others: of an absolute path only the last name is left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_QUOTED = re.compile(r"""(?P<quote>['"])(?P<path>(?:/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)[^'"]*)(?P=quote)""")
_BARE = re.compile(
    r"""(?<![\w/.:~<\\-])(?:~[\w.-]*/|/|[A-Za-z]:[\\/]|\\\\)(?:[^\s/\\'",;()<>]+[\\/])+(?=[^\s/\\'",;()])"""
)
_WHOLE = re.compile(r"(?:/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)[^\n]*")


def without_folders(data: Any) -> Any:
    """The data with every absolute path in its texts cut to its last name; mappings and lists are walked through."""
    if isinstance(data, str):
        return _shortened(data)
    if isinstance(data, Mapping):
        return {without_folders(key): without_folders(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return (list if isinstance(data, list) else tuple)(map(without_folders, data))
    return data


def _shortened(text: str) -> str:
    if _WHOLE.fullmatch(text) and ", " not in text and ": " not in text:
        return _last(text)
    return _BARE.sub("", _QUOTED.sub(lambda match: match["quote"] + _last(match["path"]) + match["quote"], text))


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path[:1]
