"""The columns that a task declares: what a row holds, and what of it is only needed to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .fields import FieldKind


@dataclass(frozen=True)
class Column:
    """One column of a task's rows; its role is its key in `Task.columns`.

    Attributes:
        kind: What its values are, and their check.
        doc: Meaning, as `adapterkit train --keys` prints it.
        required: Whether every row must have it. An optional column of a file is read only if the
            recipe names it.
        learned: Whether it is only needed to learn from a row, as a label is.
        also_input: Whether a learned column may be given with a request as well, such as the
            second text of two that are compared.
        name: Name of the column in a file, if the recipe does not name it; the role if omitted.
    """

    kind: FieldKind
    doc: str
    required: bool = True
    learned: bool = False
    also_input: bool = False
    name: str | None = None

    def default_name(self, role: str) -> str | None:
        """Name of the column in a file, if the recipe does not name it; None: it is not read."""
        return (self.name or role) if self.required else None


class SourceColumn(NamedTuple):
    """A column of a file: its name there, and the kind of its values."""

    name: str
    kind: FieldKind


Columns = Mapping[str, Column]
"""Columns by role."""


def input_columns(columns: Columns) -> dict[str, Column]:
    """What a request may hold, in the order in which texts are given: required columns first."""
    optional = {
        role: column
        for role, column in columns.items()
        if (column.also_input if column.learned else not column.required)
    }
    return required_columns(columns) | optional


def required_columns(columns: Columns) -> dict[str, Column]:
    """What a request must hold."""
    return {
        role: column for role, column in columns.items() if column.required and not column.learned
    }


def target_columns(columns: Columns) -> dict[str, Column]:
    """What a row must have besides to be learned from: the right answer."""
    return {role: column for role, column in columns.items() if column.required and column.learned}


def source_columns(columns: Columns, names: Mapping[str, str | None]) -> dict[str, SourceColumn]:
    """What is read of a file with labelled rows.

    Args:
        columns: A task's columns.
        names: Role to the name of its column in the file; other roles have their default.

    Returns:
        By role, every column that is required or named.
    """
    named = {role: names.get(role) or column.default_name(role) for role, column in columns.items()}
    return {role: SourceColumn(name, columns[role].kind) for role, name in named.items() if name}
