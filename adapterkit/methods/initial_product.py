"""The products that PiSSA and OLoRA start from, which are parts of a frozen weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class InitialProduct(NamedTuple):
    """What a low-rank product starts as.

    Attributes:
        down: A, `[r, in]`.
        up: B, `[out, r]`.
    """

    down: Tensor
    up: Tensor


def principal_product(weight: Tensor, rank: int, scale: float) -> InitialProduct:
    """PiSSA (Meng et al. 2024): `scale * B A` is the best approximation of the weight.

    Signs of singular vectors differ between libraries; the product has none.

    Args:
        weight: The frozen weight, `[out, in]`.
        rank: r.
        scale: The factor on the product, more than 0.
    """
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    roots = (values[:rank] / scale).sqrt()
    return InitialProduct((roots[:, None] * right[:rank]).float(), (left[:, :rank] * roots).float())


def orthonormal_product(weight: Tensor, rank: int, scale: float) -> InitialProduct:
    """OLoRA (Büyükakyüz 2024): the first columns and rows of the weight's QR decomposition.

    Args:
        weight: The frozen weight, `[out, in]`.
        rank: r.
        scale: Has no effect.
    """
    q, r = torch.linalg.qr(weight.double())
    return InitialProduct(r[:rank].float(), q[:, :rank].float())


INITIAL_PRODUCTS: Mapping[str, Callable[[Tensor, int, float], InitialProduct]] = {
    "pissa": principal_product,
    "olora": orthonormal_product,
}
"""PEFT's name of an initialisation without random numbers, to the product that it starts from."""
