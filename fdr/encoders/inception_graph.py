"""The TF-2015 FID-Inception as data: its convolutions, its blocks, and the names they have in the weight files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

BATCH_NORM_EPS = 1e-3
NUM_CLASSES = 1008
POOL_DIM = 2048
SPATIAL_BLOCK = "Mixed_6d"
"""`mixed_6` of the TF graph; `mixed_6/conv:0`, which ADM's sFID reads, is its first convolution after ReLU."""
SPATIAL_CHANNELS = 7


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, batch norm and ReLU; `kernel` and `padding` are (height, width)."""

    name: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Branch:
    """Convolutions in sequence; the two of `fork`, if any, both read the last one's result and are joined."""

    convs: tuple[Conv, ...]
    fork: tuple[Conv, ...] = ()


Pool = Literal["average", "max", "max-stride-2"]


@dataclass(frozen=True)
class Block:
    """Branches over one input, joined along the channels, the pooled branch last.

    `pool` is 3 x 3. The average divides by the pixels inside the image, as TensorFlow does; "max-stride-2" has no
    padding and no convolution after it.
    """

    name: str
    branches: tuple[Branch, ...]
    pool: Pool
    pool_conv: Conv | None = None


def _conv(name: str, in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1) -> Conv:
    """A convolution that keeps the size of its input at stride 1, and has no padding at stride 2."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (height // 2, width // 2) if stride == 1 else (0, 0)
    return Conv(name, in_channels, out_channels, (height, width), stride, padding)


def _branch(width: int, *layers: tuple[Any, ...], fork: tuple[tuple[Any, ...], ...] = ()) -> Branch:
    """Layers (name, out_channels[, kernel[, stride]]) in sequence on `width` channels, and the two of a fork."""
    convs: list[Conv] = []
    for name, out_channels, *shape in layers:
        convs.append(_conv(name, width, out_channels, *shape))
        width = out_channels
    return Branch(tuple(convs), tuple(_conv(name, width, out_channels, *shape) for name, out_channels, *shape in fork))


def _block_a(name: str, width: int, pool_width: int) -> Block:
    """35 x 35: 1x1, 5x5, two 3x3, average pool."""
    branches = (
        _branch(width, ("branch1x1", 64)),
        _branch(width, ("branch5x5_1", 48), ("branch5x5_2", 64, 5)),
        _branch(width, ("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
    )
    return Block(name, branches, "average", _conv("branch_pool", width, pool_width))


def _block_b(name: str) -> Block:
    """35 x 35 to 17 x 17."""
    branches = (
        _branch(288, ("branch3x3", 384, 3, 2)),
        _branch(288, ("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
    )
    return Block(name, branches, "max-stride-2")


def _block_c(name: str, inner: int) -> Block:
    """17 x 17: 1x1, one and two factorised 7x7, average pool."""
    branches = (
        _branch(768, ("branch1x1", 192)),
        _branch(768, ("branch7x7_1", inner), ("branch7x7_2", inner, (1, 7)), ("branch7x7_3", 192, (7, 1))),
        _branch(
            768,
            ("branch7x7dbl_1", inner),
            ("branch7x7dbl_2", inner, (7, 1)),
            ("branch7x7dbl_3", inner, (1, 7)),
            ("branch7x7dbl_4", inner, (7, 1)),
            ("branch7x7dbl_5", 192, (1, 7)),
        ),
    )
    return Block(name, branches, "average", _conv("branch_pool", 768, 192))


def _block_d(name: str) -> Block:
    """17 x 17 to 8 x 8."""
    branches = (
        _branch(768, ("branch3x3_1", 192), ("branch3x3_2", 320, 3, 2)),
        _branch(
            768,
            ("branch7x7x3_1", 192),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3, 2),
        ),
    )
    return Block(name, branches, "max-stride-2")


def _block_e(name: str, width: int, pool: Pool) -> Block:
    """8 x 8: 1x1, forked 3x3, double forked 3x3, pool."""
    forks = [((f"{stem}a", 384, (1, 3)), (f"{stem}b", 384, (3, 1))) for stem in ("branch3x3_2", "branch3x3dbl_3")]
    branches = (
        _branch(width, ("branch1x1", 320)),
        _branch(width, ("branch3x3_1", 384), fork=forks[0]),
        _branch(width, ("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, 3), fork=forks[1]),
    )
    return Block(name, branches, pool, _conv("branch_pool", width, 192))


STEM: tuple[tuple[Conv, ...], ...] = (
    (
        Conv("Conv2d_1a_3x3", 3, 32, (3, 3), stride=2),
        Conv("Conv2d_2a_3x3", 32, 32, (3, 3)),
        Conv("Conv2d_2b_3x3", 32, 64, (3, 3), padding=(1, 1)),
    ),
    (Conv("Conv2d_3b_1x1", 64, 80), Conv("Conv2d_4a_3x3", 80, 192, (3, 3))),
)
"""299 x 299 to 35 x 35; a 3 x 3 max-pool of stride 2 follows each group."""

BLOCKS: tuple[Block, ...] = (
    _block_a("Mixed_5b", 192, 32),
    _block_a("Mixed_5c", 256, 64),
    _block_a("Mixed_5d", 288, 64),
    _block_b("Mixed_6a"),
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),
    _block_e("Mixed_7b", 1280, "average"),
    _block_e("Mixed_7c", 2048, "max"),
)
"""The last block pools by maximum, a quirk of the TF-2015 graph that every FID in print depends on."""
