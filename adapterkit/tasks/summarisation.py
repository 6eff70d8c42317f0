"""Extractive summarisation: the sentences of a document that say what matters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling, TokenSequence
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions, check_metrics
from ..metrics.rouge import rouge_n, words_of
from ..schema import check_least, check_share
from .base import Task, token_logits
from .columns import Column
from .fields import SENTENCES, SUMMARY, Fields
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

END = re.compile(r"[.!?…]+[\"'”’)\]»]*(?=\s|$)|[。！？]+[”’」』）》]*|\n")  # noqa: RUF001
"""Where a sentence may end: a sign and what closes behind it, or the end of a line."""

GOES_ON = re.compile(r"(^|[^\w.])([A-HJ-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Sra)\.$")
"""A title or an initial, whose full stop ends nothing."""

CHINESE_END = re.compile(r"[。！？]+[”’」』）》]*$")  # noqa: RUF001
OUTSIDE = -1


@dataclass(frozen=True)
class Document:
    """The sentences of one row.

    Attributes:
        text: What they stand in.
        spans: First and past-the-last character of each.
        owners: For each window, the sentence of each line; -1 for special tokens.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    owners: tuple[tuple[int, ...], ...]

    def joined(self, sentences: Iterable[int]) -> str:
        """Some sentences as one text."""
        return joined([self.text[slice(*self.spans[number])] for number in sentences])


@dataclass(frozen=True)
class SummaryTarget:
    """The sentences of a document that should be chosen, and what its summary should say."""

    document: Document
    chosen: tuple[int, ...]
    reference: str


