"""How many replicas a service has, and what each of them may use."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import AdapterkitError
from ...inference.lanes import MOST
from ..server import Settings, default_batch_tokens

BATCHES = 2
"""Batches of each lane whose tokens are the target of a replica: one is computed, one waits."""

RANGE = re.compile(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?")


@dataclass(frozen=True)
class Replicas:
    """Number and size of the replicas.

    Attributes:
        least, most: Number of replicas. If they differ, it follows the load.
        cpus: CPU cores of each.
        tokens: Mean tokens, waiting or being computed, of a replica, beyond which there are too
            few of them; if None, those of `BATCHES` batches a lane.
        window: Seconds over which tokens are averaged.
        period: Seconds between two samples of them.
        upscale_delay, downscale_delay: Seconds for which there must be too few or too many replicas
            before their number changes.
        by_tenant: Whether the requests of a tenant go to the same replicas. Otherwise each goes to
            the less loaded of two.
    """

    least: int = 2
    most: int = 2
    cpus: int = 1
    tokens: int | None = None
    window: float = 10.0
    period: float = 2.0
    upscale_delay: float = 10.0
    downscale_delay: float = 300.0
    by_tenant: bool = True

    def target(self, settings: Settings, *, on_cpu: bool) -> int:
        """Tokens of a replica, waiting or being computed, that its number is adapted to."""
        if self.tokens is not None:
            return self.tokens
        lanes = (settings.lanes or min(MOST, self.cpus)) if on_cpu else 1
        return BATCHES * lanes * (settings.batch_tokens or default_batch_tokens(on_cpu=on_cpu))


def read_range(text: str) -> tuple[int, int]:
    """The least and the largest number of replicas in a text such as `4` or `2..8`.

    Raises:
        AdapterkitError: It is neither.
    """
    found = RANGE.fullmatch(text)
    least = int(found[1]) if found else 0
    most = int(found[2] or least) if found else 0
    if not 1 <= least <= most:
        raise AdapterkitError(
            f"--replicas {text}: expected a number such as 4, or a range such as 2..8"
        )
    return least, most
