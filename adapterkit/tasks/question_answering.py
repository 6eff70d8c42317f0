"""Extractive question answering: the span of a text that answers a question, if any does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions, check_metrics, metric_kinds
from ..schema import check_least, check_share
from .base import Task, token_logits
from .columns import Column
from .fields import ANSWERS, TEXT, Fields
from .thresholds import best_cut
from .types import NOTHING, Answer, AnswerSummary, Example, HeadInput, Outputs, Row, Score

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
class SpanTarget:
    """The right answers of a row: its texts, and first and last line in each window; 0 and 0, the
    first token, where a window has none."""

    texts: tuple[str, ...]
    lines: tuple[tuple[int, int], ...]


class Candidate(NamedTuple):
    """A possible answer: its score, the window it stands in, its first and last line there."""

    score: float
    window: int
    first: int
    last: int


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """First and last token of the answer in the context, said by two scores a token.

    Long contexts are read in overlapping windows; the first token's scores stand for "no answer".

    Attributes:
        dropout: Share of each token's hidden state dropped in training.
        max_length: Most tokens of question and window; as many as fit where left out.
        stride: Tokens that neighbouring windows share, at most half of a window.
        max_answer: Most tokens of an answer.
        n_best: Answers that are told.
        unanswerable: Whether there may be no answer; filled in from the training rows.
        null_threshold: By how much the score of "no answer" must exceed that of the best answer to
            be believed; tuned chooses it on the validation rows after training, so that their F1
            is as high as it goes.
        extra_metrics: Metrics to tell besides the task's own, such as [squad_f1, cmrc_f1].
    """

    type: ClassVar[str] = "question_answering"
    peft_task_type: ClassVar[str | None] = "QUESTION_ANS"
    columns: ClassVar[Mapping[str, Column]] = {
        "question": Column(TEXT, "the question"),
        "context": Column(TEXT, "the text that holds its answer"),
        "answers": Column(
            ANSWERS,
            "the answers, {text: [...], answer_start: [...]}; empty lists if there is none",
            learned=True,
        ),
    }
    per_token: ClassVar[bool] = True
    metric_kind: ClassVar[str] = "answers"
    main_metric: ClassVar[str] = "f1"
    tensor_keys: ClassVar[tuple[str, ...]] = ("score",)
    document_role: ClassVar[str] = "context"

    dropout: float = 0.1
    max_length: int | None = None
    stride: int = 128
    max_answer: int = 30
    n_best: int = 3
    unanswerable: bool | None = None
    null_threshold: float | Literal["tuned"] = 0.0
    extra_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_share(self, "dropout")
        check_least(self, 0, "stride")
        check_least(self, 1, "max_answer", "n_best")
        check_metrics((self.metric_kind,), self.extra_metrics)

    @property
    def tunable_key(self) -> str | None:
        return "null_threshold" if self.null_threshold == "tuned" else None

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        if self.unanswerable is not None:
            return self
        return replace(self, unanswerable=any(not row.fields["answers"] for row in rows))

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, QuestionAnswering)

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        return {"qa_outputs.weight": (2, hidden), "qa_outputs.bias": (2,)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        read = reader.encode([row["question"] for row in rows], [row["context"] for row in rows])
        found = []
        for row, encoding in zip(rows, read, strict=True):
            windows = truncate(encoding, limit, "windows", self.stride)
            inside = [
                span if owner == 1 else None
                for span, owner in zip(encoding.offsets, encoding.sequence_ids, strict=True)
            ]
            spans = tuple(
                tuple(inside[place] for place in window.kept or range(len(window)))
                for window in windows
            )
            found.append(Example(tuple(windows), Context(row["context"], spans)))
        return found

    def label_values(self, row: Row) -> Sequence[str | float]:
        return ["answerable" if row.fields["answers"] else "unanswerable"]

    def target(self, row: Row, example: Example) -> SpanTarget:
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
        return SpanTarget(tuple(text for text, _ in answers), tuple(lines))

    def protected_tokens(self, example: Example, target: Any) -> list[range]:
        """The answer's tokens; the first one where a window has none."""
        return [range(first, last + 1) for first, last in target.lines]

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[t, 2]`: for each token, how much it begins and how much it ends the answer."""
        weight, bias = inputs.head["qa_outputs.weight"], inputs.head["qa_outputs.bias"]
        return token_logits(inputs, weight, bias, self.dropout)

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

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["answer"] or NOTHING, answer["score"])

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The score of the answer's first token as a beginning plus that of its last as an end."""
        (row,), context = outputs.rows(), example.notes
        place, best = max(self._competing(row, context).items(), key=lambda pair: pair[1].score)
        weights, start = torch.zeros_like(outputs.lines), sum(outputs.counts[0][: best.window])
        weights[start + best.first, 0] = 1.0
        weights[start + best.last, 1] = 1.0
        offset = best.score - float((weights * outputs.lines).sum())
        return [Score(context.text[slice(*place)] or "(no answer)", weights, offset)]

    def to_hf_pipeline(self, answer: Answer) -> Any:
        return answer["best"][0]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """The best answer's text, empty for none, and the texts of all right ones."""
        said = [answer["answer"] for answer in self.answers(outputs, examples)]
        return Predictions(said, [list(goal.texts) for goal in targets])

    def tune(self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]) -> Self:
        """As the official script of SQuAD 2.0 finds its best threshold."""
        if self.tunable_key is None:
            return self
        said, goals, excess = [], [], []
        for row, example, goal in zip(outputs.rows(), examples, targets, strict=True):
            found = self._candidates(row, example.notes)
            if found:  # else there is nothing to choose
                (start, end), best = max(found.items(), key=lambda pair: pair[1].score)
                said.append(example.notes.text[start:end])
                goals.append(list(goal.texts))
                excess.append(_none(row).score - best.score)
        if not self.unanswerable or not excess:
            return replace(self, null_threshold=0.0)
        f1: Any = metric_kinds()[self.metric_kind].metrics[self.main_metric].counts
        nothing = Predictions([""] * len(said), goals)
        gains = f1(nothing)[:, :1] - f1(Predictions(said, goals))[:, :1]
        ends = [min(excess) - 1, max(excess) + 1]
        truncate = best_cut(np.array(excess), gains, lambda above: above[:, 0], 0.0, ends)
        return replace(self, null_threshold=truncate)

    def _best(self, row: Sequence[Tensor], context: Context) -> list[Answer]:
        """The best answers over all windows, scores as shares of the candidates' chances."""
        candidates = self._competing(row, context)
        scores = [candidate.score for candidate in candidates.values()]
        chances = torch.tensor(scores).softmax(0).tolist()
        told = sorted(zip(candidates, chances, strict=True), key=lambda pair: -pair[1])
        return [
            {"answer": context.text[start:end], "score": chance, "start": start, "end": end}
            for (start, end), chance in told[: self.n_best]
        ]

    def _competing(
        self, row: Sequence[Tensor], context: Context
    ) -> dict[tuple[int, int], Candidate]:
        """The candidates, and 0 and 0 for "no answer" less what its score must exceed others by."""
        found = self._candidates(row, context)
        if self.unanswerable or not found:
            least = 0.0 if self.null_threshold == "tuned" else self.null_threshold
            none = _none(row)
            found[0, 0] = none._replace(score=none.score - least)
        return found

    def _candidates(
        self, row: Sequence[Tensor], context: Context
    ) -> dict[tuple[int, int], Candidate]:
        """Spans of the context that may be the answer, each where it scores best."""
        found: dict[tuple[int, int], Candidate] = {}
        for number, (window, spans) in enumerate(zip(row, context.spans, strict=True)):
            for first, last, score in self._pairs(window.float(), spans):
                # Lines of a pair are tokens of the context, which all have a span.
                place = (spans[first][0], spans[last][1])  # type: ignore[index]
                if place not in found or score > found[place].score:
                    found[place] = Candidate(score, number, first, last)
        return found

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


def _none(row: Sequence[Tensor]) -> Candidate:
    """ "No answer", as the window says it that is least sure of it."""
    windows = [Candidate(float(w[0].sum()), number, 0, 0) for number, w in enumerate(row)]
    return min(windows, key=lambda candidate: candidate.score)


def _lines(spans: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int] | None:
    """First and last line that touch the characters, where the window holds all of them."""
    touched = [n for n, span in enumerate(spans) if span and span[0] < end and span[1] > start]
    inside = [span for span in spans if span]
    if not touched or inside[0][0] > start or inside[-1][1] < end:
        return None
    return touched[0], touched[-1]
