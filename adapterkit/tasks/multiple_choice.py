"""Multiple choice: which of several continuations or answers fits a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.sequence_head import SequenceHead
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions
from .columns import Column
from .fields import SEPARATOR, FieldKind, Fields
from .labels import spelling
from .pooled import PooledTask, ranked
from .types import (
    ANSWERED,
    Answer,
    AnswerSummary,
    Decision,
    Example,
    Outputs,
    Part,
    Reword,
    Row,
    Score,
    Text,
    n_characters,
)


@dataclass(frozen=True)
class MultipleChoice(PooledTask):
    """A logit for each choice beside the text; softmax over the choices of a row."""

    type: ClassVar[str] = "multiple_choice"
    pipeline_tag: ClassVar[str | None] = "multiple-choice"
    transformers_model: ClassVar[str | None] = "AutoModelForMultipleChoice"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(FieldKind.TEXT, "the text"),
        "choices": Column(FieldKind.CHOICES, "the choices: a list, or texts with | between them"),
        "label": Column(FieldKind.TEXT, "the right choice, or its number from 0", learned=True),
    }
    augmentable: ClassVar[tuple[str, ...]] = ("text", "choices")
    metric_kind: ClassVar[str] = "choices"
    main_metric: ClassVar[str] = "accuracy"
    score_function: ClassVar[str | None] = "softmax"
    tensor_keys: ClassVar[tuple[str, ...]] = ("label", "score")

    def transformers_head(self, head: SequenceHead | None) -> Mapping[str, str] | None:
        """As for sequence classifiers of families whose classifiers have no hidden layer."""
        has_layer = head is not None and head.dense is not None
        return None if has_layer else super().transformers_head(head)

    @property
    def n_outputs(self) -> int:
        return 1

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        if self.long_text == "windows":
            raise DataError(
                "task.long_text: windows would be choices of their own here; give another way"
            )
        return super().fit(rows, pooling)

    def warnings(self, rows: Sequence[Row], targets: Sequence[Any]) -> list[str]:
        found = super().warnings(rows, targets)
        unclear = [row for row in rows if _has_two_meanings(row.fields)]
        if unclear:
            found.append(
                f"{len(unclear)} of {len(rows)} rows have a label that is a choice and also the "
                f"number of another one ({unclear[0].where}); it is read as the choice"
            )
        return found

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        pairs = [(row["text"], choice) for row in rows for choice in row["choices"]]
        read = reader.encode_in_groups(pairs)
        # One sequence a choice: softmax is over sequences, and windows would take part in it.
        how = "head" if self.long_text == "windows" else self.long_text
        sequences = iter(truncate(encoding, limit, how)[0] for encoding in read)
        return [
            Example(tuple(next(sequences) for _ in row["choices"]), row["choices"]) for row in rows
        ]

    def n_characters(self, request: Text) -> int:
        """As in `Task`; the text is tokenised once for each choice."""
        if isinstance(request, Mapping):
            text, choices = request.get("text"), request.get("choices")
        elif isinstance(request, (list, tuple)) and len(request) == 2:
            text, choices = request
        else:
            return n_characters(request)
        n_choices = len(choices) if isinstance(choices, (list, tuple)) else 1
        if isinstance(choices, str):
            n_choices += choices.count(SEPARATOR)
        return n_choices * n_characters(text) + n_characters(choices)

    def reworded(self, fields: Fields, reword: Reword) -> Fields:
        """Rewords text and choices; the choices are kept if two of them would become equal."""
        before, label = fields["choices"], _right_choice(fields)
        choices = tuple(reword(choice, "") for choice in before)
        found = {**fields, "text": reword(fields["text"], "")}
        if label is None or len(set(choices)) < len(before):
            return found
        return {**found, "choices": choices, "label": choices[label]}

    def target(self, row: Row, example: Example) -> int:
        label = _right_choice(row.fields)
        if label is None:
            raise DataError(
                f"{row.where}: label '{row.fields['label']}' is neither a choice nor the number of "
                f"one, from 0 to {len(row.fields['choices']) - 1}"
            )
        return label

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy over a row's choices, `[n]`."""
        pairs = zip(outputs.rows(), targets, strict=True)
        return torch.stack(
            [-torch.cat(row)[:, 0].float().log_softmax(0)[label] for row, label in pairs]
        )

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"label", "index", "score", "scores"}`: the most probable choice."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            probabilities = torch.cat(row)[:, 0].float().softmax(0).tolist()
            best = ranked(example.notes, probabilities)
            found.append(
                {
                    "label": best[0][0],
                    "index": probabilities.index(best[0][1]),
                    "score": best[0][1],
                    "scores": dict(best),
                }
            )
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["label"], answer["score"])

    def decision(self, answer: Answer) -> Decision:
        return Decision((ANSWERED,), answer["score"])

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The logit of the answered choice."""
        best = int(outputs.logits[:, 0].argmax())
        weights = torch.zeros_like(outputs.logits)
        weights[best] = 1.0
        return [Score(example.notes[best], weights)]

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        return [
            (Part("text", row["text"]), Part(f"choices[{number}]", choice))
            for number, choice in enumerate(row["choices"])
        ]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """Index of each row's choice."""
        choices = [int(torch.cat(row)[:, 0].argmax()) for row in outputs.rows()]
        return Predictions(np.array(choices), np.array(targets))


def _has_two_meanings(fields: Fields) -> bool:
    """Whether the label of a row is one choice and the number of another."""
    label = fields["label"]
    is_number = label.isdecimal() and int(label) < len(fields["choices"])
    return is_number and _right_choice(fields) != int(label)


def _right_choice(fields: Fields) -> int | None:
    """Index of a row's right choice. The label is the choice or its index; else None."""
    label, choices = fields["label"], fields["choices"]
    if label in choices:
        return int(choices.index(label))
    names = [spelling(choice) for choice in choices]
    if spelling(label) in names:
        return names.index(spelling(label))
    return int(label) if label.isdecimal() and int(label) < len(choices) else None
