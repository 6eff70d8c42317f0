"""Rows from files: reading, splits, and the place that each error names."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adapterkit.data.dataset import Data, fingerprint, parse_rows
from adapterkit.data.file_format import FileFormat
from adapterkit.data.readers import read_records
from adapterkit.data.splits import draw, first, fold, shuffled
from adapterkit.errors import DataError
from adapterkit.tasks.base import tasks
from adapterkit.tasks.classification import Classification
from adapterkit.tasks.columns import SourceColumn
from adapterkit.tasks.fields import FieldKind
from adapterkit.tasks.types import Row
from helpers.data_faults import CSV, DATA_FAULTS, JSONL, parquet

COLUMNS = {role: SourceColumn(role, FieldKind.TEXT) for role in ("text", "label")}


def by_label(row: Row) -> str:
    return str(row.fields["label"])


def write(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(data: Data, seed: int = 0) -> dict[str, list[Row]]:
    return data.load(Path(), seed, Classification())


def texts(rows: list[Row]) -> list[str]:
    return [row.fields["text"] for row in rows]


def assert_told(data: Data, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(data)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_an_error_names_file_and_line(fault: str) -> None:
    name, content, words = DATA_FAULTS[fault]
    write(name, content)
    assert_told(Data(path=name), words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Data(path="no.csv"), "no.csv: there is no such file"),
        (Data(train="no.csv"), "no.csv: there is no such file"),
        (Data(path="."), "there is no such file"),
        (Data(path=""), "there is no such file"),
        (Data(path="a.text"), "a.text: expected a file ending in .csv, .tsv, .jsonl, .json, .txt"),
        (Data(path="a.csv", validation="no.csv"), "no.csv: there is no such file"),
        (Data(path="a.csv", test="b.csv"), "b.csv:2: there is no column 'label' for label; did yo"),
        (
            Data(path="a.csv", columns={"text": "body"}),
            "a.csv:2: there is no column 'body' for text; valid are",
        ),
        (
            Data(path="a.csv", columns={"label": "lable"}),
            "no column 'lable' for label; did you mean 'label'?",
        ),
        (
            Data(path="a.csv", columns={"text_pair": "second"}),
            "there is no column 'second' for text_pair; vali",
        ),
        (Data(path="c.csv", test="a.csv"), "c.csv has rows of split 'test', and data.test names a"),
        (Data(path="a.csv", test="./a.csv"), "data.test: a.csv is data.path as well; a score on "),
        (
            Data(train="c.csv", validation="a.csv", test="a.csv"),
            "data.test: a.csv is data.validation as well; a score on rows that were used before",
        ),
        (
            Data(path="c.csv", test=0.5),
            "data.test: 0.5 is a share of the training rows, and there are 1 test rows already; ",
        ),
    ],
)
def test_a_missing_file_or_column_is_an_error(data: Data, words: str) -> None:
    for name, content in (("a.csv", CSV), ("a.text", CSV), ("b.csv", "text,lbl\na,b\n")):
        write(name, content)
    write("c.csv", "text,label,split\na,no,train\nb,no,test\n")
    assert_told(data, words)


def test_a_row_has_its_file_and_line() -> None:
    path = write("x.csv", CSV)
    assert list(parse_rows(read_records(path), COLUMNS, "split")) == [
        (None, Row({"text": "my card", "label": "no"}, "x.csv:2")),
        (None, Row({"text": "the bank", "label": "yes"}, "x.csv:3")),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + CSV,
        "\n\n" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\r"),
        CSV.rstrip("\n"),
        "label,other,text\nno,1,my card\nyes,,the bank\n",
        '"text","label"\n"my card","no"\n"the bank","yes"\n',
    ],
)
def test_equivalent_csv_files_have_the_same_rows(content: str) -> None:
    plain = [record for _, record in read_records(write("plain.csv", CSV))]
    found = [record for _, record in read_records(write("x.csv", content))]
    assert [{key: record[key] for key in COLUMNS} for record in found] == plain


def test_every_format_holds_the_same_rows() -> None:
    rows = [
        {"text": 'He said "no", twice,\nand left.', "label": "señal"},
        {"text": "¿Dónde\testá mi paquete? ¡Ñandú!", "label": "envío"},
        {"text": "我的卡丢了\uff0c怎么办\uff1f\r\n谢谢", "label": "银行"},
        {"text": "🙂👩‍👩‍👧", "label": "🙂"},
    ]
    write("x.jsonl", "\n".join(json.dumps(row) for row in rows))
    write("y.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    write("x.parquet", parquet(*((key, [row[key] for row in rows]) for key in ("text", "label"))))
    for name, delimiter in (("x.csv", ","), ("x.tsv", "\t")):
        with Path(name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    write("x.json", json.dumps(rows))
    write("y.json", json.dumps({"data": rows}))
    names = ("x.csv", "x.tsv", "x.jsonl", "y.jsonl", "x.json", "y.json", "x.parquet")
    found = [load(Data(path=name, validation=0.0, quoting="minimal")) for name in names]
    for splits in found:
        assert [dict(row.fields) for row in splits["train"]] == rows
    assert len({fingerprint(splits) for splits in found}) == 1
    assert [row.where for row in found[-1]["train"]] == [f"x.parquet:{n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_separator_of_a_csv_file_is_that_of_its_header(separator: str) -> None:
    write("x.csv", CSV.replace(",", separator) + f'"a,b"{separator}no\n')
    rows = load(Data(path="x.csv", validation=0.0))["train"]
    assert texts(rows) == ["my card", "the bank", "a,b"]


def test_a_recipe_says_how_a_file_is_written() -> None:
    write("x.csv", 'text|label\n"quoted" señor|no\n"|yes\n'.encode("cp1252"))
    data = Data(path="x.csv", separator="|", quoting="none", encoding="cp1252", validation=0.0)
    assert texts(load(data)["train"]) == ['"quoted" señor', '"']


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8", "UTF8", "gb18030"])
def test_texts_in_another_encoding_are_read(encoding: str) -> None:
    write("x.csv", (CSV + "señor,no\n").encode(encoding))
    rows = load(Data(path="x.csv", encoding=encoding, validation=0.0))["train"]
    assert texts(rows) == ["my card", "the bank", "señor"]


@pytest.mark.parametrize("encoding", ["utf-8", "U8", "utf_8_sig"])
def test_a_byte_order_mark_is_no_part_of_a_text(encoding: str) -> None:
    write("a.txt", "\ufefffirst")
    ((_, record),) = read_records(Path("a.txt"), file_format=FileFormat(encoding=encoding))
    assert record == {"text": "first"}


def test_a_file_in_another_encoding_than_the_recipe_says_is_refused() -> None:
    write("x.csv", CSV)
    assert_told(Data(path="x.csv", encoding="utf-16"), "x.csv: not utf-16 text (")
    write("x.csv", CSV.encode() + b"\x81,no\n")
    assert_told(Data(path="x.csv", encoding="cp1252"), "x.csv: not cp1252 text (")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"separator": ";;"}, "separator: expected one character, no quote or line end, got ';;'"),
        ({"separator": '"'}, "separator: expected one character"),
        ({"quoting": "all"}, "quoting: expected one of minimal, none, got 'all'"),
        ({"encoding": "utf-9"}, "encoding: Python knows no text encoding 'utf-9'; try utf-8"),
        ({"encoding": "hex"}, "encoding: Python knows no text encoding 'hex'"),
        ({"encoding": "a\0"}, "encoding: Python knows no text encoding"),
    ],
)
def test_a_wrong_file_format_is_an_error(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Data(path="x.csv", **settings)


def test_quotes_are_plain_characters_in_a_tsv_file_if_the_recipe_says_so() -> None:
    lines = ['"It starts', "so good", 'and ends" badly', '"Great" film']
    write("x.tsv", "text\tlabel\n" + "".join(f"{line}\tno\n" for line in lines))
    assert texts(load(Data(path="x.tsv", quoting="none", validation=0.0))["train"]) == lines
    assert_told(Data(path="x.tsv"), "x.tsv:2: not CSV (")


def test_empty_rows_and_columns_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    write("x.csv", ",text,label,,\n0,my card,no,,\n,,,,\n1,the bank,yes,,\n,,,,\n,,,,\n")
    assert texts(load(Data(path="x.csv", validation=0.0))["train"]) == ["my card", "the bank"]
    assert caplog.messages == ["x.csv: skipped 3 empty rows, the first in line 3"]


def test_a_blank_line_is_an_empty_row_if_a_line_has_one_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, content in (
        ("a.txt", "first\n\nsecond\n"),
        ("a.csv", "text\nfirst\n\nsecond\n"),
        ("b.csv", "text,label\nfirst,no\n\nsecond,no\n"),
    ):
        found = [record["text"] for _, record in read_records(write(name, content))]
        assert found == ["first", "second"]
    assert caplog.messages == [
        "a.txt: skipped 1 empty row, the first in line 2",
        "a.csv: skipped 1 empty row, the first in line 3",
    ]


def test_a_json_file_holds_an_array_of_objects() -> None:
    write("x.json", '[{"text": "a", "label": "b"}, {"text": "c"}, "d"]')
    messages: list[str] = []
    data = Data(path="x.json", validation=0.0)
    splits = data.load(Path(), 0, Classification(), lambda fault: messages.append(str(fault)))
    assert texts(splits["train"]) == ["a"]
    assert [message.partition(" for label")[0] for message in messages] == [
        "x.json:2: there is no column 'label'",
        "x.json:3: expected a JSON object, got str",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": {"0": "a"}}', "x.json: expected an array of objects, or an object that has one"),
        ("[1,\n2", "x.json: not JSON (Expecting ',' delimiter at line 2, character 2)"),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "x.json:1: data[0] is not in SQuAD's form"),
        ('{"data": [{"paragraphs": 1}]}', "x.json:1: data[0] is not in SQuAD's format ("),
        ("[]", "x.json: there are no rows"),
        ("[" * 100_000, "x.json: cannot be read ("),
        ('"a"', "x.json: expected a JSON object, got str"),
    ],
)
def test_a_json_file_of_another_form_is_an_error(content: str, words: str) -> None:
    write("x.json", content)
    assert_told(Data(path="x.json"), words)


def test_squad_files_are_read() -> None:
    questions = [
        {"id": "1", "question": "who?", "answers": [{"text": "Ada", "answer_start": 0}]},
        {"id": "2", "question": "why?", "is_impossible": True, "answers": []},
    ]
    paragraphs = [{"context": "Ada did.", "qas": questions}]
    articles = [{"title": "Ada", "paragraphs": paragraphs}]
    write("x.json", json.dumps({"version": "v2.0", "data": articles}))
    rows = Data(path="x.json").load(Path(), 0, tasks()["question_answering"]())["train"]
    assert [(row.fields["question"], row.fields["answers"]) for row in rows] == [
        ("who?", (("Ada", 0),)),
        ("why?", ()),
    ]
    assert rows[0].fields["context"] == "Ada did."


def test_parquet_holds_lists_spans_and_answers() -> None:
    answers = [{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    columns = (("question", ["who?", "why?"]), ("context", ["Ada did."] * 2), ("answers", answers))
    write("x.parquet", parquet(*columns))
    rows = Data(path="x.parquet").load(Path(), 0, tasks()["question_answering"]())["train"]
    assert [row.fields["answers"] for row in rows] == [(("Ada", 0),), ()]


def test_reading_may_continue_after_each_error() -> None:
    write("x.csv", CSV + ',no\n"a" b,no\nc,no,no\nd,\ne,no\n')
    write("x.jsonl", JSONL + '[]\n{"text": \n{"text": "a", "text": "b"}\n{"text": ""}\n' + JSONL)
    messages: list[str] = []
    data = Data(train="x.csv", validation="x.jsonl", test="no.tsv")
    splits = data.load(Path(), 0, Classification(), lambda fault: messages.append(str(fault)))
    places = ["x.csv:4", "x.csv:5", "x.csv:6", "x.csv:7"]
    places += ["x.jsonl:3", "x.jsonl:4", "x.jsonl:5", "x.jsonl:6", "no.tsv"]
    assert [message.split(": ")[0] for message in messages] == places
    assert texts(splits["train"]) == ["my card", "the bank", "e"]
    assert texts(splits["validation"]) == ["my card", "the bank"] * 2


def test_a_number_in_jsonl_is_a_text() -> None:
    write("x.jsonl", '{"text": 12, "label": 0}\n{"text": 1.5, "label": 1}\n')
    rows = load(Data(path="x.jsonl"))["train"]
    assert [dict(row.fields) for row in rows] == [
        {"text": "12", "label": "0"},
        {"text": "1.5", "label": "1"},
    ]


def test_numbers_out_of_range_are_errors_or_texts() -> None:
    whole = "1" * 400
    write("x.jsonl", f'{{"text": {whole}, "label": 1}}\n{{"text": "b", "label": {whole}}}\n')
    splits = Data(path="x.jsonl", validation=0.0)
    assert texts(load(splits)["train"]) == [whole, "b"]
    with pytest.raises(DataError, match=r"^x\.jsonl:2: column 'label': expected a number, got 111"):
        splits.load(Path(), 0, tasks()["regression"]())


def test_columns_may_have_other_names() -> None:
    write("x.csv", "frage,zwei,klasse,teil\na,b,ja,train\nc,d,nein,train\ne,f,ja,test\n")
    columns = {"text": "frage", "text_pair": "zwei", "label": "klasse"}
    data = Data(path="x.csv", columns=columns, split="teil")
    splits = load(data)
    assert splits["train"][1].fields == {"text": "c", "text_pair": "d", "label": "nein"}
    assert texts(splits["test"]) == ["e"]


def test_line_numbers_are_right_after_multi_line_texts() -> None:
    rng = random.Random(4)
    for _ in range(40):
        lines, content = 1, "text,label\n"
        for _ in range(rng.randint(1, 30)):
            words = "".join(rng.choice(["a", " ", "\n", '""', ",", "我"]) for _ in range(9))
            row = f'"x{words}",no\n' + "\n" * rng.choice([0, 0, 1])
            content += row
            lines += row.count("\n")
        write("x.csv", content + '"later\n",\n"more\nlines",yes\n')
        assert_told(Data(path="x.csv"), f"x.csv:{lines + 1}: column 'label' is empty")


def test_a_very_long_text_is_read() -> None:
    long = "palabra " * 100_000
    write("x.csv", f"text,label\n{long},no\nb,yes\n")
    assert texts(load(Data(path="x.csv"))["train"])[0] == long


def test_the_split_column_decides() -> None:
    parts = ["train", "test", "train", "validation", "test"]
    lines = [f"t{n},{'no' if n % 2 else 'yes'},{part}" for n, part in enumerate(parts)]
    write("x.csv", "\n".join(["text,label,split", *lines]))
    splits = load(Data(path="x.csv"))
    assert {name: texts(rows) for name, rows in splits.items()} == {
        "train": ["t0", "t2"],
        "validation": ["t3"],
        "test": ["t1", "t4"],
    }
    assert list(splits) == ["train", "validation", "test"]


def test_each_split_may_be_a_file() -> None:
    write("a.csv", CSV + "third,no\n")
    write("b.jsonl", JSONL)
    write("c.csv", "text,label,split\nd,no,nonsense\n")
    splits = load(Data(train="a.csv", validation="b.jsonl", test="c.csv"))
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 3,
        "validation": 2,
        "test": 1,
    }
    assert splits["test"][0].where == "c.csv:2"


def many(counts: dict[str, int]) -> list[Row]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(labels)
    return [Row({"text": f"t{n}", "label": label}, "x") for n, label in enumerate(labels)]


def test_a_random_split_has_every_label_in_proportion() -> None:
    counts = {"a": 400, "b": 100, "c": 20}
    kept, aside = draw(many(counts), 0.1, seed=3, stratum=by_label)
    found = Counter(row.fields["label"] for row in aside)
    assert found == {"a": 40, "b": 10, "c": 2}
    assert len(kept) == 468


def test_a_random_split_has_its_size_with_many_small_labels() -> None:
    kept, aside = draw(many({f"l{n}": 3 for n in range(100)}), 0.1, seed=0, stratum=by_label)
    assert (len(kept), len(aside)) == (270, 30)
    assert {row.fields["label"] for row in kept} == {f"l{n}" for n in range(100)}


def test_labels_with_a_single_row_take_no_rows_of_other_labels() -> None:
    counts = {**{f"a{n:03}": 1 for n in range(200)}, "b": 20}
    _, aside = draw(many(counts), 0.1, seed=0, stratum=by_label)
    assert Counter(row.fields["label"] for row in aside) == {"b": 3}


def test_a_random_split_keeps_every_row_in_order() -> None:
    rows = many({"a": 30, "b": 9, "c": 1})
    kept, aside = draw(rows, 0.3, seed=1, stratum=by_label)
    index = {row.fields["text"]: n for n, row in enumerate(rows)}
    for part in (kept, aside):
        assert [index[t] for t in texts(part)] == sorted(index[t] for t in texts(part))
    assert sorted(texts(kept) + texts(aside)) == sorted(texts(rows))


def test_a_random_split_depends_on_the_seed() -> None:
    rows = many({"a": 50, "b": 50})
    first, again, other = (draw(rows, 0.2, seed=n, stratum=by_label) for n in (1, 1, 2))
    assert first == again
    assert first[1] != other[1]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_the_only_row_of_a_label_stays_in_training(share: float) -> None:
    kept, aside = draw(many({"a": 10, "b": 1, "c": 1}), share, seed=0, stratum=by_label)
    labels = {row.fields["label"] for row in kept}
    assert labels == {"a", "b", "c"}
    assert {row.fields["label"] for row in aside} <= {"a"}


def test_a_fraction_of_zero_makes_no_split() -> None:
    rows = many({"a": 5, "b": 5})
    assert draw(rows, 0.0, seed=0, stratum=by_label) == (rows, [])


def test_a_tenth_is_for_validation_by_default() -> None:
    lines = [f"t{n},{'ab'[n % 2]}" for n in range(40)]
    write("x.csv", "\n".join(["text,label", *lines]))
    whole = [f"t{n}" for n in range(40)]
    splits = load(Data(path="x.csv"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 36, "validation": 4}
    assert load(Data(path="x.csv"), seed=5) != splits
    assert texts(load(Data(path="x.csv", validation=0.0))["train"]) == whole
    shares = load(Data(path="x.csv", validation=0.25, test=0.2))
    assert {name: len(rows) for name, rows in shares.items()} == {
        "train": 24,
        "validation": 10,
        "test": 6,
    }
    found = [text for rows in shares.values() for text in texts(rows)]
    assert sorted(found) == sorted(whole)


def test_no_random_split_if_the_file_has_it() -> None:
    lines = [f"t{n},{'ab'[n % 2]},{'validation' if n > 35 else 'train'}" for n in range(40)]
    write("x.csv", "\n".join(["text,label,split", *lines]))
    splits = load(Data(path="x.csv", test=0.5))
    assert texts(splits["validation"]) == ["t36", "t37", "t38", "t39"]
    assert (len(splits["train"]), len(splits["test"])) == (18, 18)


def test_the_fingerprint_depends_on_rows_order_and_splits() -> None:
    rows = many({"a": 2, "b": 2})
    first = fingerprint({"train": rows})
    other = Row({**rows[0].fields, "label": "c"}, "x")
    moved = Row(rows[0].fields, "elsewhere.csv:9")
    assert first == fingerprint({"train": [moved, *rows[1:]]}), "the place is not the row"
    different = [
        {"train": [other, *rows[1:]]},
        {"train": rows[::-1]},
        {"train": rows[:3], "test": rows[3:]},
        {"test": rows},
    ]
    assert len({first, *(fingerprint(splits) for splits in different)}) == 5


# Folds.


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_every_row_is_in_exactly_one_fold_and_labels_are_spread(folds: int) -> None:
    counts = {"a": 40, "b": 11, "c": 3, "d": 1}
    rows = many(counts)
    parts = [fold(rows, folds, number, 5, by_label) for number in range(folds)]
    asides = [texts(aside) for _, aside in parts]
    assert sorted(text for aside in asides for text in aside) == sorted(texts(rows))
    for kept, aside in parts:
        assert sorted(texts(kept) + texts(aside)) == sorted(texts(rows))
        assert abs(len(aside) - len(rows) / folds) < 1
        found = Counter(row.fields["label"] for row in aside)
        assert all(abs(found[label] - count / folds) < 1 for label, count in counts.items())


def test_the_folds_depend_on_the_seed() -> None:
    rows = many({"a": 50, "b": 50})
    first, again, other = (fold(rows, 5, 2, seed, by_label)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_fold_replaces_the_validation_rows_and_keeps_the_test_rows() -> None:
    parts = ["train", "validation", "train", "test", "train"] * 6
    lines = [f"t{n},{'ab'[n % 2]},{part}" for n, part in enumerate(parts)]
    write("x.csv", "\n".join(["text,label,split", *lines]))
    found = [load(Data(path="x.csv", folds=4, fold=number)) for number in range(4)]
    assert all(texts(splits["test"]) == texts(found[0]["test"]) for splits in found)
    checked = [text for splits in found for text in texts(splits["validation"])]
    assert sorted(checked) == sorted(f"t{n}" for n, part in enumerate(parts) if part != "test")
    write("y.csv", "\n".join(["text,label", *(line.rpartition(",")[0] for line in lines)]))
    shares = [load(Data(path="y.csv", test=0.25, folds=4, fold=number)) for number in range(2)]
    assert texts(shares[0]["test"]) == texts(shares[1]["test"])


def test_fewer_rows_than_folds_are_an_error() -> None:
    write("x.csv", CSV)
    assert_told(Data(path="x.csv", folds=3), "data.folds: 3 folds need as many rows, there are 2")


# Streams.


def test_a_shuffled_stream_keeps_the_first_rows_of_its_seed() -> None:
    write("x.csv", "text,label\n" + "".join(f"t{n},{'ab'[n % 2]}\n" for n in range(100)))

    def kept(seed: int) -> list[str]:
        data = Data(path="x.csv", validation=0.0, streaming=True, limit=10)
        return texts(load(data, seed)["train"])

    assert len(set(kept(1))) == 10
    assert kept(1) == kept(1) != kept(2)
    assert kept(1) != [f"t{n}" for n in range(10)]


def test_a_stream_is_read_once_and_no_further_than_needed() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    stream = shuffled(numbers(), 0, size=20)
    some = [next(stream) for _ in range(30)]
    assert taken == list(range(50))
    assert sorted([*some, *stream]) == list(range(1000))


def test_a_limit_counts_for_each_split() -> None:
    row = Row({"text": "a", "label": "b"}, "x")
    parts = ["train"] * 5 + ["test"] * 3 + ["validation"] + ["train"] * 5
    stream = iter([(part, row) for part in parts])
    assert Counter(part for part, _ in first(stream, 2)) == {
        "train": 2,
        "test": 2,
        "validation": 1,
    }
    endless = ((None, row) for _ in count())
    assert len(list(first(endless, 7))) == 7


def test_a_limit_of_zero_makes_an_empty_split() -> None:
    lines = [f"t{n},{'ab'[n % 2]},{'validation' if n > 35 else 'train'}" for n in range(40)]
    write("x.csv", "\n".join(["text,label,split", *lines]))
    assert list(load(Data(path="x.csv", validation=0.0))) == ["train"]


def test_each_line_of_a_plain_text_file_is_a_text() -> None:
    write("a.txt", "  first line, with a comma \n\n第二行\r\nthird")
    task = tasks()["masked_language_modelling"]()
    rows = Data(path="a.txt", validation=0).load(Path(), 0, task)["train"]
    assert [row.fields for row in rows] == [
        {"text": text} for text in ("first line, with a comma", "第二行", "third")
    ]
    assert [row.where for row in rows] == ["a.txt:1", "a.txt:3", "a.txt:4"]
    assert_told(Data(path="a.txt"), "a.txt:1: there is no column 'label' for label; valid are: te")
    write("a.txt", " \n\n")
    assert_told(Data(path="a.txt"), "a.txt: there are no rows")
