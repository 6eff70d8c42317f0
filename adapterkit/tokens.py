"""Text to token ids with a transformers tokenizer, from any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .batch import Inputs


def tokenise(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str | None] | None, limit: int
) -> list[Inputs]:
    """Texts or text pairs to token ids, cut to a limit as transformers' `longest_first` does.

    Setting truncation on a fast tokenizer changes it for every thread, so the texts are encoded
    whole and cut here.

    Args:
        tokenizer: A fast transformers tokenizer.
        texts: The texts.
        pairs: A second text for each, or None where there is none.
        limit: Most tokens, special ones included.
    """
    if pairs is None:
        pairs = [None] * len(texts)
    batch = [
        text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)
    ]
    encodings = tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=True)
    return [_cut(encoding, limit) for encoding in encodings]


def _cut(encoding: Any, limit: int) -> Inputs:
    if len(encoding.ids) <= limit:
        return Inputs(encoding.ids, encoding.type_ids)
    owners = encoding.sequence_ids
    counts = [owners.count(0), owners.count(1)]
    special = len(owners) - sum(counts)
    keep = _longest_first(counts, max(0, limit - special))
    seen, kept = [0, 0], []
    for place, owner in enumerate(owners):
        if owner is None or seen[owner] < keep[owner]:
            kept.append(place)
        if owner is not None:
            seen[owner] += 1
    return Inputs(
        [encoding.ids[place] for place in kept],
        [encoding.type_ids[place] for place in kept],
        truncated=True,
    )


def _longest_first(counts: list[int], room: int) -> list[int]:
    """Tokens to keep of two texts: the longer one gives way until both fit."""
    if sum(counts) <= room:
        return counts
    longer = 0 if counts[0] > counts[1] else 1
    keep = [room // 2, room // 2]
    keep[longer] = max(room - counts[1 - longer], room - room // 2)
    keep[1 - longer] = room - keep[longer]
    return keep
