"""The candidates of extractive question answering."""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterkit.tasks.answer_candidates import (
    N_BEST,
    Spans,
    answer_candidates,
    no_answer,
)

MAX_ANSWER = 7


def plain_candidates(
    windows: list[Tensor], spans: list[Spans]
) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Score, window, first and last token of each span, by loops over single tokens."""
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    for number, (window, characters) in enumerate(zip(windows, spans, strict=True)):
        inside = [token for token, span in enumerate(characters) if span is not None]
        firsts = sorted(inside, key=lambda token: -window[token, 0])[:N_BEST]
        lasts = sorted(inside, key=lambda token: -window[token, 1])[:N_BEST]
        for first in firsts:
            for last in lasts:
                if first <= last < first + MAX_ANSWER:
                    score = float(window[first, 0] + window[last, 1])
                    span = (characters[first][0], characters[last][1])  # type: ignore[index]
                    if span not in found or score > found[span][0]:
                        found[span] = (score, number, first, last)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_candidates_are_those_of_a_plain_loop(seed: int) -> None:
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    windows: list[Tensor] = []
    spans: list[Spans] = []
    for _ in range(rng.choice([1, 3, 30])):
        length, start = rng.choice([4, 30, 60]), rng.randrange(100)
        windows.append(torch.randn(length, 2, generator=generator))
        question = rng.randrange(length + 1)  # all tokens are of the question in some windows
        of_context: Spans = [(start + 3 * n, start + 3 * n + 2) for n in range(length - question)]
        spans.append([*[None] * question, *of_context])
    found = answer_candidates(windows, spans, MAX_ANSWER)
    columns = ("score", "window", "first", "last")
    values = zip(*(found[name].tolist() for name in columns), strict=True)
    places = zip(found["start"].tolist(), found["end"].tolist(), strict=True)
    assert dict(zip(places, values, strict=True)) == plain_candidates(windows, spans)


def test_no_answer_has_its_lowest_score_of_all_windows() -> None:
    windows = [torch.tensor([[1.0, 2.0], [9.0, 9.0]]), torch.tensor([[0.5, 1.0]])]
    (found,) = no_answer(windows)
    assert (found["start"], found["end"], found["score"], found["window"]) == (0, 0, 1.5, 1)


def test_a_long_context_leaves_nothing_to_the_garbage_collector() -> None:
    windows = [torch.randn(60, 2) for _ in range(100)]
    spans: list[Spans] = [[(3 * n, 3 * n + 2) for n in range(60)]] * 100
    answer_candidates(windows, spans, MAX_ANSWER)
    gc.collect()
    before = len(gc.get_objects())
    found = answer_candidates(windows, spans, MAX_ANSWER)
    assert len(found) > 100
    assert len(gc.get_objects()) - before < 50
