"""Adapters under training, and one forward over a micro-batch of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..inference.forward import AdapterOutput, forward
from ..inference.shared_layers import StateCache
from ..ops.dropout import Dropout
from .batches import MicroBatch
from .training_section import Training


class TrainableAdapter(nn.Module):
    """The tensors and the head of one adapter as parameters.

    Args:
        adapter: The adapter before its first step; its tensors are copied.

    Attributes:
        initial: That adapter.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.initial = adapter
        trained = {n: t for n, t in adapter.tensors.items() if adapter.method.is_trained(n)}
        self.tensors = _as_parameters(trained)
        self.head = _as_parameters(adapter.head)
        for name in adapter.tensors.keys() - trained:  # buffers move to a device with the module
            self.register_buffer(_key(name), adapter.tensors[name].clone(), persistent=False)

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is now; its tensors are the parameters themselves."""
        return replace(
            self.initial,
            tensors={name: self._tensor(name) for name in self.initial.tensors},
            head={name: self.head[_key(name)] for name in self.initial.head},
        )

    def _tensor(self, name: str) -> Tensor:
        """A tensor of the method: a parameter, or a buffer if it is not trained."""
        key = _key(name)
        tensor: Tensor = self.tensors[key] if key in self.tensors else self.get_buffer(key)
        return tensor

    def detached(self) -> Adapter:
        """A copy of the adapter as it is now, without gradients."""
        adapter = self.adapter
        return replace(adapter, tensors=_copy(adapter.tensors), head=_copy(adapter.head))

    def parameters_by_rate(
        self, settings: Training
    ) -> list[tuple[Mapping[str, nn.Parameter], float]]:
        """The parameters by name, in parts that have one peak learning rate, with that rate."""
        method = self.initial.method
        return [
            (dict(self.tensors.items()), settings.learning_rate or method.learning_rate),
            (dict(self.head.items()), settings.head_learning_rate or method.head_learning_rate),
        ]

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every parameter by its name."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Sets every parameter to its value in a snapshot.

        Raises:
            ValueError: The snapshot has other names or shapes.
        """
        parameters = dict(self.named_parameters())
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        saved = {name: tuple(value.shape) for name, value in snapshot.items()}
        if saved != shapes:
            differing = sorted(
                name for name in {*saved, *shapes} if saved.get(name) != shapes.get(name)
            )
            raise ValueError(f"its tensors {', '.join(differing)} do not fit this adapter")
        for name, parameter in parameters.items():
            parameter.copy_(snapshot[name])


class TrainableAdapters(nn.Module):
    """All adapters under training as one module, so that Accelerate sees their parameters alone.

    The backbone is not a sub-module: it is frozen, shared and never wrapped.

    Args:
        backbone: The backbone that all of them share.
        members: The adapters.
        state_cache: Cache for the states of training rows below the first adapted layer.
        recompute: Compute the activations of layers again for the backward pass.
    """

    def __init__(
        self,
        backbone: Backbone,
        members: Iterable[TrainableAdapter],
        state_cache: StateCache | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.state_cache = state_cache
        self.recompute = recompute
        self.members: Any = nn.ModuleList(members)

    def select(self, indices: Iterable[int]) -> TrainableAdapters:
        """Some of the adapters, with the same parameters and the same cache."""
        members = [self.members[index] for index in indices]
        return TrainableAdapters(self.backbone, members, self.state_cache, self.recompute)

    def forward(self, micro_batches: Mapping[int, MicroBatch]) -> Tensor:
        """The losses of some adapters' micro-batches, through one packed forward.

        No adapter's loss depends on the rows of another, so the gradient of the sum of the losses
        holds the gradient of each.

        Args:
            micro_batches: Index of the adapter to its micro-batch.

        Returns:
            `[n]`, in the order of the micro-batches.
        """
        adapters = {index: self.members[index].adapter for index in micro_batches}
        return self.losses(micro_batches, adapters)

    def losses(
        self, micro_batches: Mapping[int, MicroBatch], adapters: Mapping[int, Adapter]
    ) -> Tensor:
        """As `forward`, but with adapters over tensors that the caller chooses."""
        outputs = self.outputs(micro_batches, adapters)
        if any(micro_batch.is_gathered for micro_batch in micro_batches.values()):
            self.backbone.settle()
        losses = [
            micro_batch.loss(adapters[index], outputs[index]).float()
            for index, micro_batch in micro_batches.items()
        ]
        return torch.stack(losses)

    def outputs(
        self, micro_batches: Mapping[int, MicroBatch], adapters: Mapping[int, Adapter]
    ) -> dict[int, AdapterOutput]:
        """The outputs of adapters for their micro-batches, with dropout, by index.

        Args:
            micro_batches: Index of the adapter to its micro-batch.
            adapters: The adapters, over tensors that the caller chooses.
        """
        owners = [
            (index, sequence)
            for index, micro_batch in micro_batches.items()
            for sequence in range(len(micro_batch.sequence_indices))
        ]

        def dropout(order: tuple[int, ...]) -> Dropout:
            """The dropout of all sequences in packed order, which is adapter by adapter."""
            packed = groupby((owners[row] for row in order), key=lambda owner: owner[0])
            seeds = [
                micro_batches[index].dropout_seed([sequence for _, sequence in sequences])
                for index, sequences in packed
            ]
            return Dropout(seeds, self.backbone.device)

        rows = [
            (adapters[index], sequence)
            for index, micro_batch in micro_batches.items()
            for sequence in micro_batch.sequences
        ]
        found = forward(self.backbone, rows, dropout, self.state_cache, self.recompute)
        by_adapter = {id(output.adapter): output for output in found}
        return {index: by_adapter[id(adapters[index])] for index in micro_batches}


def _as_parameters(tensors: Mapping[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({_key(name): tensor.clone() for name, tensor in tensors.items()})


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _key(name: str) -> str:
    """The key of a tensor in a ParameterDict, which allows no dots."""
    return name.replace(".", "__")
