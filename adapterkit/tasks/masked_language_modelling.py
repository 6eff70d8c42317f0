"""Masked language modelling: predicts masked tokens of texts, to adapt to a domain's language."""

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
from ..backbone.sequence_head import SequenceHead
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import AdapterkitError, DataError, RecipeError
from ..metrics.base import Predictions, check_metrics
from ..schema import check_least
from .base import LEAST_TOKENS, Task
from .columns import Column
from .fields import FieldKind, Fields
from .types import Answer, AnswerSummary, Example, HeadInput, Outputs, Row, Score

TOP = 5
"""Number of best tokens that an answer lists for a mask."""

MAX_FILLS = 500
"""Most tokens that an answer lists for all masks of a text, since each comes with the whole text:
beyond 100 masks fewer are listed for each, and more than 500 masks are refused."""

MASKED, REPLACED = 0.8, 0.1
"""Shares of the chosen tokens that are masked and that are replaced; the rest is kept."""


@dataclass(frozen=True)
class Cloze:
    """What masking a row and naming predicted tokens needs.

    Attributes:
        reader: The backbone's tokenizer.
        words: For each sequence, the word of each token; None for tokens that cannot be masked.
    """

    reader: TextEncoder
    words: tuple[tuple[int | None, ...], ...]


@dataclass(frozen=True)
class MaskedLanguageModelling(Task):
    """Predicts the masked tokens of texts (Devlin et al. 2019).

    Of the tokens chosen in a text 80% are masked, 10% are replaced by a random token and 10% are
    kept. Every epoch chooses other tokens; evaluation always chooses the same. Long texts are cut
    into several sequences.

    Attributes:
        share: Share of a text's tokens that are chosen; at least one is.
        whole_words: Choose whole words instead of tokens; a Chinese character is a word.
        transform: The head's dense layer and norm before the word embeddings: those of the
            checkpoint, frozen, or fresh ones, trained. If omitted: checkpoint, if it has them.
        extra_metrics: Metrics besides accuracy and perplexity.
        max_length: Most tokens of a sequence. If omitted: as many as the backbone takes.
    """

    type: ClassVar[str] = "masked_language_modelling"
    transformers_model: ClassVar[str | None] = "AutoModelForMaskedLM"
    pipeline_tag: ClassVar[str | None] = "fill-mask"
    columns: ClassVar[Mapping[str, Column]] = {"text": Column(FieldKind.TEXT, "the text")}
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
        check_least(self, LEAST_TOKENS, "max_length")
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share: expected more than 0 and less than 1, got {self.share}")

    def example_request(self, columns: Mapping[str, Column]) -> Fields:
        return {"text": "a text with a [MASK] in it"}

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
            f"task '{self.type}' keeps the best tokens of the vocabulary, not the logit of every "
            "token, and those cannot be averaged; train a single adapter"
        )

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, type(self)) and other.transform == self.transform

    def transformers_head(self, head: SequenceHead | None) -> Mapping[str, str] | None:
        """The same only if the head is the checkpoint's own."""
        return {} if self.transform == "checkpoint" else None

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        if self.transform is None:
            raise ValueError("the task was not fitted: transform is open")
        if self.transform == "checkpoint":
            return {}
        vectors = (f"{DENSE}.bias", f"{NORM}.weight", f"{NORM}.bias")
        return {f"{DENSE}.weight": (hidden, hidden), **dict.fromkeys(vectors, (hidden,))}

    def fresh_head(self, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
        """As in `Task`, with the norm as the identity."""
        head = super().fresh_head(hidden, generator)
        return {k: torch.ones_like(v) if k == f"{NORM}.weight" else v for k, v in head.items()}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        """As in `Task`; a mask in the text becomes a position to predict, with target -1."""
        found, mask = [], reader.mask
        for encoding in reader.encode([row["text"] for row in rows]):
            sequences, words = [], []
            for inputs in truncate(encoding, limit, "windows"):
                masked = [(index, -1) for index, i in enumerate(inputs.input_ids) if i == mask]
                sequences.append(replace(inputs, masked=tuple(masked)))
                word_ids = [encoding.word_ids[n] for n in inputs.indices]
                for index, _ in masked:
                    word_ids[index] = None
                words.append(tuple(word_ids))
            found.append(Example(tuple(sequences), Cloze(reader, tuple(words))))
        return found

    def masked_for(self, example: Example, seed: str) -> Example:
        """The row with some tokens masked."""
        cloze, generator = example.notes, random.Random(seed)
        masked = (
            self._mask(inputs, words, cloze.reader, generator)
            for inputs, words in zip(example.inputs, cloze.words, strict=True)
        )
        return replace(example, inputs=tuple(masked))

    def _mask(
        self,
        inputs: TokenSequence,
        words: Sequence[int | None],
        reader: TextEncoder,
        generator: random.Random,
    ) -> TokenSequence:
        candidates = [index for index, word in enumerate(words) if word is not None]
        units = [
            list(unit)
            for _, unit in groupby(candidates, key=words.__getitem__ if self.whole_words else None)
        ]
        generator.shuffle(units)
        wanted, chosen = max(1, round(self.share * len(candidates))), list[int]()
        for unit in units:
            if not chosen or len(chosen) + len(unit) <= wanted:
                chosen += unit
        ids = list(inputs.input_ids)
        for index in sorted(chosen):
            number = generator.random()
            if number < MASKED:
                ids[index] = reader.mask
            elif number < MASKED + REPLACED:
                ids[index] = generator.randrange(reader.n_tokens)
        masked = tuple((index, inputs.input_ids[index]) for index in sorted(chosen))
        return replace(inputs, input_ids=ids, masked=masked)

    def target(self, row: Row, example: Example) -> None:
        """None: `masked_for` keeps the target of each masked token in the sequence."""

    def counts(self, packed: Packed, span: tuple[int, int]) -> tuple[int, ...]:
        return tuple(len(masked) for masked in packed.masked[slice(*span)])

    def logits(self, inputs: HeadInput) -> Tensor:
        """A row for each masked token, as `LMHead.top_tokens` returns it. The logits of the whole
        vocabulary would take too much memory."""
        packed, lm_head = inputs.encoded.packed, inputs.encoded.lm_head
        if lm_head is None:
            raise ValueError("the backbone has no word embeddings that fit")
        masked = [
            (packed.offsets[number] + index, token)
            for number in range(*inputs.span)
            for index, token in packed.masked[number]
        ]
        indices, tokens = torch.tensor(masked, dtype=torch.long, device=packed.device).view(-1, 2).T
        states = inputs.encoded.tokens.index_select(0, indices).float()
        return lm_head.top_tokens(states, inputs.head, tokens, TOP)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy averaged over a row's masked tokens, `[n]`."""
        parts = outputs.logits[:, 0].float().split([sum(row) for row in outputs.counts])
        return torch.stack([-part.sum() / max(1, len(part)) for part in parts])

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"answer", "score", "fills"}`: fills in the format of transformers' fill-mask pipeline,
        `{score, token, token_str, sequence}`, the best first; a list of lists for several masks.

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
            f"task '{self.type}' has no single score for an answer, so there is nothing to explain"
        )

    def to_hf_pipeline(self, answer: Answer) -> Any:
        return answer["fills"]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """For each masked token of a row the predicted token and the surprise of the right one,
        its negative log-probability; and the right token."""
        predicted, references = [], []
        for row, example in zip(outputs.rows(), examples, strict=True):
            best = torch.cat(list(row)).double()[:, [1 + TOP, 0]].tolist()
            predicted.append([{"token": int(token), "surprise": -logp} for token, logp in best])
            masked = [pair for inputs in example.inputs for pair in inputs.masked]
            references.append([{"token": token} for _, token in masked])
        return Predictions(predicted, references)


def _transform(lm_head: LMHead) -> Literal["checkpoint", "fresh"]:
    return "checkpoint" if lm_head.tensors else "fresh"


def _fills(row: Sequence[Tensor], example: Example) -> list[list[dict[str, Any]]]:
    """The best tokens for each mask of a row.

    Raises:
        DataError: The row has no mask, or too many.
    """
    reader: TextEncoder = example.notes.reader
    n_masks = sum(len(part) for part in row)
    if n_masks == 0:
        text = reader.decode(example.inputs[0].input_ids, skip_special_tokens=True)
        raise DataError(f"there is no {reader.mask_token} to fill in '{text:.60}'")
    if n_masks > MAX_FILLS:
        raise DataError(
            f"there are {n_masks} {reader.mask_token} in one text, at most {MAX_FILLS} are filled "
            "in; split the text"
        )
    top = min(TOP, MAX_FILLS // n_masks)
    found = []
    for inputs, part in zip(example.inputs, row, strict=True):
        for (index, _), best in zip(inputs.masked, part, strict=True):
            fills = []
            scores, tokens = best[1 : 1 + top].exp().tolist(), best[1 + TOP : 1 + TOP + top]
            for score, token in zip(scores, tokens, strict=True):
                ids = [*inputs.input_ids[:index], int(token), *inputs.input_ids[index + 1 :]]
                fills.append(
                    {
                        "score": score,
                        "token": int(token),
                        "token_str": reader.decode([int(token)]),
                        "sequence": reader.decode(ids, skip_special_tokens=n_masks == 1),
                    }
                )
            found.append(fills)
    return found
