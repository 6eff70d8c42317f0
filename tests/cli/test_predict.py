"""`adapterkit predict` on files: their columns, faulty rows, standard input, and long files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.data.requests import RequestFile
from adapterkit.prediction import prediction_rows
from adapterkit.prediction.answers import write_answers
from adapterkit.prediction.request_rows import RowSurvey
from helpers.adapters import MakeAdapter
from helpers.command_line import CommandResult, assert_one_line, run_command

MIXED_FAULTS = (
    '{"text": "sun", "id": 1}\n'
    '{"text": "", "id": 2}\n'
    '{"id": 3}\n'
    '{"text": "rain", "id":\n'
    '{"text": "rain", "id": 5, "adapter": 5}\n'
    '{"text": "\\ud83d", "id": 6}\n'
    '{"text": "rain", "id": 7}\n'
)


@pytest.fixture
def store(tiny: Backbone, make_adapter: MakeAdapter) -> Path:
    """A store with `acme/mood` and `globex`."""
    store = Store("store")
    for name, seed in (("acme/mood", 1), ("globex", 2)):
        adapter = make_adapter(tiny, "lora", name=name, seed=seed, labels=("bad", "good"))
        store.publish(adapter, tiny.geometry)
    return Path("store")


@pytest.fixture
def arguments(store: Path, tiny_folder: Path) -> tuple[str, ...]:
    return ("--store", str(store), "--backbone", str(tiny_folder), "--device", "cpu")


def write(name: str, content: str) -> Path:
    Path(name).write_text(content, encoding="utf-8")
    return Path(name)


def read_csv(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with a text on standard input."""

    def run(content: str, *given: str) -> CommandResult:
        stream = io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8")
        monkeypatch.setattr(
            "adapterkit.prediction.request_rows.standard_input", lambda: stream.buffer
        )
        return run_command("predict", *given)

    return run


# Columns.


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_every_column_of_the_input_is_kept(arguments: tuple[str, ...], ending: str) -> None:
    rows = [
        {"id": "7", "text": "sun", "label": "good", "score": "", "note": 'a "b",\nc'},
        {"id": "9", "text": "rain", "label": "bad", "score": "2", "note": "银行"},
    ]
    write_answers(Path(f"in.{ending}"), rows)
    target = f"out.{ending}"
    result = run_command(
        "predict", "globex", "--input", f"in.{ending}", "--output", target, *arguments
    )
    assert result == CommandResult(0, "", f"2 answers in {target}\n")
    if ending == "csv":
        found = read_csv(target)
    else:
        found = [json.loads(line) for line in Path(target).read_text("utf-8").splitlines()]
    for row, kept in zip(found, rows, strict=True):
        assert {key: row[key] for key in kept} == kept
        assert row["prediction"] == row["predicted_label"]
        assert row["prediction"] in ("bad", "good")
        assert 0.5 <= float(row["predicted_score"]) <= 1.0
        assert (row["adapter"], row.get("error")) == ("globex", None)


def test_a_prefix_names_all_columns_of_ours(arguments: tuple[str, ...]) -> None:
    write("in.csv", "text,label\nsun,good\n")
    (row,) = run_command(
        "predict", "globex", "--input", "in.csv", "--prefix", "v2_", "--json", *arguments
    ).json
    own = {"adapter", "prediction", "label", "score", "scores"}
    assert row.keys() == {"text", "label", *(f"v2_{key}" for key in own)}
    assert (row["text"], row["label"]) == ("sun", "good")


def test_the_adapter_column_says_who_answered_and_another_one_is_kept(
    arguments: tuple[str, ...],
) -> None:
    write("in.csv", "text,adapter\nsun,globex@1\n")
    (row,) = run_command("predict", "--input", "in.csv", "--json", *arguments).json
    assert row["adapter"] == "globex"
    write("other.csv", "text,adapter,who\nsun,USB,globex\n")
    (row,) = run_command(
        "predict", "--input", "other.csv", "--adapter-column", "who", "--json", *arguments
    ).json
    assert (row["adapter"], row["who"], row["predicted_adapter"]) == ("USB", "globex", "globex")


