"""Publishing an adapter that took long to train: it is kept even if the store refuses it."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ..backbone.geometry import Geometry
from ..errors import AdapterError, AdapterkitError
from .adapter import Adapter
from .folder import save_adapter
from .store import Store


def publish_or_keep(adapter: Adapter, store: Store, geometry: Geometry) -> Path:
    """Publishes an adapter; if that fails, saves it in the working folder or a temporary one.

    Args:
        adapter: The adapter.
        store: The store.
        geometry: The backbone's.

    Returns:
        The folder of the published version.

    Raises:
        AdapterError: It was not published. The message says why, and where the adapter is now.
    """
    try:
        return store.publish(adapter, geometry)
    except (AdapterkitError, OSError) as error:
        reason = f"'{adapter.name}' was not published: {error}"
    name = f"unpublished-{adapter.name.replace('/', '-')}-{uuid4().hex[:8]}"
    for place in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(AdapterError):
            reason += f"; it is kept in {save_adapter(adapter, place / name, geometry)}"
            break
    raise AdapterError(reason)
