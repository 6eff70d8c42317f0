"""The number of replicas that a load needs: Ray Serve asks a `TokenScaling` several times a second.

Its controller applies the least and the largest number, and the delays, to what it returns.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

TOKENS = "tokens"
"""Name of the number that each replica reports: its tokens that wait or are being computed."""


def wanted_replicas(tokens: Collection[float], running: int, target: float) -> float:
    """The number of replicas that would have `target` tokens each; a fraction is rounded up.

    Args:
        tokens: Mean tokens of each replica that has reported. One that has not is new, and idle.
        running: Number of replicas, which stays if none has reported.
        target: Tokens of a replica.
    """
    return sum(tokens) / target if tokens else running


class TokenScaling:
    """Adapts the number of replicas to the tokens in their queues.

    Args:
        target: Tokens of a replica, waiting or being computed.
    """

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The wanted number of replicas, and no state.

        Args:
            context: Ray Serve's `AutoscalingContext`.
        """
        tokens = (context.aggregated_metrics or {}).get(TOKENS, {}).values()
        return wanted_replicas(tokens, context.target_num_replicas, self._target), {}
