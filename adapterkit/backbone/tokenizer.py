"""Text to token ids with a transformers tokenizer, from any number of threads.

Setting truncation or padding on a fast tokenizer changes it for every thread, so texts are encoded
whole, and cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..errors import BackboneError
from .packing import TokenSequence

LongText = Literal["head", "tail", "head+tail", "windows"]


class TextEncoder:
    """A fast transformers tokenizer that many threads may use.

    Args:
        tokenizer: The tokenizer; its padding and truncation must be off.

    Attributes:
        mask_token: What stands for a hidden token in a text; None where it has none.
        n_tokens: How many tokens it knows.
        special: Ids that stand for no part of a text, such as [SEP]; not that of unknown words.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._whole = tokenizer.backend_tokenizer
        self.mask_token: str | None = tokenizer.mask_token
        self.n_tokens = len(tokenizer)
        self.special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def encode(
        self,
        firsts: Sequence[str | Sequence[str]],
        seconds: Sequence[str | None] | None = None,
        *,
        words: bool = False,
    ) -> list[Any]:
        """Whole encodings: ids, type ids, character offsets, word and text of every token.

        Args:
            firsts: Texts, or lists of words.
            seconds: A second text for each, or None where there is none.
            words: Whether the texts are lists of words.
        """
        if len(firsts) == 1:  # a pool of threads costs more than one text does
            second = seconds[0] if seconds is not None else None
            return [self._whole.encode(firsts[0], second, is_pretokenized=words)]
        pairs = seconds if seconds is not None else [None] * len(firsts)
        batch = [one if two is None else (one, two) for one, two in zip(firsts, pairs, strict=True)]
        found: list[Any] = self._whole.encode_batch(
            batch, is_pretokenized=words, add_special_tokens=True
        )
        return found

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Ids as the pieces of text they stand for."""
        return [self._whole.id_to_token(number) for number in ids]

    @property
    def mask(self) -> int:
        """The token that stands for a hidden one.

        Raises:
            BackboneError: There is none.
        """
        if self.mask_token is None:
            raise BackboneError("the backbone's tokenizer has no mask token; use another backbone")
        return int(self._tokenizer.mask_token_id)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def truncate(
    encoding: Any, limit: int, how: LongText = "head", stride: int = 0
) -> list[TokenSequence]:
    """An encoding within a limit: one sequence, or windows that overlap.

    Args:
        encoding: A whole encoding of one text or two.
        limit: Most tokens, special ones included.
        how: What is kept of texts that are too long: their head (as transformers' `longest_first`),
            their tail, half of both, or all of it in windows. Of a pair, windows run over the
            second text, and the first is cut to half the room where it is longer.
        stride: Tokens that neighbouring windows share, at most half of a window: one that shares
            more says little new, and a long text would become hundreds of them.
    """
    if len(encoding.ids) <= limit:
        return [TokenSequence(encoding.ids, encoding.type_ids)]
    owners = encoding.sequence_ids
    places: list[list[int]] = [[], []]
    special: list[int] = []
    for place, owner in enumerate(owners):
        (special if owner is None else places[owner]).append(place)
    room = max(0, limit - len(special))
    if how == "windows":
        windows = _windows(places, room, stride)
        lost = len(set().union(*windows)) < len(places[0]) + len(places[1])
        return [_kept(encoding, special + own, lost) for own in windows]
    counts = _longest_first([len(own) for own in places], room)
    kept = [p for own, count in zip(places, counts, strict=True) for p in _ends(own, count, how)]
    return [_kept(encoding, special + kept, truncated=True)]


def _kept(encoding: Any, places: Sequence[int], truncated: bool) -> TokenSequence:
    places = sorted(places)
    return TokenSequence(
        [encoding.ids[place] for place in places],
        [encoding.type_ids[place] for place in places],
        truncated=truncated,
        kept=places,
    )


def _ends(places: list[int], count: int, how: LongText) -> list[int]:
    if how == "head":
        return places[:count]
    if how == "tail":
        return places[len(places) - count :]
    head = (count + 1) // 2
    return places[:head] + places[len(places) - (count - head) :]


def _windows(places: list[list[int]], room: int, stride: int) -> list[list[int]]:
    first, second = places
    fixed = first[: room // 2] if second else []
    long = second or first
    width = max(1, room - len(fixed))
    step = max(1, width - min(stride, width // 2))
    starts = range(0, max(1, len(long) - width + step), step)
    return [fixed + long[start : start + width] for start in starts]


def _longest_first(counts: list[int], room: int) -> list[int]:
    """Tokens to keep of two texts: the longer one gives way until both fit."""
    if sum(counts) <= room:
        return counts
    longer = 0 if counts[0] > counts[1] else 1
    keep = [room // 2, room // 2]
    keep[longer] = max(room - counts[1 - longer], room - room // 2)
    keep[1 - longer] = room - keep[longer]
    return keep
