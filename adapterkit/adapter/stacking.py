"""What an adapter stands on: another adapter's folder, known by its name and its weights."""

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

WEIGHTS = "adapter_model.safetensors"
"""An adapter's weights; of an ensemble its first member's."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ParentRef:
    """The adapter that another was trained on.

    Attributes:
        name: What it is called.
        digest: `sha256:` and the hash of its weights file.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """What a card says of an adapter.

        Raises:
            AdapterError: It has no weights file yet.
        """
        if adapter.digest is None:
            raise AdapterError(
                f"'{adapter.name}' was never saved: save it, and stand on what load_adapter gives"
            )
        return cls(adapter.name, adapter.digest)

    @classmethod
    def read(cls, content: Any) -> Self | None:
        """What stands in a card; None where nothing does.

        Raises:
            AdapterkitError: The name is none.
            ValueError: It is garbled.
        """
        if content is None:
            return None
        held = dict(content) if isinstance(content, Mapping) else {}
        name, digest = str(held.get("name")), str(held.get("digest"))
        if set(held) != {"name", "digest"} or not DIGEST.fullmatch(digest):
            raise ValueError(f"on_top_of: expected name and digest (sha256:...), got {content!r}")
        return cls(check_name(name), digest)

    def find(self, places: Iterable[Path]) -> Path:
        """The folder with these very weights.

        Args:
            places: Where to look, in order: an adapter folder, a store, or a folder of adapters.

        Raises:
            AdapterError: There is none, or what is there has other weights.
        """
        looked = list(places)
        others: dict[Path, str] = {}
        for folder in (folder for place in looked for folder in self._candidates(place)):
            digest = file_digest(folder / WEIGHTS)
            if digest == self.digest:
                return folder
            others.setdefault(folder, digest)
        wanted = f"it was trained on top of '{self.name}' with weights {self.digest[:19]}"
        if others:
            folder, digest = next(iter(others.items()))
            raise AdapterError(
                f"{wanted}, but {folder} has weights {digest[:19]}; bring back that version"
            )
        raise AdapterError(
            f"{wanted}, which is neither in {' nor in '.join(map(str, looked))}; put its folder "
            "there, or say where it is (on_top_of=, --store)"
        )

    def _candidates(self, place: Path) -> Iterator[Path]:
        home = place / self.name
        versions = home.iterdir() if home.is_dir() else ()
        numbered = sorted((v for v in versions if v.name.isdecimal()), key=lambda v: -int(v.name))
        for folder in (place, home, *numbered, place / home.name):
            if (folder / WEIGHTS).is_file():
                yield folder


class ParentCache:
    """One copy of each adapter that others stand on, as long as one of them is held: rows on it
    share its computation, and its memory."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[Hashable, Adapter] = WeakValueDictionary()

    def share(self, adapter: Adapter) -> Adapter:
        """The adapter, on the one copy of what it stands on."""
        if adapter.on_top_of is None:
            return adapter
        # Head and training record are for answering by itself.
        below = replace(self.share(adapter.on_top_of), head={}, training={})
        if below.digest is not None and below.tensors:
            device = next(iter(below.tensors.values())).device
            key = (below.digest, below.method, device, id(below.on_top_of))
            below = self._held.setdefault(key, below)
        return replace(adapter, on_top_of=below)
