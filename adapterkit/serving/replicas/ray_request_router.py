"""Ray Serve's router of requests: a `TenantRouter` with the replicas that Serve knows.

Serve imports this module by its name, and sends the class to its proxies.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ...errors import AdapterkitError
from ..json_logs import log
from ..keys.key_file import KeyFile
from ..keys.request_tenant import tenant_of
from .tenant_router import TenantRouter


class TenantRequestRouter(RequestRouter):  # type: ignore[misc]  # without Ray it has no type
    """Sends the requests of a tenant to the replicas that have its adapters in memory."""

    def initialize_state(self, keys: str | None = None, by_tenant: bool = True) -> None:
        """Receives the settings of the deployment.

        Args:
            keys: The key file.
            by_tenant: Whether tenants matter.
        """
        self._router = TenantRouter()
        self._by_tenant = by_tenant
        self._keys: KeyFile | None = None
        if keys is not None:
            try:
                self._keys = KeyFile(Path(keys))
            except AdapterkitError as error:  # requests are answered, by any replica
                log.error(f"{error}; requests are not routed by tenant")

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """All replicas, each a rank of its own: Serve takes the first one that accepts."""
        if not candidate_replicas:
            return []
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        replicas = {one.replica_id.unique_id: one for one in candidate_replicas}
        under_way = self.replica_queue_len_cache
        loads = {name: under_way.get(one.replica_id) or 0 for name, one in replicas.items()}
        return [
            [replicas[name]] for name in self._router.rank(self._tenant(pending_request), loads)
        ]

    def _tenant(self, request: PendingRequest | None) -> str | None:
        if request is None or not self._by_tenant or not request.args:
            return None
        sent: Any = request.args[0]
        if isinstance(sent, bytes):  # as the proxy sends it
            sent = pickle.loads(sent)  # noqa: S301  # this process has just made it
        scope = getattr(sent, "asgi_scope", None)
        return None if scope is None else tenant_of(scope["headers"], self._keys)
