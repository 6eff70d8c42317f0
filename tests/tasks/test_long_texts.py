"""Long texts: every task reads them in linear time, and cuts them as a plain reference does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone import tokenizer
from adapterkit.backbone.encoded_text import EncodedText
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.tokenizer import LongText, TextEncoder, truncate
from adapterkit.errors import DataError
from adapterkit.inference.forward import text_limit
from adapterkit.tasks.masked_language_modelling import MAX_FILLS, TOP, MaskedLanguageModelling
from adapterkit.tasks.multiple_choice import MultipleChoice
from adapterkit.tasks.relation import marked
from adapterkit.tasks.sentences import split_sentences
from adapterkit.tasks.types import Outputs, n_characters
from helpers.task_adapters import random_task_adapter, read_example, request_row
from helpers.task_rows import every_task

LONG_TEXTS: tuple[LongText, ...] = ("head", "tail", "head+tail", "windows")


class CountingEncoding:
    """An `Encoding` of the library that counts how often each list is built."""

    def __init__(self, encoding: Any, built: Counter[tuple[int, str]]) -> None:
        self._encoding = encoding
        self._built = built

    def __getattr__(self, name: str) -> Any:
        self._built[id(self), name] += 1
        return getattr(self._encoding, name)


class CountingEncoder(TextEncoder):
    """An encoder that keeps its encodings and counts how often their lists are built."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.encodings: list[Any] = []
        self.built = Counter[tuple[int, str]]()
        self._library = tokenizer.backend_tokenizer

    def encode(
        self,
        firsts: Sequence[Any],
        seconds: Sequence[str | None] | None = None,
        *,
        words: bool = False,
    ) -> list[EncodedText]:
        pairs = seconds or [None] * len(firsts)
        found = [
            CountingEncoding(self._library.encode(*pair, is_pretokenized=words), self.built)
            for pair in zip(firsts, pairs, strict=True)
        ]
        self.encodings += found
        return [EncodedText(encoding) for encoding in found]


@every_task
@pytest.mark.parametrize("times", [1, 40])
def test_each_list_of_an_encoding_is_built_once(
    tiny: Backbone, tmp_path: Path, kind: str, times: int
) -> None:
    adapter = random_task_adapter(tiny, kind, tmp_path)
    encoder = CountingEncoder(tiny.tokenizer)
    fields = adapter.task.fields(request_row(adapter, times=times), "row")
    adapter.task.examples([fields], encoder, text_limit(tiny, adapter))
    assert encoder.built
    assert set(encoder.built.values()) == {1}


