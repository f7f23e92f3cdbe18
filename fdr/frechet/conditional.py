"""Conditional Fréchet distances: of features given the class, and of the joint of features and class or caption.

With features z [D] of class c, shares pi_c of the reference, class means m_c and the covariance S_W [D, D] within the
classes, pooled with the weights of the reference on both sides, q the samples and p the reference:

    FD_c = sum_c pi_c |m_c^q - m_c^p|^2  +  FD(N(0, S_W^q), N(0, S_W^p))                              (conditional)
    FD_J(l) = FD of the Gaussians of (z, l e(c)), with the code e(c) of the class and the scale l          (joint)

FD_J(0) is FD, FD_J grows with l, and where both sides have the same shares of classes FD_J(l) -> FD_c as l grows. FD_c
is the conditional FID of Soloveitchik et al. (arXiv 2103.11521) for one-hot conditions; FD_J is the Fréchet joint
distance of DeVries et al. (arXiv 1907.08175) with another scale. Measured class means carry noise, which the sum over
classes would take for a distance; its expectation tr S_c^q / n_c^q + tr S_c^p / n_c^p is subtracted.
docs/conditional-fd.md derives all this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import linalg
from fdr.frechet.class_moments import label_code
from fdr.frechet.distance import device_of, frechet_terms
from fdr.frechet.influence import combined, influence_of, stderr_from
from fdr.frechet.labelled_moments import LabelledMoments
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import Side, whiten
from fdr.frechet.within_debiased import debiased_within
from fdr.runtime import memory_for, named_arguments

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MIN_COUNT = 2
"""Images of a class, of samples and of reference, that its mean term needs: the noise of a mean is not known below."""


@dataclass(frozen=True, eq=False)
class ConditionalFD:
    """FD_c with its parts. Arrays are by class, in the order of `names`."""

    value: float
    """between + within; it may be negative where the true distance is near 0."""
    between: float
    """sum_c pi_c |m_c^q - m_c^p|^2 without the noise of the means; it may be negative."""
    within: float
    """FD of the covariances within the classes, with the bias of FD (about D^2 / N) unless it was removed."""
    stderr: float | None
    """The standard error of `value`; None if the samples came without features or it was not asked for."""
    noise: float
    """What was subtracted from `between`: the expected squared distance of the means of equal classes."""
    whitened: float
    """`between` with features whitened by the shrunk S_W^p: the mean squared distance of the class means, in variances
    within a class. It can be compared across encoders."""
    shrinkage: float
    """The share of the isotropic covariance in the shrunk S_W^p, by OAS."""
    spread: float
    """tr S_W^q / tr S_W^p: below 1 the samples of a class are more alike than the reference images of a class."""
    names: tuple[str, ...]
    """The classes of both sides with at least `MIN_COUNT` images."""
    shares: np.ndarray
    """pi_c, [C]."""
    mean_terms: np.ndarray
    """|m_c^q - m_c^p|^2 without its noise, [C]."""
    mean_stderrs: np.ndarray
    """Their standard errors, [C]."""
    spreads: np.ndarray
    """tr S_c^q / tr S_c^p, [C]; NaN where the reference has no spread."""
    counts: tuple[np.ndarray, np.ndarray]
    """Images of each class, [C], of samples and reference."""
    left_out: tuple[str, ...] = ()
    """Classes of either side that have fewer images, or none, on one of them."""


@named_arguments
@memory_for("the conditional Fréchet distance", "use --device cpu, or an encoder of fewer dimensions")
def conditional_frechet_distance(
    samples: LabelledMoments,
    reference: LabelledMoments,
    *,
    device: str | torch.device | None = None,
    stderr: bool = True,
    max_rows: int | None = None,
    debiased: bool = False,
) -> ConditionalFD:
    """FD_c of samples against a reference; classes are matched by name.

    The reference needs no features: a file with the moments of its classes is enough. S_W^p is over all its classes,
    S_W^q over those of both sides. The standard error is computed from `max_rows` random features of each side.
    `debiased` removes the bias of the within part as well; it needs N - C >= D and features of the samples.

    Raises `InputError` where the samples have a class that the reference lacks, where no class has two images on both
    sides, and for other widths.
    """
    pair = _Pair.of(samples, reference)
    covariances = pair.samples, pair.reference
    if debiased:
        within = debiased_within(samples, reference, covariances, device_of(device))
    else:
        within = frechet_terms(*covariances, device=device).value
    terms, noise = pair.mean_terms()
    between = float(pair.shares @ terms)
    second = pair.second_orders()
    whitened, shrinkage = pair.whitened(device_of(device))
    error = None
    if stderr and pair.samples.rows is not None:
        error = _stderr(pair, second, device_of(device), max_rows)
    own, other = pair.spreads
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = np.where(other > 0, own / other, np.nan)
    return ConditionalFD(
        value=between + within,
        between=between,
        within=within,
        stderr=error,
        noise=float(pair.shares @ noise),
        whitened=whitened,
        shrinkage=shrinkage,
        spread=_ratio(pair.samples.sigma.trace(), pair.reference.sigma.trace()),
        names=pair.names,
        shares=pair.shares,
        mean_terms=terms,
        mean_stderrs=np.array(list(map(stderr_from, pair.first_orders().sum(0), second))),
        spreads=spreads,
        counts=pair.counts,
        left_out=pair.left_out,
    )


def shrunk_factor(within: np.ndarray, dof: int, device: torch.device) -> tuple[Tensor, float]:
    """The lower L [D, D] with L L^T = (1 - rho) S_W + rho (tr S_W / D) I, and the shrinkage rho.

    Raises `InputError` where S_W is 0 or singular without shrinkage.
    """
    rho, scale = shrinkage_of(within, dof), float(within.trace()) / len(within)
    if scale == 0:
        raise InputError("All reference images of a class have the same features; look at the images.")
    shrunk = (1 - rho) * within + rho * scale * np.eye(len(within))
    lower = linalg.cholesky_factor(linalg.as_float64(shrunk, device))
    if lower is None:
        raise InputError("The covariance within the classes of the reference is singular; give more images.")
    return lower, rho


def shrinkage_of(covariance: np.ndarray, dof: int) -> float:
    """The share rho of (tr S / D) I in the shrunk covariance (1 - rho) S + rho (tr S / D) I, by OAS (Chen et al. 2010,
    eq. 23, without its terms 2/D), for a covariance S [D, D] of `dof` degrees of freedom. It needs no features.
    """
    dim, trace = len(covariance), float(covariance.trace())
    square = float(np.vdot(covariance, covariance))
    excess = square - trace**2 / dim
    if excess <= linalg.EPS * square:
        return 1.0
    return min(1.0, (square + trace**2) / ((dof + 1) * excess))


def check_known(names: Sequence[str], reference: Sequence[str]) -> None:
    """Raise `InputError` where samples of the classes `names` have one that is not in those of the reference."""
    unknown = sorted(set(names) - set(reference))
    if unknown:
        raise InputError(
            f"The samples have {len(unknown)} classes that the reference lacks ({', '.join(unknown[:5])}); give a "
            "reference with these classes, or leave their samples out."
        )


@dataclass(frozen=True, eq=False)
class _Pair:
    """Samples and reference over the classes that both have with two images or more."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]
    sides: tuple[LabelledMoments, LabelledMoments]
    places: tuple[np.ndarray, np.ndarray]
    """[C] the place of each class in the classes of each side."""
    samples: Moments
    """S_W^q, with the rows behind it where they are known."""
    reference: Moments
    """S_W^p"""

    @classmethod
    def of(cls, samples: LabelledMoments, reference: LabelledMoments) -> _Pair:
        q, p = samples.classes, reference.classes
        if q.means.shape[1] != p.means.shape[1]:
            raise InputError(
                f"Features of width {q.means.shape[1]} cannot be compared with features of width {p.means.shape[1]}; "
                "both sides need the same encoder and output."
            )
        at = ({name: i for i, name in enumerate(q.names)}, {name: i for i, name in enumerate(p.names)})
        check_known(q.names, p.names)
        names = tuple(
            name for name in p.names if name in at[0] and min(q.counts[at[0][name]], p.counts[at[1][name]]) >= MIN_COUNT
        )
        if not names:
            raise InputError(
                "No class has two samples and two reference images, which a conditional FD needs; draw more images of "
                "each class."
            )
        left_out = tuple(name for name in p.names if name not in names)
        places = tuple(np.array([where[name] for name in names]) for where in at)
        weights = None
        if samples.labels is not None:
            weights = np.zeros(len(q.names))
            weights[places[0]] = p.within_weights[places[1]]
            weights /= weights.sum()
        own = samples.within(weights)
        return cls(names, left_out, (samples, reference), (places[0], places[1]), own, reference.within())

    @property
    def shares(self) -> np.ndarray:
        counts = self.counts[1]
        return counts / counts.sum()

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        own, other = (side.classes.counts[place] for side, place in zip(self.sides, self.places, strict=True))
        return own, other

    @property
    def spreads(self) -> tuple[np.ndarray, np.ndarray]:
        own, other = (side.classes.spreads[place] for side, place in zip(self.sides, self.places, strict=True))
        return own, other

    @property
    def gaps(self) -> np.ndarray:
        """m_c^q - m_c^p, [C, D]."""
        own, other = (side.classes.means[place] for side, place in zip(self.sides, self.places, strict=True))
        return own - other

    def mean_terms(self) -> tuple[np.ndarray, np.ndarray]:
        """|m_c^q - m_c^p|^2 without its noise, and the noise, both [C]."""
        noise = sum(spread / count for spread, count in zip(self.spreads, self.counts, strict=True))
        assert isinstance(noise, np.ndarray)
        return np.square(self.gaps).sum(1) - noise, noise

    @property
    def _noise_scales(self) -> tuple[np.ndarray, np.ndarray]:
        """a_c of each side, [C], with which a_c S_W stands for the covariance S_c / n_c of the mean of class c."""
        pooled = (self.samples.sigma.trace(), self.reference.sigma.trace())
        own, other = (
            spread / count / (trace or 1.0)
            for spread, count, trace in zip(self.spreads, self.counts, pooled, strict=True)
        )
        return own, other

    def first_orders(self) -> np.ndarray:
        """4 d^T C d with the gap d of class c and the covariance C of its noise from each side, [2, C]."""
        gaps, sides = self.gaps, (self.samples, self.reference)
        quadratic = [np.einsum("cd,cd->c", gaps @ side.sigma, gaps) for side in sides]
        return 4 * np.array(self._noise_scales) * quadratic

    def second_orders(self) -> np.ndarray:
        """2 tr C^2, [C]: the variance of a mean term where the gap is 0."""
        own, other = self._noise_scales
        q, p = self.samples.sigma, self.reference.sigma
        squares = own**2 * np.vdot(q, q) + other**2 * np.vdot(p, p) + 2 * own * other * np.vdot(q, p)
        return 2 * squares

    def whitened(self, device: torch.device) -> tuple[float, float]:
        """sum_c pi_c d^T A d without its noise, with the inverse A of the shrunk S_W^p, and the shrinkage.

        The noise is tr A S_W over n_c. A contains S_W^p, so T = tr A S_W^p is too small; leaving out the feature itself
        gives T / (1 - (1 - rho) T / n) with n = N - C (Sherman & Morrison).
        """
        import torch

        dof = self.sides[1].classes.within_dof
        lower, rho = shrunk_factor(self.reference.sigma, dof, device)
        gaps = linalg.as_float64(self.gaps, device)
        squares = torch.linalg.solve_triangular(lower, gaps.T, upper=False).square().sum(0).cpu().numpy()
        traces = [
            float(torch.cholesky_solve(linalg.as_float64(np.array(side.sigma), device), lower).trace())
            for side in (self.samples, self.reference)
        ]
        traces[1] /= 1 - (1 - rho) * traces[1] / dof
        own, other = self._noise_scales
        return float(self.shares @ (squares - own * traces[0] - other * traces[1])), rho