@dataclass(frozen=True)
class Summarisation(Task):
    """A score for each sentence, from the mean of its tokens' states beside the whole document.

    As BERTSum (Liu 2019), whose sentence states come from a token of their own before each
    sentence. Documents are lists of sentences, or texts that are cut into sentences at full stops,
    question and exclamation marks and line ends; long ones are read in windows. A row's summary
    holds the numbers of its sentences from 0, or is a text of its own: then the goal is what a
    greedy choice finds to have most of it (Nallapati et al. 2017).

    Attributes:
        dropout: Share of each token's hidden state dropped in training.
        max_length: Most tokens of a window; as many as the backbone takes where left out.
        stride: Tokens that neighbouring windows share, at most half of a window.
        sentences: Sentences in a summary.
        extra_metrics: Metrics to tell besides the task's own, such as [rouge_3].
    """

    type: ClassVar[str] = "summarisation"
    peft_task_type: ClassVar[str | None] = "TOKEN_CLS"
    columns: ClassVar[Mapping[str, Column]] = {
        "sentences": Column(SENTENCES, "the document: a text, or a list of sentences"),
        "summary": Column(
            SUMMARY,
            "the summary: numbers of sentences from 0, a list or with | between them, or a text",
            learned=True,
        ),
    }
    per_token: ClassVar[bool] = True
    metric_kind: ClassVar[str] = "summaries"
    # It judges both kinds of summaries by what a person reads, a near miss by how near it is.
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

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        return self

    def fields(self, asked: Text, where: str) -> Fields:
        if isinstance(asked, (list, tuple)):
            asked = {"sentences": asked}
        if isinstance(asked, Mapping) and "text" in asked:
            asked = {"sentences": asked["text"], **asked}
        return super().fields(asked, where)

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        short = sum(len(_standing(row.fields)[1]) <= self.sentences for row in rows)
        if not short:
            return []
        return [
            f"{short} of {len(rows)} training documents have no more than {self.sentences} "
            "sentences, so that their summary is all of them; task.sentences sets how many it has"
        ]

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, Summarisation)

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        return {"classifier.weight": (1, hidden), "classifier.bias": (1,)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        documents = [_standing(row) for row in rows]
        read = reader.encode([text for text, _ in documents])
        found = []
        for (text, spans), encoding in zip(documents, read, strict=True):
            windows = truncate(encoding, limit, "windows", self.stride)
            owner = _owners(encoding, spans)
            owners = tuple(tuple(owner[place] for place in _places(window)) for window in windows)
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
        return SummaryTarget(document, chosen, document.joined(chosen))

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[t, 1]`, a line for each token: the mean of a sentence's lines is what the head says of
        the mean of its tokens' states."""
        weight, bias = inputs.head["classifier.weight"], inputs.head["classifier.bias"]
        return token_logits(inputs, weight, bias, self.dropout)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Binary cross-entropy averaged over a row's sentences, `[n]`."""
        losses = []
        for row, goal in zip(outputs.rows(), targets, strict=True):
            scores, read = _scores(row, goal.document)
            wanted = torch.zeros_like(scores)
            wanted[list(goal.chosen)] = 1.0
            each = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
            losses.append((each * read).sum() / read.sum().clamp(min=1))
        return torch.stack(losses)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"summary", "extract"}`: the best sentences in the document's order, as one text and
        each as `{index, text, start, end, score}`; characters are those of the text that was
        asked, or of the listed sentences with a space between them."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            document: Document = example.notes
            chances = _scores(row, document)[0].sigmoid().tolist()
            extract = [
                {
                    "index": number,
                    "text": document.text[slice(*document.spans[number])],
                    "start": document.spans[number][0],
                    "end": document.spans[number][1],
                    "score": chances[number],
                }
                for number in self._chosen(row, document)
            ]
            found.append(
                {"summary": joined([part["text"] for part in extract]), "extract": extract}
            )
        return found

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The score of each sentence that was chosen and read."""
        (row,), document = outputs.rows(), example.notes
        read = _scores(row, document)[1]
        owners = torch.tensor(list(chain(*document.owners)))[:, None]
        found = []
        for number in self._chosen(row, document):
            if read[number]:
                own = (owners == number).to(outputs.lines)
                found.append(Score(document.joined([number]), own / own.sum()))
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["summary"] or NOTHING)

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        return [(Part("sentences", _standing(row)[0]),)]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """The chosen sentences and their numbers, the reference and the goal's."""
        said, goals = [], []
        for row, goal in zip(outputs.rows(), targets, strict=True):
            chosen = self._chosen(row, goal.document)
            said.append({"text": goal.document.joined(chosen), "sentences": chosen})
            goals.append({"text": goal.reference, "sentences": list(goal.chosen)})
        return Predictions(said, goals)

    def _chosen(self, row: Sequence[Tensor], document: Document) -> list[int]:
        """The best sentences in the document's order; of equal ones the earlier."""
        scores = _scores(row, document)[0].tolist()
        best = sorted(range(len(scores)), key=lambda number: -scores[number])
        return sorted(best[: self.sentences])


def _scores(row: Sequence[Tensor], document: Document) -> tuple[Tensor, Tensor]:
    """Score of each sentence over all windows `[s]`, and whether it has a token at all: what has
    none is worth less than any other."""
    lines = torch.cat(list(row))[:, 0].float()
    owners = torch.tensor(list(chain(*document.owners)), device=lines.device)
    inside = owners != OUTSIDE
    zeros = lines.new_zeros(len(document.spans))
    counts = zeros.index_add(0, owners[inside], torch.ones_like(lines[inside]))
    sums = zeros.index_add(0, owners[inside], lines[inside])
    read = counts > 0
    return torch.where(read, sums / counts.clamp(min=1), -1e4), read


def _owners(encoding: Any, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The sentence in which each token ends."""
    owners, number = [], 0
    for (start, end), owner in zip(encoding.offsets, encoding.sequence_ids, strict=True):
        while owner is not None and number + 1 < len(spans) and end > spans[number][1]:
            number += 1
        inside = owner is not None and start < end and end > spans[number][0]
        owners.append(number if inside else OUTSIDE)
    return owners


def _places(window: TokenSequence) -> Sequence[int]:
    return window.kept or range(len(window))


def _standing(row: Fields) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A document as one text, and where its sentences stand in it."""
    if isinstance(row["sentences"], str):
        text = row["sentences"]
        return text, tuple(split(text))
    spans, start = [], 0
    for sentence in row["sentences"]:
        spans.append((start, start + len(sentence)))
        start += len(sentence) + 1
    return " ".join(row["sentences"]), tuple(spans)


def split(text: str) -> list[tuple[int, int]]:
    """First and past-the-last character of each sentence of a text, blanks around it left out.

    A sentence ends at `.`, `!`, `?` or `…` before a blank unless a small letter follows, at `。`,
    `！` or `？` anywhere, and at the end of a line. Titles, initials and what has no letter (the
    number of a list) do not end one.
    """  # noqa: RUF002
    spans, start = [], 0
    for match in END.finditer(text):
        if not _goes_on(text, start, match):
            spans.append((start, match.end()))
            start = match.end()
    spans.append((start, len(text)))
    return [
        (start + len(part) - len(part.lstrip()), start + len(part.rstrip()))
        for start, end in spans
        if (part := text[start:end]).strip()
    ]


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    if end.group() == "\n":
        return False
    if not any(character.isalpha() for character in text[start : end.end()]):
        return True
    if CHINESE_END.match(end.group()):
        return False
    following = text[end.end() :].split("\n", 1)[0].lstrip()[:1]
    return following.islower() or bool(GOES_ON.search(text[start : end.end()]))


def joined(sentences: Sequence[str]) -> str:
    """Sentences as one text: a space between them, none behind a Chinese sign."""
    parts = [part if CHINESE_END.search(part) else f"{part} " for part in sentences]
    return "".join(parts).rstrip()


def greedy(document: Document, reference: str, most: int) -> tuple[int, ...]:
    """Sentences that together have most of a reference by ROUGE-1 and ROUGE-2: the best one, then
    one after the other as long as it gets better, at most `most`; none that has nothing of it."""
    parts = [words_of(document.text[slice(*span)]) for span in document.spans]
    goal = words_of(reference)

    def worth(chosen: Iterable[int]) -> float:
        said = list(chain(*(parts[number] for number in sorted(chosen))))
        return rouge_n(said, goal, 1) + rouge_n(said, goal, 2)

    chosen: tuple[int, ...] = ()
    best = 0.0
    while len(chosen) < min(most, len(parts)):
        left = [number for number in range(len(parts)) if number not in chosen]
        following = max(left, key=lambda number: worth((*chosen, number)))
        if worth((*chosen, following)) <= best:
            break
        chosen = (*chosen, following)
        best = worth(chosen)
    return tuple(sorted(chosen))
