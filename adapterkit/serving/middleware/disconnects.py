"""Callers that disconnect before their answer: the work for them ends."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import is_admin_path

PATIENCE = 0.05
"""Seconds after which a caller is watched. Most requests are answered sooner, and a task for each
would cost more than what it saves."""


class DisconnectWatch:
    """Middleware that cancels a request when its caller disconnects.

    Changes of the store are not cancelled: they are done completely, whether the caller waits or
    not.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        if task is None or scope["type"] != "http" or is_admin_path(scope["path"]):
            await self._app(scope, receive, send)
            return
        caller = _Caller(task, receive, send)
        try:
            await self._app(scope, caller.receive, caller.send)
        except asyncio.CancelledError:
            if not caller.has_left:
                raise
            task.uncancel()
            raise HTTPException(400, "the caller disconnected before the answer") from None
        finally:
            caller.unwatch()


class _Caller:
    """The caller of a request.

    It is watched when its body is complete: the only further message is that it disconnects.

    Args:
        task: Answers the request; cancelled when the caller disconnects.
        receive, send: Those of the request.
    """

    def __init__(self, task: asyncio.Task[Any], receive: Receive, send: Send) -> None:
        self.has_left = False
        self._task = task
        self._receive = receive
        self._send = send
        self._answering = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[Message] | None = None

    async def receive(self) -> Message:
        """The next message of the caller."""
        if self._watch is not None:
            return await asyncio.shield(self._watch)
        message = await self._receive()
        if not message.get("more_body", False) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._start)
        return message

    async def send(self, message: Message) -> None:
        """Sends a message. The caller of an answer that is being sent is no longer watched."""
        self._answering = True
        await self._send(message)

    def unwatch(self) -> None:
        """Ends the watch."""
        for watch in (self._timer, self._watch):
            if watch is not None:
                watch.cancel()

    def _start(self) -> None:
        if not self._answering:
            self._watch = asyncio.ensure_future(self._receive())
            self._watch.add_done_callback(self._leave)

    def _leave(self, watch: asyncio.Task[Message]) -> None:
        if not watch.cancelled() and not self._answering:
            self.has_left = True
            self._task.cancel()
