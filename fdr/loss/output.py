"""`LossOutput`: what a call of `FDLoss` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fdr.frechet import fd_ratio
from fdr.loss.terms import TermValue
from fdr.references import Reference


@dataclass(frozen=True)
class LossOutput:
    """The loss of one batch. On several ranks the values are those of all ranks' images together."""

    total: Tensor
    """float64 scalar, sum of w F / (F + eps); its gradient is that of sum w F / (stopgrad(F) + eps)."""
    fd: dict[str, float]
    """FD by encoder, unscaled, of the population with this batch in it.

    With the solver "local" it is the quadratic loss in its place, which is FD to second order near the reference only,
    and far from it as large as you like. Measure FD itself by `fdr.evaluate`, or `--eval-every` of `fdr train`.
    """
    fdr: dict[str, float]
    """FD / FD of the validation set, for the encoders whose reference has a validation FD; others are absent.

    It is empty with the solver "local", whose value is no FD.
    """
    diagnostics: dict[str, Any]
    """`Diagnostics` by encoder: the solver's route, its error estimate, and whether it refreshed its basis."""
    solver_seconds: float
    """Wall time in populations and solvers, with the exchange of features among ranks."""
    features: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Features [B, d] of this rank's images by encoder, trained on or watched, without gradient."""
    class_distance: dict[str, float] = field(default_factory=dict)
    """The conditional term by encoder: the mean squared distance of the class means to those of the reference, in
    variances within a class (`whitened` of the metric fd_conditional). It is empty unless the loss is conditional."""
    conditional_scale: dict[str, float] = field(default_factory=dict)
    """The factor of the conditional term in the loss, by encoder."""
    fd_debiased: dict[str, float] = field(default_factory=dict)
    """`fd` without the bias of the population's number of samples; it may be negative.

    It is there for an `EmaPopulation` that is worth more samples than an encoder has features, with a solver that knows
    eigenvalues ("exact", "fast") and without a lag correction; and for `BatchPopulation("debiased")`, where its
    gradient is that of the loss. With the solver "local" it is the quadratic loss without bias. Others are absent.
    """


def output_of(
    total: Tensor,
    values: Mapping[str, TermValue],
    features: Mapping[str, Tensor],
    references: Mapping[str, Reference],
    seconds: float,
) -> LossOutput:
    """The output of a batch, given the value of each term and the features [B, d] of this rank's images."""
    fd = {name: float(value.fd) for name, value in values.items()}
    val_fds = {name: reference.val_fd for name, reference in references.items()}
    classes = {name: value.classes for name, value in values.items() if value.classes is not None}
    return LossOutput(
        total=total,
        fd=fd,
        fdr={
            name: fd_ratio(fd[name], val_fd.value) for name, val_fd in val_fds.items() if val_fd and values[name].is_fd
        },
        diagnostics={name: value.diagnostics for name, value in values.items()},
        solver_seconds=seconds,
        features={name: rows.detach() for name, rows in features.items()},
        fd_debiased={name: value.fd_debiased for name, value in values.items() if value.fd_debiased is not None},
        class_distance={name: found.value for name, found in classes.items()},
        conditional_scale={name: found.scale for name, found in classes.items()},
    )
