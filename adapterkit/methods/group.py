"""The adapters of a batch that are computed together, and what they do to their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.geometry import Geometry
from ..ops.dropout import Dropout
from ..ops.segments import Segments


@dataclass(frozen=True)
class Group:
    """The tokens of a batch that belong to adapters with one `group_key`.

    Attributes:
        segments: Tokens of each adapter, one segment after the other.
        geometry: The backbone's.
        dropout: Draws the dropout masks of these adapters; None outside training.
    """

    segments: Segments
    geometry: Geometry
    dropout: Dropout | None = None

    def drop(self, x: Tensor, p: float) -> Tensor:
        """Applies dropout to the group's tokens.

        Args:
            x: `[t, d]`.
            p: Probability that a number becomes zero.

        Returns:
            `[t, d]`; x itself outside training.
        """
        return x if self.dropout is None else self.dropout.drop_tokens(x, p)

    def per_token(self, values: Tensor) -> Tensor:
        """Repeats the row of each adapter for each of its tokens.

        Args:
            values: `[G, ...]`, in the order of the segments.

        Returns:
            `[t, ...]`.
        """
        return self.segments.per_token(values)


@dataclass(frozen=True)
class GroupEdits:
    """What the adapters of one group do to a batch.

    Attributes:
        deltas: (layer, site) to the edit of the group's tokens there: a function `(y, x)` that
            returns the new y, `[t, out]`, from y, the output at the site, and x, its input,
            `[t, in]`. If gradients are off, it may change y in place and return it.
        prefixes: For each adapter the keys and values before its texts, `[L, 2, P, h]`; None for a
            method without prefix tokens.
    """

    deltas: Mapping[tuple[int, str], Delta] = field(default_factory=dict)
    prefixes: Sequence[Tensor] | None = None
