"""Requests for the queue of the engine."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from adapterkit.serving.engine.queue import QueuedRequest


def queued_request(tenant: str, *sizes: int, deadline: float = 1e12) -> QueuedRequest[Any, Any]:
    """A request with a part of each size."""
    done: Any = Future()  # an asyncio future would need a loop
    return QueuedRequest(tenant, sizes, sizes, deadline, done)
