"""Relation extraction: the relation between two marked entities of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backbone.encoded_text import EncodedText
from ..backbone.tokenizer import TextEncoder
from ..errors import DataError
from .columns import Column
from .fields import FieldKind, Fields
from .single_label import SingleLabelTask
from .types import Example, Part, Row, Text

MARKS = ("@", "#")
"""Markers around head and tail: punctuation in every vocabulary (Zhou and Chen 2021)."""


@dataclass(frozen=True)
class Relation(SingleLabelTask):
    """One directed label for a head and a tail entity, which are marked in the text."""

    type: ClassVar[str] = "relation"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(FieldKind.TEXT, "the text"),
        "head": Column(
            FieldKind.SPAN, "the relation's head, {start, end} in characters of the text"
        ),
        "tail": Column(
            FieldKind.SPAN, "the relation's tail, {start, end} in characters of the text"
        ),
        "label": SingleLabelTask.columns["label"],
    }
    augmentable: ClassVar[tuple[str, ...]] = ()

    def fields(self, request: Text, where: str) -> Fields:
        fields = super().fields(request, where)
        _check_spans(fields, where)
        return fields

    def example_request(self, columns: Mapping[str, Column]) -> Fields:
        head, tail = {"start": 0, "end": 5}, {"start": 11, "end": 15}
        return {"text": "Alice pays Acme", "head": head, "tail": tail}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        read = reader.encode([marked(row) for row in rows])
        return [self.example(*pair, limit) for pair in zip(rows, read, strict=True)]

    def example(self, row: Fields, encoding: EncodedText, limit: int) -> Example:
        """As in `PooledText`; the notes are, for each sequence, the indices of the marks."""
        origins = _origins(row)
        marks = {
            index
            for index, (start, end) in enumerate(encoding.offsets)
            if start < end and origins[start:end] == [None] * (end - start)
        }
        inputs = super().example(row, encoding, limit).inputs
        notes = [[n for n, index in enumerate(one.indices) if index in marks] for one in inputs]
        return Example(inputs, notes)

    def protected_tokens(self, example: Example, target: Any) -> list[list[int]]:
        """The marks."""
        notes: list[list[int]] = example.notes
        return notes

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        origins = _origins(row)

        def at(word: int, start: int, end: int) -> tuple[int, int] | None:
            own = [position for position in origins[start:end] if position is not None]
            return (own[0], own[-1] + 1) if own else None

        return [(Part("text", row["text"], at),)]

    def target(self, row: Row, example: Example) -> int:
        _check_spans(row.fields, row.where)
        return super().target(row, example)


def _check_spans(fields: Fields, where: str) -> None:
    for role in ("head", "tail"):
        if fields[role][1] > len(fields["text"]):
            raise DataError(
                f"{where}: {role} ends at character {fields[role][1]}, "
                f"the text has {len(fields['text'])}"
            )


def marked(row: Fields) -> str:
    """The text with a mark before and after head and tail."""
    text = str(row["text"])
    for position, mark in _marks(row):
        text = text[:position] + mark + text[position:]
    return text


def _origins(row: Fields) -> list[int | None]:
    """For each character of the marked text its position in the row's text; None in a mark."""
    origins: list[int | None] = list(range(len(row["text"])))
    for position, mark in _marks(row):
        origins[position:position] = [None] * len(mark)
    return origins


def _marks(row: Fields) -> list[tuple[int, str]]:
    """Position and text of the marks, the last first, so that inserting one moves no other."""
    marks = []
    for order, (role, mark) in enumerate(zip(("head", "tail"), MARKS, strict=True)):
        start, end = row[role]
        # At one position the mark that closes an entity comes before one that opens another.
        marks += [(start, 1, order, f" {mark} "), (end, 0, order, f" {mark} ")]
    return [(position, mark) for position, _, _, mark in sorted(marks, reverse=True)]
