"""The products that PiSSA and OLoRA start from, which are parts of a frozen weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .product import Product


def principal_product(weight: Tensor, rank: int, scale: float) -> Product:
    """PiSSA (Meng et al. 2024): the best approximation of the weight.

    Signs of singular vectors differ between libraries; the product has none.

    Args:
        weight: The frozen weight, `[out, in]`.
        rank: r.
        scale: The factor on the product, more than 0.
    """
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    roots = (values[:rank] / scale).sqrt()
    down, up = roots[:, None] * right[:rank], left[:, :rank] * roots
    return Product(down.float(), up.float(), scale)


def orthonormal_product(weight: Tensor, rank: int, scale: float) -> Product:
    """OLoRA (Büyükakyüz 2024): the first columns and rows of the weight's QR decomposition.

    Args:
        weight: The frozen weight, `[out, in]`.
        rank: r.
        scale: The factor on the product, which the matrices do not depend on.
    """
    q, r = torch.linalg.qr(weight.double())
    return Product(r[:rank].float(), q[:, :rank].float(), scale)


INITIAL_PRODUCTS: Mapping[str, Callable[[Tensor, int, float], Product]] = {
    "pissa": principal_product,
    "olora": orthonormal_product,
}
"""PEFT's name of an initialisation without random numbers, to the product that it starts from."""
