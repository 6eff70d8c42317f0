"""Answers and cards as people and programs read them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.card import card
from adapterkit.atomic import check_output
from adapterkit.backbone.model import Backbone
from adapterkit.cli.card_text import card_text
from adapterkit.errors import DataError
from adapterkit.inference.pipeline import summarize
from adapterkit.inference.predictor import Predictor
from adapterkit.prediction.answers import FORMATS, answers_table, write_answers
from adapterkit.text_table import table
from helpers.adapters import MakeAdapter

SCRIPTS = ["¿Dónde está mi paquete?", "我的卡丢了", 'a "quoted", text\nof two lines', "🙂"]


def answered(text: Any, **answer: Any) -> dict[str, Any]:
    return {"text": text, "adapter": "acme/intent", "label": "sí", "score": 0.5, **answer}


def shown(predictor: Predictor, rows: list[dict[str, Any]]) -> str:
    names = [row["adapter"] for row in rows]
    lines = [summarize(predictor.find(row["adapter"]), row) for row in rows]
    return answers_table(names, [row["text"] for row in rows], lines)


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_json_answers_are_read_back_unchanged(ending: str) -> None:
    rows = [answered(text, scores={"sí": 0.5, "银行": 0.25}) for text in SCRIPTS]
    rows.append({"text": ["a", "b"], "adapter": "base", "vector": [0.1, -1e-9]})
    path = Path(f"answers{ending}")
    write_answers(path, rows)
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines() if ending == ".jsonl" else []
    assert (json.loads(content) if not lines else [json.loads(line) for line in lines]) == rows
    assert "我的卡丢了" in content, "texts stay readable"
    assert content.endswith("\n")


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_numbers_that_json_does_not_have_are_missing_or_texts(ending: str) -> None:
    def fail(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    path = Path(f"answers{ending}")
    write_answers(path, [answered("a", age=math.nan, sizes=[1.0, math.inf], left=math.inf)])
    content = path.read_text(encoding="utf-8")
    if ending == ".csv":
        (row,) = csv.DictReader(io.StringIO(content))
        assert (row["age"], row["left"]) == ("", "inf")
        found = {"sizes": json.loads(row["sizes"], parse_constant=fail)}
    else:
        found = json.loads(content, parse_constant=fail)
        found = found if ending == ".jsonl" else found[0]
        assert (found["age"], found["left"]) == (None, "inf")
    assert found["sizes"] == [1.0, "inf"]


def test_csv_answers_are_read_back_cell_by_cell() -> None:
    texts = [*SCRIPTS, "old\rMac", "\r", "a\r\nb"]
    rows = [answered(text) for text in texts]
    rows.append(answered(("a", "b"), scores={"银行": 0.25}, truncated=True))
    write_answers(Path("answers.csv"), rows)
    with Path("answers.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["text"] for row in found[:-1]] == texts
    assert {row["label"] for row in found} == {"sí"}
    assert [row["truncated"] for row in found] == [*[""] * len(texts), "True"]
    assert json.loads(found[-1]["text"]) == ["a", "b"]
    assert json.loads(found[-1]["scores"]) == {"银行": 0.25}


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_file_without_answers_is_valid(ending: str) -> None:
    write_answers(Path(f"answers{ending}"), [])
    assert Path(f"answers{ending}").read_text().strip() in ("", "[]")


def test_an_existing_file_is_replaced_completely() -> None:
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
def test_an_unwritable_file_is_an_error(name: str, words: str) -> None:
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


def test_the_table_has_a_line_for_each_answer(tiny: Backbone, make_adapter: MakeAdapter) -> None:
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
    assert answers_table(["a"], [("a", "b\nc")], [("yes", 0.5)]).splitlines()[1].endswith("a | b c")


def test_values_by_role_are_shown_by_their_first_text() -> None:
    values = {"head": {"start": 0, "end": 2}, "tokens": ["my", "card"], "text": "no"}
    (_, line) = answers_table(["a"], [values], [("yes", None)]).splitlines()
    assert line.endswith("my | card")


def test_every_field_of_a_card_is_shown(tiny: Backbone, make_adapter: MakeAdapter) -> None:
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
    text = card_text(content)
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


def test_a_folder_without_card_is_shown_by_its_tensors() -> None:
    lines = card_text({"folder": "x", "bytes": 5, "tensors": {"a": [1]}}).splitlines()
    assert [line.split() for line in lines] == [
        ["folder", "x"],
        ["bytes", "5"],
        ["tensors"],
        ["a", "[1]"],
    ]


def test_a_text_cannot_control_the_terminal() -> None:
    rendered = answers_table(["a"], ["\x1b[31mred\x07 \x9b2J"], [("\x1b]0;title\x07", None)])
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in rendered if c != "\n")
    assert "␛[31mred␇" in rendered
    assert "␛]0;title␇" in rendered
    assert table(["a"], [["我\x7f"]]).splitlines()[1] == "我␡"
