"""What the attention of one layer multiplies: sizes alone, no numbers of a text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionShape:
    """The sizes of one layer's attention, from which its products for any text follow.

    Attributes:
        heads: Number of heads of queries. Heads that share keys and values count one by one.
        width: Width of a head, d.
        window: Greatest distance of a token that is attended to; None for no limit.
        position_terms: How many scores of a token and a distance a score contains: of the query, of
            the key, both or neither; 0 to 2.
        buckets: Bucket of each distance, int64 `[2 N - 1]`; that of i - j is at N - 1 + i - j. None
            if there are no position terms.
    """

    heads: int
    width: int
    window: int | None = None
    position_terms: int = 0
    buckets: Tensor | None = None

    def n_buckets(self, length: int) -> int:
        """Number of buckets that the distances in a text have; 0 if there are no position terms.

        Args:
            length: Tokens of the text, N at most.
        """
        if self.buckets is None:
            return 0
        zero = len(self.buckets) // 2
        return len(self.buckets[zero + 1 - length : zero + length].unique())
