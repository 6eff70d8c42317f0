"""Explanations: how much each word raises or lowers a score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..cjk import HAN, KANA
from ..errors import AdapterkitError, BackboneError
from ..tasks.types import Answer, Outputs, Text
from .forward import text_limit
from .integrated_gradients import (
    STEPS,
    TOLERANCE,
    EmbeddingPath,
    TokenAttributions,
    baseline_token,
    import_captum,
)
from .pipeline import compute_outputs
from .token_places import Place, locate_tokens

JOINED = re.compile(rf"[^\W{KANA}{HAN}]{{2}}")
"""Two characters of one word: letters or digits, but not Chinese or Japanese ones."""


@dataclass(frozen=True)
class Word:
    """The attribution of one word.

    Attributes:
        role: Role of the text that it is in.
        word: The word.
        start, end: First and past-the-last character in that text.
        attribution: How much it raises the score, in units of the score.
    """

    role: str
    word: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True)
class Attribution:
    """The attributions of all words for one score of an answer.

    Attributes:
        name: Name of the score, such as a label.
        score: The score of the text, before softmax or sigmoid.
        baseline_score: The score if every word is the baseline token.
        error: Difference between the sum of the words and that of the two scores.
        steps: Points on the path that were computed.
        texts: Role to text.
        words: In the order of the texts, without words that were cut off.
    """

    name: str
    score: float
    baseline_score: float
    error: float
    steps: int
    texts: dict[str, str]
    words: tuple[Word, ...]

    @classmethod
    def of(cls, name: str, path: EmbeddingPath, tokens: TokenAttributions) -> Self:
        """The attributions of the words, from those of their tokens."""
        texts = {part.role: part.text for source in path.sources for part in source.parts}
        words = word_attributions(texts, path.places, tokens.values)
        scores = tokens.score, tokens.baseline_score
        return cls(name, *scores, tokens.error, tokens.steps, texts, words)


@dataclass(frozen=True)
class Explanation:
    """An answer with the attributions of its words.

    Attributes:
        adapter: Its name.
        answer: Its answer.
        baseline: The token that means "no word here".
        attributions: One for each score of the answer; none if it has found nothing.
    """

    adapter: str
    answer: Answer
    baseline: str
    attributions: tuple[Attribution, ...]

    def plain(self) -> dict[str, Any]:
        """Baseline and scores as plain values for JSON."""
        scores = [asdict(attribution) for attribution in self.attributions]
        return {"baseline": self.baseline, "scores": scores}


def explain(
    backbone: Backbone,
    adapter: Adapter | None,
    text: Text,
    *,
    name: str = "text 1",
    steps: Sequence[int] = STEPS,
    tolerance: float = TOLERANCE,
) -> Explanation:
    """Attributes an answer's scores to the words of the text by integrated gradients.

    Args:
        backbone: The backbone, in float32.
        adapter: The adapter; the plain backbone (None) has no score.
        text: The text.
        name: How messages call the text.
        steps: Numbers of points on the path to try, one after the other.
        tolerance: Largest error of the sum, relative to the sum of the absolute attributions of all
            tokens; if it is exceeded, the next number of points is tried.

    Raises:
        AdapterkitError: captum is missing, the text is not sound, or its answer has no score.
        BackboneError: The backbone is not in float32, or quantised.
    """
    import_captum()
    if adapter is None:
        raise AdapterkitError(
            f"{name}: the plain backbone answers with a vector, which no single score stands for"
        )
    _check_exact(backbone)
    adapter, task = adapter.to(backbone.device), adapter.task
    limit = text_limit(backbone, adapter)
    example, sources = locate_tokens(task, adapter.fields(text, name), backbone.tokenizer, limit)
    outputs = Outputs.of(compute_outputs(backbone, [(adapter, example)]))
    (answer,) = task.answers(outputs, [example])
    attributions = []
    for score in task.scores(outputs, example):
        path = EmbeddingPath.of_score(backbone, adapter, sources, outputs, score)
        attributions.append(Attribution.of(score.name, path, path.attribute(steps, tolerance)))
    (baseline,) = backbone.reader.tokens([baseline_token(backbone)])
    return Explanation(adapter.name, answer, baseline, tuple(attributions))


def word_attributions(
    texts: dict[str, str], places: Sequence[Place | None], values: Sequence[float]
) -> tuple[Word, ...]:
    """Sums tokens up to words; a word in several windows is one word with the sum of all."""
    sums: dict[Place, float] = {}
    for place, value in zip(places, values, strict=True):
        if place is not None:
            sums[place] = sums.get(place, 0.0) + value
    roles = list(texts)
    words: list[Word] = []
    for role, start, end in sorted(sums, key=lambda place: (roles.index(place[0]), *place[1:])):
        value, text = sums[role, start, end], texts[role]
        if words and words[-1].role == role and _is_same_word(text, words[-1].end, start):
            first = words.pop()
            value, start, end = first.attribution + value, first.start, max(first.end, end)
        words.append(Word(role, text[start:end], start, end, value))
    return tuple(words)


def _is_same_word(text: str, end: int, start: int) -> bool:
    """Whether a token that starts at a character belongs to the word that ends at another."""
    return start < end or (start == end and bool(JOINED.fullmatch(text[end - 1 : end + 1])))


def _check_exact(backbone: Backbone) -> None:
    """Refuses a backbone whose gradients do not belong to its answers.

    Raises:
        BackboneError: It is quantised or not in float32.
    """
    if backbone.quantization != "none":
        raise BackboneError(
            f"quantization: '{backbone.quantization}' has no exact gradients; explain "
            "answers with quantization none and dtype float32"
        )
    if backbone.dtype != torch.float32:
        dtype = str(backbone.dtype).removeprefix("torch.")
        raise BackboneError(
            f"dtype: in '{dtype}' attributions do not add up to the score; explain answers in "
            "float32"
        )
