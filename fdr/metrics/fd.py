"""Fréchet Distance between the moments of samples and reference (Dowson & Landau 1982; Heusel et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from fdr.frechet import Moments, frechet_terms
from fdr.metrics.base import AbstractMomentsMetric, Score


@dataclass(frozen=True)
class FrechetDistance(AbstractMomentsMetric):
    """FD of one output; called FID when the encoder is Inception and the output its main one."""

    name: str = "fd"
    output: str | None = None
    audit: bool = False
    device: str | None = None
    lower_is_better = True
    needs_reference = True

    def score(self, samples: Moments, reference: Moments) -> Score:
        terms = frechet_terms(samples, reference, audit=self.audit, device=self.device)
        details = {
            "mean_term": terms.mean_term,
            "trace_term": terms.trace_term,
            "rounding": terms.rounding,
            "route": terms.route,
        }
        if terms.audit is not None:
            details["audit"] = terms.audit
        return Score(terms.value, details=details, notes=tuple(_rank_notes(samples, reference)))


def spatial_frechet_distance() -> FrechetDistance:
    """sFID (Nash et al. 2021): FD of Inception's "spatial" output, 17 x 17 x 7 values that are not averaged."""
    return FrechetDistance("sfid", "spatial")


def _rank_notes(samples: Moments, reference: Moments) -> list[str]:
    notes = []
    for side, moments in (("samples", samples), ("reference images", reference)):
        if moments.count is not None and moments.count <= moments.dim:
            notes.append(f"{moments.count} {side} for {moments.dim} dimensions: FD is biased upward")
    return notes
