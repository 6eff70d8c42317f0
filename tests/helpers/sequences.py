"""Tokenised texts, and the outputs of a backbone for them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence, pack
from adapterkit.backbone.tokenizer import truncate
from adapterkit.inference.forward import forward
from adapterkit.inference.pipeline import compute_outputs
from adapterkit.tasks.types import Example
from helpers.vocabulary import WORDS


def tokenise(
    backbone: Backbone, texts: list[str], pairs: list[str | None] | None, limit: int
) -> list[TokenSequence]:
    """Texts or text pairs as one sequence each, truncated to a limit."""
    return [truncate(encoding, limit)[0] for encoding in backbone.reader.encode(texts, pairs)]


def logits_of(backbone: Backbone, adapter: Adapter, inputs: list[TokenSequence]) -> torch.Tensor:
    """One adapter's logits for many sequences, `[n, C]`, in their order."""
    return torch.cat(
        [row[0] for row in compute_outputs(backbone, [(adapter, Example((i,))) for i in inputs])]
    )


def random_rows(
    backbone: Backbone, adapters: Sequence[Adapter | None], n: int
) -> list[tuple[Adapter | None, TokenSequence]]:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(n)]
    owners = [rng.choice(adapters) for _ in range(n)]
    return list(zip(owners, tokenise(backbone, texts, None, 40), strict=True))


def outputs_by_row(
    backbone: Backbone, rows: Sequence[tuple[Adapter | None, TokenSequence]]
) -> list[torch.Tensor]:
    found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for piece in forward(backbone, rows):
        for row, line in zip(piece.rows, piece.values, strict=True):
            found[row] = line
    return found


def states_of(
    backbone: Backbone, texts: list[str], pairs: list[str | None] | None = None
) -> torch.Tensor:
    """Hidden states of a batch of texts without adapters, `[T, h]`."""
    inputs = tokenise(backbone, texts, pairs, backbone.geometry.positions)
    packed = pack(inputs, [-1] * len(inputs), [backbone.geometry.first_position] * len(inputs))
    with torch.inference_mode():
        return backbone(packed, assemble_edits([], packed, backbone.frozen_weights)).tokens
