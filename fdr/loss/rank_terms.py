"""The terms of a loss, one per encoder, divided among the ranks that train together.

Term i lives on rank i % size. That rank alone keeps the term's population and solves for its distance, so the
eigendecompositions of several encoders run at the same time. A step goes as follows:

1. Every rank encodes its own images, and all ranks gather the features of all ranks (`gather_rows`).
2. Each rank evaluates the terms that live on it, on the features of all ranks.
3. The owner of a term sends its distance and its gradient to all ranks, and each rank cuts out the rows of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fdr.errors import FdrError, InputError, NonFiniteError, PeerError
from fdr.frechet import Moments
from fdr.loss.class_target import ClassTarget
from fdr.loss.class_term import ClassTerm
from fdr.loss.debiased_term import DebiasedBatchTerm
from fdr.loss.ema_term import AbstractEmaTerm, EmaTerm
from fdr.loss.fast_term import FastEmaTerm
from fdr.loss.lag import missing_previous
from fdr.loss.local_term import make_local
from fdr.loss.options import BatchPopulation, EmaPopulation, LossOptions, Population, QueuePopulation, check_pairing
from fdr.loss.queue_term import QueueTerm
from fdr.loss.terms import AbstractTerm, BatchTerm, ClassValue, TermValue
from fdr.loss.transport import Diagnostics, Target, solve_exact, solve_floored, solve_newton_schulz
from fdr.runtime import TensorGroup

CLASSES = "classes."
"""The prefix of the state of a conditional term beside that of its marginal one."""
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Failure:
    """An error on one rank, in a form that can be sent to the others."""

    name: str
    """The term that failed."""
    text: str
    """Class and message of the error."""
    exit_code: int


class LossTerms:
    """One `AbstractTerm` per encoder name. All ranks must make the same calls in the same order."""

    def __init__(
        self,
        references: Mapping[str, Moments],
        populations: Mapping[str, Population],
        options: LossOptions,
        devices: Mapping[str, torch.device],
        ranks: TensorGroup,
        classes: Mapping[str, ClassTarget] | None = None,
        ratio: float = 1.0,
    ) -> None:
        """The mappings are those of all terms; this rank makes the terms that live on it.

        With `classes` every term has a conditional one beside it, whose gradient has the norm `ratio` times that of FD.
        """
        for population in populations.values():  # on all ranks, as each makes only the terms that live on it
            check_pairing(population, options.solver)
        count = len(references)
        self._ranks = ranks
        self._dims = {name: moments.dim for name, moments in references.items()}
        self._owners = {name: index % ranks.size for index, name in enumerate(references)}
        self._terms = {
            # The first lives differ, so that the terms refresh at different steps.
            name: make_term(populations[name], moments, options, device=devices[name], first_life=(index + 1) / count)
            for index, (name, moments) in enumerate(references.items())
            if self._owners[name] == ranks.rank
        }
        self._class_terms = {
            name: ClassTerm(target.to(self._terms[name].device), ratio, populations[name])
            for name, target in (classes or {}).items()
            if name in self._terms
        }

    def fill(self, features: Mapping[str, Tensor], labels: Tensor | None, most: int | None) -> int:
        """Add the features [n, D] of all ranks to the populations, at most `most` rows; return how many were added.

        n >= 0 may differ between ranks.
        """
        gathered, classes = self._gathered(features), self._gathered_labels(labels)
        added = min(len(rows[:most]) for rows, _ in gathered.values())

        def enter(name: str, term: AbstractTerm) -> tuple[None, None]:
            term.fill(gathered[name][0][:most])
            if name in self._class_terms:
                self._class_terms[name].fill(gathered[name][0][:most], classes[:most])
            return None, None

        if added:
            self._on_owners(enter)
        return added

    def evaluate(
        self, features: Mapping[str, Tensor], previous: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, TermValue]:
        """The distances of the populations with the features of all ranks in them, and the gradients of this rank's.

        `previous` are the features of the same noise under the weights of the step before, for terms whose history is
        carried along; it is empty where there is no such step. `labels` [n] are this rank's, for conditional terms.

        The features are pending until `commit` or `discard`. Where some are not finite, all ranks raise
        `NonFiniteError`; where a solver raises an error on one rank, the others raise `PeerError`. After an error no
        features are pending.
        """
        gathered, before, classes = self._gathered(features), self._gathered(previous), self._gathered_labels(labels)

        def solve(
            name: str, term: AbstractTerm
        ) -> tuple[TermValue, tuple[float, Diagnostics, ClassValue | None, float | None]]:
            rows = gathered[name][0]
            value = _evaluated(term, rows, before[name][0] if name in before else None)
            if name in self._class_terms:
                value = self._class_terms[name].joined(value, rows, classes)
            return value, (float(value.fd), value.diagnostics, value.classes, value.fd_debiased)

        try:
            values, results = self._on_owners(solve)
        except Exception:
            self.discard()
            raise
        return {name: self._shared(name, values.get(name), *results[name], *gathered[name]) for name in features}

    def commit(self) -> None:
        """Let the pending features enter the populations."""
        for term in self._terms.values():
            term.commit()
        for class_term in self._class_terms.values():
            class_term.commit()

    def discard(self) -> None:
        """Drop the pending features, if there are any."""
        for term in self._terms.values():
            term.discard()
        for class_term in self._class_terms.values():
            class_term.discard()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The state of every term as copies on the CPU. All ranks must call it, and each gets all states."""
        return {name: self._state_of(name, owner) for name, owner in self._owners.items()}

    def load(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what `state` gave, which may have been on another number of ranks."""

        def take(name: str, term: AbstractTerm) -> tuple[None, None]:
            own = {key: value for key, value in states[name].items() if not key.startswith(CLASSES)}
            term.load_state_dict(own)
            if name in self._class_terms:
                own = {key.removeprefix(CLASSES): states[name][key] for key in states[name].keys() - own.keys()}
                self._class_terms[name].load_state_dict(own)
            return None, None

        self._on_owners(take)

    def _on_owners(self, act: Callable[[str, AbstractTerm], tuple[T, U]]) -> tuple[dict[str, T], dict[str, U]]:
        """Call `act` on every term, on the rank where the term lives.

        `act` returns a pair. The first is returned on the term's own rank only, the second on all ranks; both by name.
        An error on one rank raises on all of them, so that none waits for ever.
        """
        kept: dict[str, T] = {}
        sent: dict[str, U] = {}
        failure, own_error = None, None
        for name, term in self._terms.items():
            try:
                kept[name], sent[name] = act(name, term)
            except Exception as error:  # whatever it is, the other ranks have to hear of it before it is raised here
                exit_code = error.exit_code if isinstance(error, FdrError) else 1
                failure, own_error = _Failure(name, f"{type(error).__name__}: {error}", exit_code), error
                break
        parts = self._ranks.gather((sent, failure))
        if own_error is not None:
            raise own_error
        for _, other in parts:
            if other is not None:
                raise PeerError(f"The term of {other.name} failed on another rank: {other.text}", other.exit_code)
        return kept, {name: item for part, _ in parts for name, item in part.items()}

    def _state_of(self, name: str, owner: int) -> dict[str, Tensor]:
        state = None
        if name in self._terms:
            tensors = self._terms[name].state_dict()
            if name in self._class_terms:
                of_classes = self._class_terms[name].state_dict()
                tensors = {**tensors, **{CLASSES + key: tensor for key, tensor in of_classes.items()}}
            state = {key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()}
        return self._ranks.share(state, owner)

    def _gathered(self, features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, slice]]:
        """By encoder, the features of all ranks [N, D], and which of these rows are those of this rank."""
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

    def _gathered_labels(self, labels: Tensor | None) -> Tensor:
        """The labels of all ranks [N]; none without conditional terms."""
        if labels is None:
            return torch.empty(0, dtype=torch.int64)
        return self._ranks.gather_rows(labels[:, None].double())[0][:, 0].long()

    def _shared(
        self,
        name: str,
        value: TermValue | None,
        fd: float,
        diagnostics: Diagnostics,
        classes: ClassValue | None,
        fd_debiased: float | None,
        rows: Tensor,
        own: slice,
    ) -> TermValue:
        """The value that the term's owner computed, on every rank, with the gradient of this rank's rows.

        `value` is None except on the owner, which sends its gradient to the others.
        """
        if value is None:
            distance = torch.tensor(fd, dtype=torch.float64, device=rows.device)
            value = TermValue(distance, torch.empty_like(rows), diagnostics, classes, fd_debiased)
        gradient = self._ranks.share_tensor(value.gradient.to(rows.dtype), self._owners[name])
        return replace(value, gradient=gradient[own])


def _evaluated(term: AbstractTerm, rows: Tensor, previous: Tensor | None) -> TermValue:
    """The value of a term, after its history is carried along where it is to be."""
    if not (isinstance(term, AbstractEmaTerm) and term.lag_correction):
        return term.evaluate(rows)
    if previous is not None:
        return term.evaluate_carried(rows, previous)
    steps = term.moments.average.num_steps
    if steps and steps % term.lag_correction == 0:
        raise missing_previous()
    return term.evaluate(rows)


def make_term(
    population: Population,
    reference: Moments,
    options: LossOptions,
    *,
    device: torch.device | None = None,
    first_life: float = 1.0,
) -> AbstractTerm:
    """The running state of `population` for one encoder, against its `reference`; it lives on `device` (the CPU).

    `first_life` in (0, 1] is the share of its usual life after which the solver "fast" refreshes its first eigenbasis.
    """
    check_pairing(population, options.solver)
    target, is_unit = Target.of(reference, device or torch.device("cpu")), options.gradient == "unit"
    if options.solver == "local":
        return make_local(target, is_unit, population, reference, options.local_rho)
    solver = solve_newton_schulz if options.solver == "newton-schulz" else solve_exact
    if isinstance(population, EmaPopulation):
        if options.solver == "fast":
            return FastEmaTerm(target, is_unit, population, first_life)
        if population.lag_correction:
            return EmaTerm(target, is_unit, population, solve_floored)
        return EmaTerm(target, is_unit, population, solver)
    if isinstance(population, QueuePopulation):
        return QueueTerm(target, is_unit, int(population.size), solver)
    if isinstance(population, BatchPopulation):
        if population.estimator == "debiased":
            return DebiasedBatchTerm(target, is_unit, reference)
        return BatchTerm(target, is_unit, solver)
    raise InputError(f"{population!r} is no population; expected an EmaPopulation, QueuePopulation or BatchPopulation.")
