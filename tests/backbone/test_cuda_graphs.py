"""Batches computed in one launch, and as a CUDA graph, equal the loops."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from adapterkit.adapter import batching
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits, batching_key
from adapterkit.backbone import edits as edits_module
from adapterkit.backbone.cuda_graphs import CapturedGraph, copy_ids
from adapterkit.backbone.edits import Edits
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import Packed, TokenSequence, pack
from adapterkit.inference.forward import forward
from adapterkit.methods.head import Head
from adapterkit.ops.attention_plan import AttentionPlan
from adapterkit.ops.bucketing import bucket_power_of_two, bucket_size
from adapterkit.ops.launch_table import LaunchTable
from adapterkit.tasks import pooled
from helpers.adapters import MakeAdapter, varied_adapters
from helpers.sequences import random_rows, tokenise

pytest.importorskip("triton", reason="the kernels of a GPU need Triton")

Rows = Sequence[tuple[Adapter | None, TokenSequence]]


def ragged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: AttentionPlan,
    heads: int,
    scaling: float,
    window: int | None,
    bias: None,
) -> torch.Tensor:
    """The reference of flash attention; padding is NaN, so that a read of it is noticed."""
    ragged = plan.ragged
    assert ragged.keys is None or ragged.prefix_addresses is not None
    out = torch.full_like(query, torch.nan)
    assert int(ragged.starts.diff().max()) <= ragged.max_queries
    assert int(ragged.key_starts.diff().max()) <= ragged.max_keys
    for n in range(len(ragged.starts) - 1):
        own = slice(*ragged.starts[n : n + 2].tolist())
        seen = slice(*ragged.key_starts[n : n + 2].tolist())
        q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (query, key, value))
        weights = (q[:, own] @ k[:, seen].transpose(1, 2) * scaling).softmax(-1)
        out[own] = (weights @ v[:, seen]).transpose(0, 1).flatten(1)
    return out


@pytest.fixture
def on_gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes batches by the kernels of a GPU, in Triton's interpreter."""

    def room(packed: Packed, *_: Any) -> tuple[LaunchTable, int]:
        return LaunchTable(), bucket_size(packed.offsets[-1])

    monkeypatch.setattr(batching, "launch_table_for", room)
    monkeypatch.setattr(edits_module, "uses_flash_attention", lambda *_: True)
    monkeypatch.setattr(pooled, "in_one_launch", lambda device: torch.is_inference_mode_enabled())
    monkeypatch.setattr(edits_module, "packed_attention", ragged_attention)


def scores_of(backbone: Backbone, rows: Rows) -> list[torch.Tensor]:
    """The scores of each piece, copied out of inference mode."""
    with torch.inference_mode():
        return [piece.values.clone() for piece in forward(backbone, rows)]


def packed_of(backbone: Backbone, rows: Rows) -> tuple[Packed, Edits]:
    """A packed batch and the edits of its adapters."""
    adapters = sorted({id(a): a for a, _ in rows if a is not None}.values(), key=batching_key)
    owners = [
        -1 if a is None else next(n for n, b in enumerate(adapters) if b is a) for a, _ in rows
    ]
    firsts = [0 if a is None else a.num_virtual_tokens for a, _ in rows]
    packed = pack([inputs for _, inputs in rows], owners, firsts)
    return packed, assemble_edits(adapters, packed, backbone.frozen_weights)