def _stderr(pair: _Pair, second: np.ndarray, device: torch.device, max_rows: int | None) -> float:
    """The standard error of FD_c from the influence of each feature, as `fd_influence` has it for FD.

    A feature with the residual x moves the mean term of its class by 2 pi_c d^T x / n_c. The noise of the class means
    of a reference without features is known from their covariance; that of its S_W is left out.
    """
    sides = Side.of(pair.samples), Side.of(pair.reference)
    whitening = whiten(*sides, device)
    pairs: list[tuple[Tensor, Tensor]] = []
    found: list[np.ndarray | None] = []
    for index, side in enumerate(sides):
        if not side.has_all_rows:
            found.append(None)
            continue
        chosen = np.random.default_rng(0).permutation(len(side.rows))[:max_rows]
        part = Side(side.moments, side.rows[chosen])
        values = influence_of(part, whitening, index, np.zeros(side.moments.dim), pairs if index == 0 else None)
        found.append(values + _linear(pair, index, chosen))
    assert found[0] is not None
    covariances_only = [(x.new_zeros(x.shape), z) for x, z in pairs]  # the means of classes have a term of their own
    influence = combined(sides, whitening, found[0], found[1], covariances_only)
    first = influence.first_order
    if found[1] is None:
        first += float(pair.shares**2 @ pair.first_orders()[1])
    return stderr_from(first, influence.second_order + float(pair.shares**2 @ second))


