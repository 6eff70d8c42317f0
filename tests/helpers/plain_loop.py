"""An adapter over the packed backbone against the same adapter in a plain loop over texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence

from .sequences import logits_of, outputs_by_row

PlainLoop = Callable[[Backbone, Adapter, TokenSequence], Tensor]
"""The logits of one text, `[C]`, computed without adapterkit's forward pass."""


def check_against_plain_loop(
    backbone: Backbone,
    rows: list[TokenSequence],
    make: Callable[[], Adapter],
    loop: PlainLoop,
) -> None:
    """Compares served and trained logits, and the gradients of every tensor, at 1e-5.

    Args:
        backbone: The backbone.
        rows: The texts.
        make: Makes the adapter, each time with the same numbers.
        loop: The plain loop.
    """
    results = []
    for fast in (True, False):
        adapter = make()
        leaves = {**adapter.tensors, **adapter.head}
        for tensor in leaves.values():
            tensor.requires_grad_()
        if fast:
            with torch.inference_mode():
                served = logits_of(backbone, adapter, rows)
            trained = torch.stack(outputs_by_row(backbone, [(adapter, row) for row in rows]))
            torch.testing.assert_close(served, trained, rtol=1e-5, atol=1e-5)
        else:
            trained = torch.stack([loop(backbone, adapter, row) for row in rows])
        (trained * torch.arange(float(trained.numel())).view_as(trained)).sum().backward()
        results.append((trained, {name: leaf.grad for name, leaf in leaves.items()}))
    (found, gradients), (expected, plain) = results
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in plain.items():
        ours = gradients[name]
        assert gradient is not None
        assert ours is not None
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(ours / scale, gradient / scale, rtol=0, atol=1e-5)
