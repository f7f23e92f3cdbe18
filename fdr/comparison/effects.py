"""How much a difference of protocol usually changes FD: looks it up in the measured table of docs/footguns.md."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fdr.errors import RunError

TABLE = Path(__file__).with_name("footguns.toml")


@dataclass(frozen=True)
class Effect:
    """One measured change of protocol: FD under `after`, relative to FD under `before`, minus 1."""

    field: str
    """The field of the signature: "rs", "crop", "q", "dt", "n", "alpha"."""
    before: str
    after: str
    encoder: str
    median: float
    low: float
    high: float
    measured_on: str
    sides: str = ""
    """The sides that were changed: "both" or the "samples" alone; "" if the table does not say."""
    note: str = ""

    def covers(self, value: str, other: str) -> bool:
        """True if the effect was measured between exactly these two values."""
        sides = (value, self.before), (other, self.after)  # "tf1-bilinear-299" is "tf1-bilinear": a size may follow
        return all(found == label or found.startswith(f"{label}-") for found, label in sides)

    def reversed(self) -> Effect:
        """The same change the other way round."""
        median, low, high = (1 / (1 + change) - 1 for change in (self.median, self.high, self.low))
        return replace(self, before=self.after, after=self.before, median=median, low=low, high=high)

    def sentence(self) -> str:
        """The measured change in words, with its range if there is one."""
        spread = "" if self.low == self.high else f" ({100 * self.low:+.1f} to {100 * self.high:+.1f} %)"
        sides = {"both": " (both sides)", "samples": " (samples alone)"}.get(self.sides, "")
        return (
            f"{self.before} -> {self.after}{sides} moved FD of {self.encoder} by {100 * self.median:+.1f} %{spread} "
            f"on {self.measured_on}"
        )


def load_effects(path: Path = TABLE) -> tuple[Effect, ...]:
    """All measured effects; empty if the table is absent. Raises `RunError` if it is damaged."""
    if not path.is_file():
        return ()
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("effect", [])
        return tuple(_effect({**row, "before": row["from"], "after": row["to"]}) for row in rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}: {error}); install fdr again.") from error


def usual_effect(
    field: str, value: str, other: str, encoder: str | None, effects: tuple[Effect, ...]
) -> tuple[Effect, ...]:
    """The measured effects of `field` between these two values; if there are none, between any other values.

    Effects on `encoder` come first.
    """
    rows = [effect for effect in effects if effect.field == field]
    exact = [effect for effect in rows if effect.covers(value, other)]
    exact += [effect.reversed() for effect in rows if effect.covers(other, value)]
    return tuple(sorted(exact or rows, key=lambda effect: effect.encoder != encoder))


def _effect(row: Mapping[str, Any]) -> Effect:
    """The effect in a row of the table, which has other columns as well."""
    return Effect(**{field.name: row[field.name] for field in fields(Effect) if field.name in row})
