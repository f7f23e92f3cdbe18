"""Student's t and Fisher's F from the incomplete beta function, in plain Python: `fdr check` runs without SciPy."""

from __future__ import annotations

import math
from statistics import NormalDist

MAX_TERMS = 10_000
"""Most terms of the continued fraction; it needs about sqrt(max(a, b)) of them."""
TINY = 1e-300
NORMAL_DOF = 1e7
"""With more degrees of freedom than this, t is the normal distribution to nine digits, which is used instead."""


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for 0 <= x <= 1 (Abramowitz & Stegun 26.5.8)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction 1 + d1/(1 + d2/(1 + ...)) of I_x(a, b), by the modified method of Lentz."""
    found, c, d = 1.0, 1.0, 0.0
    for index in range(1, MAX_TERMS):
        m = index // 2
        if index % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or TINY)
        c = 1 + term / c or TINY
        found *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return found


def t_tail(t: float, dof: float) -> float:
    """P(|T| > |t|) of Student's t with `dof` degrees of freedom, which may be no whole number, or infinite."""
    if dof > NORMAL_DOF:
        return math.erfc(abs(t) / math.sqrt(2))
    return incomplete_beta(dof / 2, 0.5, dof / (dof + t * t))


def t_quantile(share: float, dof: float) -> float:
    """The t that T stays below with probability `share`, in 0 < share < 1."""
    if dof > NORMAL_DOF:
        return NormalDist().inv_cdf(share)
    if share < 0.5:
        return -t_quantile(1 - share, dof)
    low, high = 0.0, 1.0
    while t_tail(high, dof) / 2 > 1 - share:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_tail(middle, dof) / 2 > 1 - share else (low, middle)
    return (low + high) / 2


def f_tail(f: float, dof: float, dof_below: float) -> float:
    """P(F > f) of Fisher's F with `dof` degrees of freedom above the line and `dof_below` below it."""
    return incomplete_beta(dof_below / 2, dof / 2, dof_below / (dof_below + dof * f))
