"""Shared lower layers: a text is computed once up to the lowest layer that an adapter edits.

AdapterDrop (Rücklé et al. 2021) does so for adapters without lower layers. Here it is done for the
rows of any batch, and in training for the rows of one epoch and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from threading import Lock

import torch
from torch import Tensor

from ..backbone.edits import Edits
from ..backbone.model import Backbone
from ..backbone.packing import EncoderOutput, Packed

LEAST_SAVED = 0.05
"""Least part of a batch's work that sharing must save; below it, sharing costs more."""


class StateCache:
    """States of texts that enter a layer, kept from batch to batch.

    When it is full, further texts are not kept, and are computed every time they occur.

    Args:
        max_bytes: Most bytes of states.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._states: dict[Hashable, Tensor] = {}
        self._lock = Lock()

    def get(self, layer: int, text: Hashable) -> Tensor | None:
        """The states of a text, `[n, h]`; None if they are not known."""
        return self._states.get((layer, text))

    def put(self, layer: int, text: Hashable, states: Tensor) -> None:
        """Keeps the states of a text, `[n, h]`, if there is room."""
        with self._lock:
            known = (layer, text) in self._states  # another lane may have added it
            if not known and self.n_bytes + states.nbytes <= self.max_bytes:
                self._states[layer, text] = states.detach().clone()
                self.n_bytes += states.nbytes

    def states(
        self,
        layer: int,
        texts: Sequence[Hashable | None],
        compute: Callable[[list[int]], Sequence[Tensor]],
    ) -> list[Tensor]:
        """The states that enter a layer, `[n, h]` for each text: known, or computed once.

        Args:
            layer: The layer.
            texts: A key of each text; None for a text that is computed by itself and not kept.
            compute: Returns the states of some of the texts, from their indices.
        """
        keys = [index if text is None else text for index, text in enumerate(texts)]
        known = {key: states for key in keys if (states := self.get(layer, key)) is not None}
        missing: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, index)
        computed = compute(list(missing.values())) if missing else ()
        for (key, index), states in zip(missing.items(), computed, strict=True):
            known[key] = states
            if texts[index] is not None:
                self.put(layer, key, states)
        return [known[key] for key in keys]


def encode_shared(
    backbone: Backbone,
    packed: Packed,
    texts: Sequence[Hashable | None],
    edits: Callable[[Packed], Edits],
    cache: StateCache | None = None,
) -> EncoderOutput:
    """Computes the hidden states of a packed batch; lower layers that rows share only once.

    Args:
        backbone: The backbone.
        packed: The batch.
        texts: For each packed sequence a key of everything that its states depend on below the
            layers that are edited; None for a sequence that is neither shared nor cached.
        edits: From the batch, or a part of it, to its edits.
        cache: States of earlier batches; those of this batch are added.
    """
    batch_edits = edits(packed)
    untouched = [
        depth if text is not None else 0
        for depth, text in zip(batch_edits.untouched, texts, strict=True)
    ]
    layer = sharing_depth(packed, texts, untouched, backbone.geometry.layers, cache is None)
    if layer == 0:
        return backbone(packed, batch_edits)

    def entering(sequences: list[int]) -> Sequence[Tensor]:
        part = packed.select(sequences)
        states: tuple[Tensor, ...] = backbone.entering(layer, part, edits(part)).split(part.lengths)
        return states

    shared = [
        text if depth >= layer else None for text, depth in zip(texts, untouched, strict=True)
    ]
    states = (cache or StateCache(0)).states(layer, shared, entering)
    return backbone(packed, batch_edits, (layer, torch.cat(states)))


def sharing_depth(
    packed: Packed,
    texts: Sequence[Hashable | None],
    untouched: Sequence[int],
    n_layers: int,
    repeated: bool = True,
) -> int:
    """The number of lower layers to share, so that most work is saved; 0 if it is not worth it.

    Args:
        packed: The batch.
        texts: For each packed sequence a key; sequences with equal keys can share.
        untouched: For each packed sequence the number of its first layers without edits.
        n_layers: Layers of the backbone.
        repeated: Whether only repeated texts save work; with a cache every text does.
    """

    def saved(layer: int) -> int:
        deep = [n for n, depth in enumerate(untouched) if depth >= layer]
        once = {texts[n]: packed.lengths[n] for n in deep} if repeated else {}
        return layer * (sum(packed.lengths[n] for n in deep) - sum(once.values()))

    layers = sorted(set(untouched) - {0})
    if not layers:
        return 0
    best = max(layers, key=saved)
    return best if saved(best) >= LEAST_SAVED * n_layers * sum(packed.lengths) else 0
