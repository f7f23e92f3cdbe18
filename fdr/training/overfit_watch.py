"""Whether the FD of watched encoders still falls with the FD of the encoders that are trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RISE = 0.05
"""A watched FD that is this share above its lowest, while the trained ones fell on, is reported.

Raising it reports later and less often by mistake.
"""


@dataclass
class Parting:
    """Follows the FD of watched and trained encoders; FDr has the same ratios, so FD will do.

    Optimising one representation can be gamed: its FD falls while images get worse, which other encoders see.
    """

    lowest: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """By watched encoder: step of its lowest FD, that FD, and the geometric mean of the trained FDs then."""
    told: set[str] = field(default_factory=set)
    """Watched encoders that were reported and have not recovered since."""

    def look(self, step: int, trained: Mapping[str, float], watched: Mapping[str, float]) -> list[str]:
        """One sentence for every watched encoder that has just parted from the trained ones."""
        now = _mean(trained)
        sentences = []
        for name, value in watched.items():
            since, low, then = self.lowest.get(name, (step, math.inf, now))
            if value <= low:
                self.lowest[name] = (step, value, now)
                self.told.discard(name)
            elif value > (1 + RISE) * low and now < then and name not in self.told:
                self.told.add(name)
                sentences.append(
                    f"Since step {since} the FD of the trained encoders fell by {1 - now / then:.1%}, but that of "
                    f"{name}, which is watched, rose by {value / low - 1:.1%}: what improves may not be the images; "
                    "look at the grids, train on more encoders, or stop."
                )
        return sentences

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"lowest": {name: list(row) for name, row in self.lowest.items()}, "told": sorted(self.told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.lowest = {name: (int(step), low, then) for name, (step, low, then) in state["lowest"].items()}
        self.told = set(state["told"])


def _mean(values: Mapping[str, float]) -> float:
    """Geometric, so that an encoder of large FD does not drown the others; 0 when one is not positive."""
    if min(values.values()) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, values.values())) / len(values))