def _linear(pair: _Pair, index: int, chosen: np.ndarray) -> np.ndarray:
    """What the rows of one side move `between` by, times their number; 0 in classes that are left out."""
    side, place = pair.sides[index], pair.places[index]
    labels, rows = side.labels, side.total.rows
    assert labels is not None and rows is not None
    slope = np.zeros_like(side.classes.means)
    sign = 1 - 2 * index
    slope[place] = (2 * sign * pair.shares / side.classes.counts[place])[:, None] * pair.gaps
    return len(rows) * np.einsum("nd,nd->n", rows[chosen] - side.classes.means[labels[chosen]], slope[labels[chosen]])


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else math.nan


# -------------------------------------------------------------------------------------------------------------- joint


def label_scale(reference: LabelledMoments) -> float:
    """l with l^2 tr Cov(e(c)) = tr S^p: exchanging the label costs as much as exchanging the image for any other.

    Raises `InputError` for a single class.
    """
    spread = 1 - float(np.square(reference.classes.shares).sum())
    if spread == 0:
        raise InputError("The reference has one class, so that labels say nothing; a joint FD needs two or more.")
    return math.sqrt(float(reference.total.sigma.trace()) / spread)


def joint_moments(side: LabelledMoments, names: tuple[str, ...], scale: float) -> Moments:
    """The moments of (z, l e(c)) [D + C - 1], with the code of the classes `names` [C] and the scale l.

    They follow from the moments and the class means; no features are needed. Raises `InputError` for a class that is
    not in `names`.
    """
    classes, total = side.classes, side.total
    check_known(classes.names, names)
    at = {name: place for place, name in enumerate(names)}
    code = scale * label_code(len(names))[[at[name] for name in classes.names]]
    mean = classes.shares @ code
    n = classes.total
    weighted = (code - mean) * (classes.counts / (n - 1))[:, None]
    cross = (classes.means - total.mu).T @ weighted
    labels = (code - mean).T @ weighted
    sigma = total.sigma * ((n - total.ddof) / (n - 1))
    return Moments(np.concatenate([total.mu, mean]), np.block([[sigma, cross], [cross.T, labels]]), n)


def joint_features(features: Any, codes: Any) -> Any:
    """(z, e) [N, D + K] of features [N, D] and codes [N, K] that are scaled already: arrays, or tensors with gradients.

    The codes are those of `label_code`, or embeddings of captions times `embedding_scale`. FD of two such sets is the
    joint FD, by every function that takes features.
    """
    if hasattr(features, "requires_grad"):
        import torch

        return torch.cat([features, torch.as_tensor(codes, dtype=features.dtype, device=features.device)], 1)
    return np.concatenate([features, np.asarray(codes, dtype=features.dtype)], 1)


def embedding_scale(features: Moments, embeddings: Moments) -> float:
    """l with l^2 tr Cov(e) = tr S, for embeddings e of captions of the reference images.

    Raises `InputError` if all embeddings are equal.
    """
    spread = float(embeddings.sigma.trace())
    if spread == 0:
        raise InputError("All embeddings are equal, so that they say nothing about the images.")
    return math.sqrt(float(features.sigma.trace()) / spread)
