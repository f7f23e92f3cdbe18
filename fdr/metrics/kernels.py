"""Sums of kernels over pairs of features, the squared maximum mean discrepancy (MMD²) of two sets, and its variance.

MMD² of x ~ P and y ~ Q is E k(x, x') + E k(y, y') − 2 E k(x, y) (Gretton et al. 2012). Adding a constant to k does not
change it, so the kernels here are without theirs. Matrix products are float32 and sums float64. Memory holds a few
blocks of k, whatever the size of the sets, and pairs within a set are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import Context
from fdr.runtime import faithful_products, resolve_device

if TYPE_CHECKING:
    from torch import Tensor

STRIP_ROWS, BLOCK_COLUMNS = 512, 1024
"""Largest block of k. Larger blocks leave the processor's cache, where sums take a tenth of the time of products."""
NORM_ROWS = 256
"""Rows that are converted to float64 at once."""


class Points:
    """Features [N, D] float32 on a device, with their squared norms."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.norms = row_products(features, features).float()

    def __len__(self) -> int:
        return len(self.features)

    def of(self, rows: Tensor) -> Points:
        """The points of some rows."""
        taken = Points.__new__(Points)
        taken.features, taken.norms = self.features[rows], self.norms[rows]
        return taken


def row_products(first: Tensor, second: Tensor) -> Tensor:
    """[N] x_i·y_i, float64"""
    import torch

    parts = zip(first.split(NORM_ROWS), second.split(NORM_ROWS), strict=True)
    return torch.cat([torch.einsum("nd,nd->n", x.double(), y.double()) for x, y in parts])


def points(features: np.ndarray, context: Context) -> Points:
    """The points of features float32 [N, D] on the device of a computation."""
    import torch

    device = resolve_device(context.device or "cpu")
    return Points(torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device))


Kernel = Callable[["Tensor", "Tensor", "Tensor", int], "Tensor"]
"""k from x·y, |x|² and |y|², which broadcast, and D. It may overwrite x·y."""


def polynomial(products: Tensor, x2: Tensor, y2: Tensor, dim: int) -> Tensor:
    """(x·y / D + 1)³ − 1: the kernel of KID (Bińkowski et al. 2018)."""
    t = products.mul_(1 / dim)
    return t.add(3).mul_(t).add_(3).mul_(t)


@dataclass(frozen=True)
class Gaussian:
    """exp(−|x − y|² / (2 σ²)) − 1."""

    sigma: float

    def __call__(self, products: Tensor, x2: Tensor, y2: Tensor, dim: int) -> Tensor:
        return products.mul_(2).sub_(x2).sub_(y2).clamp_(max=0).mul_(0.5 / self.sigma**2).expm1_()


class Block(NamedTuple):
    """k between `rows` and `columns`."""

    rows: slice
    columns: slice
    values: Tensor
    is_mirrored: bool
    """True for pairs within one set whose mirror image, columns before rows, is not computed."""


def blocks(kernel: Kernel, x: Points, y: Points | None = None) -> Iterator[Block]:
    """k between all points of x and y; or between all pairs of x, where k(x_i, x_i) counts as 0."""
    other = x if y is None else y
    for start in range(0, len(x), STRIP_ROWS):
        rows = slice(start, min(start + STRIP_ROWS, len(x)))
        if y is None:
            values = _values(kernel, x, rows, x, rows)
            values.fill_diagonal_(0)
            yield Block(rows, rows, values, False)
        for first in range(0 if y is not None else rows.stop, len(other), BLOCK_COLUMNS):
            columns = slice(first, min(first + BLOCK_COLUMNS, len(other)))
            yield Block(rows, columns, _values(kernel, x, rows, other, columns), y is None)


def _values(kernel: Kernel, x: Points, rows: slice, y: Points, columns: slice) -> Tensor:
    products = _gram(x.features[rows]) if x is y and rows == columns else x.features[rows] @ y.features[columns].T
    return kernel(products, x.norms[rows, None], y.norms[columns], x.features.shape[1])


def _gram(features: Tensor) -> Tensor:
    """X Xᵀ. On the CPU NumPy computes one half of it and copies the other; torch has no such product."""
    import torch

    if features.device.type != "cpu":
        return features @ features.T
    array = features.numpy()
    return torch.from_numpy(array @ array.T)


def diagonal(kernel: Kernel, x: Points) -> Tensor:
    """[N] k(x_i, x_i), float64"""
    return kernel(x.norms.clone(), x.norms, x.norms, x.features.shape[1]).double()


def paired(kernel: Kernel, x: Points, y: Points) -> Tensor:
    """[N] k(x_i, y_i), float64"""
    products = row_products(x.features, y.features).float()
    return kernel(products, x.norms, y.norms, x.features.shape[1]).double()


class PairSums(NamedTuple):
    """Sums of k over pairs."""

    rows: Tensor
    """[N] over all partners of each point, float64."""
    columns: Tensor
    """[M]; for pairs within a set the same as `rows`."""
    squares: Tensor
    """Of k², scalar."""


class PairAdder:
    """Adds up blocks."""

    def __init__(self, x: Points, y: Points | None = None) -> None:
        import torch

        device = x.features.device
        self._rows = torch.zeros(len(x), dtype=torch.float64, device=device)
        self._columns = self._rows if y is None else torch.zeros(len(y), dtype=torch.float64, device=device)
        self._squares = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, block: Block) -> None:
        """Add a block, whose values are overwritten."""
        import torch

        self._rows[block.rows] += block.values.sum(1, dtype=torch.float64)
        if block.is_mirrored or self._columns is not self._rows:
            self._columns[block.columns] += block.values.sum(0, dtype=torch.float64)
        self._squares += block.values.square_().sum(dtype=torch.float64) * (2 if block.is_mirrored else 1)

    def sums(self) -> PairSums:
        return PairSums(self._rows, self._columns, self._squares)


def pair_sums(
    kernel: Kernel, x: Points, y: Points | None = None, done: Callable[[float], None] | None = None
) -> PairSums:
    """The sums over all pairs; `done` is called with the number of pairs of each block."""
    adder = PairAdder(x, y)
    for block in blocks(kernel, x, y):
        count = block.values.numel()
        adder.add(block)
        if done is not None:
            done(count)
    return adder.sums()


@dataclass(frozen=True)
class Totals:
    """Sums of k over the pairs of n points x and m points y."""

    n: int
    m: int
    xx: float
    """Over pairs of different points x."""
    yy: float
    xy: float
    x: float = 0.0
    """Over k(x_i, x_i)."""
    y: float = 0.0
    paired: float = 0.0
    """Over k(x_i, y_i), if n = m."""

    @property
    def unbiased(self) -> float:
        """Equation 3 of Gretton et al. 2012; it can be negative."""
        n, m = self.n, self.m
        return self.xx / (n * (n - 1)) + self.yy / (m * (m - 1)) - 2 * self.xy / (n * m)

    @property
    def biased(self) -> float:
        """Equation 5: |mean of φ(x) − mean of φ(y)|² for a kernel k = φ·φ, so never below 0 but for rounding."""
        n, m = self.n, self.m
        return max(0.0, (self.xx + self.x) / n**2 + (self.yy + self.y) / m**2 - 2 * self.xy / (n * m))

    @property
    def u_statistic(self) -> float:
        """Equation 4, for n = m: pairs (x_i, y_i) do not count."""
        return (self.xx + self.yy - 2 * (self.xy - self.paired)) / (self.n * (self.n - 1))


def variance_components(xx: PairSums, yy: PairSums, xy: PairSums) -> np.ndarray:
    """[5] the variances that `mmd_variance` combines, each without bias to first order.

    Hoeffding's decomposition of the unbiased MMD²: with g(x) = E k(x, x') − E k(x, y), and k~ what is left of k
    without its mean and the means of its rows and columns, they are Var g(x), Var g(y), and E k~² of xx, yy and xy.
    """
    n, m = len(xx.rows), len(yy.rows)
    rest_xx, rest_yy = _rest_within(xx), _rest_within(yy)
    rest_xy = _rest_between(xy)
    first_x = float((xx.rows / (n - 1) - xy.rows / m).var()) - rest_xx / (n - 1) - rest_xy / m
    first_y = float((yy.rows / (m - 1) - xy.columns / n).var()) - rest_yy / (m - 1) - rest_xy / n
    return np.array([first_x, first_y, rest_xx, rest_yy, rest_xy])


def _rest_within(sums: PairSums) -> float:
    n = len(sums.rows)
    means = sums.rows / (n - 1)
    rest = float(sums.squares) / (n * (n - 1)) - float(means.mean()) ** 2 - 2 * float(means.var())
    return rest / (1 - 2 / (n - 1))


def _rest_between(sums: PairSums) -> float:
    n, m = len(sums.rows), len(sums.columns)
    rows, columns = sums.rows / m, sums.columns / n
    rest = float(sums.squares) / (n * m) - float(rows.mean()) ** 2 - float(rows.var()) - float(columns.var())
    return rest / (1 - 1 / n - 1 / m)


MIN_POINTS = 4
"""`variance_components` needs so many points on either side."""


def mmd_variance(components: np.ndarray, n: int, m: int) -> float:
    """The variance of the unbiased MMD² of n points x and m points y.

    The first two components, which vanish for equal distributions, fall as 1/n and 1/m, the others as 1/n², 1/m² and
    1/nm. Estimates of a variance below 0 count as 0.
    """
    first_x, first_y, xx, yy, xy = np.maximum(components, 0)
    degenerate = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) + 4 * xy / (n * m)
    return float(4 * first_x / n + 4 * first_y / m + degenerate)


def mmd_of_all_pairs(
    kernel: Kernel, samples: np.ndarray, reference: np.ndarray, context: Context
) -> tuple[Totals, float]:
    """The sums of k over all pairs of features [N, D] and [M, D], and the variance of the unbiased MMD²."""
    for side, features in (("samples", samples), ("reference images", reference)):
        if len(features) < MIN_POINTS:
            raise InputError(
                f"{context.names[0]} needs at least {MIN_POINTS} {side}; got {len(features)}: give it more images."
            )
    x, y = points(samples, context), points(reference, context)
    total = (len(x) ** 2 + len(y) ** 2) / 2 + len(x) * len(y)
    with faithful_products(), context.progress.task(", ".join(context.names), total, "pairs") as task:
        done = task.advance
        xx, yy, xy = pair_sums(kernel, x, None, done), pair_sums(kernel, y, None, done), pair_sums(kernel, x, y, done)
    sums = [float(pairs.rows.sum()) for pairs in (xx, yy, xy)]
    own = [float(diagonal(kernel, side).sum()) for side in (x, y)]
    variance = mmd_variance(variance_components(xx, yy, xy), len(x), len(y))
    return Totals(len(x), len(y), *sums, *own), variance
