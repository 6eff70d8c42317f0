"""The columns that a task declares: what a row holds, and what of it is only needed to learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError, did_you_mean
from ..schema import convert
from .fields import FieldKind, Fields

if TYPE_CHECKING:
    from .types import Text

ColumnName = str | tuple[str, ...]
"""Name of a column in a file, or of several that are read as one value."""


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
        as_in_training: Whether a request must have an optional column if the training rows had it,
            and must not have it if they did not.
        name: Name of the column in a file, if the recipe does not name it; the role if omitted.
    """

    kind: FieldKind
    doc: str
    required: bool = True
    learned: bool = False
    also_input: bool = False
    as_in_training: bool = False
    name: str | None = None

    def default_name(self, role: str) -> str | None:
        """Name of the column in a file, if the recipe does not name it; None: it is not read."""
        return (self.name or role) if self.required else None


class SourceColumn(NamedTuple):
    """A column of a file, or several that are read as one value.

    Attributes:
        name: Its name there, or their names.
        kind: What its values are.
    """

    name: ColumnName
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


def request_fields(columns: Columns, request: Text, where: str) -> Fields:
    """Checks a request and returns its values by role.

    Args:
        columns: A task's columns.
        request: A text, several texts in the order of `input_columns`, or values by role.
        where: Name of the request in messages, such as file and row.

    Raises:
        DataError: A value is missing, empty or of another kind.
    """
    values = request if isinstance(request, Mapping) else _by_role(columns, request, where)
    for role in required_columns(columns):
        if role not in values:
            raise DataError(f"{where}: there is no {role}")
    return {
        role: column.kind.check(values[role], f"{where}: {role}")
        for role, column in input_columns(columns).items()
        if role in values
    }


def _by_role(columns: Columns, request: str | Sequence[Any], where: str) -> Fields:
    """The texts of a request that gives no roles, by role.

    Raises:
        DataError: There are too few or too many, or it holds something else.
    """
    texts = [request] if isinstance(request, str) else request
    roles, required = list(input_columns(columns)), list(required_columns(columns))
    n_texts = len(texts) if isinstance(texts, (list, tuple)) else 0
    if not len(required) <= n_texts <= len(roles):
        optional = roles[len(required) :]
        raise DataError(
            f"{where}: expected {' and '.join(required)}"
            + (f", and perhaps {' and '.join(optional)}" if optional else "")
            + f", got {request!r:.80}"
        )
    return dict(zip(roles, texts, strict=False))


def source_columns(
    columns: Columns, names: Mapping[str, ColumnName | None]
) -> dict[str, SourceColumn]:
    """What is read of a file with labelled rows.

    Args:
        columns: A task's columns.
        names: Role to the name of its column in the file; other roles have their default.

    Returns:
        By role, every column that is required or named.

    Raises:
        DataError: Several columns are named for a role that is read from one.
    """
    for role, name in names.items():
        if isinstance(name, tuple) and role in columns and not columns[role].kind.several_columns:
            raise DataError(f"data.{role}: expected one column, got {list(name)}")
    named = {role: names.get(role) or column.default_name(role) for role, column in columns.items()}
    return {role: SourceColumn(name, columns[role].kind) for role, name in named.items() if name}


def column_names(section: Mapping[str, Any], roles: Iterable[str]) -> dict[str, ColumnName]:
    """Names of columns by role in the section `data` of a recipe or of a card.

    Args:
        section: Plain values: `columns: {text: message}`, or `text: message`. A list of names is
            several columns.
        roles: Roles that may be named.

    Raises:
        ValueError: A role is unknown, named twice or has no text for a name.
    """
    roles = set(roles)
    inner = section.get("columns", {})
    if not isinstance(inner, Mapping):
        raise ValueError(f"data.columns: expected roles and columns, got {inner!r}")
    for role in inner:
        if role not in roles:
            raise ValueError(
                f"data.columns.{role}: there is no such role; {did_you_mean(str(role), roles)}"
            )
    names: dict[str, ColumnName] = {}
    for path, given in (("data", section), ("data.columns", inner)):
        for role in (key for key in given if key in roles):
            if role in names:
                raise ValueError(f"{path}.{role}: data.{role} names this column too")
            if given[role] is not None:  # a recipe that is written out has null for "not named"
                names[role] = _column_name(given[role], f"{path}.{role}")
    return names


def _column_name(value: Any, path: str) -> ColumnName:
    if not isinstance(value, (list, tuple)):
        name: str = convert(str, value, path)
        return name
    names: tuple[str, ...] = convert(tuple[str, ...], value, path)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected names of columns, none twice, got {list(names)}")
    return names
