"""Checks moments before they are used: raises errors and returns warnings."""

from __future__ import annotations

from fdr import frechet
from fdr.errors import InputError
from fdr.frechet import Moments


def check_moments(moments: Moments, where: str) -> list[str]:
    """Return one sentence for each problem: an unknown count, a singular covariance.

    Raises `InputError`, with `where` in front, when the covariance is not positive semidefinite.
    """
    sentences = []
    if moments.count is None:
        sentences.append(f"{where} does not say how many images its moments are of; their bias cannot be judged.")
    rank = numerical_rank(moments, where)
    if rank < moments.dim:
        few = f", from {moments.count} images" if moments.rank_deficient else ""
        sentences.append(
            f"{where} has a singular covariance (rank {rank} of {moments.dim}{few}): FD to it is biased by the "
            "directions that it does not know."
        )
    return sentences


def numerical_rank(moments: Moments, where: str) -> int:
    """The numerical rank of sigma, computed once. Raises `InputError` if sigma is not positive semidefinite."""
    if moments.factor is not None:  # centred features are a covariance by construction
        return min(len(moments.factor) - 1, moments.dim)
    if "rank" not in moments.derived:
        try:
            moments.derived["rank"] = frechet.rank(moments.sigma)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    rank: int = moments.derived["rank"]
    return rank
