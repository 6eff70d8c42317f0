"""The forward of a batch as a CUDA graph, captured once for each kind of batch and then replayed.

A small batch is computed by a GPU in less time than Python takes to launch its kernels one by one.
What a kernel is told lies on a sheet (`sheet`), so a graph of one batch is right for any other of
its kind, whoever its tenants are: its tokens and its sheet are copied to where the graph reads
them, and one launch does the rest.
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

MOST = 64
"""Graphs that are kept, least recently used out."""

Compute = Callable[[Tensor, Edits], Tensor]
"""Hidden states `[R, h]`, from token ids, positions and token types `[3, R]` and edits."""


@dataclass(frozen=True)
class Captured:
    """A graph, what it reads and what it writes.

    Attributes:
        graph: The graph.
        rows: Token ids, positions and token types, `[3, R]`.
        sheet: The batch's sheet.
        states: Hidden states, `[R, h]`.
    """

    graph: Any
    rows: Tensor
    sheet: Tensor
    states: Tensor

    def run(self, packed: Packed, whole: GraphInputs) -> Tensor:
        """Hidden states of a batch of the graph's kind, `[T, h]`."""
        tokens = packed.offsets[-1]
        fill(self.rows, packed)
        self.sheet.copy_(whole.table.written, non_blocking=True)
        self.graph.replay()
        return self.states[:tokens].clone()


class Graphs:
    """Forwards of one backbone on a GPU; any number of threads may use them.

    A kind of batch that is seen for the first time is computed as it comes, from the second time on
    by its graph. Graphs share their memory, which is as much as the largest of them needs.

    Args:
        compute: The forward.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._known: OrderedDict[Hashable, Captured | None] = OrderedDict()
        self._lock = Lock()
        self._done: Any = None
        self._pool: Any = None
        self._stream: Any = None

    def __len__(self) -> int:
        """Kinds of batches that are remembered."""
        return len(self._known)

    @property
    def n_captured(self) -> int:
        """Kinds of batches that have a graph."""
        return sum(captured is not None for captured in self._known.values())

    def __call__(self, packed: Packed, edits: Edits) -> Tensor:
        """Hidden states of a batch, `[T, h]`.

        Args:
            packed: T tokens.
            edits: What its adapters do, as a whole.
        """
        whole = edits.whole
        if whole is None:
            raise ValueError("the edits are not of a batch as a whole")
        with self._lock, torch.cuda.device(packed.device):
            stream = torch.cuda.current_stream()
            if self._done is not None:  # another thread's stream may still be at it
                stream.wait_event(self._done)
            kind = whole.key, _cast()
            seen, captured = kind in self._known, self._known.pop(kind, None)
            if seen and captured is None:
                captured = self._capture(packed, edits, whole)
            self._known[kind] = captured
            if len(self._known) > MOST:
                self._known.popitem(last=False)
            if captured is not None:
                states = captured.run(packed, whole)
            else:
                rows = torch.zeros(3, edits.filled, dtype=torch.long, device=packed.device)
                fill(rows, packed)
                states = self._compute(rows, edits)[: packed.offsets[-1]]
            self._done = stream.record_event()
        return states

    def _capture(self, packed: Packed, edits: Edits, whole: GraphInputs) -> Captured:
        """The graph of the batch's kind; what it reads is that batch's, to begin with."""
        rows = torch.zeros(3, edits.filled, dtype=torch.long, device=packed.device)
        fill(rows, packed)
        sheet = whole.table.upload(packed.device)
        if self._pool is None:  # one stream too: libraries keep memory for each they meet
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what libraries set up on a stream's first use
            self._compute(rows, edits)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread may copy meanwhile: what it does is no part of the graph.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            states = self._compute(rows, edits)
        return Captured(graph, rows, sheet, states)


def _cast() -> torch.dtype | None:
    """What products are cast to on a GPU just now."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


def fill(rows: Tensor, packed: Packed) -> None:
    """Token ids, positions and token types of a batch into `[3, R]`, from the left; what is there
    beyond them is of some batch before, and as good as anything."""
    tokens = packed.offsets[-1]
    for line, numbers in zip(
        rows, (packed.input_ids, packed.position_ids, packed.token_type_ids), strict=True
    ):
        line[:tokens].copy_(numbers)
