"""Publishing an adapter that another program trained, with those below it from the same folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..atomic import file_digest
from ..backbone.model import Backbone
from .adapter import Adapter
from .store import Store
from .weights import WEIGHTS


def publish_foreign(adapter: Adapter, name: str, store: Store, backbone: Backbone) -> list[Path]:
    """Publishes an adapter of another program, bound to the backbone that it was read for.

    Adapters below it that have no folder of their own are published before it, under its name and
    that of their method: `acme/intent-lora`.

    Args:
        adapter: As `load_foreign_adapter` returns it.
        name: Its name in the store.
        store: The store.
        backbone: The backbone.

    Returns:
        The folders of the new versions; that of the adapter is the last one.

    Raises:
        AdapterkitError: A name is not valid, or it cannot be written.
    """
    *below, top = adapter.stack
    new = [part for part in below if part.digest is None]
    names, seen = [], Counter[str]()
    for part in new:
        seen[part.method.type] += 1
        number = f"-{seen[part.method.type]}" * (seen[part.method.type] > 1)
        names.append(f"{name}-{part.method.type}{number}")
    for own_name in (name, *names):
        store.check_target(own_name)
    floor = next((part for part in reversed(below) if part.digest is not None), None)
    folders = []
    for part, own_name in zip((*new, top), (*names, name), strict=True):
        bound = replace(
            part,
            name=own_name,
            backbone=backbone.name,
            fingerprint=backbone.fingerprint,
            on_top_of=floor,
        )
        folders.append(store.publish(bound, backbone.geometry))
        floor = replace(bound, digest=file_digest(folders[-1] / WEIGHTS))
    return folders
