"""The one grammar of open-ended names: "family:TARGET", "family:TARGET?key=value&key=value".

A list of numbers inside a value is separated by colons, since commas separate encoders: "mean=0.5:0.5:0.5".
"""

from __future__ import annotations

from collections.abc import Collection

from fdr.errors import InputError, unknown


def parse_open_name(name: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """The target and the settings of a name.

    Raises `InputError` for a setting that is not in `known`, is given twice or has no value, and for no target.
    """
    family, _, rest = name.partition(":")
    target, mark, query = rest.partition("?")
    settings: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if key not in known:
            raise unknown(f"setting of {name!r}", key, known)
        if not equals or not value or key in settings:
            raise InputError(f"Encoder {name!r}: expected each setting once, as {key}=VALUE; got {part!r}.")
        settings[key] = value
    if not target:
        raise InputError(f"Encoder {name!r} names nothing after {family!r}:; see docs/encoders.md for its form.")
    return target, settings
