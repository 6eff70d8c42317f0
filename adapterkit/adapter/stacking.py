"""Parents: an adapter that was trained on top of another names it and the digest of its weights."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

from ..atomic import file_digest
from ..errors import AdapterError
from ..names import check_name
from .adapter import Adapter
from .weights import WEIGHTS

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ParentRef:
    """The adapter that another was trained on.

    Attributes:
        name: Its name.
        digest: `sha256:` and the hash of its weights file.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """The reference to an adapter.

        Raises:
            AdapterError: It was never saved, so it has no weights file.
        """
        if adapter.digest is None:
            raise AdapterError(
                f"'{adapter.name}' was never saved: save it, and stand on what load_adapter gives"
            )
        return cls(adapter.name, adapter.digest)

    @classmethod
    def read(cls, content: Any) -> Self | None:
        """The reference in a card; None without one.

        Args:
            content: The card's `on_top_of`.

        Raises:
            AdapterkitError: The name is not valid.
            ValueError: It is garbled.
        """
        if content is None:
            return None
        keys = dict(content) if isinstance(content, Mapping) else {}
        name, digest = str(keys.get("name")), str(keys.get("digest"))
        if set(keys) != {"name", "digest"} or not DIGEST.fullmatch(digest):
            raise ValueError(f"on_top_of: expected name and digest (sha256:...), got {content!r}")
        return cls(check_name(name), digest)

    def find(self, locations: Iterable[Path]) -> Path:
        """The folder of the parent.

        Args:
            locations: Where to look, in order: an adapter folder, a store, or a folder of adapters.

        Raises:
            AdapterError: There is none, or it has other weights.
        """
        searched = list(locations)
        others: dict[Path, str] = {}
        for folder in (folder for location in searched for folder in self._candidates(location)):
            digest = file_digest(folder / WEIGHTS)
            if digest == self.digest:
                return folder
            others.setdefault(folder, digest)
        missing = f"it was trained on top of '{self.name}' with weights {self.digest[:19]}"
        if others:
            folder, digest = next(iter(others.items()))
            raise AdapterError(
                f"{missing}, but {folder} has weights {digest[:19]}; bring back that version"
            )
        raise AdapterError(
            f"{missing}, which is neither in {' nor in '.join(map(str, searched))}; put its folder "
            "there, or say where it is (on_top_of=, --store)"
        )

    def _candidates(self, location: Path) -> Iterator[Path]:
        """Folders where the parent may be: the location, then its versions, newest first."""
        home = location / self.name
        versions = home.iterdir() if home.is_dir() else ()
        numbered = sorted((v for v in versions if v.name.isdecimal()), key=lambda v: -int(v.name))
        for folder in (location, home, *numbered, location / home.name):
            if (folder / WEIGHTS).is_file():
                yield folder


class ParentCache:
    """One copy of each parent for as long as a child of it is in use: the rows of all its children
    share its computation and its memory."""

    def __init__(self) -> None:
        self._parents: WeakValueDictionary[Hashable, Adapter] = WeakValueDictionary()

    def share(self, adapter: Adapter) -> Adapter:
        """The adapter, on top of the shared copy of its parent."""
        if adapter.on_top_of is None:
            return adapter
        # A parent needs no head and no training record.
        parent = replace(self.share(adapter.on_top_of), head={}, training={})
        if parent.digest is not None and parent.tensors:
            device = next(iter(parent.tensors.values())).device
            key = (parent.digest, parent.method, device, id(parent.on_top_of))
            parent = self._parents.setdefault(key, parent)
        return replace(adapter, on_top_of=parent)
