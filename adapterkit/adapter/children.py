"""Children: the adapters in a store that stand on a version of another."""

from __future__ import annotations

from collections.abc import Sequence

from ..atomic import file_digest
from .store_index import StoreIndex
from .weights import WEIGHTS


def find_child(index: StoreIndex, name: str, numbers: Sequence[int]) -> str | None:
    """An adapter that could not be loaded any more without some versions of a name.

    Args:
        index: The store's, which is not remote.
        name: The name.
        numbers: The versions.

    Returns:
        `name@version` of the adapter; None if there is none.
    """
    needed: dict[str, str] = {}
    for other in index.names():
        for number, parent in index.parents(other).items():
            is_deleted = other == name and number in numbers
            if parent is not None and parent.name == name and not is_deleted:
                needed.setdefault(parent.digest, f"{other}@{number}")
    if not needed:  # the usual case, in which no weights need to be read
        return None
    home = index.root / name
    kept = index.versions(name) - set(numbers)
    lost, remaining = (
        {file_digest(file) for n in group if (file := home / str(n) / WEIGHTS).is_file()}
        for group in (numbers, kept)
    )
    return next((child for digest, child in needed.items() if digest in lost - remaining), None)
