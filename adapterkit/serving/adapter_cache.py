"""The adapters that are ready to answer: disk to memory to device, least recently used out.

Everything here runs on the event loop's thread but the loads, which run on threads of their own: an
adapter that must come from disk delays its own requests and no others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..adapter.adapter import Adapter
from ..adapter.folder import load_adapter
from ..adapter.stacking import ParentCache
from ..adapter.store import Store, Version
from ..backbone.model import Backbone
from ..errors import AdapterError

Key = tuple[str, str]
"""Name and digest: a name published anew, or deleted and published again, is another key."""

OVERHEAD = 8192
"""Bytes an adapter takes besides its tensors: names, settings, scores."""


class LruTier:
    """Adapters under a byte budget, the least recently used let go.

    Args:
        budget: Bytes; pinned adapters stay even beyond it.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.evictions = 0
        self.pinned: set[str] = set()
        self._held: OrderedDict[Key, Adapter] = OrderedDict()
        self._versions: dict[str, list[Key]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Adapter | None:
        """An adapter, which is now the most recently used."""
        adapter = self._held.get(key)
        if adapter is not None:
            self._held.move_to_end(key)
        return adapter

    def put(self, key: Key, adapter: Adapter) -> None:
        """Holds an adapter and lets others go until the budget is kept.

        Older versions of the same name go first, for nobody will ask for them soon.
        """
        if key not in self._held:
            self._held[key] = adapter
            self._versions.setdefault(key[0], []).append(key)
            self.bytes += adapter.n_bytes + OVERHEAD
        while self.bytes > self.budget and (victim := self._victim(key[0])) is not None:
            self._drop(victim)
            self.evictions += 1

    def drop(self, name: str) -> int:
        """Lets every version of a name go; returns how many there were."""
        keys = list(self._versions.get(name, ()))
        for key in keys:
            self._drop(key)
        return len(keys)

    def names(self) -> dict[str, int]:
        """Names held and their bytes."""
        held: dict[str, int] = {}
        for (name, _), adapter in self._held.items():
            held[name] = held.get(name, 0) + adapter.n_bytes + OVERHEAD
        return held

    def _victim(self, name: str) -> Key | None:
        """Who goes for a name that has come: its older version, else the least recently used. The
        price is the same however many are held."""
        older = self._versions.get(name, ())[:-1]
        return next(iter(older), None) or next(
            (key for key in self._held if key[0] not in self.pinned), None
        )

    def _drop(self, key: Key) -> None:
        self._versions[key[0]].remove(key)
        if not self._versions[key[0]]:
            del self._versions[key[0]]
        self.bytes -= self._held.pop(key).n_bytes + OVERHEAD


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter ready to answer, and which version of it this is."""

    adapter: Adapter
    version: Version


class AdapterCache:
    """The adapters of a store that are in memory, and on the device where that is another.

    Args:
        store: Where adapters come from.
        backbone: What they act on.
        memory: Byte budget of the memory tier.
        device: Byte budget on a GPU; unused where the backbone is on the CPU.
        pinned: Names that are never let go.
        any_backbone: Accept adapters that were trained on other weights.
    """

    def __init__(
        self,
        store: Store,
        backbone: Backbone,
        memory: int,
        device: int,
        pinned: Iterable[str] = (),
        any_backbone: bool = False,
    ) -> None:
        self.store = store
        self.backbone = backbone
        self.memory = LruTier(memory)
        self.device = self.memory if backbone.device.type == "cpu" else LruTier(device)
        for tier in (self.memory, self.device):
            tier.pinned = set(pinned)
        self.loads = 0
        self._parents = ParentCache()
        self._any_backbone = any_backbone
        self._loading: dict[Key, asyncio.Task[Adapter]] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="load")

    @property
    def n_loading(self) -> int:
        """Adapters that are being loaded."""
        return len(self._loading)

    async def get(self, reference: str) -> LoadedAdapter:
        """The adapter a reference means now, loaded where it is not here yet.

        Raises:
            AdapterkitError: That is no name.
            UnknownAdapterError: There is no such adapter or version.
            AdapterError: Its folder is not sound.
        """
        version = await self._find(reference)
        try:
            return LoadedAdapter(await self._ready(version), version)
        except AdapterError:
            # Deleted or published anew between the look and the load: what it means now counts.
            again = await self._find(reference)
            if again == version:
                raise
            return LoadedAdapter(await self._ready(again), again)

    @property
    def tiers(self) -> dict[str, LruTier]:
        """Memory, and the device where that is another."""
        tiers = {"memory": self.memory}
        return tiers if self.device is self.memory else {**tiers, "device": self.device}

    def unload(self, name: str) -> int:
        """Lets a name go from memory and device; requests under way keep what they have."""
        dropped = self.device.drop(name)
        return max(dropped, self.memory.drop(name))

    def close(self) -> None:
        """Ends the loading threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _find(self, reference: str) -> Version:
        if self.store.remote is None:  # one stat: not worth another thread
            return self.store.find(reference)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.store.find, reference)

    async def _ready(self, version: Version) -> Adapter:
        key = (version.name, version.digest)
        adapter = self.device.get(key)
        if adapter is not None:
            return adapter
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._load(key, version))
            self._loading[key] = task
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        # One caller who hangs up does not end the load that others wait for.
        return await asyncio.shield(task)

    async def _load(self, key: Key, version: Version) -> Adapter:
        loop = asyncio.get_running_loop()
        kept = self.memory.get(key)
        if kept is None:
            kept = await loop.run_in_executor(self._threads, self._read, version)
            kept = self._parents.share(kept)
            self.loads += 1
            self.memory.put(key, kept)
        if self.device is self.memory:
            return kept
        moved = await loop.run_in_executor(self._threads, kept.to, self.backbone.device)
        moved = self._parents.share(moved)
        self.device.put(key, moved)
        return moved

    def _read(self, version: Version) -> Adapter:
        adapter = load_adapter(version.folder, self.backbone, any_backbone=self._any_backbone)
        # The training record is for people, and as large as a small adapter.
        return replace(adapter, name=version.name, training={})
