"""The learning rate of every step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The rate of step `step` in [0, steps): a line from 0 to `peak` over `warmup` steps, then half a cosine to 0.

    lr(0) = 0 with a warm-up, lr(warmup) = peak; the cosine would reach 0 at `steps`, one after the last.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
