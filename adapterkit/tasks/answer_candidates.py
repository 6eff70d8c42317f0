"""The spans of a context that may answer a question, as an array.

The windows of a long context have hundreds of thousands of them. As objects they would keep the
garbage collector busy, which stops all threads of a server for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

N_BEST = 20
"""Number of best first tokens and of best last tokens of a window that are combined."""

CANDIDATE = np.dtype(
    [
        ("start", np.int64),
        ("end", np.int64),
        ("score", np.float64),
        ("window", np.int64),
        ("first", np.int64),
        ("last", np.int64),
    ]
)
"""Characters of a span in the context (0 and 0 for "no answer"), its score, its window, and its
first and last token there."""

Candidates = npt.NDArray[Any]
"""Elements of `CANDIDATE`."""

OUTSIDE = (-1, -1)
"""Stands for the characters of a token that is not of the context."""

Spans = Sequence[tuple[int, int] | None]
"""For each token of a window its characters in the context; None outside the context."""


def answer_candidates(
    windows: Sequence[Tensor], spans: Sequence[Spans], max_answer: int
) -> Candidates:
    """The candidates of all windows, each span from the window in which its score is best.

    Args:
        windows: For each window logits `[t, 2]` that the answer begins, and that it ends, there.
        spans: The characters of the tokens of each window.
        max_answer: Most tokens of an answer.
    """
    places = np.full((len(spans), max(map(len, spans), default=0), 2), OUTSIDE)
    for number, characters in enumerate(spans):
        places[number, : len(characters)] = [OUTSIDE if c is None else c for c in characters]
    inside = torch.from_numpy(places[..., 0] != OUTSIDE[0])
    logits = pad_sequence([window.float().cpu() for window in windows], batch_first=True)
    logits = logits.masked_fill(~inside[..., None], -torch.inf)
    best = logits.topk(min(N_BEST, logits.shape[1]), dim=1)
    firsts, lasts = best.indices[..., 0, None], best.indices[..., None, :, 1]
    scores = best.values[..., 0, None] + best.values[..., None, :, 1]
    allowed = (lasts >= firsts) & (lasts < firsts + max_answer) & (scores > -torch.inf)
    window, a, b = (index.numpy() for index in allowed.nonzero(as_tuple=True))
    found = np.empty(len(window), CANDIDATE)
    found["window"], found["score"] = window, scores.numpy()[window, a, b]
    found["first"], found["last"] = firsts.numpy()[window, a, 0], lasts.numpy()[window, 0, b]
    found["start"] = places[window, found["first"], 0]
    found["end"] = places[window, found["last"], 1]
    return _best_of_each_span(found)


def no_answer(windows: Sequence[Tensor]) -> Candidates:
    """The candidate "no answer", `[1]`, with its lowest score over the windows."""
    scores = [float(window[0].sum()) for window in windows]
    lowest = int(np.argmin(scores))
    return np.array([(0, 0, scores[lowest], lowest, 0, 0)], CANDIDATE)


def _best_of_each_span(candidates: Candidates) -> Candidates:
    """One candidate for each span, in the order of their first occurrence."""
    starts, ends = candidates["start"], candidates["end"]
    spans = starts * (ends.max(initial=0) + 1) + ends
    in_order, first = np.unique(spans, return_index=True)
    by_span = np.lexsort((-candidates["score"], spans))
    best = by_span[np.searchsorted(spans[by_span], in_order)]
    return candidates[best[np.argsort(first)]]
