"""Labelled rows in memory, for the metrics of an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError
from adapterkit.inference.labelled import labelled_rows
from adapterkit.inference.pipeline import evaluate
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
