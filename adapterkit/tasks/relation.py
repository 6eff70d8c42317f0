"""Relation extraction: how two marked entities of a text stand to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import DataError
from ..fields import Fields
from ..one_label import OneLabelTask
from ..task import Example, Text
from ..tokens import Reader

MARKS = ("@", "#")
"""Around head and tail: punctuation every vocabulary knows (Zhou and Chen 2021)."""


@dataclass(frozen=True)
class Relation(OneLabelTask):
    """One directed label for a head and a tail entity, each marked in the text."""

    type: ClassVar[str] = "relation"
    reads: ClassVar[Mapping[str, str]] = {"text": "text", "head": "span", "tail": "span"}
    may_read: ClassVar[Mapping[str, str]] = {}

    def fields(self, asked: Text, where: str) -> Fields:
        fields = super().fields(asked, where)
        for role in ("head", "tail"):
            if fields[role][1] > len(fields["text"]):
                raise DataError(
                    f"{where}: {role} ends at character {fields[role][1]}, "
                    f"the text has {len(fields['text'])}"
                )
        return fields

    def examples(self, rows: Sequence[Fields], reader: Reader, limit: int) -> list[Example]:
        return super().examples([{"text": marked(row)} for row in rows], reader, limit)


def marked(row: Fields) -> str:
    """The text with a mark on either side of head and tail."""
    cuts = []
    for order, (role, mark) in enumerate(zip(("head", "tail"), MARKS, strict=True)):
        start, end = row[role]
        # At one place an entity that ends is closed before one that begins is opened.
        cuts += [(start, 1, order, f" {mark} "), (end, 0, order, f" {mark} ")]
    text = str(row["text"])
    for place, _, _, mark in sorted(cuts, reverse=True):
        text = text[:place] + mark + text[place:]
    return text
