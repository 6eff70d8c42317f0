"""The forward of a batch as a CUDA graph, captured once for each kind of batch and then replayed.

A GPU computes a small batch in less time than Python needs to launch its kernels one by one.
Kernels read their arguments from a table (`ops/launch_table.py`), so a graph captured with one
batch is right for every batch of the same kind, whatever its adapters: tokens and table are copied
to where the graph reads them, and one launch runs it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .edits import Edits, GraphInputs
from .packing import Packed

MAX_GRAPHS = 64
"""The most graphs that are kept; the least recently used one is dropped first."""

Compute = Callable[[Tensor, Edits], Tensor]
"""Hidden states `[R, h]` from token ids, position ids and token type ids `[3, R]`, and edits."""


@dataclass(frozen=True)
class CapturedGraph:
    """A graph with its inputs and outputs.

    Attributes:
        graph: The graph.
        rows: Input: token ids, position ids and token type ids, `[3, R]`.
        table: Input: the launch table of the batch.
        states: Output: hidden states, `[R, h]`.
    """

    graph: Any
    rows: Tensor
    table: Tensor
    states: Tensor

    def replay(self, packed: Packed, inputs: GraphInputs) -> Tensor:
        """Hidden states of a batch of the graph's kind, `[T, h]`."""
        tokens = packed.offsets[-1]
        copy_ids(packed, self.rows)
        self.table.copy_(inputs.table.buffer, non_blocking=True)
        self.graph.replay()
        return self.states[:tokens].clone()


class GraphCache:
    """The graphs of one backbone on a GPU; any number of threads may use them.

    The first batch of a kind is computed without a graph, the second captures one. Graphs share
    their memory, which is as large as the largest of them needs.

    Args:
        compute: The forward.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._graphs: OrderedDict[Hashable, CapturedGraph | None] = OrderedDict()
        self._lock = Lock()
        self._done: Any = None
        self._pool: Any = None
        self._stream: Any = None

    def __len__(self) -> int:
        """Number of kinds of batches it knows, with or without a graph."""
        return len(self._graphs)

    @property
    def n_captured(self) -> int:
        """Number of graphs."""
        return sum(graph is not None for graph in self._graphs.values())

    def __call__(self, packed: Packed, edits: Edits) -> Tensor:
        """Hidden states of a batch, `[T, h]`.

        Args:
            packed: T tokens.
            edits: What the batch's adapters do; they must have `graph_inputs`.
        """
        inputs = edits.graph_inputs
        if inputs is None:
            raise ValueError("a batch without graph_inputs cannot be computed by a CUDA graph")
        with self._lock, torch.cuda.device(packed.device):
            stream = torch.cuda.current_stream()
            if self._done is not None:  # the graphs' memory may still be in use on another stream
                stream.wait_event(self._done)
            key = inputs.key, _autocast_dtype()
            is_known, captured = key in self._graphs, self._graphs.pop(key, None)
            if is_known and captured is None:
                captured = self._capture(packed, edits, inputs)
            self._graphs[key] = captured
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
            if captured is not None:
                states = captured.replay(packed, inputs)
            else:
                rows = _rows(packed, edits)
                states = self._compute(rows, edits)[: packed.offsets[-1]]
            self._done = stream.record_event()
        return states

    def _capture(self, packed: Packed, edits: Edits, inputs: GraphInputs) -> CapturedGraph:
        """Captures the graph of the batch's kind, with the batch as its first inputs."""
        rows = _rows(packed, edits)
        table = inputs.table.upload(packed.device)
        if self._pool is None:  # one stream for all: libraries keep memory for every stream
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # so that libraries do their set-up before the capture
            self._compute(rows, edits)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread may copy meanwhile, and that must not become part of the graph.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            states = self._compute(rows, edits)
        return CapturedGraph(graph, rows, table, states)


def _autocast_dtype() -> torch.dtype | None:
    """The dtype of products under autocast on a GPU; None outside autocast."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


def _rows(packed: Packed, edits: Edits) -> Tensor:
    """Token ids, position ids and token type ids of a batch, `[3, R]`, zero after its tokens."""
    rows = torch.zeros(3, edits.padded_tokens, dtype=torch.long, device=packed.device)
    copy_ids(packed, rows)
    return rows


def copy_ids(packed: Packed, rows: Tensor) -> None:
    """Copies token ids, position ids and token type ids of a batch to the left of `[3, R]`.

    What is right of them stays: any valid ids will do there, since nobody reads their states.
    """
    ids = packed.input_ids, packed.position_ids, packed.token_type_ids
    for row, values in zip(rows, ids, strict=True):
        row[: len(values)].copy_(values)
