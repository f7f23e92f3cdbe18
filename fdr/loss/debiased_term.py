"""The batch alone, with the gradient of its debiased FD instead of that of its FD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fdr import frechet
from fdr.frechet import Moments
from fdr.loss.terms import AbstractBatchTerm, TermValue
from fdr.loss.transport import Diagnostics, Target

if TYPE_CHECKING:
    from torch import Tensor


class DebiasedBatchTerm(AbstractBatchTerm):
    """The leverage-corrected FD of the batch, for more samples than features that vary; it has no state."""

    def __init__(self, target: Target, is_unit: bool, reference: Moments) -> None:
        super().__init__(target, is_unit)
        self.exact = frechet.exact_side(reference)

    def _evaluate(self, rows: Tensor) -> TermValue:
        found = frechet.debiased_gradient(rows, self.exact, device=self.device)
        fd = torch.tensor(found.raw, dtype=torch.float64, device=self.device)
        return TermValue(fd, found.gradient, Diagnostics("leverages", refreshed=True), fd_debiased=found.value)
