"""The populations and solvers of a loss, one term per encoder, divided among the ranks that train together.

Term i lives on rank i % size: that rank alone keeps its population and solves its distance, so that the
eigendecompositions of several encoders run side by side. Every rank gets the value, and the gradient of its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fdr.errors import FdrError, InputError, NonFiniteError, PeerError
from fdr.loss.terms import AbstractTerm
from fdr.loss.transport import Diagnostics, TermValue
from fdr.runtime import TensorGroup

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Failure:
    """What went wrong on another rank."""

    name: str
    text: str
    exit_code: int


class LossTerms:
    """One `AbstractTerm` per encoder name; every rank makes the same calls in the same order."""

    def __init__(self, terms: Mapping[str, AbstractTerm], dims: Mapping[str, int], ranks: TensorGroup) -> None:
        """`terms` are those of this rank (see `owned_by`), `dims` the widths of all, in order."""
        self._terms = terms
        self._dims = dims
        self._ranks = ranks
        self._owners = {name: index % ranks.size for index, name in enumerate(dims)}

    def fill(self, features: Mapping[str, Tensor], most: int | None) -> int:
        """Rows [n, D] of every rank, n >= 0, enter the populations, `most` at most; how many did."""
        gathered = self._gathered(features)
        added = min(len(rows[:most]) for rows, _ in gathered.values())

        def enter(name: str, term: AbstractTerm) -> tuple[None, None]:
            term.fill(gathered[name][0][:most])
            return None, None

        if added:
            self._on_owners(enter)
        return added

    def evaluate(self, features: Mapping[str, Tensor]) -> dict[str, TermValue]:
        """Distances of the populations with all ranks' rows in them, and the gradients of this rank's rows.

        The rows are pending until `commit` or `discard`. Raises `NonFiniteError` for rows that are not finite, on every
        rank; what a solver raises on its rank is a `PeerError` on others. Nothing is pending then.
        """
        gathered = self._gathered(features)

        def solve(name: str, term: AbstractTerm) -> tuple[TermValue, tuple[float, Diagnostics]]:
            value = term.evaluate(gathered[name][0])
            return value, (float(value.fd), value.diagnostics)

        try:
            values, told = self._on_owners(solve)
        except Exception:
            self.discard()
            raise
        return {name: self._shared(name, values.get(name), *told[name], *gathered[name]) for name in features}

    def commit(self) -> None:
        """The pending rows enter the populations."""
        for term in self._terms.values():
            term.commit()

    def discard(self) -> None:
        """The pending rows, if any, are dropped."""
        for term in self._terms.values():
            term.discard()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The state of every term, on every rank, as copies on the CPU; all ranks call it."""
        return {name: self._state_of(name, owner) for name, owner in self._owners.items()}

    def load(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """What `state` gave, on any number of ranks."""

        def take(name: str, term: AbstractTerm) -> tuple[None, None]:
            term.load_state_dict(states[name])
            return None, None

        self._on_owners(take)

    def _on_owners(self, act: Callable[[str, AbstractTerm], tuple[T, U]]) -> tuple[dict[str, T], dict[str, U]]:
        """`act` on every term where it lives: what it keeps there, and what it tells all ranks.

        The failure of one rank ends the call on all, so that none waits for it.
        """
        kept: dict[str, T] = {}
        told: dict[str, U] = {}
        failure, own_error = None, None
        for name, term in self._terms.items():
            try:
                kept[name], told[name] = act(name, term)
            except Exception as error:  # whatever it is, the others have to hear of it first
                exit_code = error.exit_code if isinstance(error, FdrError) else 1
                failure, own_error = _Failure(name, f"{type(error).__name__}: {error}", exit_code), error
                break
        parts = self._ranks.gather((told, failure))
        if own_error is not None:
            raise own_error
        for _, other in parts:
            if other is not None:
                raise PeerError(f"The term of {other.name} failed on another rank: {other.text}", other.exit_code)
        return kept, {name: item for part, _ in parts for name, item in part.items()}

    def _state_of(self, name: str, owner: int) -> dict[str, Tensor]:
        state = None
        if name in self._terms:
            state = {key: tensor.to("cpu", copy=True) for key, tensor in self._terms[name].state_dict().items()}
        return self._ranks.share(state, owner)

    def _gathered(self, features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, slice]]:
        for name, rows in features.items():
            if rows.shape[1] != self._dims[name]:
                raise InputError(
                    f"Encoder {name!r} gives {rows.shape[1]}-d features, but its reference has {self._dims[name]} "
                    "dimensions; use moments computed with this encoder."
                )
        gathered = {name: self._ranks.gather_rows(rows.detach()) for name, rows in features.items()}
        for name, (rows, _) in gathered.items():
            finite = rows.isfinite().all(1)
            if not bool(finite.all()):
                raise NonFiniteError(
                    f"Encoder {name!r} gave non-finite features for {int((~finite).sum())} of {len(rows)} images; the "
                    "generator made such images, or the precision of one of the two is too low."
                )
        return gathered

    def _shared(
        self, name: str, value: TermValue | None, fd: float, diagnostics: Diagnostics, rows: Tensor, own: slice
    ) -> TermValue:
        """The owner's value on every rank, with the gradient of this rank's rows."""
        if value is None:
            distance = torch.tensor(fd, dtype=torch.float64, device=rows.device)
            value = TermValue(distance, torch.empty_like(rows), diagnostics)
        gradient = self._ranks.share_tensor(value.gradient.to(rows.dtype), self._owners[name])
        return replace(value, gradient=gradient[own])


def owned_by(rank: int, size: int, names: list[str]) -> list[str]:
    """The names of the terms that live on `rank`."""
    return names[rank::size]
