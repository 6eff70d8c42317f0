"""Requests for the queue of the engine."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from adapterkit.backbone.packing import TokenSequence
from adapterkit.serving.queue import QueuedRequest
from adapterkit.tasks.types import Example


def queued_request(tenant: str, *sizes: int, deadline: float = 1e12) -> QueuedRequest:
    rows = [(None, Example((TokenSequence([1] * n, [0] * n),))) for n in sizes]
    done: Any = Future()  # an asyncio future would need a loop
    return QueuedRequest(tenant, list(rows), deadline, done)