def test_the_gpu_path_equals_the_cpu_path(
    tiny: Backbone, make_adapter: MakeAdapter, request: pytest.FixtureRequest
) -> None:
    rows = random_rows(tiny, [None, *varied_adapters(tiny, make_adapter)], 33)
    plain = scores_of(tiny, rows)
    request.getfixturevalue("on_gpu_path")
    for one, other in zip(scores_of(tiny, rows), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class FakeGraph:
    """A stand-in for a CUDA graph: replays the batch with the captured edits."""

    def __init__(self, backbone: Backbone, rows: torch.Tensor, edits: Edits) -> None:
        self._compute = partial(backbone.compute_states, rows, edits)
        self.states = self._compute()

    def replay(self) -> None:
        self.states.copy_(self._compute())


def traffic(
    backbone: Backbone, make_adapter: MakeAdapter, seed: int, **lora: Any
) -> list[tuple[Adapter | None, TokenSequence]]:
    """Rows of two adapters of each method and of the plain backbone, drawn by a seed."""
    adapters = [
        make_adapter(backbone, kind, seed=10 * seed + n, **settings)
        for n, (kind, settings) in enumerate(
            [
                ("lora", {"r": 1 + seed, **lora}),
                ("lora", {"r": 9, "alpha": 1.0 + seed, **lora}),
                ("prefix", {"num_virtual_tokens": 3 + seed}),
                ("prefix", {"num_virtual_tokens": 4}),
                ("bottleneck", {"size": 7 - seed, "scaling": 0.5}),
                ("bottleneck", {"size": 2}),
            ]
        )
    ]
    rng = random.Random(seed)
    texts = [" ".join(rng.choices("card money fee the a my".split(), k=n)) for n in range(3, 23)]
    owners = [*adapters, None, *rng.choices([*adapters, None], k=13)]
    return list(zip(owners, tokenise(backbone, texts, None, 30), strict=True))


@pytest.mark.usefixtures("on_gpu_path")
def test_a_graph_is_reused_for_every_batch_of_its_kind(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    with torch.inference_mode():
        packed, edits = packed_of(tiny, traffic(tiny, make_adapter, 0))
        assert edits.graph_inputs is not None
        rows = torch.zeros(3, edits.padded_tokens, dtype=torch.long)
        copy_ids(packed, rows)
        table = edits.graph_inputs.table.upload("cpu")
        graph = FakeGraph(tiny, rows, edits)
        captured = CapturedGraph(graph, rows, table, graph.states)
        for seed in (1, 0):
            packed, edits = packed_of(tiny, traffic(tiny, make_adapter, seed))
            inputs = edits.graph_inputs
            assert inputs is not None
            states = captured.replay(packed, inputs)
            again = tiny(packed, edits).tokens
            torch.testing.assert_close(states, again, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("on_gpu_path")
def test_batches_of_one_kind_have_the_same_edits_and_sizes(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    def kind(seed: int = 0, **lora: Any) -> Any:
        with torch.inference_mode():
            edits = packed_of(tiny, traffic(tiny, make_adapter, seed, **lora))[1]
        assert edits.graph_inputs is not None
        return edits.graph_inputs.key

    assert kind() == kind(1) == kind(2)
    for other in ({"r": 17}, {"layers": (0, 1)}, {"targets": ("query", "key")}):
        assert kind() != kind(**other)


def test_methods_beyond_low_rank_are_computed_by_group(
    tiny: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Head):
        low_rank_only = False

    monkeypatch.setattr(batching, "in_one_launch", lambda device: True)
    adapter = make_adapter(tiny, "lora")
    packed, _ = packed_of(tiny, [(adapter, tokenise(tiny, ["my card"], None, 30)[0])])
    packed = replace(packed, input_ids=packed.input_ids.to("meta"))  # any device but a CPU
    assert batching.launch_table_for(packed, [adapter], tiny.geometry)[0] is not None
    mixed = [adapter, replace(adapter, method=Other(), tensors={})]
    alone = None, packed.offsets[-1]
    assert batching.launch_table_for(packed, mixed, tiny.geometry) == alone
    local = replace(tiny.geometry, window=8)
    assert batching.launch_table_for(packed, [adapter], local)[0] is not None
    prefix = [make_adapter(tiny, "prefix", num_virtual_tokens=3)]
    assert batching.launch_table_for(packed, prefix, local) == alone


def test_sizes_are_few_and_large_enough() -> None:
    for n in range(1, 3000):
        assert n <= bucket_size(n) <= max(16, n * 1.126 + 15)
        assert n <= bucket_power_of_two(n) < max(17, 2 * n)
    assert len({bucket_size(n) for n in range(1024, 2048)}) <= 9


def test_a_launch_table_is_read_back_unchanged() -> None:
    table = LaunchTable()
    one = table.add(np.array([1, 2, 3], np.int32), 5)
    two = table.add(np.array([2**40], np.int64))
    three = table.add(np.array([0.5, -1.0], np.float32), 16)
    with pytest.raises(RuntimeError, match="not been uploaded"):
        table.view(one)
    table.upload("cpu")
    assert table.view(one).tolist() == [1, 2, 3, 0, 0]
    assert table.view(two).tolist() == [2**40]
    assert table.view(three).tolist() == [0.5, -1.0, *[0.0] * 14]


@pytest.fixture(scope="module")
def halved(tiny_folder: Any) -> Backbone:
    """The tiny backbone in bfloat16 on a GPU."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return Backbone.load(str(tiny_folder), dtype="bfloat16", device="cuda")


@pytest.mark.gpu
def test_graphs_equal_float32_on_a_cpu(
    tiny: Backbone, halved: Backbone, make_adapter: MakeAdapter
) -> None:
    for seed in (0, 1, 2, 1):  # computed, captured, replayed for others, and again
        rows = traffic(tiny, make_adapter, seed)
        there = [(a and a.to("cuda"), inputs) for a, inputs in rows]
        same = {id(a): b for (a, _), (b, _) in zip(rows, there, strict=True) if a is not None}
        there = [(a and same[id(a)], inputs) for a, inputs in rows]
        for one, other in zip(scores_of(halved, there), scores_of(tiny, rows), strict=True):
            assert (one.float().cpu() - other).norm() / other.norm() < 0.03
    graphs = halved.graphs
    assert graphs is not None
    assert (len(graphs), graphs.n_captured) == (1, 1)


@pytest.mark.gpu
def test_threads_on_separate_streams_get_their_own_outputs(
    halved: Backbone, make_adapter: MakeAdapter
) -> None:
    jobs = [traffic(halved, make_adapter, seed) for seed in (0, 1, 2)]
    alone = [scores_of(halved, job) for job in jobs]
    found: dict[int, list[list[torch.Tensor]]] = {n: [] for n in range(3)}

    def ask(n: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            found[n] = [scores_of(halved, jobs[n]) for _ in range(20)]
            torch.cuda.synchronize()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, answers in found.items():
        assert len(answers) == 20
        for answer in answers:
            for one, other in zip(answer, alone[n], strict=True):
                torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_the_least_recently_used_graph_is_dropped(
    halved: Backbone, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapterkit.backbone.cuda_graphs.MAX_GRAPHS", 2)
    graphs = halved.graphs
    assert graphs is not None
    for ranks in (1, 17, 33, 1):
        rows = traffic(halved, make_adapter, 0)
        first, inputs = rows[0]
        assert first is not None
        wider = make_adapter(halved, "lora", seed=ranks, r=min(32, ranks))
        rows[0] = (replace(wider, name="wide"), inputs)
        scores_of(halved, rows)
        assert len(graphs) <= 2
