"""Files of answers that `predict` has written, counted for the command `drift`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..adapter.card import read_card
from ..adapter.references import find_folder
from ..adapter.store import Store
from ..data.readers import read_records
from ..errors import AdapterkitError, DataError
from ..schema import build_kind
from ..tasks.answer_distribution import AnswerDistribution
from ..tasks.base import tasks
from ..tasks.types import Decision
from .prediction_rows import CLASH


class AnswerFiles:
    """Reads answers of one adapter.

    Args:
        reference: The adapter, as commands take it.
        store: The store.
        prefix: The prefix of the columns of answers.

    Attributes:
        trained: The distribution in its card; None if there is none.

    Raises:
        AdapterkitError: There is no such adapter, or its answers cannot be counted.
    """

    def __init__(self, reference: str, store: Path, prefix: str = "") -> None:
        card = read_card(find_folder(reference, Store(store)))
        self.trained: Mapping[str, Any] | None = card["training"].get("answers")
        self._task = build_kind(tasks(), card["task"], "task")
        self._name = reference.partition("@")[0]
        self._names = {self._name, card.get("name"), None, ""}
        self._prefix = prefix
        if not self._task.has_decisions:
            raise AdapterkitError(
                f"{reference}: drift counts labels, entities and spans; the answers of its task "
                f"'{self._task.type}' are none of them"
            )

    def read(self, path: Path, seconds: float | None = None) -> AnswerDistribution:
        """The distribution of the answers in a file. Rows of other adapters, and rows without an
        answer, are left out.

        Args:
            path: A file that `predict` has written.
            seconds: Only rows whose `time` is not longer ago.

        Raises:
            DataError: The file is not valid, or a row has no answer of this task, or no time.
        """
        start = None if seconds is None else datetime.now(UTC) - timedelta(seconds=seconds)
        return AnswerDistribution.of(self._decisions(path, start))

    def _decisions(self, path: Path, start: datetime | None) -> Iterator[Decision]:
        for where, row in read_records(path):
            renamed = self._renamed_columns(row)
            answer = {key: _value(key, value) for key, value in {**row, **renamed}.items()}
            of_other = str(answer.get("adapter") or "").partition("@")[0] not in self._names
            # A column `error` of the input itself says nothing of the answer.
            has_none = renamed.get("error") or (
                answer.get("error") and not answer.get("prediction")
            )
            if of_other or has_none or (start and _time(row, where) < start):
                continue
            try:
                decision = self._task.decision(answer)
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{where}: expected an answer of {self._name} as `predict` writes it, with "
                    f"its labels and scores; {error} is missing or is none (give --prefix if "
                    "predict was given one)"
                ) from None
            if decision is not None:
                yield decision

    def _renamed_columns(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that `predict` has renamed, by their names in an answer."""
        before = self._prefix or CLASH
        return {key.removeprefix(before): row[key] for key in row if key.startswith(before)}


def _value(key: str, value: Any) -> Any:
    """A value of a table, in which scores are texts and nested values are JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if key == "score" or value[:1] in ("[", "{") else value
    except json.JSONDecodeError:
        return value


def _time(row: Mapping[str, Any], where: str) -> datetime:
    """The time of a row; one without a zone is in UTC.

    Raises:
        DataError: It has none.
    """
    try:
        found = datetime.fromisoformat(str(row["time"]))
    except (KeyError, ValueError):
        raise DataError(
            f"{where}: --since needs a column `time` in ISO 8601, such as 2025-03-01T12:00:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
