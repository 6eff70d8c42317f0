"""A backbone with adapters as one module over padded rows, which other runtimes can compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..backbone.families.base import family_of
from ..backbone.model import Backbone
from ..backbone.padded_rows import PaddedRows
from ..errors import AdapterError
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
        inputs: Names of the inputs, in order.

    Raises:
        AdapterError: The adapters cannot be in one file, or their task has no logits of its own.
    """

    def __init__(self, adapters: Sequence[Adapter], backbone: Backbone) -> None:
        super().__init__()
        check_adapters(adapters)
        plain = [with_plain_task(adapter) for adapter in adapters]
        self.model = backbone.model
        self._backbone = backbone
        self._lists = (
            [plain] if len(plain) > 1 else [[member] for member in plain[0].members]
        )
        self._edits = [PaddedEdits(own, backbone.frozen_weights) for own in self._lists]
        start = backbone.geometry.first_position
        virtual = [adapter.num_virtual_tokens for adapter in plain]
        self._first_positions = start + torch.tensor(virtual)
        self._per_token = plain[0].task.per_token
        self.inputs = (*input_names(backbone), *((OWNERS,) if len(plain) > 1 else ()))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Int64 `[n, t]` each, and `[n]` for the numbers of adapters, to `[n, C]` or `[n, t, C]`.

        The logits of an ensemble are the mean of its members'.
        """
        named = dict(zip(self.inputs, inputs, strict=True))
        ids, mask = named["input_ids"], named["attention_mask"].bool()
        types = named.get("token_type_ids", torch.zeros_like(ids))
        owners = named.get(OWNERS, torch.zeros_like(ids[:, 0]))
        rows = PaddedRows.of(ids, types, mask, self._first_positions[owners])
        logits = [
            self._logits(adapters, edits, rows, owners, mask)
            for adapters, edits in zip(self._lists, self._edits, strict=True)
        ]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)

    def _logits(
        self,
        adapters: Sequence[Adapter],
        edits: PaddedEdits,
        rows: PaddedRows,
        owners: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Logits of the rows, each by the head of its own adapter."""
        encoded = self._backbone(rows, edits.of(owners, mask))
        span = 0, mask.shape[0]
        found = [adapter.task.logits(HeadInput(adapter.head, encoded, span)) for adapter in adapters]
        if self._per_token:
            found = [logits.view(*mask.shape, -1) for logits in found]
        if len(found) == 1:
            return found[0]
        widest = max(logits.shape[-1] for logits in found)
        padded = [F.pad(one, (0, widest - one.shape[-1]), value=-torch.inf) for one in found]
        return torch.stack(padded, dim=1)[torch.arange(mask.shape[0]), owners]


def input_names(backbone: Backbone) -> tuple[str, ...]:
    """The inputs of a backbone's models in transformers."""
    config = backbone.model.config
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
        if adapter.extra_members:
            raise AdapterError(
                f"'{adapter.name}' is an ensemble of {adapter.n_members} members; export it alone"
            )
