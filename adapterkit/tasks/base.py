"""The base class of tasks: columns, head, loss, answers and metrics of one kind of prediction.

A new task is one file in `tasks/`, or in a plug-in, with one frozen dataclass that extends `Task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..backbone.lm_head import LMHead
from ..backbone.packing import Packed, Pooling
from ..backbone.tokenizer import TextEncoder
from ..errors import AdapterkitError
from ..registry import discover
from .columns import Column, input_columns, request_fields
from .fields import FieldKind, Fields
from .foreign_form import ForeignForm
from .labels import similar_labels
from .scoring import Scoring
from .types import (
    Answer,
    AnswerSummary,
    Decision,
    Example,
    HeadInput,
    Outputs,
    Part,
    Reword,
    Row,
    Score,
    Text,
    n_characters,
)

LEAST_TOKENS = 3
"""Least tokens of a sequence: a word between two special tokens."""


class Task(ForeignForm, Scoring, ABC):
    """A task with one adapter's settings; subclasses are frozen dataclasses."""

    type: ClassVar[str]
    """Name in recipes and files."""

    is_default: ClassVar[bool] = False
    """Whether this is the task of a recipe that names none, and of texts for the plain backbone."""

    columns: ClassVar[Mapping[str, Column]]
    """Columns of a row by role, such as `text` and `label`. A request that gives several texts
    without their roles gives them in this order, required ones first."""

    per_token: ClassVar[bool] = False
    """Whether the head returns logits for every token, or else for every sequence."""

    augmentable: ClassVar[tuple[str, ...]] = ()
    """Roles of the texts in which training may replace words by synonyms. Empty if an answer is a
    position in a text, which other words would move."""

    masks_tokens: ClassVar[bool] = False
    """Whether `masked_for` masks tokens. Token dropout is refused then."""

    whole_batch: ClassVar[bool] = False
    """Whether the loss of a row depends on the other rows of its batch, so that a process must
    compute its rows in one piece, and gathers the logits of the others."""

    tensor_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of an answer with a text, a number or a vector. The Open Inference Protocol returns each
    as an output tensor; an answer need not have all of them."""

    score_function: ClassVar[str | None] = None
    """The function that makes the scores of labels from logits, `softmax` or `sigmoid`; None if the
    answers have no such scores."""

    document_role: ClassVar[str] = "text"
    """Role of the text that the character positions of an answer refer to."""

    sample_rows: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Some labelled rows, values by role: a plug-in's contract test trains with them."""

    max_length: int | None
    """Most tokens of a sequence, special tokens included. None: as many as the backbone takes."""

    @abstractmethod
    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        """Returns the task with the settings that depend on the training rows, such as label names.

        Args:
            rows: The training rows.
            pooling: The backbone's pooling, for a recipe that names none.

        Raises:
            DataError: The rows cannot be trained on.
        """

    def bind_backbone(self, lm_head: LMHead | None) -> Self:
        """Returns the task with the settings that depend on the backbone's language-model head.

        Args:
            lm_head: The head; None if the backbone has no word embeddings that fit one.

        Raises:
            RecipeError: The backbone does not fit the task.
        """
        return self

    def fields(self, request: Text, where: str) -> Fields:
        """Checks a request and returns its values by role.

        Args:
            request: A text, several texts in the order of `columns`, or values by role.
            where: Name of the request in messages, such as file and row.

        Raises:
            DataError: A value is missing, empty or of another kind.
        """
        return request_fields(self.columns, request, where)

    def n_characters(self, request: Text) -> int:
        """Number of characters that `examples` tokenises for a request, which is not checked yet.
        A text that is tokenised several times counts as often."""
        return n_characters(request)

    def example_request(self, columns: Mapping[str, Column]) -> Fields:
        """A request that the task can answer, for the README of an adapter.

        Args:
            columns: The columns that it must hold.
        """
        return {role: column.kind.example for role, column in columns.items()}

    def stratum(self, row: Row) -> Hashable:
        """The group whose share drawn splits and folds preserve: the label, if a row has one."""
        return None

    def label_values(self, row: Row) -> Sequence[str | float]:
        """The answer of a row for the data report: names, which it counts, or numbers, of which it
        gives mean and range."""
        stratum = self.stratum(row)
        return [] if stratum is None else [str(stratum)]

    def warnings(self, rows: Sequence[Row], targets: Sequence[Any]) -> list[str]:
        """Warnings about the training rows, a sentence each.

        Args:
            rows: The rows.
            targets: The right answer of each, as `target` gives it.
        """
        names = (name for row in rows for name in self.label_values(row))
        return similar_labels(name for name in names if isinstance(name, str))

    @property
    def ensemble_error(self) -> str | None:
        """Why the logits of adapters that were trained with other seeds cannot be averaged, so that
        there is no ensemble; None if they can."""
        return None

    @abstractmethod
    def same_answers(self, other: Task) -> bool:
        """Whether the outputs of a head that was trained for the other task mean the same here."""

    @abstractmethod
    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the head's tensors, named as in transformers' task models."""

    def fresh_head(self, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Returns an untrained head, float32, initialised as in BERT: weights normal with standard
        deviation 0.02, biases zero."""
        head = {name: torch.zeros(shape) for name, shape in self.head_shapes(hidden).items()}
        for name, tensor in head.items():
            if name.endswith(".weight"):
                tensor.normal_(std=0.02, generator=generator)
        return head

    @abstractmethod
    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        """Tokenises rows.

        Args:
            rows: Values by role, checked.
            reader: The backbone's tokenizer.
            limit: Most tokens of a sequence, special tokens included.
        """

    def masked_for(self, example: Example, seed: str) -> Example:
        """Returns a labelled row as the model reads it. Only a task that `masks_tokens` changes it.

        Args:
            example: The row.
            seed: Seed of the masks. In training it differs from step to step.
        """
        return example

    def reworded(self, fields: Fields, reword: Reword) -> Fields:
        """Returns a training row with other words in its `augmentable` texts and the same answer.

        Args:
            fields: Values by role.
            reword: Returns a text with some words replaced. It is a function of the text and of a
                key, and returns the same for the same two.
        """
        return {
            role: reword(value, "") if role in self.augmentable else value
            for role, value in fields.items()
        }

    def protected_tokens(self, example: Example, target: Any) -> Sequence[Collection[int]]:
        """For each of a row's sequences, the indices of tokens that token dropout must not mask,
        because there is no answer without them."""
        return [()] * len(example.inputs)

    @abstractmethod
    def target(self, row: Row, example: Example) -> Any:
        """The right answer of a row, as `loss` and `predictions` take it.

        Raises:
            DataError: The answer is none that this task knows, such as an unknown label.
        """

    @abstractmethod
    def logits(self, inputs: HeadInput) -> Tensor:
        """Logits `[t, C]` of an adapter's sequences, float32: a row for each sequence, or for each
        of their tokens if the task is `per_token`."""

    @classmethod
    def logits_of(cls, members: Sequence[tuple[Self, HeadInput]]) -> list[Tensor]:
        """The `logits` of several adapters in one batch, whose tasks are all of this class."""
        return [task.logits(inputs) for task, inputs in members]

    def counts(self, packed: Packed, span: tuple[int, int]) -> tuple[int, ...]:
        """Rows of `logits` for each packed sequence from `span[0]` to `span[1]`."""
        lengths = packed.lengths[slice(*span)]
        return lengths if self.per_token else (1,) * len(lengths)

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Loss of each row, `[n]`."""

    @abstractmethod
    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """The answer for each row: plain values, which JSON can hold."""

    @abstractmethod
    def summary(self, answer: Answer) -> AnswerSummary:
        """One line about an answer, for the command line and the page.

        Args:
            answer: An answer as `answers` returns it.
        """

    def decision(self, answer: Answer) -> Decision | None:
        """What is counted of an answer to watch the adapter; None if its answers are numbers or
        vectors, which are not counted.

        Args:
            answer: An answer as `answers` returns it.
        """
        return None

    @property
    def entity_kinds(self) -> tuple[str, ...]:
        """Kinds of the `entities` in its answers, which have an `entity_group` and the characters
        `start` to `end` of its document; empty if they have none."""
        return ()

    @property
    def has_decisions(self) -> bool:
        """Whether its answers can be counted (`decision`)."""
        return type(self).decision is not Task.decision

    def scores(self, outputs: Outputs, example: Example) -> Iterable[Score]:
        """The logits, before softmax or sigmoid, that stand for one row's answer; explanations
        attribute them to tokens.

        Args:
            outputs: The outputs of that row alone.
            example: The row.

        Raises:
            AdapterkitError: The answers of this task cannot be explained.
        """
        raise AdapterkitError(
            f"task '{self.type}' has no single score for an answer, so there is nothing to explain"
        )

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        """For each tokenised sequence of a row, before it is cut: the one or two texts in it."""
        return [
            tuple(
                Part(role, row[role])
                for role, column in input_columns(self.columns).items()
                if column.kind is FieldKind.TEXT and role in row
            )
        ]

    @property
    def tunable_key(self) -> str | None:
        """The recipe key whose value asks for `tune`, if one does."""
        return None

    def tune(self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]) -> Self:
        """Returns the task with a setting chosen on the validation rows after training, such as a
        threshold. The test rows are never passed."""
        return self


def default_task() -> type[Task]:
    """The task of a recipe that names none."""
    return next(task for task in tasks().values() if task.is_default)


def column_roles() -> dict[str, dict[str, Column]]:
    """The roles of all tasks: for each its column by name of the task."""
    found: dict[str, dict[str, Column]] = {}
    for name, task in tasks().items():
        for role, column in task.columns.items():
            found.setdefault(role, {})[name] = column
    return found


@cache
def tasks() -> dict[str, type[Task]]:
    """All tasks by name, those of plug-ins included."""
    return discover("adapterkit.tasks", Task)