def test_an_adapter_column_that_is_named_must_be_there(arguments: tuple[str, ...]) -> None:
    write("in.csv", "text,modell\nsun,globex\n")
    given = ("globex", "--input", "in.csv", "--adapter-column", "model", *arguments)
    words = "--adapter-column: in.csv has no column 'model'; did you mean 'modell'?"
    assert_one_line(run_command("predict", *given), words)


def test_a_parquet_files_values_are_kept(arguments: tuple[str, ...]) -> None:
    from datetime import date

    from datasets import Dataset

    rows = {"text": ["sun"], "day": [date(2026, 1, 2)], "tags": [["a", "b"]], "none": [None]}
    Dataset.from_dict(rows).to_parquet("in.parquet")
    given = ("predict", "globex", "--input", "in.parquet", "--output", "out.csv")
    assert run_command(*given, *arguments).code == 0
    (row,) = read_csv("out.csv")
    assert (row["day"], row["tags"], row["none"]) == ("2026-01-02", '["a", "b"]', "")


# Rows that are not valid.


def test_other_rows_are_answered_and_the_exit_code_is_1(arguments: tuple[str, ...]) -> None:
    write("in.jsonl", MIXED_FAULTS)
    given = ("predict", "globex", "--input", "in.jsonl")
    result = run_command(*given, "--output", "out.jsonl", *arguments)
    assert (result.code, result.out) == (1, "")
    first, last = result.err.splitlines()
    assert first == "2 answers in out.jsonl"
    assert last.startswith("Error: 5 of 7 rows have no answer; the first: in.jsonl:2: column 'te")
    rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert [row.get("id") for row in rows] == [1, 2, 3, None, 5, 6, 7]
    assert ["prediction" in row for row in rows] == [True, *[False] * 5, True]
    for number, words in enumerate(
        (
            "column 'text' is empty",
            "there is no column 'text' for text",
            "not JSON",
            "column 'adapter' is not a name",
            "column 'text': expected a text",
        ),
        start=2,
    ):
        assert rows[number - 1]["error"].startswith(f"in.jsonl:{number}: {words}")
    table = run_command(*given, *arguments)
    assert table.code == 1
    assert [line.split()[0] for line in table.out.splitlines()[2:4]] == ["(error)", "(error)"]
    printed = run_command(*given, "--json", *arguments)
    assert printed.code == 1
    assert json.loads(printed.out) == rows


def test_a_row_that_only_the_task_refuses_stops_no_other(arguments: tuple[str, ...]) -> None:
    write("in.jsonl", '{"text": "sun"}\n{"question": "who?", "context": "b"}\n')
    result = run_command("predict", "globex", "--input", "in.jsonl", "--json", *arguments)
    answered, faulty = json.loads(result.out)
    assert (result.code, answered["adapter"]) == (1, "globex")
    assert faulty["error"] == "in.jsonl:2: there is no text"


def test_faulty_rows_of_a_csv_file_keep_their_place(arguments: tuple[str, ...]) -> None:
    write("in.csv", "text,more\nsun,1\nrain,2,3\n,4\nsun,5\n")
    result = run_command("predict", "globex", "--input", "in.csv", "--output", "o.csv", *arguments)
    assert result.code == 1
    rows = read_csv("o.csv")
    assert [row["more"] for row in rows] == ["1", "", "4", "5"]
    assert [row["error"].partition(": ")[0] for row in rows] == ["", "in.csv:3", "in.csv:4", ""]
    assert rows[0]["prediction"] == rows[3]["prediction"]


def test_an_empty_row_keeps_its_place_unless_it_is_at_the_end(arguments: tuple[str, ...]) -> None:
    write("in.csv", "text,more\nsun,1\n,\nsun,2\n,\n,\n")
    result = run_command("predict", "globex", "--input", "in.csv", "--json", *arguments)
    rows = json.loads(result.out)
    assert [row.get("more") for row in rows] == ["1", None, "2"]
    assert rows[1]["error"] == "in.csv:3: all fields are empty"
    assert result.err.splitlines() == [
        "in.csv: skipped 2 empty rows at its end",
        "Error: 1 of 3 rows have no answer; the first: in.csv:3: all fields are empty",
    ]


