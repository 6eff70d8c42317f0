"""Masked language modelling: hidden tokens of plain texts, to adapt to the language of a domain."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..backbone.lm_head import DENSE, NORM, LMHead
from ..backbone.packing import Packed, Pooling, TokenSequence
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import AdapterkitError, DataError, RecipeError
from ..metrics.base import Predictions, check_metrics
from .base import Task
from .columns import Column
from .fields import TEXT, Fields
from .types import Answer, AnswerSummary, Example, HeadInput, Outputs, Row, Score, Tensors

TOP = 5
MASKED, REPLACED = 0.8, 0.1
"""Shares of the hidden tokens that are masked and that are replaced; the rest stays."""


@dataclass(frozen=True)
class Cloze:
    """What hiding tokens of one row, and naming guesses, needs.

    Attributes:
        reader: The backbone's tokenizer.
        words: For each sequence, the word each token is of; None for what cannot be hidden.
    """

    reader: TextEncoder
    words: tuple[tuple[int | None, ...], ...]


@dataclass(frozen=True)
class MaskedLanguageModelling(Task):
    """The tokens of plain texts that were hidden (Devlin et al. 2019).

    Of the tokens chosen in a text 80% are masked, 10% replaced by any token and 10% left as they
    are; every epoch chooses anew, evaluation always the same. Long texts are cut into several.

    Attributes:
        share: Share of a text's tokens that are chosen; at least one is.
        whole_words: Choose whole words and not pieces of them; a Chinese character is a word.
        transform: The head's dense layer and norm before the word embeddings: the checkpoint's
            own, frozen, or fresh and trained; the checkpoint's where it has them, where left out.
        extra_metrics: Metrics to tell besides accuracy and perplexity.
        max_length: Most tokens of a sequence; as many as the backbone takes where left out.
    """

    type: ClassVar[str] = "masked_language_modelling"
    columns: ClassVar[Mapping[str, Column]] = {"text": Column(TEXT, "the text")}
    augmentable: ClassVar[tuple[str, ...]] = ("text",)
    masks_tokens: ClassVar[bool] = True
    metric_kind: ClassVar[str] = "tokens"
    main_metric: ClassVar[str] = "accuracy"
    tensor_keys: ClassVar[tuple[str, ...]] = ("score",)

    share: float = 0.15
    whole_words: bool = False
    transform: Literal["checkpoint", "fresh"] | None = None
    max_length: int | None = None
    extra_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_metrics((self.metric_kind,), self.extra_metrics)
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share: expected more than 0 and less than 1, got {self.share}")

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        return self

    def bind_backbone(self, lm_head: LMHead | None) -> Self:
        if lm_head is None:
            raise RecipeError(
                "task.type: masked_language_modelling needs word embeddings as wide as the hidden "
                "states, which this backbone does not have; use another backbone"
            )
        if self.transform == "checkpoint" and not lm_head.tensors:
            raise RecipeError(
                "task.transform: the backbone's checkpoint has no head for masked language "
                "modelling; use fresh"
            )
        return replace(self, transform=self.transform or _transform(lm_head))

    @property
    def ensemble_error(self) -> str | None:
        return (
            f"task '{self.type}' keeps the best guesses among all tokens, not every token's score, "
            "and guesses have no mean; train a single adapter"
        )

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, type(self)) and other.transform == self.transform

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        if self.transform is None:
            raise ValueError("the task was not fitted: transform is open")
        if self.transform == "checkpoint":
            return {}
        vectors = (f"{DENSE}.bias", f"{NORM}.weight", f"{NORM}.bias")
        return {f"{DENSE}.weight": (hidden, hidden), **dict.fromkeys(vectors, (hidden,))}

    def fresh_head(self, hidden: int, generator: torch.Generator) -> Tensors:
        """As BERT begins, the norm being the identity."""
        head = super().fresh_head(hidden, generator)
        return {k: torch.ones_like(v) if k == f"{NORM}.weight" else v for k, v in head.items()}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        """Rows as they are; a mask that stands in the text is a blank nobody knows the token of."""
        found = []
        for encoding in reader.encode([row["text"] for row in rows]):
            sequences, words = [], []
            for inputs in truncate(encoding, limit, "windows"):
                blanks = [
                    (place, -1) for place, i in enumerate(inputs.input_ids) if i == reader.mask
                ]
                sequences.append(replace(inputs, masked=tuple(blanks)))
                of = [encoding.word_ids[place] for place in inputs.kept or range(len(inputs))]
                for place, _ in blanks:
                    of[place] = None
                words.append(tuple(of))
            found.append(Example(tuple(sequences), Cloze(reader, tuple(words))))
        return found

    def masked_for(self, example: Example, seed: str) -> Example:
        """The row with tokens hidden."""
        cloze, draws = example.notes, random.Random(seed)
        hidden = (
            self._hidden(inputs, words, cloze.reader, draws)
            for inputs, words in zip(example.inputs, cloze.words, strict=True)
        )
        return replace(example, inputs=tuple(hidden))

    def _hidden(
        self,
        inputs: TokenSequence,
        words: Sequence[int | None],
        reader: TextEncoder,
        draws: random.Random,
    ) -> TokenSequence:
        places = [place for place, word in enumerate(words) if word is not None]
        units = [
            list(unit)
            for _, unit in groupby(places, key=words.__getitem__ if self.whole_words else None)
        ]
        draws.shuffle(units)
        wanted, chosen = max(1, round(self.share * len(places))), list[int]()
        for unit in units:
            if not chosen or len(chosen) + len(unit) <= wanted:
                chosen += unit
        ids = list(inputs.input_ids)
        for place in sorted(chosen):
            draw = draws.random()
            if draw < MASKED:
                ids[place] = reader.mask
            elif draw < MASKED + REPLACED:
                ids[place] = draws.randrange(reader.n_tokens)
        blanks = tuple((place, inputs.input_ids[place]) for place in sorted(chosen))
        return replace(inputs, input_ids=ids, masked=blanks)

    def target(self, row: Row, example: Example) -> None:
        """The text is its own target: `masked_for` hides tokens of it."""

    def counts(self, packed: Packed, span: tuple[int, int]) -> tuple[int, ...]:
        return tuple(len(blanks) for blanks in packed.masked[slice(*span)])

    def logits(self, inputs: HeadInput) -> Tensor:
        """A line for each blank, as `LMHead.guesses` gives it: the vocabulary's scores do not
        outlive it."""
        packed, lm_head = inputs.encoded.packed, inputs.encoded.lm_head
        if lm_head is None:
            raise ValueError("the backbone has no word embeddings that fit")
        blanks = [
            (packed.offsets[number] + place, token)
            for number in range(*inputs.span)
            for place, token in packed.masked[number]
        ]
        at, goal = torch.tensor(blanks, dtype=torch.long, device=packed.device).view(-1, 2).T
        states = inputs.encoded.tokens.index_select(0, at).float()
        return lm_head.guesses(states, inputs.head, goal, TOP)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy averaged over a row's hidden tokens, `[n]`."""
        parts = outputs.lines[:, 0].float().split([sum(row) for row in outputs.counts])
        return torch.stack([-part.sum() / max(1, len(part)) for part in parts])

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"answer", "score", "fills"}`: fills as transformers' fill-mask pipeline gives them,
        `{score, token, token_str, sequence}` from the best down; a list for each where there are
        several masks.

        Raises:
            DataError: A text has no mask.
        """
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            fills = _fills(row, example)
            best = [some[0] for some in fills]
            found.append(
                {
                    "answer": ", ".join(fill["token_str"] for fill in best),
                    "score": sum(fill["score"] for fill in best) / len(best),
                    "fills": fills[0] if len(fills) == 1 else fills,
                }
            )
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["answer"], answer["score"])

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        raise AdapterkitError(
            f"task '{self.type}' answers with guesses among all tokens, of which no single score "
            "is kept; there is nothing to explain"
        )

    def to_hf_pipeline(self, answer: Answer) -> Any:
        return answer["fills"]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """For each hidden token of a row the guess, and the right one with its surprise."""
        said, goal = [], []
        for row, example in zip(outputs.rows(), examples, strict=True):
            guesses = torch.cat(list(row)).double()[:, [1 + TOP, 0]].tolist()
            said.append([{"token": int(token), "surprise": -logp} for token, logp in guesses])
            blanks = [blank for inputs in example.inputs for blank in inputs.masked]
            goal.append([{"token": token} for _, token in blanks])
        return Predictions(said, goal)


def _transform(lm_head: LMHead) -> Literal["checkpoint", "fresh"]:
    return "checkpoint" if lm_head.tensors else "fresh"


def _fills(row: Sequence[Tensor], example: Example) -> list[list[dict[str, Any]]]:
    """The best guesses for each mask of a row."""
    reader: TextEncoder = example.notes.reader
    n_blanks = sum(len(lines) for lines in row)
    if n_blanks == 0:
        text = reader.decode(example.inputs[0].input_ids, skip_special_tokens=True)
        raise DataError(f"there is no {reader.mask_token} to fill in '{text:.60}'")
    found = []
    for inputs, lines in zip(example.inputs, row, strict=True):
        for (place, _), line in zip(inputs.masked, lines, strict=True):
            fills = []
            for score, token in zip(line[1 : 1 + TOP].exp().tolist(), line[1 + TOP :], strict=True):
                ids = [*inputs.input_ids[:place], int(token), *inputs.input_ids[place + 1 :]]
                fills.append(
                    {
                        "score": score,
                        "token": int(token),
                        "token_str": reader.decode([int(token)]),
                        "sequence": reader.decode(ids, skip_special_tokens=n_blanks == 1),
                    }
                )
            found.append(fills)
    return found
