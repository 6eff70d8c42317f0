"""Frozen weights that are divided among processes, and come together where a layer runs.

This is how stage 3 of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) and FSDP place the weights
of a model. Frozen weights are only ever gathered: there is no gradient to reduce, and nothing to
write back.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

SHARD = "shard"
"""The place, in a device map, of a layer whose weights are divided."""

NO_LAYER = -1


class Shards:
    """The part of every divided layer that this process keeps.

    The processes need not compute the same: each round, every process says which layer it needs,
    and all gather those. One that needs none for now calls `settle`.

    Args:
        device: Where the weights are gathered.
    """

    def __init__(self, device: str) -> None:
        self._n_processes, self._process = distributed.get_world_size(), distributed.get_rank()
        self._device = device
        self._parts: list[Tensor] = []
        self._lock = Lock()  # a round is one for all threads of a process
        # The processes agree on the CPU, so that a GPU never waits for what is only a number.
        on_cpu = "gloo" in distributed.get_backend()
        self._agreement = None if on_cpu else distributed.new_group(backend="gloo")

    def keep(self, tensors: Mapping[str, Tensor]) -> ShardedLayer:
        """Keeps this process's part of the weights of a layer.

        Args:
            tensors: All its weights by their names, of one dtype.
        """
        flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
        size = -(-len(flat) // self._n_processes)
        own = flat[self._process * size : (self._process + 1) * size]
        self._parts.append(pad(own, (0, size - len(own))).to(self._device, copy=True))
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return ShardedLayer(self, len(self._parts) - 1, shapes)

    def gather(self, number: int) -> Tensor:
        """The weights of a layer, `[n]`, from all processes.

        Args:
            number: The layer, counted from 0 in the order of `keep`.
        """
        # Made first: who has too little memory for it must not leave the others in a round.
        whole = self._empty(number)
        with self._lock:
            for wanted in self._agree(number):
                self._gather(wanted, whole if wanted == number else self._empty(wanted))
        return whole

    def settle(self) -> None:
        """Gathers the layers that other processes need, until none needs one."""
        with self._lock:
            while wanted := self._agree(NO_LAYER):
                for number in wanted:
                    self._gather(number, self._empty(number))

    def _agree(self, number: int) -> list[int]:
        """The layers that the processes need in this round."""
        found = torch.empty(self._n_processes, dtype=torch.int64)
        own = torch.tensor([number])
        distributed.all_gather(list(found.split(1)), own, group=self._agreement)
        return sorted(set(found.tolist()) - {NO_LAYER})

    def _empty(self, number: int) -> Tensor:
        part = self._parts[number]
        return part.new_empty(self._n_processes * len(part))

    def _gather(self, number: int, whole: Tensor) -> None:
        """Fills the weights of a layer in, `[n]`."""
        part = self._parts[number].view(torch.uint8)  # not every backend knows every dtype
        distributed.all_gather(list(whole.view(torch.uint8).split(len(part))), part)


class ShardedLayer:
    """The weights of one divided layer.

    Args:
        shards: All divided layers.
        number: Which one it is.
        shapes: The shapes of its weights, by their names, in the order in which they are kept.
    """

    def __init__(self, shards: Shards, number: int, shapes: Mapping[str, torch.Size]) -> None:
        self._shards, self._number, self._shapes = shards, number, shapes

    def __call__(self) -> dict[str, Tensor]:
        """The weights by their names, gathered from all processes."""
        whole = self._shards.gather(self._number)
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = whole[: sum(sizes)].split(sizes)
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
