"""Augmentation: training rows that differ a little in every epoch, against overfitting."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..data.readers import Tell, stop
from ..data.synonyms import Synonyms
from ..errors import DataError
from ..inference.labelled import Split, prepare_rows
from ..schema import check_share
from ..tasks.fields import Fields
from ..tasks.types import Example, Row

REPLACED = 0.2
"""Share of words that are replaced if the recipe names a table and no share."""

Augment = Callable[[dict[str, Any], random.Random], Mapping[str, Any]]
"""From the values of a training row by role, and a random generator, to new values for the same
roles; changed values have the form that they have in a file. The result must depend on these two
alone, because every process calls it for itself."""


@dataclass(frozen=True)
class Augmentation:
    """How training rows are varied; validation and test rows never are.

    Attributes:
        token_dropout: Share of a text's tokens that a mask replaces, others in every epoch; never
            a special token, an answer of question_answering or a mark of relation, and never a
            whole text.
        synonyms: A CSV, TSV or JSONL file with the columns word and synonym, a word perhaps in
            several rows; not for tasks whose answers are places in a text.
        replace: Share of the words with a synonym that give way to one, others in every epoch; 0.2
            if omitted.
    """

    token_dropout: float = 0.0
    synonyms: str | None = None
    replace: float | None = None

    def __post_init__(self) -> None:
        check_share(self, "token_dropout")
        if self.replace is not None and not 0.0 <= self.replace <= 1.0:
            raise ValueError(f"replace: expected a share from 0 to 1, got {self.replace}")
        if self.replace is not None and self.synonyms is None:
            raise ValueError("replace: goes with synonyms, and there are none; name a file of them")

    def load(self, folder: Path, tell: Tell = stop) -> Synonyms | None:
        """The table of synonyms, where there is one.

        Args:
            folder: What a relative path starts from.
            tell: Told of every fault of the file.

        Raises:
            DataError: The file is missing, empty or not sound.
        """
        if self.synonyms is None:
            return None

        def named(fault: DataError) -> None:
            tell(DataError(f"augmentation.synonyms: {fault}"))

        return Synonyms.read(folder / self.synonyms, named)


class Augmented:
    """Training rows as every epoch draws them anew.

    The draws depend on the seed, the epoch and the row alone, and not on how a batch is cut or on
    what else is trained. Synonyms depend on the text instead of the row, so that equal texts stay
    equal if a task compares them with each other.

    Args:
        rows: The rows.
        split: The same rows with tokens and targets, in the same order.
        settings: The recipe's section.
        synonyms: The table it names.
        augment: The user's own function, applied after the synonyms.
        backbone: Its tokenizer encodes changed rows.
        adapter: Its task and its limit of tokens apply to them.

    Raises:
        BackboneError: `token_dropout` is set and the tokenizer has no mask token.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        split: Split,
        settings: Augmentation,
        synonyms: Synonyms | None,
        augment: Augment | None,
        backbone: Backbone,
        adapter: Adapter,
    ) -> None:
        self._rows, self._split = rows, split
        self._settings, self._synonyms, self._augment = settings, synonyms, augment
        self._backbone, self._adapter = backbone, adapter
        self._mask = backbone.reader.mask if settings.token_dropout else -1

    @property
    def own(self) -> str | None:
        """Name of the user's own function; None if there is none."""
        name = getattr(self._augment, "__qualname__", type(self._augment).__qualname__)
        return None if self._augment is None else name

    def __call__(self, numbers: Sequence[int], epoch: int, seed: int) -> Split:
        """Some of the rows in an epoch.

        Args:
            numbers: Indices of the rows.
            epoch: The epoch.
            seed: Seed of the draws.

        Raises:
            DataError: The user's own function returned values that do not fit the row.
        """
        drawn = self._split.select(numbers)
        rows = {at: self._row(number, f"{seed} {epoch}") for at, number in enumerate(numbers)}
        changed = {at: row for at, row in rows.items() if row is not self._rows[numbers[at]]}
        if changed:
            again = prepare_rows(self._backbone, self._adapter, list(changed.values()))
            for at, example, target in zip(changed, again.examples, again.targets, strict=True):
                drawn.examples[at], drawn.targets[at] = example, target
        if self._settings.token_dropout:
            for at, number in enumerate(numbers):
                draws = random.Random(f"{seed} {epoch} {number} tokens")
                drawn.examples[at] = self._hidden(drawn, at, draws)
        return drawn

    def _row(self, number: int, seed: str) -> Row:
        """A row with other words; the same object if no word was replaced."""
        row, task = self._rows[number], self._adapter.task
        fields = row.fields
        if self._synonyms is not None:
            fields = task.reworded(fields, self._reword(self._synonyms, seed))
        if self._augment is not None:
            fields = self._own(row.where, fields, random.Random(f"{seed} {number} own"))
        return row if fields == row.fields else replace(row, fields=fields)

    def _reword(self, synonyms: Synonyms, seed: str) -> Callable[[str, str], str]:
        share = REPLACED if self._settings.replace is None else self._settings.replace

        def reword(text: str, at: str) -> str:
            return synonyms.reworded(text, share, f"{seed} {at} {text}")

        return reword

    def _own(self, where: str, fields: Fields, draws: random.Random) -> Fields:
        """The checked result of the user's own function for a row."""
        columns = self._adapter.task.columns
        given: Any = self._augment(dict(fields), draws) if self._augment is not None else fields
        if not isinstance(given, Mapping) or set(given) != set(fields):
            raise DataError(
                f"{where}: augment must give {', '.join(fields)} back, got {given!r:.80}"
            )
        return {
            role: value
            if value == fields[role]
            else columns[role].kind.check(value, f"{where}: {role} from augment")
            for role, value in given.items()
        }

    def _hidden(self, split: Split, at: int, draws: random.Random) -> Example:
        example, task = split.examples[at], self._adapter.task
        seen = task.protected_tokens(example, split.targets[at])
        special = self._backbone.reader.special
        inputs = (
            hidden(one, self._settings.token_dropout, self._mask, special, bare, draws)
            for one, bare in zip(example.inputs, seen, strict=True)
        )
        return replace(example, inputs=tuple(inputs))


def hidden(
    inputs: TokenSequence,
    share: float,
    mask: int,
    special: Collection[int],
    seen: Collection[int],
    draws: random.Random,
) -> TokenSequence:
    """A sequence with a mask in place of some tokens; of every text in it at least one stays.

    Args:
        inputs: The sequence.
        share: Chance of each token.
        mask: Id of the mask token.
        special: Ids that are part of no text; they separate the texts.
        seen: Places that stay.
        draws: The random generator.
    """
    ids = list(inputs.input_ids)
    for apart, text in groupby(
        range(len(ids)), key=lambda index: inputs.input_ids[index] in special
    ):
        positions = list(text)
        chosen = [p for p in positions if not apart and p not in seen and draws.random() < share]
        if chosen and len(chosen) == len(positions):
            chosen.remove(draws.choice(chosen))
        for index in chosen:
            ids[index] = mask
    return replace(inputs, input_ids=ids)
