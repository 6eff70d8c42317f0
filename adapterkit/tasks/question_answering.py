"""Extractive question answering: the span of a text that answers a question, if any does."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..batch import Encoded, Pooling
from ..errors import DataError
from ..fields import Fields
from ..ops import Noise
from ..task import Answer, Example, Outputs, Row, Task, Tensors, token_logits
from ..tokens import Reader, cut

CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
CANDIDATES = 20
"""Best starts and best ends of a window that are combined."""


@dataclass(frozen=True)
class Context:
    """Where the lines of a row's windows stand in its context.

    Attributes:
        text: The context.
        spans: For each window, for each line, its characters; None outside the context.
    """

    text: str
    spans: tuple[tuple[tuple[int, int] | None, ...], ...]


@dataclass(frozen=True)
class Goal:
    """The right answers of a row: its texts, and first and last line in each window; 0 and 0, the
    first token, where a window has none."""

    texts: tuple[str, ...]
    lines: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """First and last token of the answer in the context, said by two scores a token.

    Long contexts are read in overlapping windows; the first token's scores stand for "no answer".

    Attributes:
        dropout: Share of each token's hidden state dropped in training.
        max_length: Most tokens of question and window; as many as fit where left out.
        stride: Tokens that neighbouring windows share.
        max_answer: Most tokens of an answer.
        n_best: Answers that are told.
        unanswerable: Whether there may be no answer; filled in from the training rows.
    """

    type: ClassVar[str] = "question_answering"
    peft_task_type: ClassVar[str | None] = "QUESTION_ANS"
    reads: ClassVar[Mapping[str, str]] = {"question": "text", "context": "text"}
    learns: ClassVar[Mapping[str, str]] = {"answers": "answers"}
    per_token: ClassVar[bool] = True
    main_metric: ClassVar[str] = "f1"

    dropout: float = 0.1
    max_length: int | None = None
    stride: int = 128
    max_answer: int = 30
    n_best: int = 3
    unanswerable: bool | None = None

    def __post_init__(self) -> None:
        for name in ("max_answer", "n_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        if self.unanswerable is not None:
            return self
        return replace(self, unanswerable=any(not row.fields["answers"] for row in rows))

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, QuestionAnswering)

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        return {"qa_outputs.weight": (2, hidden), "qa_outputs.bias": (2,)}

    def examples(self, rows: Sequence[Fields], reader: Reader, limit: int) -> list[Example]:
        read = reader.read([row["question"] for row in rows], [row["context"] for row in rows])
        found = []
        for row, encoding in zip(rows, read, strict=True):
            windows = cut(encoding, limit, "windows", self.stride)
            inside = [
                span if owner == 1 else None
                for span, owner in zip(encoding.offsets, encoding.sequence_ids, strict=True)
            ]
            spans = tuple(
                tuple(inside[place] for place in window.places or range(len(window)))
                for window in windows
            )
            found.append(Example(tuple(windows), Context(row["context"], spans)))
        return found

    def target(self, row: Row, example: Example) -> Goal:
        context: Context = example.notes
        answers = row.fields["answers"]
        for text, start in answers:
            if context.text[start : start + len(text)] != text:
                raise DataError(
                    f"{row.where}: the answer '{text:.40}' is not at character {start} of the "
                    f"context, which has '{context.text[start : start + len(text)]:.40}' there"
                )
        lines = []
        for spans in context.spans:
            found = (0, 0)
            if answers:
                text, start = answers[0]
                found = _lines(spans, start, start + len(text)) or (0, 0)
            lines.append(found)
        return Goal(tuple(text for text, _ in answers), tuple(lines))

    def logits(
        self, head: Tensors, encoded: Encoded, span: tuple[int, int], noise: Noise | None
    ) -> Tensor:
        """`[t, 2]`: for each token, how much it begins and how much it ends the answer."""
        weight, bias = head["qa_outputs.weight"], head["qa_outputs.bias"]
        return token_logits(weight, bias, encoded, span, noise, self.dropout)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy of first and last token, averaged over a row's windows, `[n]`."""
        losses = []
        for row, goal in zip(outputs.rows(), targets, strict=True):
            parts = []
            for window, (first, last) in zip(row, goal.lines, strict=True):
                likely = window.float().log_softmax(0)
                parts.append(-(likely[first, 0] + likely[last, 1]) / 2)
            losses.append(torch.stack(parts).mean())
        return torch.stack(losses)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"answer", "score", "start", "end", "best"}`: the answer with its character positions
        (empty, and both 0, for none), and the `n_best` answers."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            best = self._best(row, example.notes)
            found.append({**best[0], "best": best})
        return found

    def metrics(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> dict[str, float]:
        """Exact match and token F1 as SQuAD counts them; Chinese is counted by character."""
        exact, overlap = 0.0, 0.0
        for answer, goal in zip(self.answers(outputs, examples), targets, strict=True):
            texts = goal.texts or ("",)
            exact += max(float(words_of(answer["answer"]) == words_of(text)) for text in texts)
            overlap += max(word_f1(answer["answer"], text) for text in texts)
        return {"f1": overlap / len(targets), "exact_match": exact / len(targets)}

    def _best(self, row: Sequence[Tensor], context: Context) -> list[Answer]:
        """The best answers over all windows, scores as shares of the candidates' chances."""
        candidates: dict[tuple[int, int], float] = {}
        none = min(float(window[0].sum()) for window in row)
        for window, spans in zip(row, context.spans, strict=True):
            for first, last, score in self._pairs(window.float(), spans):
                place = (spans[first][0], spans[last][1])  # type: ignore[index]
                candidates[place] = max(score, candidates.get(place, score))
        if self.unanswerable or not candidates:
            candidates[0, 0] = none
        chances = torch.tensor(list(candidates.values())).softmax(0).tolist()
        told = sorted(zip(candidates, chances, strict=True), key=lambda pair: -pair[1])
        return [
            {"answer": context.text[start:end], "score": chance, "start": start, "end": end}
            for (start, end), chance in told[: self.n_best]
        ]

    def _pairs(self, window: Tensor, spans: Sequence[Any]) -> list[tuple[int, int, float]]:
        inside = [line for line, span in enumerate(spans) if span is not None]
        if not inside:
            return []
        scores = window[inside]
        best = scores.topk(min(CANDIDATES, len(inside)), dim=0).indices.T.tolist()
        return [
            (inside[a], inside[b], float(scores[a, 0] + scores[b, 1]))
            for a in best[0]
            for b in best[1]
            if a <= b < a + self.max_answer
        ]


def _lines(spans: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int] | None:
    """First and last line that touch the characters, where the window holds all of them."""
    touched = [n for n, span in enumerate(spans) if span and span[0] < end and span[1] > start]
    inside = [span for span in spans if span]
    if not touched or inside[0][0] > start or inside[-1][1] < end:
        return None
    return touched[0], touched[-1]


def words_of(text: str) -> list[str]:
    """What SQuAD's metric compares: lower case, no punctuation, no articles; Chinese characters
    one by one (as CMRC's metric)."""
    lowered = CHINESE.sub(lambda match: f" {match.group()} ", text.lower())
    kept = "".join(c for c in lowered if c not in string.punctuation and not _is_sign(c))
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def _is_sign(character: str) -> bool:
    """Whether a character is punctuation in any script."""
    return unicodedata.category(character).startswith("P")


def word_f1(said: str, goal: str) -> float:
    """Harmonic mean of the shares of words that two answers have in common."""
    one, other = words_of(said), words_of(goal)
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))
