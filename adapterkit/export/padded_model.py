"""A backbone with adapters as one module over padded rows, which other runtimes can compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..backbone.families.base import family_of
from ..backbone.model import Backbone
from ..backbone.packing import EncoderOutput
from ..backbone.padded_rows import PaddedRows
from ..errors import AdapterError
from ..inference.forward import text_limit
from ..tasks.types import HeadInput
from .padded_edits import PaddedEdits
from .plain_task import with_plain_task

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OWNERS = "adapter"
"""Input with the number of each row's adapter, if a file has several."""


class PaddedModel(nn.Module):
    """From the rows of a padded batch to the logits of their adapters: our forward, recorded.

    Args:
        adapters: The adapters, all of one task and on one backbone.
        backbone: The backbone, not prepared for this processor.

    Attributes:
        adapters: The adapters, with heads as transformers' task models have them.
        inputs: Names of the inputs, in order.
        limit: Most tokens of a row.
        widths: Number of logits of each adapter. Those of a file are as many as the most of them;
            the others are filled up with minus infinity.

    Raises:
        AdapterError: The adapters cannot be in one file, or their task has no logits of its own.
    """

    def __init__(self, adapters: Sequence[Adapter], backbone: Backbone) -> None:
        super().__init__()
        check_adapters(adapters)
        self.adapters = tuple(with_plain_task(adapter) for adapter in adapters)
        several = len(adapters) > 1
        self.inputs = (*input_names(backbone), *((OWNERS,) if several else ()))
        self.limit = min(text_limit(backbone, adapter) for adapter in self.adapters)
        self.model = backbone.model
        self._backbone = backbone
        self._passes = [
            (members, PaddedEdits(members, backbone.frozen_weights))
            for members in ([self.adapters] if several else zip(self.adapters[0].members))
        ]
        start = backbone.geometry.first_position
        offsets = [adapter.position_offset for adapter in self.adapters]
        self._first_positions = start + torch.tensor(offsets)
        self._per_token = self.adapters[0].task.per_token
        self.widths = self._measured_widths()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Int64 `[n, t]` each, and `[n]` for the numbers of adapters, to `[n, C]` or `[n, t, C]`.

        The logits of an ensemble are the mean of its members'.
        """
        named = dict(zip(self.inputs, inputs, strict=True))
        ids, mask = named["input_ids"], named["attention_mask"].bool()
        types = named.get("token_type_ids", torch.zeros_like(ids))
        owners = named.get(OWNERS, torch.zeros_like(ids[:, 0]))
        rows = PaddedRows.of(ids, types, mask, self._first_positions[owners])
        logits = []
        for adapters, edits in self._passes:
            encoded = self._backbone(rows, edits.of(owners, mask))
            logits.append(self._of_owners(_logits(adapters, encoded), owners, mask))
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)

    def _of_owners(self, found: Sequence[Tensor], owners: Tensor, mask: Tensor) -> Tensor:
        """The logits of each row by its own adapter, from those of all rows by every adapter."""
        if self._per_token:
            found = [logits.view(*mask.shape, -1) for logits in found]
        if len(found) == 1:
            return found[0]
        widest = max(self.widths)
        padded = [F.pad(one, (0, widest - one.shape[-1]), value=-torch.inf) for one in found]
        return torch.stack(padded, dim=1)[torch.arange(mask.shape[0]), owners]

    @torch.no_grad()
    def _measured_widths(self) -> tuple[int, ...]:
        """The widths of the logits for one row of one token.

        Raises:
            AdapterError: They are the lengths of vectors, and differ.
        """
        adapters, edits = self._passes[0]
        zero = torch.zeros(1, 1, dtype=torch.long)
        rows = PaddedRows.of(zero, zero, zero == 0, self._first_positions[:1])
        encoded = self._backbone(rows, edits.of(zero[0], zero == 0))
        widths = tuple(logits.shape[-1] for logits in _logits(adapters, encoded))
        for adapter, width in zip(adapters, widths, strict=True):
            if width != widths[0] and getattr(adapter.task, "labels", None) is None:
                raise AdapterError(
                    f"'{adapters[0].name}' returns vectors of {widths[0]} numbers and "
                    f"'{adapter.name}' of {width}; export each to a file of its own"
                )
        return widths


def _logits(adapters: Sequence[Adapter], encoded: EncoderOutput) -> list[Tensor]:
    """The logits of all rows by the head of each adapter, `[n, C]` or `[n * t, C]`."""
    span = 0, encoded.packed.n_sequences
    return [adapter.task.logits(HeadInput(adapter.head, encoded, span)) for adapter in adapters]


def input_names(backbone: Backbone) -> tuple[str, ...]:
    """The inputs of a backbone's models in transformers."""
    config: Any = backbone.model.config
    has_types = family_of(config.model_type).token_types(config) > 1
    return INPUTS if has_types else INPUTS[:2]


def check_adapters(adapters: Sequence[Adapter]) -> None:
    """Refuses adapters that are not one model.

    Raises:
        AdapterError: Their tasks differ, one is an ensemble beside others, or their task has no
            logits of its own.
    """
    first = adapters[0]
    if first.task.masks_tokens:
        raise AdapterError(
            f"'{first.name}': {first.task.type} answers with tokens of the vocabulary, not with "
            "logits of its own; export it as merged"
        )
    for other in adapters[1:]:
        if type(other.task) is not type(first.task):
            raise AdapterError(
                f"'{first.name}' is an adapter for {first.task.type} and '{other.name}' for "
                f"{other.task.type}; export each task to a file of its own"
            )
    for adapter in adapters if len(adapters) > 1 else ():
        if _has_pair_types(adapter) != _has_pair_types(first):
            raise AdapterError(
                f"'{first.name}' and '{adapter.name}' read pairs with other token types, and a "
                "file has one tokenizer; export each to a file of its own"
            )
        if adapter.extra_members:
            raise AdapterError(
                f"'{adapter.name}' is an ensemble of {adapter.n_members} members; export it alone"
            )


def _has_pair_types(adapter: Adapter) -> bool:
    return bool(getattr(adapter.task, "pair_token_types", True))
