"""Multiple choice: which of several continuations or answers fits a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions
from .columns import Column
from .fields import CHOICES, TEXT, Fields
from .pooled import PooledTask, ranked
from .types import Answer, AnswerSummary, Example, Outputs, Part, Reword, Row, Score


@dataclass(frozen=True)
class MultipleChoice(PooledTask):
    """A score for each choice beside the text; a row's scores compete."""

    type: ClassVar[str] = "multiple_choice"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(TEXT, "the text"),
        "choices": Column(CHOICES, "the choices: a list, or texts with | between them"),
        "label": Column(TEXT, "the right choice, or its number from 0", learned=True),
    }
    augmentable: ClassVar[tuple[str, ...]] = ("text", "choices")
    metric_kind: ClassVar[str] = "choices"
    main_metric: ClassVar[str] = "accuracy"
    tensor_keys: ClassVar[tuple[str, ...]] = ("label", "score")

    @property
    def n_outputs(self) -> int:
        return 1

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        return replace(self, pooling=self.pooling or pooling)

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        pairs = [(row["text"], choice) for row in rows for choice in row["choices"]]
        read = reader.encode([text for text, _ in pairs], [choice for _, choice in pairs])
        # One sequence a choice: windows of one choice would compete with other choices.
        how = "head" if self.long_text == "windows" else self.long_text
        sequences = iter(truncate(encoding, limit, how)[0] for encoding in read)
        return [
            Example(tuple(next(sequences) for _ in row["choices"]), row["choices"]) for row in rows
        ]

    def reworded(self, fields: Fields, reword: Reword) -> Fields:
        """Text and choices; the choices stay where two would become one."""
        said, goal = fields["choices"], _goal(fields)
        choices = tuple(reword(choice, "") for choice in said)
        found = {**fields, "text": reword(fields["text"], "")}
        if goal is None or len(set(choices)) < len(said):
            return found
        return {**found, "choices": choices, "label": choices[goal]}

    def target(self, row: Row, example: Example) -> int:
        goal = _goal(row.fields)
        if goal is None:
            raise DataError(
                f"{row.where}: label '{row.fields['label']}' is neither a choice nor the number of "
                f"one, from 0 to {len(row.fields['choices']) - 1}"
            )
        return goal

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy over a row's choices, `[n]`."""
        pairs = zip(outputs.rows(), targets, strict=True)
        return torch.stack(
            [-torch.cat(row)[:, 0].float().log_softmax(0)[goal] for row, goal in pairs]
        )

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"label", "index", "score", "scores"}`: the choice that fits best."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            chances = torch.cat(row)[:, 0].float().softmax(0).tolist()
            best = ranked(example.notes, chances)
            found.append(
                {
                    "label": best[0][0],
                    "index": chances.index(best[0][1]),
                    "score": best[0][1],
                    "scores": dict(best),
                }
            )
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["label"], answer["score"])

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The score of the answered choice, before it competes."""
        best = int(outputs.lines[:, 0].argmax())
        weights = torch.zeros_like(outputs.lines)
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
        """Number of each row's choice."""
        said = [int(torch.cat(row)[:, 0].argmax()) for row in outputs.rows()]
        return Predictions(np.array(said), np.array(targets))


def _goal(fields: Fields) -> int | None:
    """Number of a row's right choice, which its label names or is; None where it does neither."""
    label, choices = fields["label"], fields["choices"]
    if label in choices:
        return int(choices.index(label))
    return int(label) if label.isdecimal() and int(label) < len(choices) else None
