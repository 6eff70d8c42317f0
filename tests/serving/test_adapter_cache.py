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
from adapterkit.serving import adapter_cache as module
from adapterkit.serving.adapter_cache import OVERHEAD, AdapterCache, LruTier
from helpers.adapters import MakeAdapter


@pytest.fixture
def store(tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path) -> Store:
    """Ten adapters of equal size."""
    store = Store(tmp_path / "shelf")
    for number in range(10):
        store.publish(make_adapter(tiny, name=f"t{number}/task", seed=number), tiny.geometry)
    return store


def with_set(
    store: Store,
    backbone: Backbone,
    memory: int,
    use: Callable[[AdapterCache], Coroutine[Any, Any, Any]],
    pinned: tuple[str, ...] = (),
) -> Any:
    async def whole() -> Any:
        resident = AdapterCache(store, backbone, memory, 0, pinned)
        try:
            return await use(resident)
        finally:
            resident.close()

    return asyncio.run(whole())


def same(one: Adapter, other: Adapter) -> bool:
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def size_of(store: Store, backbone: Backbone) -> int:
    return load_adapter(store.path("t0/task"), backbone).n_bytes + OVERHEAD


def test_the_least_recently_used_goes_and_the_budget_is_kept(store: Store, tiny: Backbone) -> None:
    size = size_of(store, tiny)

    async def use(resident: AdapterCache) -> None:
        for number in range(4):
            await resident.get(f"t{number}/task")
        await resident.get("t0/task")
        await resident.get("t4/task")
        assert set(resident.memory.names()) == {"t0/task", "t2/task", "t3/task", "t4/task"}
        assert resident.memory.bytes == 4 * size <= resident.memory.budget
        assert (resident.loads, resident.memory.evictions) == (5, 1)

    with_set(store, tiny, 4 * size, use)


def test_the_pinned_stay(store: Store, tiny: Backbone) -> None:
    size = size_of(store, tiny)

    async def use(resident: AdapterCache) -> None:
        for number in range(10):
            await resident.get(f"t{number}/task")
        assert set(resident.memory.names()) == {"t0/task", "t9/task"}

    with_set(store, tiny, 2 * size, use, pinned=("t0/task",))


def test_an_adapter_larger_than_the_budget_still_answers(store: Store, tiny: Backbone) -> None:
    async def use(resident: AdapterCache) -> None:
        held = await resident.get("t0/task")
        assert held.adapter.name == "t0/task"
        assert len(resident.memory) == 0

    with_set(store, tiny, 10, use)


def test_many_callers_load_once_and_a_hang_up_ends_nobodys_load(
    store: Store, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, plain, calls = threading.Event(), load_adapter, []

    def slow(*arguments: Any, **more: Any) -> Adapter:
        calls.append(1)
        assert go.wait(10)
        return plain(*arguments, **more)

    monkeypatch.setattr(module, "load_adapter", slow)

    async def use(resident: AdapterCache) -> None:
        waiting = [asyncio.create_task(resident.get("t0/task")) for _ in range(20)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        go.set()
        held = await asyncio.gather(*waiting[1:])
        assert len({id(one.adapter) for one in held}) == 1
        assert len(calls) == resident.loads == 1

    with_set(store, tiny, 10**9, use)


def test_a_cold_adapter_delays_only_its_own(
    store: Store, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, plain = threading.Event(), load_adapter

    def slow(folder: Path, *arguments: Any, **more: Any) -> Adapter:
        assert "t1" not in str(folder) or go.wait(10)
        return plain(folder, *arguments, **more)

    monkeypatch.setattr(module, "load_adapter", slow)

    async def use(resident: AdapterCache) -> None:
        await resident.get("t0/task")
        cold = asyncio.create_task(resident.get("t1/task"))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(resident.get("t0/task"), 5)
        await asyncio.wait_for(resident.get("t2/task"), 5)
        assert not cold.done()
        go.set()
        await cold

    with_set(store, tiny, 10**9, use)


def test_what_is_published_anew_is_never_answered_from_the_old_copy(
    store: Store, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    fresh = make_adapter(tiny, name="t0/task", seed=77)

    async def use(resident: AdapterCache) -> None:
        old = await resident.get("t0/task")
        store.publish(fresh, tiny.geometry)
        new = await resident.get("t0/task")
        assert (old.version.number, new.version.number) == (1, 2)
        assert same(new.adapter, fresh)
        store.roll_back("t0/task")
        back = await resident.get("t0/task")
        assert back.adapter is old.adapter
        # Deleted and published again, the same name, the same number, other content.
        store.delete("t0/task")
        with pytest.raises(UnknownAdapterError):
            await resident.get("t0/task")
        store.publish(fresh, tiny.geometry)
        again = await resident.get("t0/task")
        assert again.version.number == 1
        assert again.version.digest != old.version.digest
        assert same(again.adapter, fresh)

    with_set(store, tiny, 10**9, use)


def test_a_broken_folder_is_told_and_leaves_nothing(store: Store, tiny: Backbone) -> None:
    (store.path("t3/task") / WEIGHTS).write_bytes(b"broken")

    async def use(resident: AdapterCache) -> None:
        for _ in range(2):
            with pytest.raises(AdapterError, match="t3/task"):
                await resident.get("t3/task")
        await resident.get("t4/task")
        assert set(resident.memory.names()) == {"t4/task"}
        assert resident.n_loading == 0

    with_set(store, tiny, 10**9, use)


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
    async def use(resident: AdapterCache) -> None:
        first = await resident.get("t0/task")
        assert resident.unload("t0/task") == 1
        assert resident.unload("t0/task") == 0
        second = await resident.get("t0/task")
        assert first.adapter is not second.adapter
        assert resident.loads == 2

    with_set(store, tiny, 10**9, use)
