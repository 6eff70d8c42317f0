"""Entities in words that have no token, and in the schemes of tags."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError
from adapterkit.tasks.fields import FieldKind
from adapterkit.tasks.tagging import Tagging
from adapterkit.tasks.types import Outputs

IOB = ("B-LOC", "I-LOC", "I-PER", "O")
BIOES = ("B-LOC", "E-LOC", "O", "S-LOC")
BMES = ("B-LOC", "E-LOC", "M-LOC", "O", "S-LOC")


def answer(
    backbone: Backbone, labels: tuple[str, ...], words: list[str], tags: list[str | None]
) -> dict[str, Any]:
    """The answer for words whose logits say these tags; None for a word without a token."""
    task = Tagging(labels=labels)
    (example,) = task.examples([task.fields(words, "row")], backbone.reader, 64)
    logits = torch.full((len(example.inputs[0]), len(labels)), -9.0)
    for first, tag in zip(example.notes.first_tokens, tags, strict=True):
        assert (first is None) == (tag is None)
        if first is not None and tag is not None:
            logits[first[1], labels.index(tag)] = 9.0
    outputs = Outputs(logits, ((len(logits),),))
    (found,) = task.answers(outputs, [example])
    assert len([*task.scores(outputs, example)]) == len(found["entities"])
    return found


@pytest.mark.parametrize(
    ("labels", "tags", "inside"),
    [
        (IOB, ["B-LOC", "I-LOC"], "I-LOC"),
        (BIOES, ["B-LOC", "E-LOC"], "I-LOC"),
        (BMES, ["B-LOC", "E-LOC"], "M-LOC"),
    ],
)
@pytest.mark.parametrize("space", [" ", "\u3000", "\u200b"])
def test_a_word_without_a_token_does_not_cut_an_entity(
    tiny: Backbone, labels: tuple[str, ...], tags: list[str], inside: str, space: str
) -> None:
    found = answer(tiny, labels, ["a", space, "b", space, "c"], [tags[0], None, tags[1], None, "O"])
    assert found["tags"] == [tags[0], inside, tags[1], "O", "O"]
    assert [one["word"] for one in found["entities"]] == [f"a {space} b"]


@pytest.mark.parametrize("tags", [["B-LOC", "O"], ["O", "I-LOC"], ["B-LOC", "I-PER"]])
def test_a_word_without_a_token_joins_no_two_entities(tiny: Backbone, tags: list[str]) -> None:
    found = answer(tiny, IOB, ["a", " ", "b"], [tags[0], None, tags[1]])
    assert found["tags"] == [tags[0], "O", tags[1]]


def test_white_space_is_a_token_and_nothing_else_is_none() -> None:
    assert FieldKind.TOKENS.check(["北", " ", "京"], "row") == ("北", " ", "京")
    with pytest.raises(DataError, match=r"^row\[1\] is empty"):
        FieldKind.TOKENS.check(["北", ""], "row")
    with pytest.raises(DataError, match=r"^row is empty"):
        FieldKind.TOKENS.check([" ", "\u3000"], "row")


def test_entities_of_bioes_come_out_whole(tiny: Backbone) -> None:
    found = answer(tiny, BIOES, ["a", "b", "c", "d"], ["B-LOC", "E-LOC", "S-LOC", "O"])
    assert [one["word"] for one in found["entities"]] == ["a b", "c"]


def test_tags_that_name_no_entity_have_metrics_of_tags() -> None:
    assert Tagging(labels=("NOUN", "VERB", "S-BAR")).metric_kind == "tags"
    assert Tagging(labels=("O", "S-LOC")).metric_kind == "entities"
