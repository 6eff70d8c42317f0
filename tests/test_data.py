"""Rows from files: what is read, how it is split, and where each fault is said to be."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from adapterkit.data import Data, draw, fingerprint, read_records, read_rows
from adapterkit.errors import DataError
from adapterkit.task import Row
from adapterkit.tasks.classification import Classification

COLUMNS = {"text": ("text", "text"), "label": ("label", "text")}


def by_label(row: Row) -> str:
    return str(row.fields["label"])


CSV = "text,label\nmy card,no\nthe bank,yes\n"
JSONL = '{"text": "my card", "label": "no"}\n{"text": "the bank", "label": "yes"}\n'

CSV_FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "x.csv: there are no rows"),
    "header alone": ("text,label\n", "x.csv: there are no rows"),
    "blank lines": ("\n\n\n", "x.csv: there are no rows"),
    "no text column": ("txt,label\na,b\n", "x.csv:2: there is no column 'text' for text; did you"),
    "no label column": ("text,lable\na,b\n", "x.csv:2: there is no column 'label' for label; did"),
    "semicolons": ("text;label\na;b\n", "x.csv:2: there is no column 'text' for text; valid are:"),
    "column twice": ("text,label,text\na,b,c\n", "x.csv:1: the column 'text' is there twice"),
    "nameless columns": ("text,label,,\na,b,,\n", "x.csv:1: the column '' is there twice"),
    "empty text": (CSV + ",no\n", "x.csv:4: column 'text' is empty; fill it or leave the row out"),
    "blank text": (CSV + '" \t ",no\n', "x.csv:4: column 'text' is empty"),
    "ideographic space": (CSV + "\u3000,no\n", "x.csv:4: column 'text' is empty"),
    "empty label": (CSV + "a,\n", "x.csv:4: column 'label' is empty"),
    "field too few": (CSV + "a\n", "x.csv:4: 1 fields where the header has 2; quote texts that"),
    "field too many": (CSV + "a, b,no\n", "x.csv:4: 3 fields where the header has 2; quote texts"),
    "after blank lines": (CSV + "\n\n,no\n", "x.csv:6: column 'text' is empty"),
    "after a long quote": (CSV + '"a\n\nb",no\n,no\n', "x.csv:7: column 'text' is empty"),
    "inside a long quote": (CSV + '"a\n\nb",no,no\n', "x.csv:4: 3 fields where the header has 2"),
    "after Windows lines": (
        (CSV + '"a\nb",no\n,no\n').replace("\n", "\r\n"),
        "x.csv:6: column 'text' is empty",
    ),
    "after old Mac lines": ((CSV + ",no\n").replace("\n", "\r"), "x.csv:4: column 'text' is empty"),
    "after a line separator": (CSV + "a\u2028b\x85\x0b,no\n,no\n", "x.csv:5: column 'text' is em"),
    "quote left open": (CSV + '"a,no\nb,yes\n', "x.csv:4: not CSV (unexpected end of data); close"),
    "text after a quote": (CSV + '"a" b,no\n', "x.csv:4: not CSV ("),
    "Latin-1": (
        CSV.encode() + "café,no\n".encode("latin-1"),
        "x.csv:4: the byte 0xe9 is not UTF-8",
    ),
    "Latin-1 far down": (
        CSV.encode() + b"a,no\n" * 9000 + "señor,no\n".encode("latin-1"),
        "x.csv:9004: the byte 0xf1 is not UTF-8 text; save the file as UTF-8",
    ),
    "UTF-16": (CSV.encode("utf-16"), "x.csv:1: the byte 0xff is not UTF-8 text; save the file"),
    "GBK": (CSV.encode() + "我的卡,no\n".encode("gbk"), "x.csv:4: the byte 0xce is not UTF-8 text"),
    "unknown split": (
        "text,label,split\na,no,train\nb,yes,dev\n",
        "x.csv:3: split is 'dev'; expected train, validation, test",
    ),
    "empty split": (
        "text,label,split\na,no,train\nb,yes,\n",
        "x.csv:3: split is ''; expected train, validation, test",
    ),
    "no training rows": (
        "text,label,split\na,no,test\nb,yes,validation\n",
        "x.csv: there are no training rows",
    ),
}
"""What is wrong with a CSV file, and the telling part of the message."""

JSONL_FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "x.jsonl: there are no rows"),
    "blank lines": ("\n  \n", "x.jsonl: there are no rows"),
    "broken line": (JSONL + '{"text": \n', "x.jsonl:3: not JSON (Expecting value at character"),
    "half a line": (JSONL + JSONL[:20], "x.jsonl:3: not JSON ("),
    "two on a line": (JSONL + "{} {}\n", "x.jsonl:3: not JSON (Extra data at character 4)"),
    "a CSV file": (CSV, "x.jsonl:1: not JSON (Expecting value at character 1)"),
    "array": (JSONL + "[1, 2]\n", "x.jsonl:3: expected a JSON object, got list"),
    "bare text": (JSONL + '"a"\n', "x.jsonl:3: expected a JSON object, got str"),
    "whole file an array": ("[\n" + JSONL, "x.jsonl:1: not JSON ("),
    "key missing": (JSONL + '{"text": "a"}\n', "x.jsonl:3: there is no column 'label' for label"),
    "key misspelt": (
        JSONL + '{"txt": "a", "label": "b"}\n',
        "'text' for text; did you mean 'txt'?",
    ),
    "nothing": (JSONL + "{}\n", "x.jsonl:3: there is no column 'text' for text; nothing is valid"),
    "text a list": (
        JSONL + '{"text": ["我"], "label": "b"}\n',
        "x.jsonl:3: column 'text': expected a text, got ['我']",
    ),
    "text an object": (JSONL + '{"text": {}, "label": "b"}\n', "expected a text, got {}"),
    "text null": (JSONL + '{"text": null, "label": "b"}\n', "expected a text, got None"),
    "label true": (
        JSONL + '{"text": "a", "label": true}\n',
        "x.jsonl:3: column 'label': expected a text, got True",
    ),
    "text empty": (JSONL + '{"text": "", "label": "b"}\n', "x.jsonl:3: column 'text' is empty"),
    "half an emoji": (
        JSONL + '{"text": "a \\ud83d", "label": "b"}\n',
        "x.jsonl:3: column 'text': expected a text, got 'a \\ud83d'",
    ),
    "half an emoji as label": (
        JSONL + '{"text": "a", "label": "\\ude42"}\n',
        "x.jsonl:3: column 'label': expected a text",
    ),
    "too deep": (JSONL + '{"text": ' + "[" * 100_000 + "\n", "x.jsonl:3: cannot be read ("),
    "too many digits": (JSONL + '{"text": ' + "1" * 5000 + "}\n", "x.jsonl:3: cannot be read ("),
    "after a line separator": (
        '{"text": "a\u2028b", "label": "b"}\n\n{"text": " "}\n',
        "x.jsonl:3: there is no column 'label'",
    ),
    "not UTF-8": (
        JSONL.encode() + b'{"text": "caf\xe9"}\n',
        "x.jsonl:3: the byte 0xe9 is not UTF-8",
    ),
    "split a list": (
        '{"text": "a", "label": "b", "split": ["train"]}\n',
        "x.jsonl:1: split is ['train']; expected train, validation, test",
    ),
}
"""What is wrong with a JSONL file, and the telling part of the message."""

FAULTS = {
    **{f"CSV, {label}": ("x.csv", *fault) for label, fault in CSV_FAULTS.items()},
    **{f"JSONL, {label}": ("x.jsonl", *fault) for label, fault in JSONL_FAULTS.items()},
}


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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_and_line(fault: str) -> None:
    name, content, words = FAULTS[fault]
    write(name, content)
    assert_told(Data(path=name), words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Data(path="no.csv"), "no.csv: there is no such file"),
        (Data(train="no.csv"), "no.csv: there is no such file"),
        (Data(path="."), "there is no such file"),
        (Data(path=""), "there is no such file"),
        (Data(path="a.txt"), "a.txt: expected a file ending in .csv or .jsonl"),
        (Data(path="a.csv", validation="no.csv"), "no.csv: there is no such file"),
        (Data(path="a.csv", test="b.csv"), "b.csv:2: there is no column 'label' for label; did yo"),
        (Data(path="a.csv", text="body"), "a.csv:2: there is no column 'body' for text; valid are"),
        (Data(path="a.csv", label="lable"), "no column 'lable' for label; did you mean 'label'?"),
        (Data(path="a.csv", text_pair="second"), "there is no column 'second' for text_pair; vali"),
        (Data(path="c.csv", test="a.csv"), "c.csv has rows of split 'test', and data.test names a"),
    ],
)
def test_a_file_or_column_that_is_not_there_is_told(data: Data, words: str) -> None:
    for name, content in (("a.csv", CSV), ("a.txt", CSV), ("b.csv", "text,lbl\na,b\n")):
        write(name, content)
    write("c.csv", "text,label,split\na,no,train\nb,no,test\n")
    assert_told(data, words)


def test_a_row_is_read_with_its_place() -> None:
    path = write("x.csv", CSV)
    assert list(read_rows(path, COLUMNS, "split")) == [
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
def test_the_same_rows_may_be_written_in_many_ways(content: str) -> None:
    plain = [record for _, record in read_records(write("plain.csv", CSV))]
    found = [record for _, record in read_records(write("x.csv", content))]
    assert [{key: record[key] for key in COLUMNS} for record in found] == plain


def test_csv_and_jsonl_are_the_same_rows() -> None:
    rows = [
        {"text": 'He said "no", twice,\nand left.', "label": "señal"},
        {"text": "¿Dónde está mi paquete? ¡Ñandú!", "label": "envío"},
        {"text": "我的卡丢了\uff0c怎么办\uff1f\r\n谢谢", "label": "银行"},
        {"text": "🙂👩‍👩‍👧", "label": "🙂"},
    ]
    write("x.jsonl", "\n".join(json.dumps(row) for row in rows))
    write("y.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    with Path("x.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    found = [load(Data(path=name, validation=0.0)) for name in ("x.csv", "x.jsonl", "y.jsonl")]
    for splits in found:
        assert [dict(row.fields) for row in splits["train"]] == rows
    assert len({fingerprint(splits) for splits in found}) == 1


def test_a_number_in_jsonl_is_a_text() -> None:
    write("x.jsonl", '{"text": 12, "label": 0}\n{"text": 1.5, "label": 1}\n')
    rows = load(Data(path="x.jsonl"))["train"]
    assert [dict(row.fields) for row in rows] == [
        {"text": "12", "label": "0"},
        {"text": "1.5", "label": "1"},
    ]


def test_columns_go_by_the_names_that_are_given() -> None:
    write("x.csv", "frage,zwei,klasse,teil\na,b,ja,train\nc,d,nein,train\ne,f,ja,test\n")
    data = Data(path="x.csv", text="frage", text_pair="zwei", label="klasse", split="teil")
    splits = load(data)
    assert splits["train"][1].fields == {"text": "c", "text_pair": "d", "label": "nein"}
    assert texts(splits["test"]) == ["e"]


def test_lines_are_counted_right_after_texts_of_many_lines() -> None:
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


def test_files_make_the_splits() -> None:
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


def test_a_drawn_share_has_every_label_in_proportion() -> None:
    counts = {"a": 400, "b": 100, "c": 20}
    kept, aside = draw(many(counts), 0.1, seed=3, stratum=by_label)
    found = Counter(row.fields["label"] for row in aside)
    assert found == {"a": 40, "b": 10, "c": 2}
    assert len(kept) == 468


def test_a_drawn_share_is_right_over_many_small_labels() -> None:
    kept, aside = draw(many({f"l{n}": 3 for n in range(100)}), 0.1, seed=0, stratum=by_label)
    assert (len(kept), len(aside)) == (270, 30)
    assert {row.fields["label"] for row in kept} == {f"l{n}" for n in range(100)}


def test_drawing_loses_nothing_and_keeps_the_order() -> None:
    rows = many({"a": 30, "b": 9, "c": 1})
    kept, aside = draw(rows, 0.3, seed=1, stratum=by_label)
    place = {row.fields["text"]: n for n, row in enumerate(rows)}
    for part in (kept, aside):
        assert [place[t] for t in texts(part)] == sorted(place[t] for t in texts(part))
    assert sorted(texts(kept) + texts(aside)) == sorted(texts(rows))


def test_the_seed_draws_the_rows() -> None:
    rows = many({"a": 50, "b": 50})
    first, again, other = (draw(rows, 0.2, seed=n, stratum=by_label) for n in (1, 1, 2))
    assert first == again
    assert first[1] != other[1]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_labels_only_row_stays_in_training(share: float) -> None:
    kept, aside = draw(many({"a": 10, "b": 1, "c": 1}), share, seed=0, stratum=by_label)
    labels = {row.fields["label"] for row in kept}
    assert labels == {"a", "b", "c"}
    assert {row.fields["label"] for row in aside} <= {"a"}


def test_no_share_sets_nothing_aside() -> None:
    rows = many({"a": 5, "b": 5})
    assert draw(rows, 0.0, seed=0, stratum=by_label) == (rows, [])


def test_a_tenth_is_for_validation_where_nothing_is_said() -> None:
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


def test_a_share_is_not_drawn_where_the_file_has_the_split() -> None:
    lines = [f"t{n},{'ab'[n % 2]},{'validation' if n > 35 else 'train'}" for n in range(40)]
    write("x.csv", "\n".join(["text,label,split", *lines]))
    splits = load(Data(path="x.csv", test=0.5))
    assert texts(splits["validation"]) == ["t36", "t37", "t38", "t39"]
    assert (len(splits["train"]), len(splits["test"])) == (18, 18)


def test_the_fingerprint_knows_rows_order_and_splits() -> None:
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