@pytest.mark.parametrize("n_groups", [1, 5, 30])
def test_texts_are_read_in_groups_of_a_limited_size(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, n_groups: int
) -> None:
    pairs = [("i lost my card " * 10, f"choice {number}") for number in range(30)]
    longest = max(len(text) + len(choice) for text, choice in pairs)
    monkeypatch.setattr(tokenizer, "GROUP_CHARACTERS", longest * 30 // n_groups - 30)
    encoder, sizes = CountingEncoder(tiny.tokenizer), []
    for encoded in encoder.encode_in_groups(pairs):
        sizes.append(len(encoder.encodings))
        assert encoded.ids == tiny.tokenizer(*pairs[len(sizes) - 1]).input_ids
    assert len(sizes) == 30
    assert len(set(sizes)) == n_groups


@pytest.mark.parametrize("how", LONG_TEXTS)
@pytest.mark.parametrize("stride", [0, 7, 1000])
@pytest.mark.parametrize("pair", [None, "the bank", "money is good " * 30])
def test_a_long_text_is_cut_as_by_the_reference(
    tiny: Backbone, how: LongText, stride: int, pair: str | None
) -> None:
    text, limit = "i lost my card in the rain " * 20, 32
    (encoded,) = tiny.reader.encode([text], [pair])
    encoding = tiny.tokenizer.backend_tokenizer.encode(text, pair)
    found = [(one.input_ids, one.kept) for one in truncate(encoded, limit, how, stride)]
    kept = reference_cut(encoding, limit, how, stride)
    assert found == [([encoding.ids[n] for n in part], part) for part in kept]


def reference_cut(encoding: Any, limit: int, how: LongText, stride: int) -> list[list[int]]:
    """Indices of the tokens of each sequence, token by token from the library's encoding."""
    first = [n for n, owner in enumerate(encoding.sequence_ids) if owner == 0]
    second = [n for n, owner in enumerate(encoding.sequence_ids) if owner == 1]
    special = [n for n, owner in enumerate(encoding.sequence_ids) if owner is None]
    room = limit - len(special)
    if how == "windows":
        fixed, moving = (first[: room // 2], second) if second else ([], first)
        width = room - len(fixed)
        step = max(1, width - min(stride, width // 2))
        windows, start = [], 0
        while True:
            windows.append(sorted(special + fixed + moving[start : start + width]))
            if start + width >= len(moving):
                return windows
            start += step
    while len(first) + len(second) > room:  # the longer text loses one token after the other
        longer = first if len(first) > len(second) else second
        head = (len(longer) + 1) // 2
        del longer[{"head": -1, "tail": 0, "head+tail": head - 1 if len(longer) % 2 else head}[how]]
    return [sorted(special + first + second)]


def long_example(tiny: Backbone, tmp_path: Path, kind: str) -> tuple[Adapter, dict[str, Any], Any]:
    adapter = random_task_adapter(tiny, kind, tmp_path)
    row = request_row(adapter, times=40)
    return adapter, row, read_example(tiny, adapter, row)


def test_words_of_a_long_row_have_their_first_tokens(tiny: Backbone, tmp_path: Path) -> None:
    _, row, example = long_example(tiny, tmp_path, "tagging")
    library = tiny.tokenizer.backend_tokenizer
    encoding = library.encode(list(row["tokens"]), is_pretokenized=True)
    expected: dict[int, tuple[int, int]] = {}
    for number, inputs in enumerate(example.inputs):
        for token, index in enumerate(inputs.indices):
            word = encoding.word_ids[index]
            if word is not None and encoding.word_ids[index - 1] != word:
                expected.setdefault(word, (number, token))
    assert len(example.inputs) > 2
    assert example.notes.first_tokens == tuple(expected[n] for n in range(len(row["tokens"])))


def test_tokens_of_a_long_context_have_their_characters(tiny: Backbone, tmp_path: Path) -> None:
    _, row, example = long_example(tiny, tmp_path, "question_answering")
    encoding = tiny.tokenizer.backend_tokenizer.encode(row["question"], row["context"])
    for inputs, spans in zip(example.inputs, example.notes.spans, strict=True):
        for index, span in zip(inputs.indices, spans, strict=True):
            inside = encoding.sequence_ids[index] == 1
            assert span == (encoding.offsets[index] if inside else None)
    assert len(example.inputs) > 2


def test_tokens_of_a_long_cloze_have_their_words(tiny: Backbone, tmp_path: Path) -> None:
    _, row, example = long_example(tiny, tmp_path, "masked_language_modelling")
    encoding, mask = tiny.tokenizer.backend_tokenizer.encode(row["text"]), tiny.reader.mask
    for inputs, words in zip(example.inputs, example.notes.words, strict=True):
        for index, word in zip(inputs.indices, words, strict=True):
            assert word == (None if encoding.ids[index] == mask else encoding.word_ids[index])
    assert len(example.inputs) > 2


def test_tokens_of_a_long_document_have_their_sentences(tiny: Backbone, tmp_path: Path) -> None:
    adapter = random_task_adapter(tiny, "summarisation", tmp_path)
    row = {"sentences": "The tea is hot. Open the bank! Money is good? " * 15}
    example = read_example(tiny, adapter, row)
    encoding, spans = tiny.tokenizer.backend_tokenizer.encode(row["sentences"]), example.notes.spans
    for inputs, owners in zip(example.inputs, example.notes.owners, strict=True):
        for index, owner in zip(inputs.indices, owners, strict=True):
            start, end = encoding.offsets[index]
            inside = [n for n, (a, b) in enumerate(spans) if a <= start < end <= b]
            assert owner == (inside[0] if inside else -1)
    assert len(spans) == 45
    assert len(example.inputs) > 2


def test_the_marks_of_a_long_relation_are_found(tiny: Backbone, tmp_path: Path) -> None:
    adapter = random_task_adapter(tiny, "relation", tmp_path, long_text="windows")
    text = "the bank has money " * 40
    row = {"text": text, "head": {"start": 4, "end": 8}, "tail": {"start": 384, "end": 388}}
    fields = adapter.task.fields(row, "row")
    example = read_example(tiny, adapter, row)
    encoding = tiny.tokenizer.backend_tokenizer.encode(marked(fields))
    signs = {n for n, (a, b) in enumerate(encoding.offsets) if marked(fields)[a:b] in ("@", "#")}
    assert len(signs) == 4
    for inputs, marks in zip(example.inputs, example.notes, strict=True):
        assert marks == [n for n, index in enumerate(inputs.indices) if index in signs]


@pytest.mark.parametrize("times", [1, 2000])
@pytest.mark.parametrize(
    ("unit", "last"),
    [("a. b. ", "it ends."), ("1. 2. ", "3. It ends."), ("..", "a"), ('."', "a"), ("Mr. ", "Low")],
)
def test_runs_of_signs_are_one_sentence(unit: str, last: str, times: int) -> None:
    """With a quadratic search the long runs take minutes."""
    text = unit * times * 10 + last
    assert split_sentences(text) == [(0, len(text))]


def masked_outputs(example: Any) -> Outputs:
    counts = [len(inputs.masked) for inputs in example.inputs]
    row = torch.tensor([0.0, *[-float(n) for n in range(TOP)], *range(5, 5 + TOP)])
    return Outputs.of([tuple(row.repeat(n, 1) for n in counts)])


@pytest.mark.parametrize(("n_masks", "top"), [(1, 5), (100, 5), (101, 4), (250, 2), (500, 1)])
def test_an_answer_lists_a_limited_number_of_tokens(tiny: Backbone, n_masks: int, top: int) -> None:
    task = MaskedLanguageModelling(transform="fresh")
    (example,) = task.examples([{"text": "[MASK] " * n_masks}], tiny.reader, 64)
    (answer,) = task.answers(masked_outputs(example), [example])
    fills = [answer["fills"]] if n_masks == 1 else answer["fills"]
    assert [len(some) for some in fills] == [top] * n_masks
    assert [fill["token"] for fill in fills[0]] == list(range(5, 5 + top))


def test_too_many_masks_are_refused(tiny: Backbone) -> None:
    task = MaskedLanguageModelling(transform="fresh")
    (example,) = task.examples([{"text": "[MASK] " * (MAX_FILLS + 1)}], tiny.reader, 64)
    with pytest.raises(DataError, match=r"501 \[MASK\] in one text, at most 500"):
        task.answers(masked_outputs(example), [example])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("four", 4),
        (["four", "six"], 9),
        ({"tokens": ["a", "b"], "text": "four"}, 8),
        ([1, None, 2.5], 11),
        ([[[["a"]]]] * 2, 10),
        ({}, 0),
    ],
)
def test_characters_of_any_request_are_counted(request_: Any, expected: int) -> None:
    assert n_characters(request_) == expected


def test_nested_requests_are_counted_without_recursion() -> None:
    deep: Any = "a"
    for _ in range(100_000):
        deep = [deep]
    assert n_characters(deep) == 100_001


@pytest.mark.parametrize(
    "request_",
    [
        {"text": "a text", "choices": ["a", "b", "c"]},
        {"text": "a text", "choices": "a|b|c"},
        ["a text", ["a", "b", "c"]],
    ],
)
def test_a_text_counts_once_for_each_choice(request_: Any) -> None:
    choices = dict(request_)["choices"] if isinstance(request_, dict) else request_[1]
    assert MultipleChoice().n_characters(request_) == 3 * len("a text") + n_characters(choices)
