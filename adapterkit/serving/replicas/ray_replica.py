"""A replica of Ray Serve: the whole server but its connections, which Serve's proxies hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...cluster.ray_cluster import enter
from ..app import make_app
from ..json_logs import log_as_json
from ..keys.key_file import KeyFile
from ..server import Settings, freeze_objects, make_service
from .coordinator_client import CoordinatorClient
from .replica_group import ReplicaGroup
from .replica_scaling import TOKENS


class Replica:
    """A deployment of Ray Serve. Rows of all requests to it are mixed in the batches of its engine.

    Args:
        settings: The settings of its server.
        folder: Where relative paths begin.
        coordinator: The actor that has what the replicas share.
    """

    def __init__(self, settings: Settings, folder: Path, coordinator: Any) -> None:
        from ray.exceptions import RayError
        from ray.serve import get_replica_context

        enter(folder)
        log_as_json()
        name = get_replica_context().replica_id.unique_id
        self._group = ReplicaGroup(name, CoordinatorClient(coordinator, (RayError,)))
        keys = None if settings.keys is None else KeyFile(settings.keys)
        self._service = make_service(settings, keys, self._group)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """The application. Serve calls it on the event loop that answers the requests."""
        self._group.start(self._service)
        freeze_objects()
        app = make_app(self._service)
        app.add_middleware(ProxyRequestIds)
        return app

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of replicas is adapted to."""
        return {TOKENS: float(self._service.engine.tokens)}


class ProxyRequestIds:
    """Middleware that leaves the header `x-request-id` to the proxy, which adds it to each answer.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without_id)
