"""Which encoders the generator was trained on: FDr^k is split into them and the held-out ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from fdr.encoders import EncoderSpec, find_row, parse_encoders
from fdr.images import ImageSource
from fdr.metrics import GROUPS


def named_encoders(given: str | Sequence[str], measured: Collection[str]) -> tuple[str, ...]:
    """The names in "inception,fdr6" or a list, bundles expanded. Names of encoders that are `measured` may be any.

    Raises `InputError` for an unknown name, with near matches.
    """
    names = given.split(",") if isinstance(given, str) else list(given)
    names = [name.strip() for name in names if name.strip()]
    found = [[name] if name in measured else parse_encoders(name) for name in names] or [parse_encoders(names)]
    return tuple(dict.fromkeys(name for several in found for name in several))


def encoders_trained_on(source: ImageSource, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """The encoders that the user names, else those in the provenance of the samples; None if neither says."""
    stated = (source.made_by or {}).get("trained_on", source.trained_on) if given is None else given
    return None if stated is None else tuple(stated)


def encoder_groups(specs: Mapping[str, EncoderSpec], trained: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of `specs` by group, "trained" and "held_out"; a group without encoders is left out.

    An encoder with the weights of one that was trained on is not held out, even if it resizes images in another way.
    """
    rows = [find_row(name) for name in trained]
    weights = {row.weights.sha256 for row in rows if row is not None and row.weights is not None}
    weights |= {spec.weights for name, spec in specs.items() if name in trained}
    weights.discard("unknown")
    found = tuple(name for name, spec in specs.items() if name in trained or spec.weights in weights)
    rest = tuple(name for name in specs if name not in found)
    yield from ((group, names) for group, names in zip(GROUPS, (found, rest), strict=True) if names)
