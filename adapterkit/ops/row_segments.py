"""Segments of a padded batch: rows of equally many tokens, whose adapters are a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Segments


class RowSegments(Segments):
    """n rows of t tokens; each row is a tile of the grouped products.

    Which adapter a row has is known only when a batch comes, so compiled loops, which read numbers,
    cannot compute them. torch's operators can, also while they are recorded for another runtime.

    Args:
        n_adapters: Number of adapters, G.
    """

    is_compiled = False

    def __init__(self, n_adapters: int) -> None:
        super().__init__((0,) * n_adapters)
        self._owners = torch.empty(0, dtype=torch.long)
        self._tokens = 0

    def set_batch(self, owners: Tensor, tokens: int) -> None:
        """Sets the batch that is computed next.

        Args:
            owners: Adapter of each row, int64 `[n]`.
            tokens: Tokens of each row, t.
        """
        self._owners, self._tokens = owners, tokens

    def per_token(self, values: Tensor) -> Tensor:
        own = self.spread(values)[:, None]
        return own.expand(-1, self._tokens, *own.shape[2:]).flatten(0, 1)

    def tiled(self, x: Tensor) -> Tensor:
        """Tokens `[n * t, d]` to rows `[n, t, d]`."""
        return x.view(-1, self._tokens, x.shape[-1])

    def untiled(self, tiles: Tensor) -> Tensor:
        """Rows `[n, t, d]` back to tokens `[n * t, d]`."""
        return tiles.flatten(0, 1)

    def spread(self, weights: Tensor) -> Tensor:
        """Weights `[G, ...]` to one for each row, `[n, ...]`."""
        return weights.index_select(0, self._owners)
