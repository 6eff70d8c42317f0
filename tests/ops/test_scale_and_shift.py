"""Scales and shifts of several adapters against a plain loop over tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapterkit.ops.scale_and_shift import ScaleAndShift
from adapterkit.ops.segments import Segments


def plain(
    y: Tensor, x: Tensor, lengths: list[int], scales: list[Tensor], shifts: list[Tensor], layer: int
) -> Tensor:
    owners = [g for g, length in enumerate(lengths) for _ in range(length)]
    lines = []
    for token, g in enumerate(owners):
        line = y[token]
        line = line + scales[g][layer] * x[token] if scales else line
        lines.append(line + shifts[g][layer] if shifts else line)
    return torch.stack(lines)


@pytest.mark.parametrize("lengths", [[7], [1, 5, 3]])
@pytest.mark.parametrize("parts", ["scale", "shift", "both"])
def test_outputs_and_gradients_equal_a_plain_loop(lengths: list[int], parts: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.randn(sum(lengths), 6, generator=generator) for _ in range(2))
    vectors = [torch.randn(2, 6, generator=generator) for _ in range(2 * len(lengths))]
    scales = vectors[::2] if parts != "shift" else []
    shifts = vectors[1::2] if parts != "scale" else []
    leaves = [y, x] * (parts != "shift") + [y] * (parts == "shift") + scales + shifts
    for leaf in leaves:
        leaf.requires_grad_()
    op = ScaleAndShift(Segments(lengths), scales or None, shifts or None)
    weights = torch.randn(sum(lengths), 6, generator=generator)
    found, expected = op.add(y, x, 1), plain(y, x, lengths, scales, shifts, 1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((out * weights).sum(), leaves) for out in (found, expected)]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)
    with torch.inference_mode():
        for inputs in (x, y):
            place = y.detach().clone()
            answer = op.add(place, place if inputs is y else x.detach(), 1)
            assert answer is place
            torch.testing.assert_close(place, plain(y, inputs, lengths, scales, shifts, 1))
