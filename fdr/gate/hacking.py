"""Whether a model has got better under the encoders that it was trained on, and worse under the others.

This is called Fréchet hacking (AdvFD, arXiv 2608.11205): the training has fitted its encoders and not the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fdr.gate.checks import Check
from fdr.metrics import GROUPS


def hacking_warnings(checks: Sequence[Check]) -> Iterator[str]:
    """One sentence for every sample set and mean over encoders (fdr_k, ...) that has become so against its baseline.

    Both differences must exceed their noise at the confidence of the check.
    """
    trained, held_out = (f":{group}" for group in GROUPS)
    found = {(check.bound.samples, check.result.metric): check for check in checks if check.bound.baseline is not None}
    for (samples, metric), check in found.items():
        other = found.get((samples, metric.removesuffix(trained) + held_out))
        if metric.endswith(trained) and other is not None and _change(check) < 0 < _change(other):
            yield (
                f"{samples}: {metric} fell from {check.bound.value:.4g} to {check.result.value:.4g}, and "
                f"{other.result.metric} rose from {other.bound.value:.4g} to {other.result.value:.4g}: the model has "
                "fitted the encoders that it was trained on and not the images (Fréchet hacking); judge it by the "
                "held-out ones."
            )


def _change(check: Check) -> int:
    """-1 if the number is below its baseline, 1 if it is above, and 0 if noise could explain the difference."""
    low, high = check.range
    return (low > check.bound.value) - (high < check.bound.value)
