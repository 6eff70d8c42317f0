"""Text to token ids with a transformers tokenizer, from any number of threads.

Setting truncation or padding on a fast tokenizer changes it for every thread, so texts are encoded
in full and truncated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from ..errors import BackboneError
from .encoded_text import EncodedText
from .packing import TokenSequence

LongText = Literal["head", "tail", "head+tail", "windows"]

SHORT_TEXT = 1000
"""Characters of a text that the library's `encode` tokenises in less time than `encode_batch`.
`encode` keeps the interpreter lock, so a long text would stop all other threads."""

GROUP_CHARACTERS = 100_000
"""Characters of texts whose tokens `encode_in_groups` has in memory at the same time."""


class Token(NamedTuple):
    """One token of a text.

    Attributes:
        id: Its id.
        text: Its characters in the text; of a special token its name, such as [SEP].
        special: Whether the tokenizer added it to the text.
        start, stop: First and past-the-last character in the text; None for a special token.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TextEncoder:
    """A fast transformers tokenizer that many threads may use.

    Args:
        tokenizer: The tokenizer; its padding and truncation must be off.

    Attributes:
        mask_token: The text of the mask token; None if the tokenizer has none.
        n_tokens: Size of its vocabulary.
        special: Ids of special tokens such as [SEP], without that of unknown words.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self.mask_token: str | None = tokenizer.mask_token
        self.n_tokens = len(tokenizer)
        self.special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._has_types = "token_type_ids" in tokenizer.model_input_names
        self._words_need_space = _words_need_space(self._backend)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token with its id, added ones included."""
        tokens: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return tokens

    @property
    def lower_case(self) -> bool:
        """Whether texts are converted to lower case."""
        normalizer = self._backend.normalizer
        return normalizer is not None and "A" not in normalizer.normalize_str("A")

    def encode(
        self,
        firsts: Sequence[str | Sequence[str]],
        seconds: Sequence[str | None] | None = None,
        *,
        words: bool = False,
    ) -> list[EncodedText]:
        """Encodes texts in full.

        Args:
            firsts: Texts, or lists of words.
            seconds: The second text of each pair; None for a single text.
            words: Whether the texts are lists of words. Each is read as after a space in a text.
        """
        leads: Sequence[Sequence[int]] = [()] * len(firsts)
        if words and self._words_need_space:
            leads = [[0 if word.startswith(" ") else 1 for word in text] for text in firsts]
            firsts = [
                [" " * lead + word for lead, word in zip(*pair, strict=True)]
                for pair in zip(leads, firsts, strict=True)
            ]
        if len(firsts) == 1:
            first, second = firsts[0], seconds[0] if seconds is not None else None
            n_characters = sum(map(len, first)) + len(second or "")
            if n_characters <= SHORT_TEXT:
                encoding = self._backend.encode(first, second, is_pretokenized=words)
                return [EncodedText(encoding, has_types=self._has_types, leads=leads[0])]
        pairs = seconds if seconds is not None else [None] * len(firsts)
        batch = [one if two is None else (one, two) for one, two in zip(firsts, pairs, strict=True)]
        encodings = self._backend.encode_batch(
            batch, is_pretokenized=words, add_special_tokens=True
        )
        return [
            EncodedText(encoding, has_types=self._has_types, leads=lead)
            for encoding, lead in zip(encodings, leads, strict=True)
        ]

    def encode_in_groups(self, pairs: Sequence[tuple[str, str]]) -> Iterator[EncodedText]:
        """Encodes text pairs in full, as `encode` does, a group of them at a time.

        The tokens of many long texts take much more memory than what is kept of them.
        """
        start = n_characters = 0
        for end, pair in enumerate(pairs, 1):
            n_characters += sum(map(len, pair))
            if n_characters >= GROUP_CHARACTERS or end == len(pairs):
                group = pairs[start:end]
                yield from self.encode([text for text, _ in group], [other for _, other in group])
                start, n_characters = end, 0

    def split(self, text: str, *, special_tokens: bool = True) -> list[Token]:
        """Every token of a text, however long it is.

        Args:
            text: The text.
            special_tokens: Whether special tokens are added, as a model reads them.
        """
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=special_tokens)
        parts = zip(
            encoding.ids,
            encoding.tokens,
            encoding.special_tokens_mask,
            encoding.offsets,
            strict=True,
        )
        return [
            Token(token_id, name, True, None, None)
            if special
            else Token(token_id, text[start:stop], False, start, stop)
            for token_id, name, special, (start, stop) in parts
        ]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens of some ids, as the vocabulary spells them."""
        return [self._backend.id_to_token(token_id) for token_id in ids]

    @property
    def mask(self) -> int:
        """Id of the mask token.

        Raises:
            BackboneError: The tokenizer has none.
        """
        if self.mask_token is None:
            raise BackboneError("the backbone's tokenizer has no mask token; use another backbone")
        return int(self._tokenizer.mask_token_id)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of some token ids."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def _words_need_space(backend: Any) -> bool:
    """Whether a tokenizer reads a word of a list otherwise than after a space in a text.

    Byte-level ones without `add_prefix_space` do, though they have learned most words with a space.
    """
    text = backend.encode("a a", add_special_tokens=False).ids
    words = backend.encode(["a", "a"], is_pretokenized=True, add_special_tokens=False).ids
    return bool(text[len(text) // 2 :] != words[len(words) // 2 :])


def truncate(
    encoding: EncodedText, limit: int, how: LongText = "head", stride: int = 0
) -> list[TokenSequence]:
    """An encoding as one sequence within a limit, or as overlapping windows.

    Args:
        encoding: The full encoding of one text or two.
        limit: The most tokens of a sequence, special ones included.
        how: What is kept of a text that is too long: its head (as transformers' `longest_first`),
            its tail, half of both, or all of it in windows. In a pair, the windows run over the
            second text; the first is cut to half of the limit if it is longer.
        stride: Tokens that neighbouring windows share. It is capped at half of a window, since a
            long text would otherwise become hundreds of windows.
    """
    if len(encoding) <= limit:
        return [TokenSequence(encoding.ids, encoding.type_ids)]
    texts: list[list[int]] = [[], []]
    special: list[int] = []
    for index, text in enumerate(encoding.sequence_ids):
        (special if text is None else texts[text]).append(index)
    room = max(0, limit - len(special))
    if how == "windows":
        windows = _windows(texts, room, stride)
        truncated = len(set().union(*windows)) < len(texts[0]) + len(texts[1])
        return [_select(encoding, special + window, truncated) for window in windows]
    counts = _longest_first([len(text) for text in texts], room)
    kept = [i for text, count in zip(texts, counts, strict=True) for i in _ends(text, count, how)]
    return [_select(encoding, special + kept, truncated=True)]


def _select(encoding: EncodedText, indices: Sequence[int], truncated: bool) -> TokenSequence:
    """Some tokens of an encoding, in the order of the text."""
    indices = sorted(indices)
    return TokenSequence(
        [encoding.ids[i] for i in indices],
        [encoding.type_ids[i] for i in indices],
        truncated=truncated,
        kept=indices,
    )


def _ends(indices: list[int], count: int, how: LongText) -> list[int]:
    """The tokens of one text that are kept, as many as `count`."""
    if how == "head":
        return indices[:count]
    if how == "tail":
        return indices[len(indices) - count :]
    head = (count + 1) // 2
    return indices[:head] + indices[len(indices) - (count - head) :]


def _windows(texts: list[list[int]], room: int, stride: int) -> list[list[int]]:
    """The tokens of each window, without special ones."""
    first, second = texts
    fixed = first[: room // 2] if second else []
    moving = second or first
    width = max(1, room - len(fixed))
    step = max(1, width - min(stride, width // 2))
    starts = range(0, max(1, len(moving) - width + step), step)
    return [fixed + moving[start : start + width] for start in starts]


def _longest_first(counts: list[int], room: int) -> list[int]:
    """Number of tokens to keep of two texts: the longer one is cut until both fit."""
    if sum(counts) <= room:
        return counts
    longer = 0 if counts[0] > counts[1] else 1
    keep = [room // 2, room // 2]
    keep[longer] = max(room - counts[1 - longer], room - room // 2)
    keep[1 - longer] = room - keep[longer]
    return keep
