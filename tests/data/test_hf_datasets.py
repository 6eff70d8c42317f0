"""Data sets of the library `datasets`: splits, class names, streams and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from adapterkit.backbone.model import Backbone
from adapterkit.data.dataset import Data
from adapterkit.errors import DataError
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Row
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train

LABELS = ClassLabel(names=["银行", "sol"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(*labels: int, first: int = 0) -> Any:
    texts = [f"t{first + n}" for n in range(len(labels))]
    features = Features({"text": Value("string"), "label": LABELS})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def save(name: str, content: Any) -> str:
    content.save_to_disk(name)
    return name


def load(data: Data, task: str = "classification") -> dict[str, list[Row]]:
    return data.load(Path(), 0, tasks()[task]())


def shown(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.fields["text"], row.fields["label"]) for row in rows]


def assert_told(data: Data, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(data)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dev", ["validation", "dev", "valid"])
def test_a_saved_data_set_has_its_splits_and_names(dev: str, streaming: bool) -> None:
    parts = {dev: rows_of(1), "train": rows_of(0, 1, 0, first=1), "test": rows_of(0, first=9)}
    data = Data(
        dataset=save("saved", DatasetDict(parts)),
        streaming=streaming,
        limit=3 if streaming else None,
    )
    splits = load(data)
    assert sorted(shown(splits["train"])) == [("t1", "银行"), ("t2", "sol"), ("t3", "银行")]
    assert shown(splits["validation"]) == [("t0", "sol")]
    assert shown(splits["test"]) == [("t9", "银行")]
    assert splits["test"][0].where == "saved:test:1"


def test_rows_without_splits_are_split_like_those_of_a_file() -> None:
    save("saved", rows_of(*[0, 1] * 20))
    splits = load(Data(dataset="saved", test=0.25))
    counts = {name: len(rows) for name, rows in splits.items()}
    assert counts == {"train": 27, "validation": 4, "test": 9}


def test_a_split_column_is_used_if_there_is_a_single_split() -> None:
    parts = ["train", "test", "train", "validation"]
    save("saved", DatasetDict({"train": rows_of(0, 1, 1, 0).add_column("split", parts)}))
    splits = load(Data(dataset="saved"))
    assert {name: [row.where for row in rows] for name, rows in splits.items()} == {
        "train": ["saved:train:1", "saved:train:3"],
        "validation": ["saved:train:4"],
        "test": ["saved:train:2"],
    }


def test_splits_may_be_renamed_and_omitted() -> None:
    names = ["train", "validation_matched", "validation", "test"]
    save("saved", DatasetDict({name: rows_of(n % 2, 1) for n, name in enumerate(names)}))
    splits = load(Data(dataset="saved", validation="validation_matched", test=0.0))
    assert list(splits) == ["train", "validation"]
    assert splits["validation"][0].where == "saved:validation_matched:1"
    splits = load(Data(dataset="saved", train="test"))
    assert splits["train"][0].where == "saved:test:1"
    assert list(splits) == ["train", "validation"], "rows that are trained on are not test rows"
    words = "data.test: the split 'validation' is data.validation as well; a score on rows that"
    assert_told(Data(dataset="saved", validation="validation", test="validation"), words)


def test_classes_inside_lists_become_names() -> None:
    tags = ClassLabel(names=["O", "B-x"])
    features = Features({"tokens": List(Value("string")), "tags": List(tags)})
    content = {"tokens": [["a", "b"], ["c"]], "tags": [[0, 1], [1]]}
    save("saved", Dataset.from_dict(content, features=features))
    rows = load(Data(dataset="saved", validation=0.0), "tagging")["train"]
    assert [row.fields["tags"] for row in rows] == [("O", "B-x"), ("B-x",)]


def test_answers_in_the_format_of_squad_are_read() -> None:
    answers = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
    features = Features(
        {"question": Value("string"), "context": Value("string"), "answers": answers}
    )
    content = {
        "question": ["who?"],
        "context": ["Ada did."],
        "answers": [{"text": ["Ada"], "answer_start": [0]}],
    }
    save("saved", Dataset.from_dict(content, features=features))
    (row,) = load(Data(dataset="saved", validation=0.0), "question_answering")["train"]
    assert row.fields["answers"] == (("Ada", 0),)


def test_a_parquet_file_of_datasets_has_its_names() -> None:
    rows_of(0, 1, 0).to_parquet("x.parquet")
    rows = load(Data(path="x.parquet", validation=0.0))["train"]
    assert shown(rows) == [("t0", "银行"), ("t1", "sol"), ("t2", "银行")]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_data_files_is_a_data_set(streaming: bool) -> None:
    Path("files").mkdir()
    for name, count in (("train", 3), ("dev", 1), ("test", 2)):
        lines = [json.dumps({"text": f"{name} {n}", "label": n % 2}) for n in range(count)]
        Path(f"files/{name}.jsonl").write_text("\n".join(lines))
    data = Data(dataset="files", streaming=streaming, limit=2 if streaming else None)
    splits = load(data)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 2 if streaming else 3,
        "validation": 1,
        "test": 2,
    }
    assert shown(splits["validation"]) == [("dev 0", "0")]


def test_a_folder_may_have_subsets() -> None:
    for name in ("small", "large"):
        Path("files", name).mkdir(parents=True)
        Path("files", name, "train.csv").write_text(f"text,label\n{name},a\n{name},b\n")
    configs = "".join(f"- config_name: {n}\n  data_dir: {n}\n" for n in ("small", "large"))
    Path("files/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    splits = load(Data(dataset="files", subset="large", validation=0.0))
    assert [row.fields["text"] for row in splits["train"]] == ["large", "large"]
    assert_told(Data(dataset="files", subset="lage"), "data.dataset: 'files' cannot be loaded (")


def test_training_from_a_data_set_is_repeated_from_its_record(tiny: Backbone) -> None:
    save("saved", DatasetDict({"train": rows_of(*[0, 1] * 8), "dev": rows_of(0, 1, first=50)}))
    content = {
        "name": "t/topic",
        "data": {"dataset": "saved", "streaming": True, "limit": 10},
        "method": {"type": "lora", "r": 2},
        "training": {"epochs": 1},
    }
    first = train(Recipe.of(content), tiny, progress=False)
    assert first.training["rows"] == {"train": 10, "validation": 2}
    assert first.task.labels == ("sol", "银行")  # type: ignore[attr-defined]
    again = train(Recipe.of(first.training["recipe"]), tiny, progress=False)
    assert again.training["data"] == first.training["data"]
    assert again.metrics == first.metrics


FAULTS: dict[str, tuple[Data, str]] = {
    "hub out of reach": (
        Data(dataset="glue", subset="mrpc"),
        "data.dataset: 'glue' is no folder here, and the hub did not give it (ConnectionError: ",
    ),
    "no such folder": (Data(dataset="./nowhere"), "'./nowhere': there is no such folder"),
    "folder that climbs": (Data(dataset="a/../../b"), "'a/../../b': there is no such folder"),
    "nothing": (Data(dataset="a b"), "data.dataset: 'a b': there is no such folder"),
    "a format": (Data(dataset="csv"), "'csv' is a format; name files by data.path"),
    "empty folder": (Data(dataset="empty"), "data.dataset: 'empty' cannot be loaded ("),
    "revision of a folder": (
        Data(dataset="saved", revision="x"),
        "data.revision: saved is a folder",
    ),
    "subset of a saved one": (
        Data(dataset="saved", subset="x"),
        "data.subset: saved was written by",
    ),
    "no such split": (
        Data(dataset="saved", test="tset"),
        "data.test: 'saved' has no split 'tset'; did you mean 'test'?",
    ),
    "no training split": (
        Data(dataset="other"),
        "data.train: 'other' has the splits a, b; name the one to train on",
    ),
    "no column": (
        Data(dataset="saved", columns={"label": "lable"}),
        "saved:train:1: there is no column 'lable' for label; did you mean 'label'?",
    ),
    "secret labels": (
        Data(dataset="saved"),
        "saved:test:2: column 'label': expected a text, got None",
    ),
    "damaged": (Data(dataset="damaged"), "damaged: cannot be loaded as a data set ("),
    "broken lines": (Data(dataset="files"), "data.dataset: 'files' cannot be loaded ("),
    "broken lines in a stream": (
        Data(dataset="files", streaming=True, limit=9),
        "files:train:1: cannot be read (",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_is_one_line(fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, words = FAULTS[fault]
    Path("empty").mkdir()
    Path("files").mkdir()
    Path("files/train.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": \n')
    save("saved", DatasetDict({"train": rows_of(0, 1), "test": rows_of(0, -1)}))
    save("other", DatasetDict({"a": rows_of(0), "b": rows_of(0)}))
    save("damaged", rows_of(0, 1))
    Path("damaged/state.json").write_text("{}")
    capfd.readouterr()
    assert_told(data, words)
    assert capfd.readouterr() == ("", ""), "the library's own messages stay away"


def test_reading_a_file_does_not_import_datasets() -> None:
    Path("x.csv").write_text("text,label\na,b\n")
    code = (
        "import sys; from pathlib import Path; from adapterkit.data.readers import read_records;"
        "print(len(list(read_records(Path('x.csv')))), 'datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
