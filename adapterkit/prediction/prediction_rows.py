"""The rows that `predict` writes: the columns of the input and those of the answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self, TypeVar

from ..data.requests import FaultyRow, RequestRow
from ..errors import AdapterkitError, DataError
from ..inference.attribution import Explanation, explain
from ..inference.pipeline import summarize
from ..inference.predictor import Predictor
from ..tasks.types import Answer, AnswerSummary
from .answers import request_columns
from .request_rows import RowOrFault

CHUNK = 1024
"""Rows that are in memory at the same time."""

CLASH = "predicted_"
"""Before the name of a column of ours that the input has already, without a `--prefix`."""

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """A row of the input, and its answer or what is wrong with it.

    Attributes:
        row: The row.
        answer: The answer; None if there is an error.
        summary: The answer in one line.
        error: What is wrong with the row.
        explanation: Which words caused the answer, if that was asked for.
    """

    row: RowOrFault
    answer: Answer | None = None
    summary: AnswerSummary | None = None
    error: AdapterkitError | None = None
    explanation: Explanation | None = None


@dataclass
class PredictionStream:
    """The predictions of rows, one after the other, a chunk of rows at a time.

    Attributes:
        predictor: Answers the rows.
        rows: The rows, each with its adapter.
        explained: Whether answers are explained.
        strict: Whether a row that is not valid is an error of the command.
        bar: A progress bar that is moved by one step for each row.
        lenient: Whether the rows may all be invalid.
        n_rows, n_faults: Number of rows so far, and of those that are not valid.
        first_fault: What is wrong with the first of them.
    """

    predictor: Predictor
    rows: Iterable[RowOrFault]
    explained: bool
    strict: bool
    bar: Any
    lenient: bool = False
    n_rows: int = field(default=0, init=False)
    n_faults: int = field(default=0, init=False)
    first_fault: AdapterkitError | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Prediction]:
        """Yields the predictions.

        Raises:
            AdapterkitError: A row is not valid, if the stream is strict; or none of the first rows
                is valid, unless it is lenient.
        """
        for chunk in _chunks(self.rows, CHUNK):
            for prediction in self._answer(chunk):
                self.n_rows += 1
                if prediction.error is not None:
                    self.n_faults += 1
                    self.bar.update()
                    self.first_fault = self.first_fault or prediction.error
                yield prediction

    @property
    def n_answers(self) -> int:
        """Number of rows so far that have an answer."""
        return self.n_rows - self.n_faults

    def _answer(self, chunk: list[RowOrFault]) -> list[Prediction]:
        requests = [row for row in chunk if isinstance(row, RequestRow)]
        texts = [(row.adapter, row.text) for row in requests]
        places = [row.where for row in requests]
        bar = None if self.explained else self.bar
        found = self.predictor.answer_each(texts, places, bar)
        answers = iter(zip(requests, found, strict=True))
        predictions = [
            Prediction(row, error=row.error)
            if isinstance(row, FaultyRow)
            else self._prediction(*next(answers))
            for row in chunk
        ]
        errors = [one.error for one in predictions if one.error is not None]
        has_none = self.n_rows == 0 and len(errors) == len(predictions) and not self.lenient
        if errors and (self.strict or has_none):
            raise errors[0]
        return predictions

    def _prediction(self, row: RequestRow, found: Answer | AdapterkitError) -> Prediction:
        if isinstance(found, AdapterkitError):
            return Prediction(row, error=found)
        adapter, explanation = self.predictor.find(row.adapter), None
        if self.explained:
            explanation = explain(self.predictor.backbone, adapter, row.text, name=row.where)
            self.bar.update()
        return Prediction(row, found, summarize(adapter, found), explanation=explanation)


@dataclass(frozen=True)
class OutputColumns:
    """Names of the columns of the output.

    Attributes:
        taken: Columns of the input, which are kept as they are.
        prefix: Before the name of every column of ours. If it is empty, only a column that the
            input has already is called otherwise, `predicted_...`.
        names: Name in the output of each column of ours so far, by its own name.
    """

    taken: Collection[str]
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict, init=False)

    @classmethod
    def beside(cls, columns: Collection[str], adapter_column: str, prefix: str) -> Self:
        """The names beside the columns of an input. The column `adapter` of an input that names the
        adapter of each row says in the output which adapter answered.

        Args:
            columns: The columns of the input.
            adapter_column: The one with the adapter of each row.
            prefix: As above.
        """
        shared = {"adapter"} if adapter_column == "adapter" and not prefix else set()
        return cls(set(columns) - shared, prefix)

    def row(self, prediction: Prediction) -> dict[str, Any]:
        """The row of a prediction in the output.

        Raises:
            DataError: The input has a column of that name.
        """
        own: dict[str, Any] = {}
        if isinstance(prediction.row, RequestRow):
            own["adapter"] = prediction.row.adapter
        if prediction.answer is not None and prediction.summary is not None:
            own["prediction"] = prediction.summary.text
            own |= prediction.answer
        if prediction.explanation is not None:
            own["explanation"] = prediction.explanation.plain()
        if prediction.error is not None:
            own["error"] = str(prediction.error)
        for key in own:
            if key not in self.names:
                self.names[key] = self._name(key)
        named = {self.names[key]: value for key, value in own.items()}
        return {**self._kept(prediction.row), **named}

    def _kept(self, row: RowOrFault) -> Mapping[str, Any]:
        """The columns of the input, and what was asked if it stands in no column of that name."""
        if isinstance(row, FaultyRow):
            return row.columns
        asked = request_columns(row.text)
        return {**row.columns, **{key: asked[key] for key in asked if key not in self.taken}}

    def _name(self, key: str) -> str:
        name = self.prefix + key
        if not self.prefix and key in self.taken:
            name = CLASH + key
        if name in self.taken:
            raise DataError(
                f"the input has a column '{name}' already; give another --prefix for the answers"
            )
        return name


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
