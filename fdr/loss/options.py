"""The options of `FDLoss`: the population that FD is taken over, and how the loss is computed. No torch is imported.

A batch alone is too few samples: its covariance has rank below B, and its FD is biased far upwards. So the batch
joins a population of earlier samples, and the gradient goes to the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fdr.errors import InputError, unknown

SOLVERS = ("fast", "exact", "newton-schulz", "local")
GRADIENTS = ("raw", "unit")
AUTOCASTS = (None, "bf16")
BATCH_WEIGHTS = ("paper", "debiased")
ESTIMATORS = ("plain", "debiased")
LOCAL_RHO = 0.01


@dataclass(frozen=True, repr=False)
class EmaPopulation:
    """Moments averaged exponentially over batches: m <- beta m + (1 - beta) m_batch, the same for the covariance.

    `beta` in [0, 1) counts batches, not samples: 0.999 is a window of 1 / (1 - beta) = 1000 batches. Without a fill the
    first batches are not diluted by a start at zero: the average is that of the batches seen so far.

    `batch_weight` is the weight of the batch in the population whose FD is differentiated. "paper" takes 1 - beta, as
    FD-loss does (arXiv 2604.28190); the gradient then shrinks a short window's generator. "debiased" takes the weight
    at which this bias vanishes to first order, about 3/8 of 1 - beta (docs/populations.md). The average that is kept
    takes the batch with 1 - beta in both cases.

    With `lag_correction` the history is carried along with the weights before a batch enters, so that it does not lag
    behind a generator that moves fast. Every call of the loss then takes `previous`, what the weights of the step
    before make of the same noise; with `lag_correction=2` every second call does, for half the cost, and so on
    (docs/populations.md).
    """

    beta: float = 0.999
    batch_weight: str = "paper"
    lag_correction: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise InputError(f"beta is {self.beta}; expected at least 0 and below 1, such as 0.999.")
        if self.batch_weight not in BATCH_WEIGHTS:
            raise unknown("batch weight", self.batch_weight, BATCH_WEIGHTS)
        if not isinstance(self.lag_correction, int) or self.lag_correction < 0:
            raise InputError(
                f"lag_correction is {self.lag_correction!r}; expected the number of steps from one correction to the "
                "next, such as 1 or 2, or 0 for none."
            )

    def __repr__(self) -> str:
        """The text that saved states are compared by; those of earlier versions name no field but beta."""
        weight = "" if self.batch_weight == "paper" else f", batch_weight={self.batch_weight!r}"
        lag = f", lag_correction={int(self.lag_correction)}" if self.lag_correction else ""
        return f"EmaPopulation(beta={self.beta!r}{weight}{lag})"


@dataclass(frozen=True)
class QueuePopulation:
    """The newest `size` samples, all with the same weight; unbiased covariance (n - 1).

    It holds size x d float32 features and 4 d^2 float64 numbers. In a very long queue the oldest features come from a
    generator that has since changed.
    """

    size: int = 50_000

    def __post_init__(self) -> None:
        if int(self.size) != self.size or self.size < 2:
            raise InputError(f"The queue's size is {self.size}; expected a whole number of at least 2.")


@dataclass(frozen=True, repr=False)
class BatchPopulation:
    """The batch alone: no memory, and a large bias unless B is many times d or `estimator` removes it.

    With `FDLoss.accumulate` (`--chunks`), the batch is as large as you like in the memory of one chunk.

    `estimator` is what is computed of the batch. "plain" is the FD of its biased covariance, as the other populations
    have it. "debiased" is the leverage-corrected FD of `fdr.debiased_frechet_distance`, against the moments of the
    reference as they are, with its own gradient. It needs more images than features that vary, B > d, and makes a
    decomposition at every step. Its value may be negative.
    """

    estimator: str = "plain"

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise unknown("estimator", self.estimator, ESTIMATORS)

    def __repr__(self) -> str:
        """The text that saved states are compared by: states from before `estimator` existed have "plain"."""
        return f"BatchPopulation({'' if self.estimator == 'plain' else f'estimator={self.estimator!r}'})"


Population = EmaPopulation | QueuePopulation | BatchPopulation


@dataclass(frozen=True)
class LossOptions:
    """How `FDLoss` computes distances and gradients, and how it runs the encoders.

    Raises `InputError` for a value that is out of its range.
    """

    solver: str = "fast"
    """How tr (S_p S_q)^{1/2} and its gradient are computed: "exact" by a float64 eigendecomposition at every step;
    "newton-schulz" by an iteration of products; "fast" in an eigenbasis that is refreshed when its estimated error asks
    for it, for an EMA; for other populations it is "exact". "local" minimises another loss, which has the same minimum:
    FD to second order around the reference, whose gradient has no bias. It takes products only, for an EMA or the
    batch."""
    eps: float = 0.01
    """eps in F / (F + eps). Raising it gives less weight to encoders whose FD is not much larger."""
    gradient: str = "raw"
    """"raw" is dFD/dfeatures; "unit" divides it by the share of the population that the batch is, so that it does not
    shrink with `beta` or `size`."""
    encoder_batch_size: int | None = None
    """Images that pass an encoder at a time: its activations are not kept, but computed again in the backward pass. The
    result is the same; memory falls to that of one such part, for one more forward pass."""
    autocast: str | None = None
    """"bf16" runs the encoders in bfloat16; their features are float32 or float64 all the same. None runs each encoder
    in the precision of its spec, even inside an autocast of the training loop."""
    compile_encoders: bool = False
    """Use `torch.compile` for every encoder's network."""
    local_rho: float = LOCAL_RHO
    """rho of the solver "local", in units of the reference's mean variance per feature: entry ij of the covariance has
    the weight 1 / (sigma_i + sigma_j + 2 rho). Raising it makes directions in which the reference hardly varies count
    less: they learn more slowly, and a generator that varies in them is pulled less hard. 0 is FD to second order."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.local_rho) and self.local_rho >= 0):
            raise InputError(f"rho is {self.local_rho}; expected 0 or a number above it, such as {LOCAL_RHO}.")
        if self.solver not in SOLVERS:
            raise unknown("solver", self.solver, SOLVERS)
        if self.gradient not in GRADIENTS:
            raise unknown("gradient scale", self.gradient, GRADIENTS)
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise InputError(f"eps is {self.eps}; expected a number above 0, such as 0.01.")
        if self.encoder_batch_size is not None and self.encoder_batch_size < 1:
            raise InputError(f"encoder_batch_size is {self.encoder_batch_size}; expected 1 or more, or None.")
        if self.autocast not in AUTOCASTS:
            raise unknown("autocast", str(self.autocast), [str(choice) for choice in AUTOCASTS])


def check_pairing(population: object, solver: str) -> None:
    """Raise `InputError` where the solver cannot work on the population."""
    if solver == "newton-schulz" and getattr(population, "lag_correction", False):
        raise InputError(
            "The solver newton-schulz needs a positive definite covariance, which lag correction does not keep; choose "
            "fast, exact or local."
        )
    if solver != "local":
        return
    advice = "choose another solver, or for this one an EMA (ema:0.9) or the batch alone (batch)"
    if isinstance(population, QueuePopulation):
        raise InputError(f"The solver local does not work on a queue: {advice}.")
    if getattr(population, "batch_weight", None) == "debiased" or getattr(population, "estimator", None) == "debiased":
        raise InputError(f"The solver local has no bias that {population!r} could remove: {advice}.")
