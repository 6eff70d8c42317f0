"""A cache of loaded adapters with two tiers, memory and GPU; the least recently used are evicted.

All methods run on the thread of the event loop. Only the loads run on other threads, so that an
adapter that is read from disk delays its own requests and no others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from ...adapter.adapter import Adapter
from ...adapter.card import BackboneRef
from ...adapter.stacking import ParentCache
from ...adapter.store import Store
from ...adapter.store_index import Version
from ...backbone.model import Backbone
from ...errors import AdapterError, UnreachableStoreError
from ...inference.backbones import Backbones

Key = tuple[str, str]
"""Name and digest of an adapter. Each published content of a name has a key of its own."""

OVERHEAD = 8192
"""Bytes that an adapter takes in addition to its tensors: names, settings, scores."""

PATIENCE = 1.0
"""Seconds that a request for a known version waits for a look at a remote store."""

TIMEOUT = 30.0
"""Seconds that any other request waits for a version from a remote store."""


class LruTier:
    """One tier of the cache: adapters up to a number of bytes, in the order of their last use.

    Args:
        budget: Most bytes. Pinned adapters stay in the tier even if they exceed it.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.evictions = 0
        self.pinned: set[str] = set()
        self._adapters: OrderedDict[Key, Adapter] = OrderedDict()
        self._versions: dict[str, dict[Key, int]] = {}

    def __len__(self) -> int:
        return len(self._adapters)

    def get(self, key: Key) -> Adapter | None:
        """The adapter of a key, or None; it becomes the most recently used."""
        adapter = self._adapters.get(key)
        if adapter is not None:
            self._adapters.move_to_end(key)
        return adapter

    def put(self, key: Key, adapter: Adapter, number: int = 0) -> None:
        """Adds an adapter and evicts others until the tier is within its budget.

        Older versions of the same name are evicted first, because few requests name them. One that
        is requested all the same, as in a rollout, evicts no newer one.

        Args:
            key: Its key.
            adapter: The adapter.
            number: Number of its version.
        """
        if key not in self._adapters:
            self._adapters[key] = adapter
            self._versions.setdefault(key[0], {})[key] = number
            self.bytes += adapter.n_bytes + OVERHEAD
        while self.bytes > self.budget and (victim := self._victim(key)) is not None:
            self._drop(victim)
            self.evictions += 1

    def drop(self, name: str) -> int:
        """Removes all versions of a name; returns their number."""
        keys = list(self._versions.get(name, ()))
        for key in keys:
            self._drop(key)
        return len(keys)

    def names(self) -> dict[str, int]:
        """Bytes of each cached name."""
        sizes: dict[str, int] = {}
        for (name, _), adapter in self._adapters.items():
            sizes[name] = sizes.get(name, 0) + adapter.n_bytes + OVERHEAD
        return sizes

    def _victim(self, key: Key) -> Key | None:
        """The adapter to evict after one was added: an older version of its name, otherwise the
        least recently used, otherwise another version of a pinned name. The cost does not depend on
        the number of adapters."""
        own = self._versions.get(key[0], {})
        older = (one for one, number in own.items() if number < own.get(key, 0))
        unpinned = (one for one in self._adapters if one[0] not in self.pinned)
        others = (one for one in own if one != key)
        return next(chain(older, unpinned, others), None)

    def _drop(self, key: Key) -> None:
        del self._versions[key[0]][key]
        if not self._versions[key[0]]:
            del self._versions[key[0]]
        self.bytes -= self._adapters.pop(key).n_bytes + OVERHEAD


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that can be used, and its version in the store."""

    adapter: Adapter
    version: Version


class AdapterCache:
    """The loaded adapters of a store, in memory and, if the backbone is on a GPU, on that GPU.

    Adapters of all backbones share the bytes of a tier.

    Args:
        store: The store.
        backbone: The backbone that the adapters are for, or several.
        memory: Most bytes of the memory tier.
        device: Most bytes of the GPU tier; unused if the backbone is on the CPU.
        pinned: Names that are never evicted.
        any_backbone: Whether adapters that were trained on other weights are accepted.

    Attributes:
        loads: Number of adapters that were read from disk.
        hits, misses: How often a requested adapter was in the tier that computes, and how often a
            request had to wait for it.
    """

    def __init__(
        self,
        store: Store,
        backbone: Backbone | Backbones,
        memory: int,
        device: int,
        pinned: Iterable[str] = (),
        any_backbone: bool = False,
    ) -> None:
        self.store = store
        self.backbones = Backbones.of(backbone)
        self.memory = LruTier(memory)
        on_cpu = self.backbones.default.device.type == "cpu"
        self.device = self.memory if on_cpu else LruTier(device)
        for tier in (self.memory, self.device):
            tier.pinned = set(pinned)
        self.loads = self.hits = self.misses = 0
        self._parents = ParentCache()
        self._any_backbone = any_backbone
        self._loading: dict[Key, asyncio.Task[Adapter]] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="load")
        self._late: set[str] = set()
        self._searchers = ThreadPoolExecutor(8, thread_name_prefix="search")

    @property
    def n_loading(self) -> int:
        """Number of adapters that are being loaded."""
        return len(self._loading)

    async def get(self, reference: str, position: float | None = None) -> LoadedAdapter:
        """The adapter that a reference means at this moment; it is loaded if necessary.

        Args:
            reference: The reference.
            position: The place of the caller in a rollout (`Rollout.choose`).

        Raises:
            AdapterkitError: The reference is not valid.
            UnknownAdapterError: The adapter or version does not exist.
            MissingBackboneError: The backbone of the adapter is not loaded.
            AdapterError: The folder of the adapter is not valid.
            UnreachableStoreError: A remote store does not answer, and the version was not used
                before.
        """
        version = await self._find(reference, position)
        try:
            return LoadedAdapter(await self._ready(version), version)
        except AdapterError:
            # It may have been deleted or published again since `_find`; then try once more.
            current = await self._find(reference, position)
            if current == version:
                raise
            return LoadedAdapter(await self._ready(current), current)

    @property
    def tiers(self) -> dict[str, LruTier]:
        """The tiers by name: `memory` and, if the backbone is on a GPU, `device`."""
        tiers = {"memory": self.memory}
        return tiers if self.device is self.memory else {**tiers, "device": self.device}

    def unload(self, name: str) -> int:
        """Removes all versions of a name from all tiers; requests that already use them are not
        affected.

        Returns:
            Number of versions.
        """
        n_dropped = self.device.drop(name)
        return max(n_dropped, self.memory.drop(name))

    def load(self, folder: Path) -> Adapter:
        """Reads an adapter folder for the backbone that its card names, without a check of its
        signature and without adding it to the cache.

        Raises:
            AdapterError: The folder is not valid, or its adapter does not fit the backbone.
        """
        return self.backbones.load_adapter(folder, any_backbone=self._any_backbone)

    def check_backbone(self, version: Version) -> None:
        """Checks that the backbone of a version is loaded.

        Raises:
            MissingBackboneError: It is not.
        """
        trained_on = BackboneRef.read(version.folder)
        self.backbones.check(trained_on, f"'{version.name}'", any_backbone=self._any_backbone)

    def backbone_of(self, trained_on: BackboneRef) -> Backbone | None:
        """The backbone on which an adapter runs; None if it is not loaded."""
        fallback = self.backbones.default if self._any_backbone else None
        return self.backbones.find(trained_on) or fallback

    def close(self) -> None:
        """Ends the threads that find and load adapters."""
        self._searchers.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _find(self, reference: str, position: float | None) -> Version:
        if self.store.remote is None:  # a single stat is faster than another thread
            return self.store.find(reference, position)
        known = self.store.known(reference, position)
        if known is not None and reference in self._late:
            return known
        loop = asyncio.get_running_loop()
        search = loop.run_in_executor(self._searchers, self.store.find, reference, position)
        if known is None:
            try:
                return await asyncio.wait_for(search, TIMEOUT)
            except TimeoutError:
                raise UnreachableStoreError(
                    f"{self.store.display_name}: no answer in {TIMEOUT:.0f} seconds"
                ) from None
        await asyncio.wait({search}, timeout=PATIENCE)
        if not search.done():  # until it ends, requests use what is known
            self._late.add(reference)
            search.add_done_callback(partial(self._end_search, reference))
            return known
        return search.result()

    def _end_search(self, reference: str, search: asyncio.Future[Version]) -> None:
        self._late.discard(reference)
        if not search.cancelled():
            search.exception()  # the next request sees it, if it lasts

    async def _ready(self, version: Version) -> Adapter:
        key = (version.name, version.digest)
        adapter = self.device.get(key)
        if adapter is not None:
            self.hits += 1
            return adapter
        self.misses += 1
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._load(key, version))
            self._loading[key] = task
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        # A caller that disconnects must not cancel the load that others wait for.
        return await asyncio.shield(task)

    async def _load(self, key: Key, version: Version) -> Adapter:
        loop = asyncio.get_running_loop()
        adapter = self.memory.get(key)
        if adapter is None:
            adapter = await loop.run_in_executor(self._threads, self._read, version)
            adapter = self._parents.share(adapter)
            self.loads += 1
            self.memory.put(key, adapter, version.number)
        if self.device is self.memory:
            return adapter
        device = self.backbones.for_adapter(adapter).device
        moved = await loop.run_in_executor(self._threads, adapter.to, device)
        moved = self._parents.share(moved)
        self.device.put(key, moved, version.number)
        return moved

    def _read(self, version: Version) -> Adapter:
        adapter = self.backbones.load_adapter(
            version.folder,
            name=f"'{version.name}'",
            any_backbone=self._any_backbone,
            check_signature=self.store.check_signature,
        )
        return replace(adapter.without_record(), name=version.name)
