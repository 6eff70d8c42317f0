"""Extractive summarisation: the most important sentences of a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.encoded_text import EncodedText
from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions, check_metrics
from ..metrics.rouge import rouge_n, rouge_words
from ..schema import check_least, check_share
from .base import LEAST_TOKENS, Task
from .columns import Column
from .fields import FieldKind, Fields
from .sentences import join_sentences, split_sentences
from .token_head import token_logits
from .types import (
    NOTHING,
    Answer,
    AnswerSummary,
    Example,
    HeadInput,
    Outputs,
    Part,
    Row,
    Score,
    Text,
)

OUTSIDE = -1


@dataclass(frozen=True)
class Document:
    """The sentences of one row.

    Attributes:
        text: The text that contains them.
        spans: First and past-the-last character of each.
        owners: For each window, the sentence of each token; -1 for special tokens.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    owners: tuple[tuple[int, ...], ...]

    def text_of(self, sentences: Iterable[int]) -> str:
        """Some sentences, joined to one text."""
        return join_sentences([self.text[slice(*self.spans[number])] for number in sentences])


@dataclass(frozen=True)
class SummaryTarget:
    """The right summary of a document: indices of its sentences, and its text."""

    document: Document
    chosen: tuple[int, ...]
    reference: str


@dataclass(frozen=True)
class Summarisation(Task):
    """A logit for each sentence of a document, from the mean hidden state of its tokens.

    It resembles BERTSum (Liu 2019), which takes the state of a special token before each sentence.
    A document is a list of sentences, or a text, which is split at full stops, question marks,
    exclamation marks and line ends. Long documents are read in windows. A row's summary lists the
    indices of its sentences from 0, or is a text. For a text the target is a greedy choice of the
    sentences that have most words in common with it (Nallapati et al. 2017).

    Attributes:
        dropout: Share of each token's hidden state that is dropped in training.
        max_length: Most tokens of a window. If omitted: as many as the backbone takes.
        stride: Tokens that neighbouring windows share, at most half of a window.
        sentences: Number of sentences in a summary.
        extra_metrics: Further metrics, such as [rouge_3].
    """

    type: ClassVar[str] = "summarisation"
    pipeline_tag: ClassVar[str | None] = "summarization"
    peft_task_type: ClassVar[str | None] = "TOKEN_CLS"
    transformers_model: ClassVar[str | None] = "AutoModelForTokenClassification"
    columns: ClassVar[Mapping[str, Column]] = {
        "sentences": Column(FieldKind.SENTENCES, "the document: a text, or a list of sentences"),
        "summary": Column(
            FieldKind.SUMMARY,
            "the summary: numbers of sentences from 0, a list or with | between them, or a text",
            learned=True,
        ),
    }
    per_token: ClassVar[bool] = True
    metric_kind: ClassVar[str] = "summaries"
    # It suits both kinds of summaries, and a sentence that is nearly right counts for something.
    main_metric: ClassVar[str] = "rouge_l"
    document_role: ClassVar[str] = "sentences"

    dropout: float = 0.1
    max_length: int | None = None
    stride: int = 32
    sentences: int = 3
    extra_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_share(self, "dropout")
        check_least(self, 0, "stride")
        check_least(self, 1, "sentences")
        check_metrics((self.metric_kind,), self.extra_metrics)
        check_least(self, LEAST_TOKENS, "max_length")

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        return self

    def fields(self, request: Text, where: str) -> Fields:
        if isinstance(request, (list, tuple)):
            request = {"sentences": request}
        if isinstance(request, Mapping) and "text" in request:
            request = {"sentences": request["text"], **request}
        return super().fields(request, where)

    def warnings(self, rows: Sequence[Row], targets: Sequence[Any]) -> list[str]:
        short = sum(len(_located(row.fields)[1]) <= self.sentences for row in rows)
        if not short:
            return []
        return [
            f"{short} of {len(rows)} training documents have no more than {self.sentences} "
            "sentences, so their summary is the whole document; lower task.sentences"
        ]

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, Summarisation)

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        return {"classifier.weight": (1, hidden), "classifier.bias": (1,)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        documents = [_located(row) for row in rows]
        encodings = reader.encode([text for text, _ in documents])
        found = []
        for (text, spans), encoding in zip(documents, encodings, strict=True):
            windows = truncate(encoding, limit, "windows", self.stride)
            owner = _owners(encoding, spans)
            owners = tuple(tuple(owner[n] for n in window.indices) for window in windows)
            found.append(Example(tuple(windows), Document(text, spans, owners)))
        return found

    def target(self, row: Row, example: Example) -> SummaryTarget:
        document, summary = example.notes, row.fields["summary"]
        if isinstance(summary, str):
            return SummaryTarget(document, greedy(document, summary, self.sentences), summary)
        chosen = tuple(sorted(set(summary)))
        if chosen[-1] >= len(document.spans):
            raise DataError(
                f"{row.where}: summary names sentence {chosen[-1]}, the last of the document is "
                f"{len(document.spans) - 1} (the first is 0)"
            )
        return SummaryTarget(document, chosen, document.text_of(chosen))

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[t, 1]`, for each token. The head is linear, so the mean over the tokens of a sentence
        is the logit of their mean state."""
        weight, bias = inputs.head["classifier.weight"], inputs.head["classifier.bias"]
        return token_logits(inputs, weight, bias, self.dropout)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Binary cross-entropy averaged over a row's sentences, `[n]`."""
        losses = []
        for row, target in zip(outputs.rows(), targets, strict=True):
            scores, read = _scores(row, target.document)
            labels = torch.zeros_like(scores)
            labels[list(target.chosen)] = 1.0
            each = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
            losses.append((each * read).sum() / read.sum().clamp(min=1))
        return torch.stack(losses)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"summary", "extract"}`: the best sentences in the document's order, as one text, and as
        a list of `{index, text, start, end, score}`. Positions are those in the text, or in the
        listed sentences joined by spaces."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            document: Document = example.notes
            probabilities = _scores(row, document)[0].sigmoid().tolist()
            extract = [
                {
                    "index": number,
                    "text": document.text[slice(*document.spans[number])],
                    "start": document.spans[number][0],
                    "end": document.spans[number][1],
                    "score": probabilities[number],
                }
                for number in self._chosen(row, document)
            ]
            summary = join_sentences([part["text"] for part in extract])
            found.append({"summary": summary, "extract": extract})
        return found

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The logit of each chosen sentence that has a token."""
        (row,), document = outputs.rows(), example.notes
        read = _scores(row, document)[1]
        owners = torch.tensor(list(chain(*document.owners)))[:, None]
        found = []
        for number in self._chosen(row, document):
            if read[number]:
                own = (owners == number).to(outputs.logits)
                found.append(Score(document.text_of([number]), own / own.sum()))
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["summary"] or NOTHING)

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        return [(Part("sentences", _located(row)[0]),)]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """For each row `{text, sentences}`: text and sentence indices of the summary."""
        predicted, references = [], []
        for row, target in zip(outputs.rows(), targets, strict=True):
            chosen = self._chosen(row, target.document)
            predicted.append({"text": target.document.text_of(chosen), "sentences": chosen})
            references.append({"text": target.reference, "sentences": list(target.chosen)})
        return Predictions(predicted, references)

    def _chosen(self, row: Sequence[Tensor], document: Document) -> list[int]:
        """Indices of the best sentences, ascending; of equal ones the earlier."""
        scores = _scores(row, document)[0].tolist()
        best = sorted(range(len(scores)), key=lambda number: -scores[number])
        return sorted(best[: self.sentences])


def _scores(row: Sequence[Tensor], document: Document) -> tuple[Tensor, Tensor]:
    """Logit of each sentence over all windows `[s]`, and whether it has a token. A sentence without
    one has a lower logit than all others."""
    logits = torch.cat(list(row))[:, 0].float()
    owners = torch.tensor(list(chain(*document.owners)), device=logits.device)
    inside = owners != OUTSIDE
    zeros = logits.new_zeros(len(document.spans))
    counts = zeros.index_add(0, owners[inside], torch.ones_like(logits[inside]))
    sums = zeros.index_add(0, owners[inside], logits[inside])
    read = counts > 0
    return torch.where(read, sums / counts.clamp(min=1), -1e4), read


def _owners(encoding: EncodedText, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The sentence in which each token ends."""
    owners, number = [], 0
    for (start, end), owner in zip(encoding.offsets, encoding.sequence_ids, strict=True):
        while owner is not None and number + 1 < len(spans) and end > spans[number][1]:
            number += 1
        inside = owner is not None and start < end and end > spans[number][0]
        owners.append(number if inside else OUTSIDE)
    return owners


def _located(row: Fields) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of a document, and the characters of its sentences in it."""
    if isinstance(row["sentences"], str):
        text = row["sentences"]
        return text, tuple(split_sentences(text))
    spans, start = [], 0
    for sentence in row["sentences"]:
        spans.append((start, start + len(sentence)))
        start += len(sentence) + 1
    return " ".join(row["sentences"]), tuple(spans)


def greedy(document: Document, reference: str, most: int) -> tuple[int, ...]:
    """Chooses sentences that maximise ROUGE-1 plus ROUGE-2 with a reference, one after the other.

    Args:
        document: The document.
        reference: The reference summary.
        most: Most sentences. Fewer are chosen if no other sentence raises the sum.

    Returns:
        Indices of the sentences, ascending.
    """
    parts = [rouge_words(document.text[slice(*span)]) for span in document.spans]
    reference_words = rouge_words(reference)

    def rouge(chosen: Iterable[int]) -> float:
        words = list(chain(*(parts[number] for number in sorted(chosen))))
        return rouge_n(words, reference_words, 1) + rouge_n(words, reference_words, 2)

    chosen: tuple[int, ...] = ()
    best = 0.0
    while len(chosen) < min(most, len(parts)):
        left = [number for number in range(len(parts)) if number not in chosen]
        following = max(left, key=lambda number: rouge((*chosen, number)))
        if rouge((*chosen, following)) <= best:
            break
        chosen = (*chosen, following)
        best = rouge(chosen)
    return tuple(sorted(chosen))
