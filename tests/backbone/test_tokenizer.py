"""Words of a list are read as in a running text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.backbone.tokenizer import TextEncoder
from helpers.byte_level import save_byte_level_roberta
from helpers.vocabulary import WORDS

LISTS = [
    ["where", "is", "my", "card"],
    ["the", "network's", "slow,", "today"],
    ["x"],
    [" spaced", "naïve", "東京", "a\tb", "card "],
    WORDS[:200],
]


@pytest.fixture(scope="module", params=[False, True, "split"])
def roberta(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa whose files ask for a space before a text, for none, or divide by a pattern."""
    folder = tmp_path_factory.mktemp("roberta") / "m"
    save_byte_level_roberta(folder, add_prefix_space=request.param is True)
    if request.param == "split":
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        pattern = {"Regex": r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        plain = {**content["pre_tokenizer"], "use_regex": False}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, plain]}
        path.write_text(json.dumps(content), encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("words", LISTS, ids=range(len(LISTS)))
def test_words_are_read_as_with_add_prefix_space(roberta: Path, words: list[str]) -> None:
    from transformers import AutoTokenizer

    reader = Backbone.load(str(roberta), device="cpu", prepared=False).reader
    reference = roberta.parent / "reference"
    if not reference.exists():
        save_byte_level_roberta(reference, add_prefix_space=True)
    expected = AutoTokenizer.from_pretrained(reference, add_prefix_space=True)(
        words, is_split_into_words=True
    )
    (found,) = reader.encode([words], words=True)
    assert found.ids == expected["input_ids"]
    assert found.word_ids == expected.word_ids()


def test_a_word_of_a_list_has_the_token_of_a_running_text(roberta: Path) -> None:
    reader = Backbone.load(str(roberta), device="cpu", prepared=False).reader
    (text,), (words,) = reader.encode(["i card"]), reader.encode([["card"]], words=True)
    assert text.ids[-2:] == words.ids[-2:]


@pytest.mark.parametrize("words", [*LISTS[:2], [" spaced", "card"]])
def test_characters_of_tokens_are_those_of_the_words(roberta: Path, words: list[str]) -> None:
    reader = Backbone.load(str(roberta), device="cpu", prepared=False).reader
    (found,) = reader.encode([words], words=True)
    spelled = [""] * len(words)
    for word, (start, end) in zip(found.word_ids, found.offsets, strict=True):
        if word is not None:
            assert end <= len(words[word])
            spelled[word] += words[word][start:end]
    assert [word.strip() for word in spelled] == [word.strip() for word in words]


def test_texts_and_many_lists_are_read_as_one_by_one(roberta: Path) -> None:
    reader = Backbone.load(str(roberta), device="cpu", prepared=False).reader
    together = reader.encode(LISTS, words=True)
    for words, one in zip(LISTS, together, strict=True):
        (alone,) = reader.encode([words], words=True)
        assert (one.ids, one.offsets) == (alone.ids, alone.offsets)


def test_a_word_piece_tokenizer_gets_no_space(tiny: Backbone) -> None:
    library = TextEncoder(tiny.tokenizer)
    for words in LISTS:
        (found,) = library.encode([words], words=True)
        expected = tiny.tokenizer.backend_tokenizer.encode(words, is_pretokenized=True)
        assert found.ids == expected.ids
        assert found.offsets == expected.offsets
