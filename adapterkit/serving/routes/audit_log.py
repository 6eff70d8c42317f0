"""The log records of what admins and publishers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from ..http.errors import one_line
from ..json_logs import log
from ..keys.api_keys import Caller
from ..middleware.auth import client_host


@contextmanager
def audited(request: Request, caller: Caller, action: str, name: str) -> Iterator[dict[str, Any]]:
    """Logs one record for an action when it ends: who did it, from where, to which adapter, and the
    error if it failed.

    Args:
        request: The request.
        caller: Its caller.
        action: What is done, such as `publish`.
        name: Name of the adapter.

    Returns:
        Further keys of the record, which the action adds: its version and digest.
    """
    facts: dict[str, Any] = {
        "action": action,
        "adapter": name,
        "client": client_host(request.scope),
        "tenant": caller.tenant.name,
        "key": caller.key_id,
    }
    try:
        yield facts
    except BaseException as error:  # also if the action is cancelled
        facts["error"] = one_line(str(error) or type(error).__name__)
        log.warning("audit", extra={"facts": facts})
        raise
    log.info("audit", extra={"facts": facts})
