"""Labelled rows in memory, for the metrics of an adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError
from adapterkit.inference.labelled import labelled_rows, read_rows
from adapterkit.inference.pipeline import evaluate
from adapterkit.tasks.tagging import Tagging
from helpers.adapters import MakeAdapter

RECORDS = [{"message": "my card", "label": "no"}, {"message": "the bank", "label": "yes"}]


@pytest.mark.parametrize("rows", [RECORDS, pd.DataFrame(RECORDS)], ids=lambda rows: type(rows))
def test_rows_in_memory_are_evaluated_by_the_columns_of_the_training(
    tiny: Backbone, make_adapter: MakeAdapter, rows: Any
) -> None:
    recipe = {"data": {"text": "message"}}
    adapter = replace(make_adapter(tiny), training={"recipe": recipe})
    metrics = evaluate(tiny, adapter, rows)
    assert metrics["accuracy"] in (0.0, 0.5, 1.0)
    assert metrics == evaluate(tiny, adapter, labelled_rows(rows, adapter))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], r"^rows:1: there is no column 'label' for label"),
        ("rows.csv", r"^rows: expected a list of mappings"),
        ([], r"^rows: there are none$"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(
    tiny: Backbone, make_adapter: MakeAdapter, rows: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(tiny, make_adapter(tiny), rows)


def test_a_row_without_a_split_beside_others_with_one_is_a_training_row(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    rows = [{"text": "a", "label": "no"}, {"text": "b", "label": "no", "split": "test"}]
    Path("x.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for split, texts in (("test", ["b"]), ("train", ["a"])):
        found = read_rows("x.jsonl", make_adapter(tiny), split=split)
        assert [row.fields["text"] for row in found] == texts


def test_a_column_that_the_task_does_not_have_is_refused(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    tagger = replace(make_adapter(tiny), task=Tagging(labels=("O", "B-x")))
    words = r"^text: the task tagging of 'acme/intent' has no such column, only tokens, tags$"
    with pytest.raises(DataError, match=words):
        read_rows("x.jsonl", tagger, columns={"text": "words"})
