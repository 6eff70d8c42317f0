"""Labels of rows: spelling, lists that were written as texts, columns of zeros and ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapterkit.data.dataset import Data
from adapterkit.errors import DataError
from adapterkit.tasks.base import Task, tasks
from adapterkit.tasks.classification import Classification
from adapterkit.tasks.fields import FieldKind
from adapterkit.tasks.labels import (
    count_labels,
    distinct_labels,
    label_index,
    similar_labels,
    spelling,
)
from adapterkit.tasks.multi_label import MultiLabel
from adapterkit.tasks.types import Example, Row

NONE = Example(())


def rows_of(task: Task, data: Data) -> list[Row]:
    return data.load(Path(), 0, task)["train"]


@pytest.mark.parametrize(
    "written", ["pos", " pos ", "pos\u00a0", "\u3000pos", "pos\u200b", "\ufeffpos", "pos\n"]
)
def test_white_space_around_a_label_does_not_count(written: str) -> None:
    assert FieldKind.LABEL.check(written, "x") == "pos"
    for labels in ([written], f"{written}|pos"):
        assert FieldKind.LABELS.check(labels, "x") == ("pos",)


def test_a_label_has_one_unicode_form_and_single_blanks() -> None:
    assert spelling("Sen\u0303or\u00a0 Gómez") == spelling("Señor Go\u0301mez") == "Señor Gómez"
    assert spelling("投诉\u3000退款") == "投诉 退款"


@pytest.mark.parametrize(
    ("value", "label"), [(True, "true"), (False, "false"), (1, "1"), (1.0, "1"), (1.5, "1.5")]
)
def test_a_label_may_be_a_number_or_a_boolean(value: Any, label: str) -> None:
    assert FieldKind.LABEL.check(value, "x") == label


@pytest.mark.parametrize("label", ["[]", "['toxic']", '["a", "b"]', "('a', 'b')", "{'a'}", "[1 0]"])
def test_a_written_list_is_no_single_label(label: str) -> None:
    with pytest.raises(DataError, match=r"^x\.csv:2: .* is a list that was written as a text"):
        FieldKind.LABEL.check(label, "x.csv:2")


@pytest.mark.parametrize("label", ["(other)", "it's", "'quoted'", "a, b", "C[0]", "<e1>", "{x}"])
def test_a_label_may_have_brackets_and_quotes(label: str) -> None:
    assert FieldKind.LABEL.check(label, "x") == label


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("['toxic', 'insult']", ("insult", "toxic")),
        ('["toxic", "it\'s"]', ("it's", "toxic")),
        ("('a, b',)", ("a, b",)),
        ("{'a', 'b'}", ("a", "b")),
        ("[]", ()),
        (" [ ] ", ()),
        ("[ 'a' ]", ("a",)),
        (["a|b"], ("a|b",)),
        ("a|b|a", ("a", "b")),
        ("", ()),
        ([], ()),
        ({"a": 1, "b": "0", "c": "1.0", "d": False, "e": "True"}, ("a", "c", "e")),
        ([27], ("27",)),
        ([0, 1], ("0", "1")),
    ],
)
def test_labels_are_read_as_what_they_plainly_are(written: Any, labels: tuple[str, ...]) -> None:
    assert FieldKind.LABELS.check(written, "x") == labels


@pytest.mark.parametrize(
    "vector",
    [
        [1, 0, 0],
        [0, 0],
        ["1", "0", "1"],
        [1.0, 0.0, 0.0],
        [True, False, True],
        "[1, 0]",
        "1,0,0",
        "1 0 1",
        "[1. 0. 0.]",
        "0|1|0",
    ],
)
def test_a_vector_of_zeros_and_ones_does_not_name_labels(vector: Any) -> None:
    with pytest.raises(DataError, match=r"^x:2: .* is a vector of zeros and ones"):
        FieldKind.LABELS.check(vector, "x:2")


@pytest.mark.parametrize(
    "written", ["['a' 'b']", "[a, b]", "['a', b]", "[['a']]", "['a\nb']", r"['\x1']", "['\0']"]
)
def test_a_written_list_that_cannot_be_read_is_refused(written: str) -> None:
    with pytest.raises(DataError, match=r"^x:2.* a list that was written as a text"):
        FieldKind.LABELS.check(written, "x:2")


def test_a_column_of_a_label_holds_zeros_and_ones() -> None:
    with pytest.raises(DataError, match=r"^x:2: 'toxic': expected 0 or 1 in the column of a label"):
        FieldKind.LABELS.check({"toxic": "2"}, "x:2")


def test_tokens_and_tags_may_be_written_lists() -> None:
    assert FieldKind.TOKENS.check("['my', \"card's\", 'here']", "x") == ("my", "card's", "here")
    assert FieldKind.TAGS.check("['O', 'B-PER']", "x") == ("O", "B-PER")
    assert FieldKind.TAGS.check("`` '' , . -LRB- ( O", "x") == (
        "``",
        "''",
        ",",
        ".",
        "-LRB-",
        "(",
        "O",
    )
    assert FieldKind.TOKENS.check("[ 1 ] see", "x") == ("[", "1", "]", "see")


@pytest.mark.parametrize("tags", ["['O' 'B-PER']", ["'O',", "'B-PER'"], "O 'O',", ["['O'"]])
def test_pieces_of_a_written_list_are_no_tags(tags: Any) -> None:
    with pytest.raises(DataError, match="a list that was written as a text"):
        FieldKind.TAGS.check(tags, "x:2")


def test_a_column_a_label_trains_as_a_list_of_labels_does() -> None:
    Path("wide.csv").write_text("text,toxic,insult\na b,1,0\nc d,0,0\ne f,1,1\n")
    Path("long.csv").write_text("text,labels\na b,toxic\nc d,\ne f,toxic|insult\n")
    wide = Data.of({"path": "wide.csv", "labels": ["toxic", "insult"], "validation": 0.0})
    long = Data(path="long.csv", validation=0.0)
    assert [row.fields for row in rows_of(MultiLabel(), wide)] == [
        row.fields for row in rows_of(MultiLabel(), long)
    ]
    assert wide.plain(MultiLabel())["labels"] == ("toxic", "insult")


def test_one_column_is_read_where_several_make_no_sense() -> None:
    data = Data.of({"path": "wide.csv", "text": ["title", "body"]})
    with pytest.raises(DataError, match=r"^data\.text: expected one column, got \['title', 'body'"):
        rows_of(Classification(), data)
    with pytest.raises(ValueError, match=r"^data\.labels: expected names of columns, none twice"):
        Data.of({"path": "wide.csv", "labels": ["a", "a"]})


def test_labels_of_a_multi_hot_vector_are_refused() -> None:
    rows = [Row({"text": "a", "labels": ("0", "1")}, "x:1")] * 4
    with pytest.raises(DataError, match=r"labels 0, 1 alone, as in multi-hot vectors; name the"):
        MultiLabel().fit(rows, "mean")


def test_whole_numbers_are_one_label_however_written() -> None:
    assert distinct_labels(["1", "1.0", "2", "b"]) == ("1", "2", "b")
    assert distinct_labels(["1.0", "1.1", "2.0"]) == ("1.0", "1.1", "2.0")
    labels = ("0", "1")
    assert [label_index(label, labels, "x") for label in ("1.0", "0", " 1")] == [1, 0, 1]
    assert label_index("1", ("0.0", "1.0"), "x") == 1
    assert count_labels(["1", "1.0", "0", "other"], labels) == {"1": 2, "0": 1}


def test_a_name_takes_precedence_over_another_spelling() -> None:
    """As in a folder that was written before labels had one spelling."""
    labels = ("pos ", "pos", "1.0", "1")
    assert [label_index(label, labels, "x") for label in labels] == [0, 1, 2, 3]


def test_rows_with_two_spellings_train_one_class() -> None:
    names = ["1", "1.0", "2", "2"]
    rows = [Row({"text": "a", "label": label}, f"x:{n}") for n, label in enumerate(names)]
    task = Classification(class_weights="balanced").fit(rows, "mean")
    assert task.labels == ("1", "2")
    assert task.weights == (1.0, 1.0)
    assert [task.target(row, NONE) for row in rows] == [0, 0, 1, 1]


def test_labels_that_look_alike_are_reported() -> None:
    end = "differ only in case or in the form of their characters; if they mean the same, write "
    assert similar_labels(["Pos", "pos", "neg", "\uff21", "a"]) == [
        f"the labels 'Pos' and 'pos' {end}them alike",
        f"the labels 'a' and '\uff21' {end}them alike",
    ]
    rows = [Row({"text": "a", "label": label}, "x") for label in ("Pos", "Pos", "pos", "pos")]
    assert len(Classification().fit(rows, "mean").warnings(rows, [])) == 1


def test_a_choice_is_named_in_any_spelling() -> None:
    kind: Any = tasks()["multiple_choice"]
    choices = ("go home", "Sen\u0303or", "1")
    for label, index in ((" go\u00a0home ", 0), ("Señor", 1), ("1", 2), ("0", 0)):
        row = Row({"text": "a", "choices": choices, "label": label}, "x")
        assert kind().target(row, NONE) == index


def test_a_number_that_is_a_choice_and_names_another_one_is_worth_a_warning() -> None:
    kind: Any = tasks()["multiple_choice"]
    rows = [
        Row({"text": "a", "choices": choices, "label": "1"}, f"x:{number}")
        for number, choices in enumerate((("0", "1"), ("1", "2"), ("a", "b")))
    ]
    (warning,) = kind().warnings(rows, [1, 0, 1])
    assert warning.startswith("1 of 3 rows have a label that is a choice and also the number of ")
    assert "(x:1)" in warning
    with pytest.raises(DataError, match=r"^task\.long_text: windows would be choices of their own"):
        kind(long_text="windows").fit(rows, "cls")
