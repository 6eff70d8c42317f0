"""Extractive question answering: the span of a text that answers a question, if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions, check_metrics, metric_kinds
from ..schema import check_least, check_share
from .answer_candidates import Candidates, Spans, answer_candidates, no_answer
from .base import LEAST_TOKENS, Task
from .columns import Column
from .fields import FieldKind, Fields
from .foreign_head import ForeignHead
from .thresholds import best_threshold
from .token_head import token_logits
from .types import (
    ANSWERED,
    NOTHING,
    Answer,
    AnswerSummary,
    Decision,
    Example,
    HeadInput,
    Outputs,
    Row,
    Score,
)


@dataclass(frozen=True)
class Context:
    """A row's context and the characters of its tokens.

    Attributes:
        text: The context.
        spans: For each window, for each token, its characters; None outside the context.
    """

    text: str
    spans: tuple[Spans, ...]


@dataclass(frozen=True)
class SpanTarget:
    """The right answers of a row.

    Attributes:
        texts: Their texts; empty if there is no answer.
        token_spans: First and last token of the first answer in each window; 0 and 0, the first
            token, if the window does not contain it.
    """

    texts: tuple[str, ...]
    token_spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """First and last token of the answer in the context, two logits a token (Devlin et al. 2019).

    Long contexts are read in overlapping windows. The logits of the first token stand for "no
    answer".

    Attributes:
        dropout: Share of each token's hidden state dropped in training.
        max_length: Most tokens of question and window. If omitted: as many as the backbone takes.
        stride: Tokens that neighbouring windows share, at most half of a window.
        max_answer: Most tokens of an answer.
        n_best: Number of answers that are returned.
        unanswerable: Whether there may be no answer; the training rows set it.
        null_threshold: By how much the score of "no answer" must exceed that of the best answer.
            tuned chooses it on the validation rows after training: that with the highest F1.
        pair_token_types: Whether the context has the second token type. PEFT trains question
            answering without.
        extra_metrics: Further metrics, such as [squad_f1, cmrc_f1].
    """

    type: ClassVar[str] = "question_answering"
    pipeline_tag: ClassVar[str | None] = "question-answering"
    peft_task_type: ClassVar[str | None] = "QUESTION_ANS"
    transformers_model: ClassVar[str | None] = "AutoModelForQuestionAnswering"
    foreign: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "question": Column(FieldKind.TEXT, "the question"),
        "context": Column(FieldKind.TEXT, "the text that holds its answer"),
        "answers": Column(
            FieldKind.ANSWERS,
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
    pair_token_types: bool = True
    extra_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_share(self, "dropout")
        check_least(self, 0, "stride")
        check_least(self, 1, "max_answer", "n_best")
        check_metrics((self.metric_kind,), self.extra_metrics)
        check_least(self, LEAST_TOKENS, "max_length")

    @property
    def tunable_key(self) -> str | None:
        return "null_threshold" if self.null_threshold == "tuned" else None

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        if self.unanswerable is not None:
            return self
        return replace(self, unanswerable=any(not row.fields["answers"] for row in rows))

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        """As in transformers' pipeline there is always an answer."""
        return cls(unanswerable=False, pair_token_types=head.pair_token_types)

    @property
    def peft_claim(self) -> str | None:
        """PEFT's model does not hand on token types; without a task type it does."""
        return None if self.pair_token_types else self.peft_task_type

    def same_answers(self, other: Task) -> bool:
        types = self.pair_token_types
        return isinstance(other, QuestionAnswering) and other.pair_token_types == types

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
            if not self.pair_token_types:
                windows = [replace(w, token_type_ids=(0,) * len(w)) for w in windows]
            spans = tuple(tuple(inside[index] for index in window.indices) for window in windows)
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
        token_spans = []
        for spans in context.spans:
            found = (0, 0)
            if answers:
                text, start = answers[0]
                found = _tokens_of(spans, start, start + len(text)) or (0, 0)
            token_spans.append(found)
        return SpanTarget(tuple(text for text, _ in answers), tuple(token_spans))

    def warnings(self, rows: Sequence[Row], targets: Sequence[Any]) -> list[str]:
        lengths = [max(last - first + 1 for first, last in t.token_spans) for t in targets]
        long = sum(length > self.max_answer for length in lengths)
        if not long:
            return []
        return [
            f"{long} of {len(rows)} training rows have an answer of more than {self.max_answer} "
            f"tokens (the longest {max(lengths)}), which is never given whole; raise "
            "task.max_answer"
        ]

    def protected_tokens(self, example: Example, target: Any) -> list[range]:
        """The tokens of the answer; the first token of a window without it."""
        return [range(first, last + 1) for first, last in target.token_spans]

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[t, 2]`: for each token the logit that the answer begins, and that it ends, there."""
        weight, bias = inputs.head["qa_outputs.weight"], inputs.head["qa_outputs.bias"]
        return token_logits(inputs, weight, bias, self.dropout)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy of first and last token, averaged over a row's windows, `[n]`."""
        losses = []
        for row, target in zip(outputs.rows(), targets, strict=True):
            parts = []
            for window, (first, last) in zip(row, target.token_spans, strict=True):
                log_probabilities = window.float().log_softmax(0)
                parts.append(-(log_probabilities[first, 0] + log_probabilities[last, 1]) / 2)
            losses.append(torch.stack(parts).mean())
        return torch.stack(losses)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"answer", "score", "start", "end", "best"}`: the answer with its character positions
        (without an answer an empty text, 0 and 0), and the `n_best` answers."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            best = self._best(row, example.notes)
            found.append({**best[0], "best": best})
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["answer"] or NOTHING, answer["score"])

    def decision(self, answer: Answer) -> Decision:
        return Decision((ANSWERED,) if answer["answer"] else (), answer["score"])

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The start logit of the answer's first token plus the end logit of its last token."""
        (row,), context = outputs.rows(), example.notes
        found = self._competing(row, context)
        best = found[found["score"].argmax()]
        weights, start = torch.zeros_like(outputs.logits), sum(outputs.counts[0][: best["window"]])
        weights[start + best["first"], 0] = 1.0
        weights[start + best["last"], 1] = 1.0
        offset = float(best["score"]) - float((weights * outputs.logits).sum())
        text = context.text[best["start"] : best["end"]]
        return [Score(text or "(no answer)", weights, offset)]

    def to_hf_pipeline(self, answer: Answer) -> Any:
        return answer["best"][0]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """The text of the best answer, empty for none, and the texts of all right answers."""
        texts = [answer["answer"] for answer in self.answers(outputs, examples)]
        return Predictions(texts, [list(target.texts) for target in targets])

    def tune(self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]) -> Self:
        """Chooses `null_threshold` as the official script of SQuAD 2.0 does."""
        if self.tunable_key is None:
            return self
        texts, references, excess = [], [], []
        for row, example, target in zip(outputs.rows(), examples, targets, strict=True):
            found = answer_candidates(row, example.notes.spans, self.max_answer)
            if len(found):  # else there is nothing to choose
                best = found[found["score"].argmax()]
                texts.append(example.notes.text[best["start"] : best["end"]])
                references.append(list(target.texts))
                excess.append(float(no_answer(row)["score"][0] - best["score"]))
        if not self.unanswerable or not excess:
            return replace(self, null_threshold=0.0)
        f1: Any = metric_kinds()[self.metric_kind].metrics[self.main_metric].counts
        no_answers = Predictions([""] * len(texts), references)
        gains = f1(no_answers)[:, :1] - f1(Predictions(texts, references))[:, :1]
        ends = [min(excess) - 1, max(excess) + 1]
        threshold = best_threshold(np.array(excess), gains, lambda above: above[:, 0], 0.0, ends)
        return replace(self, null_threshold=threshold)

    def _best(self, row: Sequence[Tensor], context: Context) -> list[Answer]:
        """The best answers over all windows; scores are probabilities among the candidates."""
        found = self._competing(row, context)
        probabilities = torch.from_numpy(found["score"]).float().softmax(0)
        ranked = (-probabilities).argsort(stable=True)[: self.n_best].numpy()
        spans = zip(found["start"][ranked].tolist(), found["end"][ranked].tolist(), strict=True)
        return [
            {"answer": context.text[start:end], "score": score, "start": start, "end": end}
            for (start, end), score in zip(spans, probabilities[ranked].tolist(), strict=True)
        ]

    def _competing(self, row: Sequence[Tensor], context: Context) -> Candidates:
        """The candidates, the last one of them "no answer", less the threshold."""
        found = answer_candidates(row, context.spans, self.max_answer)
        if not self.unanswerable and len(found):
            return found
        none = no_answer(row)
        none["score"] -= 0.0 if self.null_threshold == "tuned" else self.null_threshold
        return np.concatenate([found, none])


def _tokens_of(
    spans: Sequence[tuple[int, int] | None], start: int, end: int
) -> tuple[int, int] | None:
    """First and last token that touch the characters; None if the window lacks some of them."""
    touched = [n for n, span in enumerate(spans) if span and span[0] < end and span[1] > start]
    inside = [span for span in spans if span]
    if not touched or inside[0][0] > start or inside[-1][1] < end:
        return None
    return touched[0], touched[-1]
