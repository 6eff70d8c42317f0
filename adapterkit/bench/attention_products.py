"""The matrix products of attention, without anything between them.

Each is a batched product of torch over the heads of one row. Softmax, norms, rotary positions and
the gathering of scores by distance are left out, so that no exact attention has less to compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from ..backbone.attention_shape import AttentionShape
from ..backbone.model import Backbone
from .timing import Computation

BLOCK, LOCAL_BLOCK = 64, 32
"""Queries of a block, in global and in local layers. A smaller block of a local layer reads fewer
keys that not all of its queries attend to."""

TILE = 256
"""The most keys of a product: its scores stay in the processor's cache."""


class BatchedProduct(NamedTuple):
    """A product `[heads, rows, inner] @ [heads, inner, columns]`."""

    heads: int
    rows: int
    inner: int
    columns: int

    @property
    def multiply_adds(self) -> int:
        """Number of its multiply-adds."""
        return self.heads * self.rows * self.inner * self.columns


def products_of(shape: AttentionShape, length: int) -> Iterator[BatchedProduct]:
    """The products of one layer for one row: each block of queries with each tile of keys.

    These are the scores of all keys that some query of the block attends to, the weighted sums of
    their values, and the scores of positions with each bucket of the row's distances.

    Args:
        shape: The layer's attention.
        length: Tokens of the row.
    """
    heads, width, n_buckets = shape.heads, shape.width, shape.n_buckets(length)
    window, block = shape.window, LOCAL_BLOCK
    if window is None or length <= window + 1:
        window, block = length, BLOCK
    for first in range(0, length, block):
        end = min(first + block, length)
        rows = end - first
        for keys in _tiles(min(length, end + window) - max(0, first - window)):
            yield BatchedProduct(heads, rows, width, keys)
            yield BatchedProduct(heads, rows, keys, width)
        for buckets in _tiles(n_buckets) * shape.position_terms:
            yield BatchedProduct(heads, rows, width, buckets)


def _tiles(n: int) -> list[int]:
    """Sizes of the tiles of n keys."""
    return [min(TILE, n - first) for first in range(0, n, TILE)]


def attention_products(backbone: Backbone, lengths: Iterable[int]) -> Counter[BatchedProduct]:
    """The products of all layers, and how often each is computed.

    Args:
        backbone: The backbone.
        lengths: Tokens of each row.
    """
    counts: Counter[BatchedProduct] = Counter()
    for length, n_rows in Counter(lengths).items():
        for shape in backbone.attention_shapes:
            for product in products_of(shape, length):
                counts[product] += n_rows
    return counts


def attention_alone(backbone: Backbone, lengths: Iterable[int]) -> Computation:
    """Computes the products of attention in float32, as attention is computed on a CPU.

    Args:
        backbone: The backbone.
        lengths: Tokens of each row.
    """
    runs = [
        (
            torch.randn(product.heads, product.rows, product.inner),
            torch.randn(product.heads, product.inner, product.columns),
            torch.empty(product.heads, product.rows, product.columns),
            count,
        )
        for product, count in attention_products(backbone, lengths).items()
    ]

    def run() -> None:
        for left, right, output, count in runs:
            for _ in range(count):
                torch.bmm(left, right, out=output)

    return run
