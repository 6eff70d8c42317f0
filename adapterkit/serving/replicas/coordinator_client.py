"""How a replica calls the coordinator, which may be away for a moment."""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import UnavailableError

PATIENCE = 2.0
"""Seconds after which a call fails. A coordinator that was lost is back sooner."""


class CoordinatorClient:
    """Calls the methods of a coordinator that runs in a process of its own.

    Args:
        actor: The actor. `actor.METHOD.remote(...)` starts a call and returns an awaitable.
        errors: What a call raises if the actor is away.
    """

    def __init__(self, actor: Any, errors: tuple[type[Exception], ...] = ()) -> None:
        self._actor = actor
        self._errors: tuple[type[Exception], ...] = (TimeoutError, *errors)

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of `Coordinator` and returns its result.

        Raises:
            UnavailableError: The coordinator does not answer.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                return await getattr(self._actor, method).remote(*arguments, **options)
        except self._errors:
            raise unreadable() from None

    def send(self, method: str, *arguments: Any) -> None:
        """Calls a method without waiting for its end. The call is lost if the coordinator is
        away."""
        getattr(self._actor, method).remote(*arguments)


def unreadable() -> UnavailableError:
    """The error of a request that needs what the replicas share while it cannot be read."""
    return UnavailableError("what the replicas share cannot be read now; try again later")
