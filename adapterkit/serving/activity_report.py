"""The few numbers that the page of a server shows, of one server or of several together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .service import Service

LARGEST = ("uptime", "p50")
"""Numbers of several servers of which the largest is shown; all others are summed."""


def activity_of(service: Service) -> dict[str, Any]:
    """The activity of one server: sums since its start, its present latency, its queue and the
    adapters in its memory."""
    queue, memory = service.engine.queue, service.cache.memory
    waiting = {"queue_rows": queue.parts, "queue_tokens": queue.tokens}
    cached = {"adapters": len(memory), "bytes": memory.bytes}
    return {**service.metrics.activity.snapshot(), **waiting, **cached}


def merged_activity(activities: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The activity of several servers together, at least one. The latency is that of the slowest.

    An adapter that is in the memory of several servers is counted by each.
    """
    merged: dict[str, Any] = {}
    for activity in activities:
        for key, value in activity.items():
            before = merged.get(key)
            if before is None or value is None:
                merged[key] = value if before is None else before
            else:
                merged[key] = max(before, value) if key in LARGEST else before + value
    return merged
