"""A table of synonyms, and texts in which words are replaced by synonyms."""

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
from ..tasks.fields import FieldKind
from .dataset import read_fields
from .readers import Tell, read_records, stop

COLUMNS = {role: SourceColumn(role, FieldKind.TEXT) for role in ("word", "synonym")}

UNIT = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[\w\u0300-\u036f])+|[^\w\s]")
"""Units of a text, at whose ends a word of the table may begin and end: a character of a script
without spaces, a run of other letters and digits, or a sign."""


class Synonyms:
    """A table of words, each with one or several synonyms; case is ignored.

    Args:
        pairs: Word and synonym. An entry may consist of several words, and may be repeated with
            another synonym.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._table: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for word, synonym in pairs:
            self._table[_lowered(word.strip())].append((word.strip(), synonym.strip()))
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for word in self._table:
            lengths[UNIT.findall(word)[0]].add(len(word))
        self._lengths = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}

    def __len__(self) -> int:
        return len(self._table)

    @classmethod
    def read(cls, path: Path, tell: Tell = stop) -> Self:
        """Reads a file with the columns `word` and `synonym`.

        Args:
            path: CSV, TSV, JSONL, JSON or Parquet.
            tell: Called if the file is missing or empty, and for each row that is not valid.
        """
        pairs = []
        for where, record in read_records(path, tell):
            try:
                fields = read_fields(record, COLUMNS, where)
            except DataError as error:
                tell(error)
            else:
                pairs.append((fields["word"], fields["synonym"]))
        return cls(pairs)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """First and past-the-last character of each word of the table, from left to right; of
        several that begin at one position the longest."""
        lowered = _lowered(text)
        units = [match.span() for match in UNIT.finditer(lowered)]
        ends = {end for _, end in units}
        done = 0
        for start, end in units:
            if start < done:
                continue
            for length in self._lengths.get(lowered[start:end], ()):
                done = start + length
                if done in ends and lowered[start:done] in self._table:
                    yield start, done
                    break
                done = 0

    def reworded(self, text: str, share: float, seed: str) -> str:
        """Returns the text with some of its words replaced by synonyms.

        Args:
            text: The text.
            share: Probability that a word of the table is replaced.
            seed: Seed of the choice.
        """
        found = list(self.spans(text))
        if not found:
            return text
        generator, parts, done = random.Random(seed), list[str](), 0
        for start, end in found:
            if generator.random() < share:
                word, synonym = generator.choice(self._table[_lowered(text[start:end])])
                parts += [text[done:start], _with_case(text[start:end], word, synonym)]
                done = end
        return "".join([*parts, text[done:]])


def _lowered(text: str) -> str:
    """The text in lower case, with every character at its position."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def _with_case(found: str, word: str, synonym: str) -> str:
    """A synonym with the capitals of the word in the text, if they differ from the table's word."""
    if found == word:
        return synonym
    if len(found) > 1 and found.isupper():
        return synonym.upper()
    return synonym[:1].upper() + synonym[1:] if found[:1].isupper() else synonym
