"""Adapters come by need and go by budget; what is answered is never stale and never half loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError, UnknownAdapterError
from adapterkit.inference import backbones
from adapterkit.serving.engine.adapter_cache import OVERHEAD, AdapterCache, LruTier
from helpers.adapters import MakeAdapter


@pytest.fixture
def store(tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path) -> Store:
    """Ten adapters of equal size."""
    store = Store(tmp_path / "shelf")
    for number in range(10):
        store.publish(make_adapter(tiny, name=f"t{number}/task", seed=number), tiny.geometry)
    return store


def with_cache(
    store: Store,
    backbone: Backbone,
    memory: int,
    use: Callable[[AdapterCache], Coroutine[Any, Any, Any]],
    pinned: tuple[str, ...] = (),
) -> Any:
    async def whole() -> Any:
        cache = AdapterCache(store, backbone, memory, 0, pinned)
        try:
            return await use(cache)
        finally:
            cache.close()

    return asyncio.run(whole())


def have_equal_tensors(one: Adapter, other: Adapter) -> bool:
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def size_of(store: Store, backbone: Backbone) -> int:
    return load_adapter(store.path("t0/task"), backbone).n_bytes + OVERHEAD


def test_the_least_recently_used_is_evicted(store: Store, tiny: Backbone) -> None:
    size = size_of(store, tiny)

    async def use(cache: AdapterCache) -> None:
        for number in range(4):
            await cache.get(f"t{number}/task")
        await cache.get("t0/task")
        await cache.get("t4/task")
        assert set(cache.memory.names()) == {"t0/task", "t2/task", "t3/task", "t4/task"}
        assert cache.memory.bytes == 4 * size <= cache.memory.budget
        assert (cache.loads, cache.memory.evictions) == (5, 1)

    with_cache(store, tiny, 4 * size, use)


def test_pinned_adapters_are_not_evicted(store: Store, tiny: Backbone) -> None:
    size = size_of(store, tiny)

    async def use(cache: AdapterCache) -> None:
        for number in range(10):
            await cache.get(f"t{number}/task")
        assert set(cache.memory.names()) == {"t0/task", "t9/task"}

    with_cache(store, tiny, 2 * size, use, pinned=("t0/task",))


def test_versions_that_are_asked_in_turn_stay_in_memory(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store.publish(make_adapter(tiny, name="t0/task", seed=20), tiny.geometry)

    async def use(cache: AdapterCache) -> None:
        for reference in ("t1/task", "t2/task", *["t0/task@1", "t0/task@2"] * 5):
            await cache.get(reference)
        assert set(cache.memory.names()) == {"t0/task", "t2/task"}
        assert (len(cache.memory), cache.loads) == (3, 5)

    with_cache(store, tiny, 3 * size_of(store, tiny), use)


def test_versions_of_a_pinned_name_do_not_fill_the_memory(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    for seed in (20, 21, 22):
        store.publish(make_adapter(tiny, name="t0/task", seed=seed), tiny.geometry)

    async def use(cache: AdapterCache) -> None:
        for number in (4, 3, 2, 1):
            await cache.get(f"t0/task@{number}")
        assert len(cache.memory) == 2

    with_cache(store, tiny, 2 * size_of(store, tiny), use, pinned=("t0/task",))


def test_an_adapter_larger_than_the_budget_still_answers(store: Store, tiny: Backbone) -> None:
    async def use(cache: AdapterCache) -> None:
        loaded = await cache.get("t0/task")
        assert loaded.adapter.name == "t0/task"
        assert len(cache.memory) == 0

    with_cache(store, tiny, 10, use)


def test_callers_share_one_load_and_a_cancelled_caller_does_not_stop_it(
    store: Store, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, plain, calls = threading.Event(), load_adapter, []

    def slow(*arguments: Any, **more: Any) -> Adapter:
        calls.append(1)
        assert go.wait(10)
        return plain(*arguments, **more)

    monkeypatch.setattr(backbones, "load_adapter", slow)

    async def use(cache: AdapterCache) -> None:
        waiting = [asyncio.create_task(cache.get("t0/task")) for _ in range(20)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        go.set()
        loaded = await asyncio.gather(*waiting[1:])
        assert len({id(one.adapter) for one in loaded}) == 1
        assert len(calls) == cache.loads == 1

    with_cache(store, tiny, 10**9, use)


def test_a_load_delays_only_the_requests_of_its_adapter(
    store: Store, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, plain = threading.Event(), load_adapter

    def slow(folder: Path, *arguments: Any, **more: Any) -> Adapter:
        assert "t1" not in str(folder) or go.wait(10)
        return plain(folder, *arguments, **more)

    monkeypatch.setattr(backbones, "load_adapter", slow)

    async def use(cache: AdapterCache) -> None:
        await cache.get("t0/task")
        cold = asyncio.create_task(cache.get("t1/task"))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(cache.get("t0/task"), 5)
        await asyncio.wait_for(cache.get("t2/task"), 5)
        assert not cold.done()
        go.set()
        await cold

    with_cache(store, tiny, 10**9, use)


def test_a_new_version_replaces_the_cached_one(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    fresh = make_adapter(tiny, name="t0/task", seed=77)

    async def use(cache: AdapterCache) -> None:
        old = await cache.get("t0/task")
        store.publish(fresh, tiny.geometry)
        new = await cache.get("t0/task")
        assert (old.version.number, new.version.number) == (1, 2)
        assert have_equal_tensors(new.adapter, fresh)
        store.roll_back("t0/task")
        back = await cache.get("t0/task")
        assert back.adapter is old.adapter
        # Deleted and published again, the same name, the same number, other content.
        store.delete("t0/task")
        with pytest.raises(UnknownAdapterError):
            await cache.get("t0/task")
        store.publish(fresh, tiny.geometry)
        again = await cache.get("t0/task")
        assert again.version.number == 1
        assert again.version.digest != old.version.digest
        assert have_equal_tensors(again.adapter, fresh)

    with_cache(store, tiny, 10**9, use)


def test_a_broken_folder_is_an_error_and_is_not_cached(store: Store, tiny: Backbone) -> None:
    (store.path("t3/task") / WEIGHTS).write_bytes(b"broken")

    async def use(cache: AdapterCache) -> None:
        for _ in range(2):
            with pytest.raises(AdapterError, match="t3/task"):
                await cache.get("t3/task")
        await cache.get("t4/task")
        assert set(cache.memory.names()) == {"t4/task"}
        assert cache.n_loading == 0

    with_cache(store, tiny, 10**9, use)


def test_a_tier_counts_bytes_exactly(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    tier = LruTier(10**9)
    adapters = [make_adapter(tiny, seed=n, r=2 + n) for n in range(5)]
    for number, adapter in enumerate(adapters):
        tier.put((f"a{number}", "x"), adapter)
        tier.put((f"a{number}", "x"), adapter)
    assert tier.bytes == sum(adapter.n_bytes + OVERHEAD for adapter in adapters)
    assert sum(tier.names().values()) == tier.bytes
    assert tier.drop("a2") == 1
    assert tier.drop("a2") == 0
    for number in (0, 1, 3, 4):
        tier.drop(f"a{number}")
    assert (tier.bytes, len(tier)) == (0, 0)


def test_unloading_frees_memory_and_the_next_request_loads(store: Store, tiny: Backbone) -> None:
    async def use(cache: AdapterCache) -> None:
        first = await cache.get("t0/task")
        assert cache.unload("t0/task") == 1
        assert cache.unload("t0/task") == 0
        second = await cache.get("t0/task")
        assert first.adapter is not second.adapter
        assert cache.loads == 2

    with_cache(store, tiny, 10**9, use)
