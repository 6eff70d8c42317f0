"""`data check`: counts of the rows, warnings, and every error with its place."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.cli.data_text import report_text
from adapterkit.errors import DataError
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Row
from adapterkit.training.checked_rows import MOST_FAULTS, faults
from adapterkit.training.data_report import balance, check, histogram
from adapterkit.training.duplicates import duplicates
from adapterkit.training.recipe import Recipe
from helpers.command_line import assert_one_line, assert_refused, run_command
from helpers.paths import RECIPES

ROWS = """\
text,label,split
my card is lost,银行,train
My  CARD is lost,lluvia,train
\uff4dy card is lost,银行,test
where is the sun,lluvia,train
rain,lluvia,validation
tea,té,test
more tea,té,test
account,银行,train
"""


def plan(content: str = ROWS, name: str = "rows.csv", **sections: Any) -> Recipe:
    Path(name).write_text(content, encoding="utf-8")
    parts = {"data": {"path": name}, "task": {"type": "classification"}, **sections}
    return Recipe.of({"name": "t/topic", "method": {"type": "lora"}, **parts})


def write_recipe(backbone: Path, data: str = "{path: rows.csv}", task: str = "") -> Path:
    lines = ["name: t/topic", f"data: {data}", "method: {type: lora}"]
    lines += [f"task: {{{task}}}"] if task else []
    lines.append(f"backbone: {{model: {backbone}, device: cpu}}")
    Path("r.yaml").write_text("\n".join(lines), encoding="utf-8")
    return Path("r.yaml")


def as_json(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# What is counted.


def test_rows_and_tokens_are_counted_before_the_cut(tiny: Backbone) -> None:
    texts = [" ".join(["help"] * count) for count in (*range(1, 40), 200)]
    content = "text,label\n" + "".join(f"{t},{'ab'[n % 2]}\n" for n, t in enumerate(texts))
    data = {"path": "rows.csv", "validation": 0.0}
    task = {"type": "classification", "max_length": 30}
    report = check(plan(content, data=data, task=task), tiny)
    sizes = sorted(len(tiny.tokenizer(text)["input_ids"]) for text in texts)
    entry = report["splits"]["train"]
    assert (report["limit"], entry["rows"]) == (30, 40)
    assert entry["tokens"] == {"min": 3, "median": median(sizes), "p95": sizes[37], "max": 202}
    assert (entry["cut"], entry["in_windows"]) == (sum(size > 30 for size in sizes), 0)
    assert sum(count for _, _, count in report["histogram"]) == 40
    task = {**task, "long_text": "windows", "stride": 4}
    entry = check(plan(content, data=data, task=task), tiny)["splits"]["train"]
    assert (entry["cut"], entry["in_windows"]) == (0, sum(size > 30 for size in sizes))


@pytest.mark.parametrize("sizes", [[5], [1, 2, 3], [3, 3, 80], list(range(7, 507))])
def test_a_histogram_holds_every_size_once(sizes: list[int]) -> None:
    bars = histogram(sizes)
    assert len(bars) <= 8
    assert sum(count for _, _, count in bars) == len(sizes)
    for first, last, count in bars:
        assert count == sum(first <= size <= last for size in sizes)
    assert bars[0][0] == min(sizes)
    assert all(one[1] + 1 == two[0] for one, two in pairwise(bars))


BALANCES: dict[str, tuple[list[dict[str, Any]], dict[str, int]]] = {
    "classification": (
        [{"text": "a", "label": label} for label in ("银行", "sol", "银行")],
        {"银行": 2, "sol": 1},
    ),
    "multi_label": (
        [{"text": "a", "labels": labels} for labels in (["x", "y"], [], ["x"])],
        {"x": 2, "y": 1},
    ),
    "tagging": (
        [
            {"tokens": ["a"] * 5, "tags": ["B-per", "I-per", "O", "B-per", "B-loc"]},
            {"tokens": ["a"] * 2, "tags": ["NN", "NN"]},
        ],
        {"per": 2, "loc": 1, "NN": 2},
    ),
    "masked_language_modelling": ([{"text": "a b"}, {"text": "b c"}], {}),
    "question_answering": (
        [
            {"question": "who", "context": "a b", "answers": {"text": t, "answer_start": s}}
            for t, s in ((["a"], [0]), ([], []), ([], []))
        ],
        {"unanswerable": 2, "answerable": 1},
    ),
    "relation": (
        [
            {"text": "a b", "head": [0, 1], "tail": [2, 3], "label": label}
            for label in ("owns", "none", "none")
        ],
        {"none": 2, "owns": 1},
    ),
    "multiple_choice": ([{"text": "a", "choices": ["b", "c"], "label": "0"}], {}),
    "embedding": ([{"text": "a", "text_pair": "b"}, {"text": "c", "text_pair": "d"}], {}),
    "summarisation": ([{"sentences": ["a.", "b."], "summary": [0]}], {}),
}


@pytest.mark.parametrize("kind", BALANCES)
def test_each_task_says_what_is_counted(tiny: Backbone, kind: str) -> None:
    rows, expected = BALANCES[kind]
    data = {"path": "rows.jsonl", "validation": 0.0}
    report = check(plan(as_json(rows), "rows.jsonl", data=data, task={"type": kind}), tiny)
    labels = report["splits"]["train"].get("labels", {})
    assert {name: entry["count"] for name, entry in labels.items()} == expected
    for entry in labels.values():
        assert entry["share"] == pytest.approx(entry["count"] / sum(expected.values()))
    assert json.loads(json.dumps(report))["splits"] == report["splits"]
    assert report_text(report)


def test_every_task_is_counted_here() -> None:
    assert {*BALANCES, "regression"} == set(tasks())


def test_numbers_are_summed_up(tiny: Backbone) -> None:
    values = [0.5, 3, 4.5, 1]
    rows = as_json([{"text": "a", "label": value} for value in values])
    data = {"path": "rows.jsonl", "validation": 0.0}
    report = check(plan(rows, "rows.jsonl", data=data, task={"type": "regression"}), tiny)
    entry = report["splits"]["train"]
    assert "labels" not in entry
    assert entry["numbers"] == pytest.approx(
        {"min": 0.5, "mean": mean(values), "median": 2.0, "max": 4.5, "std": (10.25 / 4) ** 0.5}
    )
    assert report["only_outside_training"] == {}
    assert "number  min" in report_text(report)


def test_the_most_frequent_come_first_and_equals_by_name() -> None:
    assert list(balance(["b", "c", "a", "c"])["labels"]) == ["c", "a", "b"]
    assert balance([]) == {}


# Duplicates, and labels that training does not know.


def test_duplicates_are_found_inside_and_across(tiny: Backbone) -> None:
    report = check(plan(), tiny)
    assert report["duplicates"]["inside"] == {
        "train": {"rows": 1, "differing": 1, "examples": [("rows.csv:2", "rows.csv:3")]}
    }
    assert report["duplicates"]["across"] == {
        "train, test": {"rows": 1, "differing": 0, "examples": [("rows.csv:2", "rows.csv:4")]}
    }


def test_what_is_asked_makes_a_duplicate() -> None:
    def row(where: str, **fields: Any) -> Row:
        return Row({"text": "a b", "label": "x", **fields}, where)

    rows = [row("1", head=(0, 1), tail=(2, 3)), row("2", head=(2, 3), tail=(0, 1))]
    found = duplicates({"train": rows, "test": rows[:1]}, tasks()["relation"]())
    assert found == {
        "inside": {},
        "across": {"train, test": {"rows": 1, "differing": 0, "examples": [("1", "1")]}},
    }
    same = [row(str(n)) for n in range(9)]
    report = duplicates({"train": same}, tasks()["classification"]())["inside"]["train"]
    assert (report["rows"], len(report["examples"])) == (8, 3)


def test_labels_that_training_does_not_know_are_told(tiny: Backbone) -> None:
    report = check(plan(), tiny)
    assert report["only_outside_training"] == {"test": {"té": {"rows": 2, "first": "rows.csv:7"}}}
    assert report["refused"].startswith("rows.csv:7: label 'té' is not one this task was trained")
    text = report_text(report)
    assert "'té' is in test (2 rows, first rows.csv:7) and in no training row" in text
    assert "Training would stop: rows.csv:7: label 'té'" in text
    task = {"type": "classification", "labels": ["té", "银行", "lluvia"]}
    report = check(plan(task=task), tiny)
    assert report["refused"] is None
    assert "té" in report["only_outside_training"]["test"]


def test_labels_that_look_alike_are_told(tiny: Backbone) -> None:
    report = check(plan(ROWS.replace("account,银行", "account,LLUVIA")), tiny)
    assert any("'LLUVIA' and 'lluvia' differ only in case" in one for one in report["warnings"])
    assert "'LLUVIA' and 'lluvia' differ only in case" in report_text(report)


def test_sound_rows_are_not_refused(tiny: Backbone) -> None:
    report = check(plan(ROWS.replace("té,", "银行,")), tiny)
    assert (report["refused"], report["only_outside_training"]) == (None, {})


# What the model reads.


def test_the_first_rows_are_shown_as_the_model_reads_them(tiny: Backbone) -> None:
    task = {"type": "classification", "max_length": 6, "long_text": "windows", "stride": 1}
    report = check(plan(task=task), tiny, shown=2)
    one, two = report["first_rows"]
    assert (one["row"], one["answer"], one["target"]) == ("rows.csv:2", {"label": "银行"}, 2)
    whole = tiny.tokenizer.convert_ids_to_tokens(tiny.tokenizer("my card is lost")["input_ids"])
    assert one["tokens"] == [whole]
    assert two["row"] == "rows.csv:3"
    report = check(plan(task={**task, "max_length": 5}), tiny, shown=1)
    assert report["first_rows"][0]["tokens"] == [
        ["[CLS]", "my", "card", "is", "[SEP]"],
        ["[CLS]", "is", "lost", "[SEP]"],
    ]


def test_people_see_ends_of_long_texts_and_of_many_labels(tiny: Backbone) -> None:
    lines = [f"{'help ' * 50}{n},label {n % 30}" for n in range(60)]
    data = {"path": "rows.csv", "validation": 0.0}
    text = report_text(check(plan("\n".join(["text,label", *lines]), data=data), tiny))
    assert "... 10 more (--json lists all)" in text
    assert "help help help ... help help" in text
    assert all(len(line) < 300 for line in text.splitlines())


@pytest.mark.parametrize(
    "file", [file for file in RECIPES if file.parents[1].name == "recipes"], ids=lambda f: f.stem
)
def test_every_sample_recipe_is_sound(minilm: Backbone, file: Path) -> None:
    recipe = Recipe.load(file)
    report = check(recipe, minilm)
    assert report["refused"] is None
    counts = {name: entry["rows"] for name, entry in report["splits"].items()}
    rows = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)
    assert counts == {name: len(part) for name, part in rows.items()}
    assert report["name"] in report_text(report)


def test_banking77_is_as_its_table_says(minilm: Backbone, shared_data: Path) -> None:
    data = {"path": str(shared_data / "banking77" / "data.csv"), "validation": 0.0}
    recipe = Recipe.of({"name": "b", "data": data, "method": {"type": "lora"}})
    report = check(recipe, minilm)
    assert {name: entry["rows"] for name, entry in report["splits"].items()} == {
        "train": 10003,
        "test": 3080,
    }
    assert len(report["splits"]["train"]["labels"]) == 77
    assert report["duplicates"]["across"]["train, test"]["rows"] == 7


# Faults.

BROKEN = (
    ROWS
    + ",银行,train\n"  # 10
    + "a,b\n"  # 11
    + '"a" b,c,d\n'  # 12
    + "tea,银行,dev\n"  # 13
    + "tea,,test\n"  # 14
    + "fee,银行,train\n"
)


def test_every_fault_is_listed(tiny: Backbone, tiny_folder: Path) -> None:
    found = faults(plan(BROKEN), tiny)
    assert [fault.split(": ")[0] for fault in found] == [f"rows.csv:{n}" for n in range(10, 15)]
    recipe = write_recipe(tiny_folder)
    result = run_command("data", "check", recipe, "--all-faults")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [f"Error: {fault}" for fault in found]
    result = run_command("data", "check", recipe, "--all-faults", "--json")
    assert result.code == 2
    assert json.loads(result.out) == {"faults": found}
    assert_refused("data", "check", recipe, words="rows.csv:10: column 'text' is empty")


def test_faults_of_answers_are_listed_too(tiny: Backbone) -> None:
    rows = [
        {"question": "who", "context": "a b", "answers": {"text": [text], "answer_start": [0]}}
        for text in ("a", "b", "a", "c")
    ]
    data = {"path": "rows.jsonl", "validation": 0.0}
    recipe = plan(as_json(rows), "rows.jsonl", data=data, task={"type": "question_answering"})
    assert [fault.split(": ")[0] for fault in faults(recipe, tiny)] == [
        "rows.jsonl:2",
        "rows.jsonl:4",
    ]
    with pytest.raises(DataError, match=r"^rows\.jsonl:2: the answer 'b' is not at character 0"):
        check(recipe, tiny)


def test_an_entity_past_the_end_of_its_text_is_told(tiny: Backbone) -> None:
    rows = [
        {"text": "a b", "head": [0, 1], "tail": [2, end], "label": label}
        for end, label in ((3, "x"), (4, "y"))
    ]
    data = {"path": "rows.jsonl", "validation": 0.0}
    recipe = plan(as_json(rows), "rows.jsonl", data=data, task={"type": "relation"})
    words = "rows.jsonl:2: tail ends at character 4, the text has 3"
    assert faults(recipe, tiny) == [words]


def test_the_list_of_faults_ends_somewhere(tiny: Backbone) -> None:
    found = faults(plan(ROWS + ",银行,train\n" * 50), tiny)
    assert len(found) == len(set(found)) == MOST_FAULTS == 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\n", "rows.csv: there are no rows"),
        ("text,label\na,b\n", "classification needs at least two labels"),
        ("text,label,split\na,b,test\n", "rows.csv: there are no training rows"),
        (None, "rows.csv: there is no such file"),
    ],
)
def test_rows_that_are_none_are_one_line_either_way(
    tiny_folder: Path, content: str | None, words: str
) -> None:
    if content is not None:
        Path("rows.csv").write_text(content)
    recipe = write_recipe(tiny_folder)
    assert_refused("data", "check", recipe, words=words)
    assert_one_line(run_command("data", "check", recipe, "--all-faults"), words)


# The command.


def test_the_command_prints_what_the_library_finds(tiny_folder: Path, tiny: Backbone) -> None:
    expected = json.loads(json.dumps(check(plan(), tiny, shown=1)))
    recipe = write_recipe(tiny_folder)
    for extra in ((), ("--all-faults",)):
        assert (
            run_command("data", "check", recipe, "--rows", "1", "--json", *extra).json == expected
        )
    result = run_command("data", "check", recipe, "--set", "data.test=0", "--rows", "0")
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert ["train", "4"] in [line[:2] for line in lines]
    assert Counter(line[0] for line in lines if line)["test"] == 0
    assert "What the model reads" not in result.out


def test_the_command_has_its_help_and_refuses_what_is_none() -> None:
    assert "check" in run_command("data").out
    assert "--all-faults" in run_command("data", "check", "--help").out
    assert_refused("data", "check", words="Missing argument 'RECIPE'")
    assert_refused("data", "check", "r.yaml", words="r.yaml: there is no such recipe")
    assert_refused("data", "chek", words="No such command 'chek'")
