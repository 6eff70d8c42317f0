"""One text, many adapters: up to the lowest layer that any of them acts on it is computed once.

AdapterDrop (Rücklé et al. 2021) does so for adapters that leave out the lower layers; here it holds
for every row of a batch that nothing is done to below some layer, and for the rows of a training
from one epoch to the next.
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
"""Share of a batch's work that sharing must save: below it, sharing costs more than it saves."""


class StateCache:
    """States that enter a layer, kept from batch to batch until a number of bytes is reached.

    Texts that come later are not kept, and computed every time they occur.

    Args:
        max_bytes: Most bytes of states.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._states: dict[Hashable, Tensor] = {}
        self._lock = Lock()

    def get(self, layer: int, text: Hashable) -> Tensor | None:
        """A text's states, `[n, h]`; None where it is not known."""
        return self._states.get((layer, text))

    def put(self, layer: int, text: Hashable, states: Tensor) -> None:
        """Keeps a text's states where there is room."""
        with self._lock:
            known = (layer, text) in self._states  # by another lane, meanwhile
            if not known and self.n_bytes + states.nbytes <= self.max_bytes:
                self._states[layer, text] = states.detach().clone()
                self.n_bytes += states.nbytes


def encode_shared(
    backbone: Backbone,
    packed: Packed,
    texts: Sequence[Hashable | None],
    edits: Callable[[Packed], Edits],
    memory: StateCache | None = None,
) -> EncoderOutput:
    """Hidden states of a packed batch, with what its rows share computed once.

    Args:
        backbone: The backbone.
        packed: The batch.
        texts: For each packed sequence all that its states depend on where nothing is done to it;
            None for one that is neither shared nor remembered.
        edits: What the adapters do to the batch, or to a part of it.
        memory: States of batches before, and where to keep this one's.
    """
    whole = edits(packed)
    untouched = [
        depth if text is not None else 0 for depth, text in zip(whole.untouched, texts, strict=True)
    ]
    layer = sharing_depth(packed, texts, untouched, backbone.geometry.layers, memory is None)
    if layer == 0:
        return backbone(packed, whole)
    shared = [depth >= layer for depth in untouched]
    known: dict[Hashable, Tensor] = {}
    below: dict[Hashable, int] = {}
    for n, text in enumerate(texts):
        key = text if shared[n] else n
        found = memory.get(layer, text) if memory is not None and shared[n] else None
        if found is not None:
            known[key] = found
        else:
            below.setdefault(key, n)
    if below:
        part = packed.select(list(below.values()))
        states = backbone.entering(layer, part, edits(part)).split(part.lengths)
        computed = dict(zip(below, states, strict=True))
        if memory is not None:
            for key, n in below.items():
                if shared[n]:
                    memory.put(layer, texts[n], computed[key])
        known |= computed
    keys = [text if shared[n] else n for n, text in enumerate(texts)]
    return backbone(packed, whole, (layer, torch.cat([known[key] for key in keys])))


def sharing_depth(
    packed: Packed,
    texts: Sequence[Hashable | None],
    untouched: Sequence[int],
    n_layers: int,
    repeated: bool = True,
) -> int:
    """The layer up to which computing a text once saves most; 0 where nothing is worth it.

    Args:
        packed: The batch.
        texts: For each packed sequence what it may share with others.
        untouched: For each, the layers from the first that nothing is done to.
        n_layers: Of the backbone.
        repeated: Whether a text saves only where it is repeated, or at once, being remembered.
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
