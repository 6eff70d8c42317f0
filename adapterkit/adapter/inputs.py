"""What a request must and may hold, for the rows that an adapter was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import DataError
from ..tasks.base import Task
from ..tasks.columns import Column, column_names, input_columns, required_columns
from ..tasks.fields import Fields


@dataclass(frozen=True)
class Inputs:
    """The columns of a request, by role.

    A column that is `as_in_training`, such as the second text of a pair, is required if the
    training rows had it, and is not read if they did not.

    Attributes:
        required: Columns that a request must hold.
        optional: Columns that it may hold besides.
    """

    required: Mapping[str, Column]
    optional: Mapping[str, Column]

    @classmethod
    def of(cls, task: Task | type[Task], training: Mapping[str, Any]) -> Self:
        """The inputs of an adapter.

        Args:
            task: Its task.
            training: Record of its training. Without a recipe, as in a folder of PEFT, it does not
                say what the rows had, and every optional column may be given.
        """
        required = required_columns(task.columns)
        optional = {
            role: column
            for role, column in input_columns(task.columns).items()
            if role not in required
        }
        recipe = training.get("recipe")
        if not isinstance(recipe, Mapping):
            return cls(required, optional)
        named = column_names(recipe.get("data", {}), task.columns)
        bound = {role: column for role, column in optional.items() if column.as_in_training}
        return cls(
            required | {role: column for role, column in bound.items() if role in named},
            {role: column for role, column in optional.items() if role not in bound},
        )

    def check(self, fields: Fields, task: Task | type[Task], where: str, name: str) -> None:
        """Checks that a request holds what the adapter was trained on.

        Args:
            fields: Values by role, as the task checked them.
            task: The task.
            where: Name of the request in messages.
            name: Name of the adapter.

        Raises:
            DataError: A column is missing, or was not in the training rows.
        """
        trained = " and ".join(self.required)
        for role in self.required:
            if role not in fields:
                raise DataError(f"{where}: there is no {role}; '{name}' was trained on {trained}")
        for role in input_columns(task.columns):
            if role in fields and role not in self.required and role not in self.optional:
                raise DataError(
                    f"{where}: '{name}' was trained on {trained} alone and does not read {role}; "
                    'give each text as a row of its own: [["a"], ["b"]]'
                )
