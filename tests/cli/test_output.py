"""What is asked of a file, and answers as people and programs read them."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.card import card
from adapterkit.atomic import check_output
from adapterkit.backbone.model import Backbone
from adapterkit.cli.output import FORMATS, show_answers, show_card, write_answers
from adapterkit.data.requests import MOST_DEPTH, RequestRow, parse_text, read_requests
from adapterkit.errors import DataError
from adapterkit.inference.pipeline import summarize
from adapterkit.inference.predictor import Predictor
from adapterkit.text_table import table
from helpers.adapters import MakeAdapter

SCRIPTS = ["¿Dónde está mi paquete?", "我的卡丢了", 'a "quoted", text\nof two lines', "🙂"]


def ask(content: str, pair: str | None = None, name: str = "x.csv") -> list[RequestRow]:
    Path(name).write_text(content, encoding="utf-8", newline="")
    columns = {"text": "text"} if pair is None else {"text": "text", "text_pair": pair}
    return read_requests(Path(name), columns, "adapter")


def answered(text: Any, **answer: Any) -> dict[str, Any]:
    return {"text": text, "adapter": "acme/intent", "label": "sí", "score": 0.5, **answer}


def shown(predictor: Predictor, rows: list[dict[str, Any]]) -> str:
    names = [row["adapter"] for row in rows]
    lines = [summarize(predictor.find(row["adapter"]), row) for row in rows]
    return show_answers(names, [row["text"] for row in rows], lines)


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


def test_a_jsonl_row_may_leave_its_adapter_out() -> None:
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
        ("x.text", "a\n", "x.text: expected a file ending in .csv, .tsv, .jsonl, .txt or .parquet"),
    ],
)
def test_a_fault_is_told_with_file_and_line(name: str, content: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        ask(content, name=name)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_second_text_is_told() -> None:
    with pytest.raises(DataError, match=r"^x\.csv:2: there is no column 'second' for text_pair; "):
        ask("text,other\na,b\n", pair="second")
    with pytest.raises(DataError, match=r"^x\.csv:2: column 'second' is empty"):
        ask("text,second\na,\n", pair="second")


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_json_answers_come_back_whole(ending: str) -> None:
    rows = [answered(text, scores={"sí": 0.5, "银行": 0.25}) for text in SCRIPTS]
    rows.append({"text": ["a", "b"], "adapter": "base", "vector": [0.1, -1e-9]})
    path = Path(f"answers{ending}")
    write_answers(path, rows)
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines() if ending == ".jsonl" else []
    assert (json.loads(content) if not lines else [json.loads(line) for line in lines]) == rows
    assert "我的卡丢了" in content, "texts stay readable"
    assert content.endswith("\n")


def test_csv_answers_come_back_cell_by_cell() -> None:
    rows = [answered(text) for text in SCRIPTS]
    rows.append(answered(("a", "b"), scores={"银行": 0.25}, truncated=True))
    write_answers(Path("answers.csv"), rows)
    with Path("answers.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["text"] for row in found[:-1]] == SCRIPTS
    assert {row["label"] for row in found} == {"sí"}
    assert [row["truncated"] for row in found] == ["", "", "", "", "True"]
    assert json.loads(found[-1]["text"]) == ["a", "b"]
    assert json.loads(found[-1]["scores"]) == {"银行": 0.25}


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_no_answers_are_a_file_too(ending: str) -> None:
    write_answers(Path(f"answers{ending}"), [])
    assert Path(f"answers{ending}").read_text().strip() in ("", "[]")


def test_earlier_answers_are_replaced_whole() -> None:
    Path("answers.json").write_text("x" * 100_000)
    write_answers(Path("answers.json"), [answered("a")])
    assert json.loads(Path("answers.json").read_text()) == [answered("a")]
    assert os.listdir() == ["answers.json"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("answers.txt", "answers.txt: expected a file ending in .csv, .jsonl or .json"),
        ("answers", "answers: expected a file ending in .csv, .jsonl or .json"),
        ("answers.CSV", "answers.CSV: expected a file ending in .csv, .jsonl or .json"),
        ("no/answers.csv", "no/answers.csv: there is no folder no"),
        ("folder.csv", "folder.csv: expected a file, this is a folder"),
        ("answers.txt/a.json", "answers.txt/a.json: there is no folder answers.txt"),
    ],
)
def test_a_file_that_cannot_be_written_is_told(name: str, words: str) -> None:
    Path("folder.csv").mkdir()
    Path("answers.txt").write_text("mine")
    with pytest.raises(DataError, match=f"^{re.escape(words)}"):
        check_output(Path(name), FORMATS)
    with pytest.raises(DataError, match=f"^--output {re.escape(words)}"):
        check_output(Path(name), FORMATS, "--output")
    with pytest.raises(DataError, match=f"^{re.escape(words)}"):
        write_answers(Path(name), [answered("a")])
    assert sorted(os.listdir()) == ["answers.txt", "folder.csv"]
    assert Path("answers.txt").read_text() == "mine"


def test_people_see_a_line_for_each_answer(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    predictor = Predictor(tiny, [make_adapter(tiny, labels=("envío", "银行"))])
    texts = ["my\ncard   is lost", "help " * 40]
    rows = [
        {"text": text, **answer}
        for owner in ("acme/intent", None)
        for text, answer in zip(texts, predictor([(owner, t) for t in texts]), strict=True)
    ]
    header, *lines = shown(predictor, rows).splitlines()
    assert header.split() == ["adapter", "answer", "score", "text"]
    assert len(lines) == 4
    for line, row in zip(lines[:2], rows, strict=False):
        assert line.split()[:3] == ["acme/intent", row["label"], f"{row['score']:.3f}"]
    assert lines[0].endswith("my card is lost")
    assert lines[1].endswith("…")
    for line, row in zip(lines[2:], rows[2:], strict=True):
        assert line.startswith("base")
        assert f"[{row['vector'][0]:.3f}, " in line
        assert "... 32]" in line


def test_a_pair_is_one_line() -> None:
    assert show_answers(["a"], [("a", "b\nc")], [("yes", 0.5)]).splitlines()[1].endswith("a | b c")


def test_values_by_role_are_shown_by_their_first_text() -> None:
    values = {"head": {"start": 0, "end": 2}, "tokens": ["my", "card"], "text": "no"}
    (_, line) = show_answers(["a"], [values], [("yes", None)]).splitlines()
    assert line.endswith("my | card")


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = table(["a", "long", "x"], [["one", 2, ""], ["", None, "last one"]]).splitlines()
    assert lines == ["a    long  x", "one  2", "     None  last one"]
    assert table(["a", "b"], []) == "a  b"


def test_chinese_takes_two_columns_a_character() -> None:
    labels = [("我的卡", 0.5), ("card", 0.5), ("sí", 0.5)]
    _, *lines = show_answers(["acme/intent"] * 3, ["a", "b", "卡" * 60], labels).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["acme/intent", "我的卡", "0.500", "a"],
        ["acme/intent", "card", "0.500", "b"],
    ]
    # The first label is six columns wide, the second four: two blanks more, one character more.
    assert lines[1].index("0.500") == lines[0].index("0.500") + 3
    assert lines[2].endswith(" " + "卡" * 35 + "…"), "71 columns hold 35 of them and the sign"


def test_a_card_is_shown_with_all_it_says(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    content = {
        "folder": "shelf/acme/intent/1",
        "bytes": 1234,
        **card(make_adapter(tiny, labels=("envío", "银行"))),
        "metrics": {"test": {"accuracy": 0.5}},
        "training": {
            "seed": 3,
            "rows": {"train": 9, "test": 2},
            "history": [],
            "intervals": {"test": {"accuracy": [0.25, 0.75]}},
        },
        "report": ["shelf/acme/intent/1/report/per_class.csv"],
        "tensors": {"classifier.weight": [2, 32]},
    }
    text = show_card(content)
    for part in (
        "acme/intent",
        "shelf/acme/intent/1",
        tiny.fingerprint,
        "envío, 银行",
        "query, value",
        "accuracy 0.5000",
        "accuracy 0.2500 to 0.7500",
        "shelf/acme/intent/1/report/per_class.csv",
        "train 9, test 2",
        "classifier.weight [2, 32]",
    ):
        assert part in text
    assert "history" not in text


def test_a_foreign_folder_is_shown_by_its_tensors() -> None:
    lines = show_card({"folder": "x", "bytes": 5, "tensors": {"a": [1]}}).splitlines()
    assert [line.split() for line in lines] == [
        ["folder", "x"],
        ["bytes", "5"],
        ["tensors"],
        ["a", "[1]"],
    ]


def test_a_text_cannot_steer_the_terminal() -> None:
    said = show_answers(["a"], ["\x1b[31mred\x07 \x9b2J"], [("\x1b]0;title\x07", None)])
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in said if c != "\n")
    assert "␛[31mred␇" in said
    assert "␛]0;title␇" in said
    assert table(["a"], [["我\x7f"]]).splitlines()[1] == "我␡"


@pytest.mark.parametrize("parts", [('{"a":', "}"), ('{"a":[', "]}")], ids=["objects", "lists"])
@pytest.mark.parametrize("depth", [1, 16, 17, 33, 300, 950, 1100, 20_000])
def test_json_of_any_depth_is_values_or_a_text(depth: int, parts: tuple[str, str]) -> None:
    word = parts[0] * depth + "1" + parts[1] * depth
    is_shallow = depth * (len(parts[0]) - 4) <= MOST_DEPTH
    assert isinstance(parse_text(word), dict if is_shallow else str)


@pytest.mark.parametrize("word", ["{", '{"a": ', "{'a': 1}", "[1]", "3", " ", '{"a":1} b'])
def test_what_is_no_json_object_is_a_text(word: str) -> None:
    assert parse_text(word) == word


def test_a_json_object_gives_values_by_role() -> None:
    assert parse_text(' {"question": "¿Dónde?"}') == {"question": "¿Dónde?"}
