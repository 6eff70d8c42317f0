"""Words and their synonyms, from a table the user gives, and texts in which they are exchanged."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from ..cjk import UNSPACED
from ..errors import DataError
from ..tasks.columns import SourceColumn
from ..tasks.fields import TEXT
from .dataset import read_fields
from .readers import Tell, read_records, stop

COLUMNS = {role: SourceColumn(role, TEXT) for role in ("word", "synonym")}

UNIT = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[\w\u0300-\u036f])+|[^\w\s]")
"""Where a word of the table may begin and end: at one of these characters, at a run of other
letters and digits, at a sign."""


class Synonyms:
    """A table of words, each with one or several synonyms; case does not matter.

    Args:
        pairs: Word and synonym; a word may be several, and may come again with another synonym.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._table: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for word, synonym in pairs:
            self._table[_folded(word.strip())].append((word.strip(), synonym.strip()))
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for word in self._table:
            lengths[UNIT.findall(word)[0]].add(len(word))
        self._lengths = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}

    def __len__(self) -> int:
        return len(self._table)

    @classmethod
    def read(cls, path: Path, tell: Tell = stop) -> Self:
        """The table of a file with the columns `word` and `synonym`.

        Args:
            path: CSV, TSV, JSONL or Parquet.
            tell: Told of a missing or empty file, and of every row that is not sound.
        """
        pairs = []
        for where, record in read_records(path, tell):
            try:
                fields = read_fields(record, COLUMNS, where)
            except DataError as fault:
                tell(fault)
            else:
                pairs.append((fields["word"], fields["synonym"]))
        return cls(pairs)

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """First and past-the-last character of each word that is in the table, from left to right,
        the longest where several begin at one place."""
        folded = _folded(text)
        spans = [match.span() for match in UNIT.finditer(folded)]
        ends = {end for _, end in spans}
        done = 0
        for start, end in spans:
            if start < done:
                continue
            for length in self._lengths.get(folded[start:end], ()):
                done = start + length
                if done in ends and folded[start:done] in self._table:
                    yield start, done
                    break
                done = 0

    def reworded(self, text: str, share: float, seed: str) -> str:
        """The text with some of its words exchanged.

        Args:
            text: The text.
            share: Chance of each word that is in the table.
            seed: Of what is drawn.
        """
        found = list(self.places(text))
        if not found:
            return text
        draws, parts, done = random.Random(seed), list[str](), 0
        for start, end in found:
            if draws.random() < share:
                word, synonym = draws.choice(self._table[_folded(text[start:end])])
                parts += [text[done:start], _written_as(text[start:end], word, synonym)]
                done = end
        return "".join([*parts, text[done:]])


def _folded(text: str) -> str:
    """The text in small letters, each character where it was."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def _written_as(found: str, word: str, synonym: str) -> str:
    """A synonym with the capitals that the text has and the table's word has not."""
    if found == word:
        return synonym
    if len(found) > 1 and found.isupper():
        return synonym.upper()
    return synonym[:1].upper() + synonym[1:] if found[:1].isupper() else synonym
