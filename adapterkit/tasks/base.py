"""What every task is: what it reads, head, loss, answers and metrics in one dataclass.

A new task is one new file in `tasks/` with one frozen dataclass that extends `Task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.lm_head import LMHead
from ..backbone.packing import Packed, Pooling
from ..backbone.tokenizer import TextEncoder
from ..errors import AdapterkitError, DataError
from ..metrics.base import Predictions, metric_kinds
from ..metrics.bootstrap import interval
from ..metrics.hf_evaluate import measure
from ..registry import discover
from ..schema import is_text
from .columns import Column, input_columns, required_columns
from .fields import TEXT, Fields
from .types import (
    Answer,
    AnswerSummary,
    Example,
    HeadInput,
    Outputs,
    Part,
    Reword,
    Row,
    Score,
    Tensors,
    Text,
)


class Task(ABC):
    """One kind of task with one adapter's settings; a frozen dataclass."""

    type: ClassVar[str]
    """Name in recipes and files."""

    is_default: ClassVar[bool] = False
    """Whether a recipe that names no task means this one; the plain backbone reads texts as it."""

    peft_task_type: ClassVar[str | None] = None
    """`task_type` in `adapter_config.json`."""

    foreign: ClassVar[bool] = False
    """Whether a PEFT folder of that task type is read as this task."""

    columns: ClassVar[Mapping[str, Column]]
    """Columns of a row by role, such as `text` and `label`. A request that gives several texts
    without their roles gives them in this order, required ones first."""

    metric_kind: ClassVar[str]
    """Kind of its predictions: which file of `metrics/` judges them."""

    per_token: ClassVar[bool] = False
    """Whether the head says a line for every token, or one for every sequence."""

    augmentable: ClassVar[tuple[str, ...]] = ()
    """Roles in whose texts words may be exchanged for synonyms in training; none where an answer is
    a place in a text."""

    masks_tokens: ClassVar[bool] = False
    """Whether `masked_for` hides tokens, so that nobody else may."""

    whole_batch: ClassVar[bool] = False
    """Whether a row is learnt from beside the other rows of its batch, so that a batch must be
    computed in one piece by one process."""

    tensor_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of an answer that hold a text, a number or a vector, which the Open Inference Protocol
    gives as output tensors of their own; an answer need not have all of them."""

    document_role: ClassVar[str] = "text"
    """Role of the text in which the character positions of an answer count."""

    main_metric: ClassVar[str]
    """The metric that decides which epoch is kept; higher is better."""

    extra_metrics: tuple[str, ...]
    """Metrics the recipe asks for besides the kind's own."""

    max_length: int | None
    """Most tokens of a text, special ones included; as many as the backbone takes where None."""

    @abstractmethod
    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        """The task with what it learns from its training rows (label names) filled in.

        Args:
            rows: The training rows.
            pooling: What suits the backbone, where the recipe leaves it open.

        Raises:
            DataError: The rows cannot be trained on.
        """

    def bind_backbone(self, lm_head: LMHead | None) -> Self:
        """The task with what depends on the backbone's head for tokens filled in.

        Raises:
            RecipeError: The backbone does not fit the task.
        """
        return self

    def fields(self, asked: Text, where: str) -> Fields:
        """What is asked as values by role.

        Args:
            asked: A text, several texts in the order of `columns`, or values by role.
            where: What messages call it.

        Raises:
            DataError: A value is missing, empty or of another kind.
        """
        required, columns = required_columns(self.columns), input_columns(self.columns)
        if isinstance(asked, Mapping):
            values = dict(asked)
        else:
            known = is_text(asked) or isinstance(asked, (list, tuple))
            parts = [asked] if isinstance(asked, str) else list(asked) if known else []
            if not len(required) <= len(parts) <= len(columns):
                optional = [role for role in columns if role not in required]
                raise DataError(
                    f"{where}: expected {' and '.join(required)}"
                    + (f", and perhaps {' and '.join(optional)}" if optional else "")
                    + f", got {asked!r:.80}"
                )
            values = dict(zip(columns, parts, strict=False))
        for role in required:
            if role not in values:
                raise DataError(f"{where}: there is no {role}")
        return {
            role: column.kind.check(values[role], f"{where}: {role}")
            for role, column in columns.items()
            if role in values
        }

    def stratum(self, row: Row) -> Hashable:
        """What drawn splits keep the shares of: the label, where a row has one."""
        return None

    def label_values(self, row: Row) -> Sequence[str | float]:
        """What a report on the data makes of a row's answer: names, which it counts, or numbers,
        which it sums up."""
        stratum = self.stratum(row)
        return [] if stratum is None else [str(stratum)]

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """What a person should know about the training rows, in sentences."""
        return []

    @property
    def ensemble_error(self) -> str | None:
        """Why the raw scores of adapters that were trained apart have no mean, so that they make no
        ensemble; None where they have one, as most."""
        return None

    @abstractmethod
    def same_answers(self, other: Task) -> bool:
        """Whether a head trained for the other task means the same here."""

    @classmethod
    def from_head(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """The task of a foreign folder that has only a head.

        Args:
            shapes: Names and shapes of the head's tensors.

        Raises:
            ValueError: It is no head of this task.
        """
        raise ValueError(f"a {cls.type} head alone does not say what it answers")

    @abstractmethod
    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the head's tensors, named as in transformers' task models."""

    def fresh_head(self, hidden: int, generator: torch.Generator) -> Tensors:
        """A head to train from scratch, float32, as BERT begins: weights normal with standard
        deviation 0.02, biases zero."""
        head = {name: torch.zeros(shape) for name, shape in self.head_shapes(hidden).items()}
        for name, tensor in head.items():
            if name.endswith(".weight"):
                tensor.normal_(std=0.02, generator=generator)
        return head

    @abstractmethod
    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        """Rows as the backbone reads them.

        Args:
            rows: Values by role, checked.
            reader: The backbone's tokenizer.
            limit: Most tokens of a sequence, special ones included.
        """

    def masked_for(self, example: Example, seed: str) -> Example:
        """A labelled row as it is put to the model: as it is, unless tokens of it are hidden.

        Args:
            example: The row.
            seed: Of what is drawn; in training it differs from step to step.
        """
        return example

    def reworded(self, fields: Fields, reword: Reword) -> Fields:
        """A training row with other words in the texts of `augmentable`, and the same answer.

        Args:
            fields: Values by role.
            reword: From a text, and what else the draw hangs on, to the text with other words;
                from the same two always to the same.
        """
        return {
            role: reword(value, "") if role in self.augmentable else value
            for role, value in fields.items()
        }

    def protected_tokens(self, example: Example, target: Any) -> Sequence[Collection[int]]:
        """For each of a row's sequences the places of tokens without which nobody could answer, so
        that they are not hidden in training."""
        return [()] * len(example.inputs)

    @abstractmethod
    def target(self, row: Row, example: Example) -> Any:
        """What a row's answer should be, as `loss` and `predictions` take it.

        Raises:
            DataError: The row has no answer this task knows.
        """

    @abstractmethod
    def logits(self, inputs: HeadInput) -> Tensor:
        """Raw scores `[t, C]` of an adapter's sequences, float32: a row for each sequence, or for
        each of their tokens if the task is `per_token`."""

    @classmethod
    def logits_of(cls, members: Sequence[tuple[Self, HeadInput]]) -> list[Tensor]:
        """What `logits` returns for each of several adapters of one batch, all of this class."""
        return [task.logits(inputs) for task, inputs in members]

    def counts(self, packed: Packed, span: tuple[int, int]) -> tuple[int, ...]:
        """Lines that `logits` says of each packed sequence from `span[0]` to `span[1]`."""
        lengths = packed.lengths[slice(*span)]
        return lengths if self.per_token else (1,) * len(lengths)

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Loss of each row, `[n]`."""

    @abstractmethod
    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """What a person wants to read, one answer for each row."""

    @abstractmethod
    def summary(self, answer: Answer) -> AnswerSummary:
        """An answer in one line, as the command line and the page show it.

        Args:
            answer: One of `answers`.
        """

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The raw scores, before softmax or sigmoid, that speak for one row's answer.

        Args:
            outputs: Of that row alone.
            example: The row.

        Raises:
            AdapterkitError: No answer of this task is a score.
        """
        raise AdapterkitError(
            f"task '{self.type}' answers with vectors, which no single score stands for; there is "
            "nothing to explain"
        )

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        """For each of a row's encodings the one or two texts in it, in their order."""
        return [
            tuple(
                Part(role, row[role])
                for role, column in input_columns(self.columns).items()
                if column.kind is TEXT and role in row
            )
        ]

    def to_hf_pipeline(self, answer: Answer) -> Any:
        """An answer in the shape that Hugging Face pipelines and TEI give: labels with their
        scores, the best first, where the task has labels."""
        if "scores" not in answer:
            return answer
        return [{"label": label, "score": score} for label, score in answer["scores"].items()]

    @property
    def tunable_key(self) -> str | None:
        """The key of the recipe that leaves something to `tune`, if one does."""
        return None

    def tune(self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]) -> Self:
        """The task with what it chooses on the validation rows after training, such as a
        threshold. It never sees the test rows."""
        return self

    @abstractmethod
    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """What was said of a split beside what is right, as `metric_kind`'s metrics take it."""

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Scores of a whole split, `main_metric` among them; what the rows leave undefined is left
        out."""
        kind = metric_kinds()[self.metric_kind]
        return measure(kind, dict.fromkeys((*kind.defaults, *self.extra_metrics)), predictions)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """What else a person may want to know of a split: `per_class` and `confusion` (see
        `metrics/per_class.py`), where the task has them."""
        return {}

    def intervals(self, predictions: Predictions) -> dict[str, tuple[float, float]]:
        """The main metric's 95% bootstrap interval over the rows of a split."""
        metric = metric_kinds()[self.metric_kind].metrics[self.main_metric]
        return {self.main_metric: interval(metric, predictions)}


def token_logits(inputs: HeadInput, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """A linear head on every token of an adapter's sequences, `[t, C]` float32.

    Args:
        inputs: The sequences.
        weight: `[C, h]`.
        bias: `[C]`.
        dropout: Share of each token's hidden state that is dropped in training.
    """
    start, end = (inputs.encoded.packed.offsets[index] for index in inputs.span)
    states = inputs.encoded.tokens[start:end].float()
    if inputs.dropout is not None:
        states = inputs.dropout.drop_tokens(states, dropout)
    return F.linear(states, weight, bias)


def default_task() -> type[Task]:
    """The task that a recipe means if it names none."""
    (found,) = (task for task in tasks().values() if task.is_default)
    return found


def column_roles() -> dict[str, dict[str, Column]]:
    """Every role that a task declares: its column by the task's name."""
    found: dict[str, dict[str, Column]] = {}
    for name, task in tasks().items():
        for role, column in task.columns.items():
            found.setdefault(role, {})[name] = column
    return found


@cache
def tasks() -> dict[str, type[Task]]:
    """Every task there is, by name."""
    return discover("adapterkit.tasks", Task)
