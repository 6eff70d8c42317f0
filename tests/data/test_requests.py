"""Files of requests: texts, pairs, adapters, and the message for every fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapterkit.data.requests import MOST_DEPTH, RequestRow, parse_text, read_requests
from adapterkit.errors import DataError

SCRIPTS = ["¿Dónde está mi paquete?", "我的卡丢了", 'a "quoted", text\nof two lines', "🙂"]


def ask(content: str, pair: str | None = None, name: str = "x.csv") -> list[RequestRow]:
    Path(name).write_text(content, encoding="utf-8", newline="")
    columns = {"text": "text"} if pair is None else {"text": "text", "text_pair": pair}
    return read_requests(Path(name), columns, "adapter")


def test_texts_are_read_in_order() -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in SCRIPTS)
    assert ask(lines, name="x.jsonl") == [RequestRow(None, text) for text in SCRIPTS]
    quoted = "\n".join('"' + text.replace('"', '""') + '"' for text in SCRIPTS)
    assert ask(f"\ufefftext\n{quoted}\n") == [RequestRow(None, text) for text in SCRIPTS]


def test_a_file_may_name_each_rows_adapter() -> None:
    content = "adapter,text,note\nacme/intent,a,x\nbase,b,\n,c,y\n"
    assert [(a.adapter, a.text) for a in ask(content)] == [
        ("acme/intent", "a"),
        ("base", "b"),
        ("base", "c"),
    ]


def test_a_jsonl_row_may_omit_its_adapter() -> None:
    content = '{"text": "a", "adapter": "x"}\n{"text": "b"}\n{"text": "c", "adapter": null}\n'
    assert [a.adapter for a in ask(content, name="x.jsonl")] == ["x", None, "base"]


def test_pairs_are_read() -> None:
    assert ask("text,second\na,b\n", pair="second") == [RequestRow(None, ("a", "b"))]


def test_a_number_is_a_text_as_in_training() -> None:
    assert ask('{"text": 42}\n', name="x.jsonl") == [RequestRow(None, "42")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "txt\na\n", "x.csv:2: there is no column 'text' for text; did you mean 'txt'?"),
        ("x.csv", "text,b\na,c\n,d\n", "x.csv:3: column 'text' is empty; fill it or leave the row"),
        ("x.csv", "text\n", "x.csv: there are no rows"),
        ("x.csv", "text\na,b\n", "x.csv:2: 2 fields where the header has 1; quote texts that hold"),
        ("x.jsonl", '{"text": ["a"]}\n', "x.jsonl:1: column 'text': expected a text, got ['a']"),
        (
            "x.jsonl",
            '{"text": "\\ud83d"}\n',
            "x.jsonl:1: column 'text': expected a text, got '\\ud8",
        ),
        (
            "x.jsonl",
            '{"text": "a"}\n{"text": "a", "adapter": 5}\n',
            "x.jsonl:2: column 'adapter' is not a name",
        ),
        (
            "x.text",
            "a\n",
            "x.text: expected a file ending in .csv, .tsv, .jsonl, .json, .txt or .parquet",
        ),
    ],
)
def test_an_error_names_file_and_line(name: str, content: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        ask(content, name=name)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_second_text_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^x\.csv:2: there is no column 'second' for text_pair; "):
        ask("text,other\na,b\n", pair="second")
    with pytest.raises(DataError, match=r"^x\.csv:2: column 'second' is empty"):
        ask("text,second\na,\n", pair="second")


@pytest.mark.parametrize("parts", [('{"a":', "}"), ('{"a":[', "]}")], ids=["objects", "lists"])
@pytest.mark.parametrize("depth", [1, 16, 17, 33, 300, 950, 1100, 20_000])
def test_deeply_nested_json_is_values_or_a_text(depth: int, parts: tuple[str, str]) -> None:
    word = parts[0] * depth + "1" + parts[1] * depth
    is_shallow = depth * (len(parts[0]) - 4) <= MOST_DEPTH
    assert isinstance(parse_text(word), dict if is_shallow else str)


@pytest.mark.parametrize("word", ["{", '{"a": ', "{'a': 1}", "[1]", "3", " ", '{"a":1} b'])
def test_text_that_is_not_a_json_object_is_a_text(word: str) -> None:
    assert parse_text(word) == word


def test_a_json_object_has_values_by_role() -> None:
    assert parse_text(' {"question": "¿Dónde?"}') == {"question": "¿Dónde?"}


def test_a_json_object_with_a_key_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"the key 'text' is there twice in \{"):
        parse_text('{"text": "tea", "text": "coffee"}')
