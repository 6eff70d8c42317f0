"""What a request may hold, for the rows that an adapter was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from adapterkit.adapter.inputs import Inputs
from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError
from adapterkit.inference.predictor import Predictor
from adapterkit.tasks.base import tasks
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train

SINGLE = {"recipe": {"data": {"path": "rows.csv", "text_pair": None}}}
PAIRS = {"recipe": {"data": {"path": "rows.csv", "columns": {"text_pair": "second"}}}}


@pytest.mark.parametrize(
    ("training", "required", "optional"),
    [
        (SINGLE, ["text"], []),
        (PAIRS, ["text", "text_pair"], []),
        ({}, ["text"], ["text_pair"]),  # a folder of PEFT
    ],
)
def test_the_second_text_is_read_as_in_training(
    training: dict[str, Any], required: list[str], optional: list[str]
) -> None:
    inputs = Inputs.of(tasks()["classification"], training)
    assert (list(inputs.required), list(inputs.optional)) == (required, optional)


def test_a_text_to_compare_with_stays_optional() -> None:
    training = {"recipe": {"data": {"path": "rows.csv", "text_pair": "text_pair"}}}
    inputs = Inputs.of(tasks()["embedding"], training)
    assert (list(inputs.required), list(inputs.optional)) == (["text"], ["text_pair"])


@pytest.mark.parametrize("pairs", [False, True])
def test_an_adapter_answers_what_it_was_trained_on(tiny: Backbone, pairs: bool) -> None:
    rows = [{"text": "a b", "second": "c", "label": label} for label in "xyxyxy"]
    data = {"text_pair": "second"} if pairs else {}
    recipe = Recipe.of({"name": "t/x", "data": {**data, "validation": 0.0}})
    predictor = Predictor(tiny)
    predictor.add(train(recipe, tiny, rows=rows, progress=False))
    single, pair = "a", ("a", "b")
    right, wrong = (pair, single) if pairs else (single, pair)
    assert predictor.predict("t/x", [right])[0]["label"] in "xy"
    message = (
        "text 1: there is no text_pair; 't/x' was trained on text and text_pair"
        if pairs
        else "text 1: 't/x' was trained on text alone and does not read text_pair; give each text "
        'as a row of its own: [["a"], ["b"]]'
    )
    with pytest.raises(DataError) as refused:
        predictor.predict("t/x", [wrong])
    assert str(refused.value) == message


def test_an_adapter_prints_itself_in_one_line(tiny: Backbone) -> None:
    rows = [{"text": "a b", "label": label} for label in "xyxy"]
    recipe = Recipe.of({"name": "t/x", "data": {"validation": 0.0}, "training": {"ensemble": 2}})
    adapter = train(recipe, tiny, rows=rows, progress=False)
    assert repr(adapter) == (
        f"Adapter('t/x', classification by lora on {tiny.name}, 2 members, "
        f"{adapter.n_parameters:,} parameters)"
    )
    assert len(repr(adapter.extra_members)) < 60