@pytest.mark.parametrize(("name", "content"), [("in.txt", ""), ("in.csv", "text\n")])
def test_a_blank_line_keeps_its_place_unless_it_is_at_the_end(
    arguments: tuple[str, ...], name: str, content: str
) -> None:
    write(name, f"{content}sun\n\nrain\n\n")
    result = run_command("predict", "globex", "--input", name, "--json", *arguments)
    first, blank, last = json.loads(result.out)
    assert (first["text"], last["text"]) == ("sun", "rain")
    assert blank["error"] == f"{name}:{2 + bool(content)}: all fields are empty"
    assert result.code == 1


# Standard input.


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("jsonl", '{"text": "sun", "id": 1}\n{"text": "rain", "id": 2}\n'),
        ("csv", "text,id\nsun,1\nrain,2\n"),
        ("tsv", "text\tid\nsun\t1\nrain\t2\n"),
        ("txt", "sun\nrain\n"),
    ],
)
def test_standard_input_is_answered_as_a_file(
    pipe: Any, arguments: tuple[str, ...], ending: str, content: str
) -> None:
    write(f"in.{ending}", content)
    expected = run_command("predict", "globex", "--input", f"in.{ending}", "--json", *arguments)
    given = ("globex", "--input", "-", "--format", ending, "--json")
    assert pipe(content, *given, *arguments).json == expected.json
    assert [row["text"] for row in expected.json] == ["sun", "rain"]


def test_errors_of_standard_input_name_it(pipe: Any, arguments: tuple[str, ...]) -> None:
    given = ("globex", "--input", "-", "--format", "csv")
    result = pipe("text,n\nsun,1\n,2\n", *given, "--json", *arguments)
    assert json.loads(result.out)[1]["error"].startswith("standard input:3: column 'text' is empty")
    empty = pipe("", *given, *arguments)
    assert (empty.code, empty.err) == (2, "Error: standard input: there are no rows\n")


def test_a_pipe_of_processes(programs: Path, arguments: tuple[str, ...]) -> None:
    command = [str(programs / "adapterkit"), "predict", "globex", "--input", "-"]
    done = subprocess.run(
        [*command, "--format", "txt", "--json", *arguments],
        input="sun\nrain\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["text"] for row in json.loads(done.stdout)] == ["sun", "rain"]


# Chunks.


def test_chunks_change_nothing(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["sun", "", "rain", "my card", " ", "tea", "a bank"]
    write("in.jsonl", "".join(json.dumps({"text": line}) + "\n" for line in lines))
    adapters = ("--adapter", "globex", "--adapter", "acme/mood")
    given = ("predict", *adapters, "--input", "in.jsonl", "--json", *arguments)
    whole = json.loads(run_command(*given).out)
    monkeypatch.setattr(prediction_rows, "CHUNK", 3)
    parts = json.loads(run_command(*given).out)
    assert len(whole) == 5 * 2 + 2
    survey = RowSurvey.of(RequestFile(Path("in.jsonl"), {"text": "text"}).rows())
    assert survey.n_answers(2) == len(whole), "the length of the progress bar"
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        assert one.get("label") == other.get("label")
        assert one.get("scores") == pytest.approx(other.get("scores"), abs=1e-6)


def test_rows_are_written_as_they_come() -> None:
    """The file of the answers grows while the rows are still being computed."""
    sizes = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(3000):
            (draft,) = (name for name in os.listdir() if "answers.jsonl" in name)
            sizes.append(os.stat(draft).st_size)
            yield {"text": f"{number}" * 10}

    write_answers(Path("answers.jsonl"), rows())
    assert 0 < sizes[1500] < sizes[-1]
    assert len(Path("answers.jsonl").read_text().splitlines()) == 3000


PEAK = """
import resource, sys
from adapterkit.__main__ import main

try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_memory_does_not_grow_with_the_rows(arguments: tuple[str, ...], ending: str) -> None:
    def peak(n_rows: int) -> int:
        with Path("in.csv").open("w") as file:
            file.write("text,note\n")
            file.writelines(f"sun {number % 97},{'x' * 200}{number}\n" for number in range(n_rows))
        command = [sys.executable, "-c", PEAK, "predict", "globex", "--input", "in.csv"]
        done = subprocess.run(
            [*command, "--output", f"out.{ending}", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return int(done.stderr.split()[-1])

    few, many = peak(5_000), peak(200_000)
    assert many < few + 50_000, "200,000 rows and their answers are more than 100,000 kB"
