"""The one exchange of processes in a step: gradients, losses, and whether memory sufficed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ..backbone.model import Backbone


class GradientExchange:
    """Adds up what the processes have computed of a step.

    Adapters are small, so all their gradients are one tensor and one message, after the backward
    pass. `DistributedDataParallel` would send them during it: a process that runs out of memory
    could no longer tell the others, which would wait for it.

    Args:
        accelerator: Accelerate's.
        backbone: The backbone; the others may still need its layers.
        module: The module under training; every process gets the parameters of the first.
    """

    def __init__(self, accelerator: Accelerator, backbone: Backbone, module: nn.Module) -> None:
        self._accelerator, self._backbone = accelerator, backbone
        if accelerator.num_processes > 1:
            for parameter in module.parameters():
                parameter.data.copy_(broadcast(parameter.data))

    def sum(self, modules: Sequence[nn.Module], losses: Tensor | None) -> list[float] | None:
        """Adds up gradients and losses over the processes, all of which must call it.

        Args:
            modules: The modules whose parameters have taken gradients.
            losses: The losses of this process, `[n]`; None if it had too little memory.

        Returns:
            The losses, alike on all processes. None if one of them had too little memory: then no
            parameter has a gradient.
        """
        if self._accelerator.num_processes == 1:
            return None if losses is None else losses.tolist()
        self._backbone.settle()
        parameters = list(chain.from_iterable(module.parameters() for module in modules))
        device = self._backbone.device
        own = torch.zeros(len(modules), device=device) if losses is None else losses
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        counts = [float(losses is None), *(float(p.grad is not None) for p in parameters)]
        parts = [torch.tensor(counts, device=device), own, *(g.flatten() for g in gradients)]
        flat = torch.cat([part.float() for part in parts])
        summed: Tensor = self._accelerator.reduce(flat, "sum")
        found, total, *sums = summed.split([part.numel() for part in parts])
        n_failed, *n_gradients = found.tolist()
        for parameter, n, gradient in zip(parameters, n_gradients, sums, strict=True):
            is_known = n > 0 and not n_failed  # AdamW passes over a parameter without gradient
            parameter.grad = gradient.view_as(parameter).to(parameter) if is_known else None
        return None if n_failed else total.tolist()
