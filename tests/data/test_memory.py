"""Rows in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from adapterkit.data.dataset import Data
from adapterkit.errors import DataError
from adapterkit.tasks.classification import Classification

RECORDS = [{"text": "my card", "label": "no"}, {"text": "the bank", "label": "yes"}]
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
DATASET = Dataset.from_list(
    [{**record, "label": number} for number, record in enumerate(RECORDS)], features=FEATURES
)


def load(rows: Any, **section: Any) -> dict[str, list[dict[str, Any]]]:
    splits = Data(**section).load(Path(), 0, Classification(), rows=rows)
    return {name: [dict(row.fields) for row in part] for name, part in splits.items()}


@pytest.mark.parametrize(
    "rows", [RECORDS, iter(RECORDS), pd.DataFrame(RECORDS), DATASET], ids=lambda rows: type(rows)
)
def test_rows_of_every_kind_are_read(rows: Any) -> None:
    assert load(rows, validation=0.0) == {"train": RECORDS}


@pytest.mark.parametrize("splits", [dict, DatasetDict])
def test_rows_may_come_by_split(splits: Any) -> None:
    assert load(splits({"train": DATASET, "test": DATASET})) == {"train": RECORDS, "test": RECORDS}


def test_a_split_column_names_the_split_of_each_row() -> None:
    frame = pd.DataFrame([{**record, "part": "train"} for record in RECORDS])
    frame.loc[1, "part"] = "test"
    found = load(frame, split="part", validation=0.0)
    assert found == {"train": RECORDS[:1], "test": RECORDS[1:]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("rows.csv", r"^rows: expected a list of mappings, a data frame or a data set, got str$"),
        (7, r"^rows: expected a list of mappings"),
        (["a text"], r"^rows:1: expected a mapping of columns, got str$"),
        ([{"text": "a"}], r"^rows:1: there is no column 'label' for label"),
        (pd.DataFrame([{"text": "a", "label": None}]), r"^rows:1: column 'label': expected a text"),
        (
            pd.DataFrame([["a", "b", "c"]], columns=["text", "label", "text"]),
            r"^rows: the column 'text' is there twice$",
        ),
        ({"dev": RECORDS}, r"^rows: the split 'dev' is none of train, validation, test$"),
        ({"train": RECORDS, "test": [{}]}, r"^rows\[test\]:1: there is no column 'text'"),
        ([], r"^rows: there are no training rows$"),
        ({}, r"^rows: there are no training rows$"),
    ],
)
def test_rows_that_cannot_be_read_are_errors(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(rows)


def test_rows_come_from_one_place() -> None:
    with pytest.raises(DataError, match=r"^rows: data names a source too; leave one of them out$"):
        load(RECORDS, path="rows.csv")
    with pytest.raises(DataError, match=r"^data\.path: give either path \(one file\), train"):
        Data().load(Path(), 0, Classification())
