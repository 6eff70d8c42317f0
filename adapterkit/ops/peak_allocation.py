"""The largest number of bytes that tensors hold at one time while some operators run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakAllocation(TorchDispatchMode):
    """Counts the memory of all tensors that the calling thread makes inside this context.

    Unlike the memory of the process, the count is the same in every run, and small tensors show in
    it. Memory that an operator frees before it returns is not counted.

    Attributes:
        peak: Bytes, the most that were in use at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._in_use = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor) and value.layout == torch.strided:
                self._add(value.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:  # another view of memory that is counted
            return
        self._sizes[key] = storage.nbytes()
        self._in_use += storage.nbytes()
        self.peak = max(self.peak, self._in_use)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._in_use -= self._sizes.pop(key)
