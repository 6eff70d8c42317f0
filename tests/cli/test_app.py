"""The command line: JSON output, one line for each error, no partial results."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from adapterkit import __version__
from adapterkit.adapter.card import CARD
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from adapterkit.names import ALIASES
from helpers.command_line import (
    ROWS,
    CommandResult,
    assert_one_line,
    assert_refused,
    folder_contents,
    run_command,
    write_recipe,
)
from helpers.data_faults import DATA_FAULTS
from helpers.recipe_faults import GOOD_RECIPE, RECIPE_CHANGES, RECIPE_FAULTS

TEXTS = ["where is my card", "¿Dónde está el sol?", "我的卡丢了", 'the "rain", please\nwait']
LONG = "help " * 100


class TrainedStore(NamedTuple):
    """A store that `adapterkit train` wrote, and the result of each run."""

    store: Path
    results: list[CommandResult]


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedStore:
    """`acme/topic` in two versions and `globex`, trained in one epoch each."""
    folder, cwd = tmp_path_factory.mktemp("trained"), Path.cwd()
    results = []
    os.chdir(folder)
    try:
        for name, method in (
            ("acme/topic", "{type: lora, r: 2}"),
            ("acme/topic", "{type: lora, r: 4}"),
            ("globex", "{type: prefix, num_virtual_tokens: 4}"),
        ):
            recipe = write_recipe(tiny_folder, name, method=method)
            arguments = ("train", recipe, "--set", "training.epochs=1", "--output", "store")
            results.append(run_command(*arguments, "--json"))
    finally:
        os.chdir(cwd)
    return TrainedStore(folder / "store", results)


@pytest.fixture
def store(trained: TrainedStore) -> Path:
    """A copy of the trained store that a test may change, with rows.csv beside it."""
    shutil.copytree(trained.store, "store")
    Path("rows.csv").write_text(ROWS, encoding="utf-8")
    return Path("store")


# Results of the commands.


def test_train_publishes_by_recipe_and_changes(trained: TrainedStore) -> None:
    first, second, other = (result.json for result in trained.results)
    assert [first["folder"], second["folder"], other["folder"]] == [
        "store/acme/topic/1",
        "store/acme/topic/2",
        "store/globex/1",
    ]
    assert first["name"] == "acme/topic"
    assert second["parameters"] > first["parameters"]
    card = json.loads((trained.store / "acme/topic/1" / CARD).read_text())
    assert card["training"]["recipe"]["training"]["epochs"] == 1
    assert len(card["training"]["history"]) == 1
    assert card["training"]["rows"] == {"train": 11, "validation": 1, "test": 12}
    assert card["task"]["labels"] == ["lluvia", "银行"]
    assert card["metrics"] == first["metrics"]
    assert first["metrics"].keys() == {"validation", "test"}
    files = folder_contents(trained.store / "acme/topic/1")
    names = {str(Path(path).relative_to(trained.store / "acme/topic/1")) for path in files}
    assert {"README.md", "report/learning_curve.png", "report/per_class.csv", CARD} < names
    assert first["bytes"] == sum(len(content or b"") for content in files.values())
    assert first["intervals"] == card["training"]["intervals"]


def test_train_prints_scores_and_folder(tiny_folder: Path) -> None:
    result = run_command("train", write_recipe(tiny_folder), "--output", "store")
    assert result.code == 0
    *scores, last = result.out.splitlines()
    assert [line.split(": ")[0] for line in scores] == ["validation", "test"]
    assert last.startswith("store/acme/topic/1 (")
    assert "acme/topic: lora on" in result.err
    assert "epoch 2: training loss" in result.err


def test_train_lists_its_keys() -> None:
    result = run_command("train", "--keys")
    assert result.code == 0
    for part in ("learning_rate (automatic): ", "num_virtual_tokens (20)", "label (label): "):
        assert part in result.out


def test_list_prints_a_json_array(trained: TrainedStore) -> None:
    rows = run_command("list", trained.store, "--json").json
    assert [(row["name"], row["version"], row["method"]) for row in rows] == [
        ("acme/topic", "2", "lora"),
        ("globex", "1", "prefix"),
    ]
    assert rows[0]["labels"] == ["lluvia", "银行"]
    assert rows[0]["metrics"] == trained.results[1].json["metrics"]
    assert rows[0]["bytes"] == trained.results[1].json["bytes"]


def test_list_prints_a_table(trained: TrainedStore) -> None:
    header, first, second = run_command("list", trained.store).out.splitlines()
    assert header.split()[:4] == ["name", "version", "task", "method"]
    assert first.split()[:4] == ["acme/topic", "2", "classification", "lora"]
    accuracy = trained.results[2].json["metrics"]["test"]["accuracy"]
    assert second.endswith(f"{accuracy:.4f} accuracy (test)")


def test_list_prints_an_empty_array_for_an_empty_store() -> None:
    Path("store").mkdir()
    assert run_command("list", "store", "--json").json == []


def test_inspect_shows_the_card_and_the_tensors(trained: TrainedStore) -> None:
    content = run_command("inspect", "acme/topic@1", "--store", trained.store, "--json").json
    folder = trained.store / "acme/topic/1"
    card = json.loads((folder / CARD).read_text())
    assert content["folder"] == str(folder)
    assert {key: content[key] for key in card} == card
    assert content["tensors"]["base_model.model.classifier.weight"] == [2, 32]
    text = run_command("inspect", folder).out
    for part in ("acme/topic", str(folder), "lluvia, 银行", "classifier.weight [2, 32]"):
        assert part in text


def test_inspect_shows_a_folder_without_a_card(store: Path) -> None:
    (store / "globex/1" / CARD).unlink()
    content = run_command("inspect", store / "globex/1", "--json").json
    assert content.keys() == {"folder", "bytes", "report", "tensors"}


def test_evaluate_equals_the_test_metrics_of_training(trained: TrainedStore) -> None:
    Path("rows.csv").write_text(ROWS, encoding="utf-8")
    for reference, result in zip(
        ("acme/topic@1", "acme/topic", "globex"), trained.results, strict=True
    ):
        actual = run_command(
            "evaluate", reference, "rows.csv", "--store", trained.store, "--json"
        ).json
        expected = dict(result.json["metrics"]["test"])
        del expected["loss"]
        name = reference.partition("@")[0]
        assert actual == {
            "adapter": name,
            "rows": 12,
            "metrics": pytest.approx(expected),
            "intervals": result.json["intervals"]["test"],
        }


def test_evaluate_accepts_split_and_column_names(trained: TrainedStore) -> None:
    Path("rows.csv").write_text(ROWS.replace("text,label", "body,topic", 1), encoding="utf-8")
    columns = ("--text", "body", "--label", "topic", "--split", "train")
    result = run_command("evaluate", "globex", "rows.csv", "--store", trained.store, *columns)
    n = r"[01]\.\d{4}"
    assert re.fullmatch(rf"accuracy {n} \(95%: {n} to {n}\)\nf1_macro {n}\n", result.out)
    assert result.err == "12 rows of rows.csv\n"


def test_evaluate_uses_all_rows_of_a_file_without_splits(trained: TrainedStore) -> None:
    Path("x.jsonl").write_text('{"text": "sun", "label": "lluvia"}\n' * 3)
    actual = run_command("evaluate", "globex", "x.jsonl", "--store", trained.store, "--json").json
    assert actual["rows"] == 3


def test_evaluate_and_predict_read_every_format(trained: TrainedStore) -> None:
    from datasets import Dataset

    rows = list(csv.DictReader(ROWS.splitlines()))
    Dataset.from_list(rows).to_parquet("x.parquet")
    Path("x.tsv").write_text(ROWS.replace(",", "\t"), encoding="utf-8")
    Path("x.csv").write_text(ROWS, encoding="utf-8")
    store = ("--store", trained.store, "--json")
    scored = [
        run_command("evaluate", "globex", f"x.{e}", *store).json for e in ("csv", "tsv", "parquet")
    ]
    assert scored[0] == scored[1] == scored[2]
    answers = [
        run_command("predict", "globex", "--input", f"x.{ending}", *store).json
        for ending in ("csv", "tsv", "parquet")
    ]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == len(rows)


def test_predict_equals_the_predictor_in_order(trained: TrainedStore, tiny: Backbone) -> None:
    actual = run_command("predict", "acme/topic", *TEXTS, "--store", trained.store, "--json").json
    predictor = Predictor(tiny)
    predictor.load(Store(trained.store).path("acme/topic"))
    expected = predictor([("acme/topic", text) for text in TEXTS])
    assert [row["text"] for row in actual] == TEXTS
    for row, answer in zip(actual, expected, strict=True):
        assert row["scores"] == pytest.approx(answer["scores"])
        assert row["label"] == answer["label"]


def test_predict_prints_a_table(trained: TrainedStore) -> None:
    result = run_command("predict", "acme/topic", *TEXTS, "--store", trained.store)
    assert result.err == ""
    header, *lines = result.out.splitlines()
    assert header.split() == ["adapter", "answer", "score", "text"]
    assert [line.split()[0] for line in lines] == ["acme/topic"] * len(TEXTS)
    assert lines[2].endswith("我的卡丢了")


def test_every_adapter_answers_every_text(trained: TrainedStore) -> None:
    adapter_options = ["--adapter", "globex", "--adapter", "base", "--adapter", "acme/topic@1"]
    actual = run_command(
        "predict", *adapter_options, "sun", "rain", "--store", trained.store, "--json"
    ).json
    assert [(row["text"], row["adapter"]) for row in actual] == [
        (text, name) for text in ("sun", "rain") for name in ("globex", "base", "acme/topic")
    ]
    assert [len(row.get("vector", [])) for row in actual] == [0, 32, 0] * 2


MIXED = """\
text,adapter
where is my card,globex
the sun,base
我的卡丢了,acme/topic
¿Dónde está el sol?,
a card,globex
"""


@pytest.mark.parametrize(
    "adapter_options", [(), ("--adapter", "acme/topic", "--adapter", "globex")]
)
def test_a_mixed_file_is_answered_row_by_row(
    trained: TrainedStore, tiny_folder: Path, adapter_options: tuple[str, ...]
) -> None:
    Path("mixed.csv").write_text(MIXED, encoding="utf-8")
    arguments = ("--store", trained.store, "--backbone", tiny_folder, "--json")
    actual = run_command("predict", *adapter_options, "--input", "mixed.csv", *arguments).json
    requests = [tuple(line.split(",")) for line in MIXED.splitlines()[1:]]
    assert [(row["text"], row["adapter"]) for row in actual] == [
        (text, name or "base") for text, name in requests
    ]
    for row, (text, name) in zip(actual, requests, strict=True):
        (alone,) = run_command("predict", name or "base", text, *arguments).json
        assert alone.keys() == row.keys()
        for key in ("vector", "scores"):
            assert row.get(key) == pytest.approx(alone.get(key), abs=1e-5)


def test_rows_may_name_a_version(trained: TrainedStore) -> None:
    Path("x.jsonl").write_text('{"text": "sun", "adapter": "acme/topic@1"}\n{"text": "sun"}\n')
    actual = run_command("predict", "--input", "x.jsonl", "--store", trained.store, "--json").json
    (alone,) = run_command(
        "predict", "acme/topic@1", "sun", "--store", trained.store, "--json"
    ).json
    assert [row["adapter"] for row in actual] == ["acme/topic", "acme/topic"]
    assert actual[0]["scores"] == pytest.approx(alone["scores"])


def test_without_an_adapter_the_plain_backbone_answers(tiny_folder: Path) -> None:
    Path("x.csv").write_text("text\nsun\nrain\n")
    actual = run_command("predict", "--input", "x.csv", "--backbone", tiny_folder, "--json").json
    assert [row["adapter"] for row in actual] == ["base", "base"]
    assert [len(row["vector"]) for row in actual] == [32, 32]


def test_the_columns_of_a_file_may_have_other_names(trained: TrainedStore) -> None:
    Path("x.csv").write_text("frage,zwei,wer\nsun,rain,base\n")
    columns = ("--text", "frage", "--text-pair", "zwei", "--adapter-column", "wer")
    (row,) = run_command(
        "predict", "--input", "x.csv", *columns, "--store", trained.store, "--json"
    ).json
    assert (row["text"], row["adapter"]) == (["sun", "rain"], "base")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json"])
def test_predict_writes_answers_to_a_file(trained: TrainedStore, ending: str) -> None:
    target = Path(f"answers{ending}")
    target.write_text("earlier")
    arguments = ["predict", "acme/topic", *TEXTS, "--store", str(trained.store)]
    arguments += ["--output", str(target)]
    result = run_command(*arguments)
    assert (result.code, result.out) == (0, "")
    assert result.err == f"4 answers in {target}\n"
    content = target.read_text(encoding="utf-8")
    if ending == ".csv":
        with target.open(encoding="utf-8", newline="") as file:
            rows = [{**row, "scores": json.loads(row["scores"])} for row in csv.DictReader(file)]
    elif ending == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
    else:
        rows = json.loads(content)
    shown = run_command(*arguments, "--json").json
    assert [row["text"] for row in rows] == TEXTS
    assert [(row["label"], row["scores"]) for row in rows] == [
        (row["label"], row["scores"]) for row in shown
    ]


def test_a_text_that_is_too_long_is_cut_and_marked(trained: TrainedStore) -> None:
    short, long = run_command(
        "predict", "globex", "a", LONG, "--store", trained.store, "--json"
    ).json
    assert "truncated" not in short
    assert long["truncated"] is True


def test_train_warns_of_long_texts_and_labels_with_one_row(tiny_folder: Path) -> None:
    recipe = write_recipe(tiny_folder)
    Path("rows.csv").write_text(f"text,label\n{LONG},yes\na,yes\nsun,no\n")
    result = run_command("train", recipe, "--output", "store", "--json")
    assert result.json["metrics"] == {}
    assert "1 texts are longer than 64 tokens and were cut" in result.err
    assert "1 labels have a single training row and will hardly be learned: 'no'" in result.err


def test_version_and_help() -> None:
    assert run_command("--version") == CommandResult(0, f"{__version__}\n", "")
    for command in ("train", "evaluate", "predict", "list", "inspect", "quickstart"):
        assert command in run_command("--help").out
        result = run_command(command, "-h")
        assert result.code == 0
        assert result.out.startswith(f"Usage: adapterkit {command}")


# Errors of the commands.


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_a_faulty_recipe_is_one_line(fault: str) -> None:
    text, words = RECIPE_FAULTS[fault]
    Path("r.yaml").write_text(text, encoding="utf-8")
    assert_refused("train", "r.yaml", "--output", "store", words=words)


@pytest.mark.parametrize("change", RECIPE_CHANGES)
def test_a_faulty_change_is_one_line(change: str) -> None:
    Path("r.yaml").write_text(GOOD_RECIPE)
    words = RECIPE_CHANGES[change]
    assert_refused("train", "r.yaml", "--set", change, "--output", "store", words=words)


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_a_faulty_data_file_is_one_line(tiny_folder: Path, fault: str) -> None:
    name, content, words = DATA_FAULTS[fault]
    recipe = write_recipe(tiny_folder, data=f"{{path: {name}}}")
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused("train", recipe, "--output", "store", words=words)


TRAINING_FAULTS = {
    "no such file": ({"data": "{path: no.csv}"}, "no.csv: there is no such file"),
    "file name too long": ({"data": f"{{path: {'a' * 300}.csv}}"}, "File name too long"),
    "unknown label in validation": (
        {"data": "{train: rows.csv, validation: other.csv}"},
        "other.csv:3: label 'llvia' is not one this task was trained on; did you mean 'lluvia'?",
    ),
    "labels that differ from the rows": (
        {"task": "{type: classification, labels: [a, b]}"},
        "rows.csv:2: label '银行' is not one this task was trained on; valid are: a, b",
    ),
    "one label only": (
        {"data": "{path: same.csv}"},
        "classification needs at least two labels; the training rows only have 'sol'",
    ),
    "no such backbone": (
        {"backbone": "{model: ./nowhere}"},
        "backbone './nowhere': there is no such folder",
    ),
    "backbone that is not a checkpoint": (
        {"backbone": "{model: .}"},
        "not a backbone, config.json is missing",
    ),
    "no such layer": (
        {"method": "{type: lora, layers: [7]}"},
        "method.layers: there is no layer 7; the backbone has 0 to 2",
    ),
    "prefix too long": (
        {"method": "{type: prefix, num_virtual_tokens: 63}"},
        "method.num_virtual_tokens: 63 leave no room for a text; the backbone has 64 positions",
    ),
    "texts longer than the backbone": (
        {"task": "{type: classification, max_length: 65}"},
        "task.max_length: 65 is not from 3 to 64, the most that backbone",
    ),
    "texts longer than the prefix leaves": (
        {
            "task": "{type: classification, max_length: 50}",
            "method": "{type: prefix, num_virtual_tokens: 20}",
        },
        "task.max_length: 50 is not from 3 to 44, the most that backbone",
    ),
    "no such adapter to start from": (
        {"training": "{start_from: nowhere}"},
        "training.start_from: ",
    ),
}


@pytest.mark.parametrize("fault", TRAINING_FAULTS)
def test_a_training_error_is_one_line(tiny_folder: Path, fault: str) -> None:
    sections, words = TRAINING_FAULTS[fault]
    recipe = write_recipe(tiny_folder, **{k: v for k, v in sections.items() if k != "backbone"})
    if "backbone" in sections:
        lines = [line for line in recipe.read_text().splitlines() if "backbone" not in line]
        recipe.write_text("\n".join([*lines, f"backbone: {sections['backbone']}"]))
    Path("other.csv").write_text("text,label\nsun,lluvia\nrain,llvia\n")
    Path("same.csv").write_text("text,label\na,sol\nb,sol\n")
    assert_refused("train", recipe, "--output", "store", words=words)


def test_a_missing_recipe_is_one_line() -> None:
    assert_refused("train", words="train needs a RECIPE; --keys lists the keys of one")
    assert_refused("train", "r.yaml", words="r.yaml: there is no such recipe")
    assert_refused("train", ".", words=".: cannot be read (Is a directory)")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("rows.csv", "rows.csv: not a folder that can be written to; choose another"),
        ("rows.csv/store", "rows.csv: not a folder that can be written to; choose another"),
        ("store/globex/1", "store/globex/1: is itself an adapter folder, not part of a store"),
    ],
)
def test_an_unusable_output_is_refused_before_training(
    store: Path, tiny_folder: Path, output: str, words: str
) -> None:
    assert_refused("train", write_recipe(tiny_folder), "--output", output, words=words)
    assert_refused("quickstart", "--output", output, words=words)


def test_a_missing_pooler_is_an_error(tiny_folder: Path) -> None:
    from transformers import BertModel

    shutil.copytree(tiny_folder, "bare")
    BertModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained("bare")
    recipe = write_recipe(Path("bare"), task="{type: classification, pooling: pooler}")
    before = folder_contents(Path())
    result = run_command("train", recipe, "--output", "store")
    assert (result.code, result.out) == (2, "")
    last = result.err.splitlines()[-1]
    assert last == "Error: the backbone's checkpoint has no pooler; pool by mean or cls"
    assert folder_contents(Path()) == before


USAGE_FAULTS = {
    "trian": "No such command 'trian'. Did you mean 'train'? (see adapterkit --help)",
    "--jsn": "No such option: --jsn (see adapterkit --help)",
    "list --jsn": "--json) (see adapterkit list --help)",
    "train r.yaml --epochs 3": "No such option: --epochs (see adapterkit train --help)",
    "train r.yaml --set": "Option '--set' requires an argument. (see adapterkit",
    "inspect acme/topic globex": "Got unexpected extra argument",
    "evaluate": "Missing argument 'ADAPTER'. (see adapterkit evaluate --help)",
    "evaluate globex": "Missing argument 'DATA'. (see adapterkit evaluate --help)",
    "evaluate globex rows.csv more": "Got unexpected extra argument",
    "inspect": "Missing argument 'ADAPTER'. (see adapterkit inspect --help)",
    "predict globex a --dtype float8": "Invalid value for '--dtype': ",
    "predict globex a --device gpu": "Invalid value for '--device': ",
    "predict globex a --quantization 8": "Invalid value for '--quantization': ",
    "predict globex a --adapter": "Option '--adapter' requires an argument.",
    "predict globex a --workers 2": "--workers is for an engine; give --engine ray too",
    "train r.yaml --workers 2": "--workers is for an engine; give --engine ray too",
    "tune r.yaml --workers 2": "--workers is for an engine; give --engine ray too",
    "predict globex a --text-pair b": "--text-pair is a column of --input; two texts on the",
    "export globex --format onnx --output o --text-pair b": "--text-pair is a column of --rows",
}


@pytest.mark.parametrize("line", USAGE_FAULTS)
def test_a_usage_error_is_one_line(line: str) -> None:
    assert_refused(*line.split(), words=USAGE_FAULTS[line])


NAME_FAULTS = {
    "globx": "there is no adapter 'globx' in the store store; did you mean 'globex'?",
    "acme": "there is no adapter 'acme' in the store store; valid are: acme/topic, globex",
    "acme/topic@3": "'acme/topic' has no version '3'; valid are: 1, 2, latest",
    "acme/topic@stabel": "'acme/topic' has no version 'stabel'; valid are: 1, 2, latest",
    "acme/../globex": "'acme/../globex' is not an adapter name",
    "../store/globex": "../store/globex: not an adapter folder, adapter_config.json is missing",
    "store/globex": "store/globex: not an adapter folder, adapter_config.json is missing",
    "/etc": "/etc: not an adapter folder, adapter_config.json is missing",
    "acme topic": "'acme topic' is not an adapter name",
    "银行": "'银行' is not an adapter name",
    "": "'' is not an adapter name",
    "x" * 300: "is not an adapter name: expected name or tenant/name",
    "rows.csv": "there is no adapter 'rows.csv' in the store store; valid are: acme/topic, globex",
}


@pytest.mark.parametrize("name", NAME_FAULTS)
def test_a_missing_adapter_is_one_line(store: Path, name: str) -> None:
    words = NAME_FAULTS[name]
    for command in (("inspect", name), ("predict", name, "a"), ("evaluate", name, "rows.csv")):
        assert_refused(*command, "--store", store, words=words)


def test_inspect_and_evaluate_refuse_the_plain_backbone(store: Path) -> None:
    for command in (("inspect", "base"), ("evaluate", "base", "rows.csv")):
        assert_refused(*command, "--store", store, words="cannot be called 'base'")


def test_a_missing_store_is_one_line() -> None:
    Path("file").write_text("mine")
    for name in ("nowhere", "file"):
        assert_refused("list", name, words=f"there is no store {name}; train one adapter and it")
        words = (
            f"there is no adapter 'globex' in the store {name}; it holds none; is --store right?"
        )
        assert_refused("predict", "globex", "a", "--store", name, words=words)
    assert_refused("list", "s" * 300, words=": File name too long")


PREDICT_FAULTS = {
    "no text and no adapter": ([], "there is nothing to answer: give a TEXT or --input FILE"),
    "no text": (["globex"], "there is nothing to answer: give a TEXT or --input FILE"),
    "empty text": (["globex", "a", ""], "text 2: text is empty"),
    "blank text": (["globex", " \t"], "text 1: text is empty"),
    "half of a surrogate pair": (
        ["globex", "a\udcff"],
        "text 1: text: expected a text, got 'a\\udcff'",
    ),
    "texts and a file": (["globex", "a", "--input", "x.csv"], "give texts or --input, not both"),
    "no such file": (["globex", "--input", "no.csv"], "no.csv: there is no such file"),
    "no such column": (
        ["globex", "--input", "x.csv", "--text", "txt"],
        "x.csv:2: there is no column 'txt' for text; did you mean 'text'?",
    ),
    "no second column": (
        ["globex", "--input", "x.csv", "--text-pair", "second"],
        "x.csv:2: there is no column 'second' for text_pair; valid are: adapter, text",
    ),
    "no row with a text": (["globex", "--input", "holes.csv"], "holes.csv:2: column 'text' is"),
    "no row of this task": (
        ["globex", "--input", "roles.jsonl"],
        "roles.jsonl:1: there is no text",
    ),
    "stdin without its format": (["globex", "--input", "-"], "--input - needs --format: one of cs"),
    "an unknown format": (
        ["globex", "--input", "-", "--format", "jsnl"],
        "--format jsnl: did you mean 'json",
    ),
    "a format of a file": (
        ["globex", "--input", "x.csv", "--format", "csv"],
        "--format is for standard input (--input -)",
    ),
    "a prefix of a column": (
        ["globex", "--input", "again.csv", "--prefix", "my_"],
        "the input has a column 'my_label' already; give another --prefix",
    ),
    "a column of ours and of an earlier run": (
        ["globex", "--input", "again.csv"],
        "the input has a column 'predicted_score' already; give another --prefix",
    ),
    "empty part of a row": (["globex", "--input", "parts.jsonl"], "parts.jsonl:1: text is empty"),
    "empty text for two": (
        ["--adapter", "acme/topic", "--adapter", "globex", "a", ""],
        "text 2: text is empty",
    ),
    "adapter twice": (
        ["--adapter", "globex", "--adapter", "globex", "a"],
        "'globex' is given twice; give it once",
    ),
    "two versions of an adapter": (
        ["--adapter", "acme/topic", "--adapter", "acme/topic@1", "a"],
        "'acme/topic' and 'acme/topic@1' are both named 'acme/topic'",
    ),
    "base twice": (
        ["--adapter", "base", "--adapter", "base", "a"],
        "'base' is given twice; give it once",
    ),
    "a row for an adapter not among --adapter": (
        ["--adapter", "acme/topic", "--input", "x.csv"],
        "x.csv: rows name the adapter 'globex', which is not among --adapter (acme/topic)",
    ),
    "a row for an unknown adapter": (
        ["--input", "typo.csv"],
        "there is no adapter 'globx' in the store store; did you mean 'globex'?",
    ),
    "a row with a parent path": (
        ["--input", "climb.csv"],
        "'acme/../globex' is not an adapter name",
    ),
    "output in a missing folder": (
        ["globex", "a", "--output", "no/answers.csv"],
        "no/answers.csv: there is no folder no",
    ),
    "output with an unknown ending": (
        ["globex", "a", "--output", "x.txt"],
        "x.txt: expected a file ending in .csv, .jsonl or .json",
    ),
    "output over a folder": (
        ["globex", "a", "--output", "store"],
        "store: expected a file ending",
    ),
    "no such backbone": (
        ["globex", "a", "--backbone", "./no"],
        "backbone './no': there is no such folder",
    ),
    "a folder that is not a backbone": (
        ["globex", "a", "--backbone", "store"],
        "store: not a backbone, conf",
    ),
}


@pytest.mark.parametrize("fault", PREDICT_FAULTS)
def test_a_prediction_error_is_one_line(store: Path, fault: str) -> None:
    Path("x.csv").write_text("text,adapter\nsun,globex\n")
    Path("holes.csv").write_text("text,more\n,1\n,2\n")
    Path("again.csv").write_text("text,my_label,score,predicted_score\nsun,1,2,3\n")
    Path("typo.csv").write_text("text,adapter\nsun,globex\nrain,globx\n")
    Path("climb.csv").write_text("text,adapter\nsun,acme/../globex\n")
    Path("roles.jsonl").write_text('{"question": "who?", "context": "b"}\n')
    Path("parts.jsonl").write_text('{"text": "", "choices": ["a", "b"]}\n')
    arguments, words = PREDICT_FAULTS[fault]
    assert_refused("predict", *arguments, "--store", store, words=words)


def test_a_backbone_with_other_weights_is_one_line(store: Path, tiny_folder: Path) -> None:
    from transformers import BertModel

    shutil.copytree(tiny_folder, "other")
    model = BertModel.from_pretrained(tiny_folder)
    torch.nn.init.zeros_(model.embeddings.LayerNorm.bias)
    model.save_pretrained("other")
    arguments = ("predict", "globex", "a", "--store", store, "--backbone", "other")
    assert_refused(*arguments, words=f"the adapter was trained on '{tiny_folder}' (sha256:")
    (row,) = run_command(*arguments, "--any-backbone", "--json").json
    assert row["adapter"] == "globex"


EVALUATE_FAULTS: dict[str, tuple[list[str], str, str]] = {
    "no such file": (["no.csv"], "", "no.csv: there is no such file"),
    "unknown label": (
        ["x.csv"],
        "text,label\na,lluvia\nb,llubia\n",
        "x.csv:3: label 'llubia' is not one this task was trained on; did you mean 'lluvia'?",
    ),
    "no label": (["x.csv"], "text,label\na,lluvia\nb,\n", "x.csv:3: column 'label' is empty"),
    "no label column": (
        ["x.csv"],
        "text,topic\na,lluvia\n",
        "x.csv:2: there is no column 'label' for label; valid are: text, topic",
    ),
    "no text column": (
        ["x.csv"],
        "txt,label\na,b\n",
        "there is no column 'text' for text; did you",
    ),
    "wrong column": (
        ["x.csv", "--label", "lable"],
        "text,label\na,lluvia\n",
        "x.csv:2: there is no column 'lable' for label; did you mean 'label'?",
    ),
    "empty text": (["x.csv"], "text,label\n,lluvia\n", "x.csv:2: column 'text' is empty"),
    "no such split": (
        ["x.csv", "--split", "dev"],
        "text,label\na,lluvia\n",
        "split dev: expected train, validation, test",
    ),
    "no rows of the split": (
        ["x.csv"],
        "text,label,split\na,lluvia,train\n",
        "x.csv: there are no rows of split 'test'",
    ),
    "split unknown in the file": (
        ["x.csv"],
        "text,label,split\na,lluvia,dev\n",
        "x.csv:2: split is 'dev'; expected train, validation, test",
    ),
    "no rows": (["x.csv"], "text,label\n", "x.csv: there are no rows"),
    "not UTF-8": (["x.csv"], "text,label\n\udce9,lluvia\n", "x.csv:2: the byte 0xe9 is not UTF-8"),
}


@pytest.mark.parametrize("fault", EVALUATE_FAULTS)
def test_an_evaluation_error_is_one_line(store: Path, fault: str) -> None:
    arguments, content, words = EVALUATE_FAULTS[fault]
    Path("x.csv").write_text(content, encoding="utf-8", errors="surrogateescape")
    assert_refused("evaluate", "globex", *arguments, "--store", store, words=words)


CARD_FAULTS: dict[str, tuple[Any, str]] = {
    "empty": ("{}", "store/globex/1: adapterkit.json: lacks or garbles 'method'"),
    "truncated": ('{"name": "glo', "store/globex/1/adapterkit.json: not readable as JSON"),
    "array": ("[]", "store/globex/1/adapterkit.json: expected a JSON object"),
    "too deep": ("[" * 100_000, "store/globex/1/adapterkit.json: not readable as JSON"),
    "backbone": ({"backbone": "minilm"}, "adapterkit.json: lacks or garbles 'backbone'"),
    "backbone's name": ({"backbone": {}}, "adapterkit.json: lacks or garbles 'backbone'"),
    "method": ({"method": "lora"}, "adapterkit.json: lacks or garbles 'method'"),
    "task": ({"task": {"labels": ["a"]}}, "adapterkit.json: lacks or garbles 'task'"),
    "metrics": ({"metrics": "good"}, "adapterkit.json: lacks or garbles 'metrics'"),
    "training": ({"training": ["long"]}, "adapterkit.json: lacks or garbles 'training'"),
}


def assert_listed_with_error(store: Path, words: str) -> None:
    """The list has the broken adapter as one line, and the others as ever."""
    rows = {row["name"]: row for row in run_command("list", store, "--json").json}
    assert words in rows.pop("globex")["error"]
    assert rows
    assert not any("error" in row for row in rows.values())
    assert run_command("list", store).out.count("globex  ") == 1


@pytest.mark.parametrize("fault", CARD_FAULTS)
def test_a_damaged_card_is_one_line(store: Path, fault: str) -> None:
    change, words = CARD_FAULTS[fault]
    card = store / "globex/1" / CARD
    sound = json.loads(card.read_text())
    card.write_text(change if isinstance(change, str) else json.dumps({**sound, **change}))
    name = ("globex", "--store", store)
    for command in ("inspect", *name), ("predict", *name, "a"), ("evaluate", *name, "rows.csv"):
        assert_refused(*command, words=words)
    assert_listed_with_error(store, words)


def test_a_damaged_alias_is_one_line(store: Path) -> None:
    (store / "globex" / ALIASES).write_text('{"latest": "one"}')
    words = 'store/globex/aliases.json: expected version numbers, such as {"latest": 1}'
    assert_listed_with_error(store, words)
    assert_refused("predict", "globex", "a", "--store", store, words=words)


def test_damaged_weights_are_one_line(store: Path) -> None:
    weights = store / "globex/1/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    words = "adapter_model.safetensors: "
    for command in (("inspect", "globex"), ("predict", "globex", "a")):
        assert_refused(*command, "--store", store, words=words)


def test_training_a_name_again_publishes_the_next_version(store: Path, tiny_folder: Path) -> None:
    before = folder_contents(store / "globex/1")
    result = run_command("train", write_recipe(tiny_folder, "globex"), "--output", store, "--json")
    assert result.json["folder"] == "store/globex/2"
    assert folder_contents(store / "globex/1") == before
    assert [row["version"] for row in run_command("list", store, "--json").json] == ["2", "2"]


def test_training_may_start_from_another_adapter(
    store: Path, tiny_folder: Path, tiny: Backbone
) -> None:
    training = "{epochs: 1, learning_rate: 1e-9, head_learning_rate: 1e-9, start_from: START}"
    start = training.replace("START", "store/acme/topic/2")
    recipe = write_recipe(tiny_folder, "b", method="{type: lora, r: 4}", training=start)
    assert run_command("train", recipe, "--output", "out").code == 0
    one, two = (load_adapter(f, tiny) for f in ("store/acme/topic/2", "out/b/1"))
    for name, tensor in one.tensors.items():
        assert two.tensors[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-6)
    for reference, words in (
        ("store/acme/topic/1", "training.start_from: store/acme/topic/1 has r: 2, the recipe r: 4"),
        ("acme/topic", "training.start_from: there is no adapter 'acme/topic'"),
        ("store", "store: not an adapter folder, adapter_config.json is missing"),
    ):
        other = training.replace("START", reference)
        write_recipe(tiny_folder, "b", method="{type: lora, r: 4}", training=other)
        assert_refused("train", recipe, "--output", "out", words=words)


# The command in a separate process.


def start_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "adapterkit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def wait_for(process: subprocess.Popen[str]) -> CommandResult:
    out, err = process.communicate(timeout=300)
    return CommandResult(process.returncode, out, err)


def test_a_process_prints_only_json(trained: TrainedStore) -> None:
    result = wait_for(
        start_process("predict", "globex", *TEXTS, "--store", str(trained.store), "--json")
    )
    assert [row["text"] for row in result.json] == TEXTS
    assert result.err == ""


def test_a_process_that_fails_prints_one_line_and_exits_2(programs: Path) -> None:
    Path("r.yaml").write_text(GOOD_RECIPE.replace("epochs", "epoch"))
    command = [str(programs / "adapterkit"), "train", "r.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    result = CommandResult(done.returncode, done.stdout, done.stderr)
    assert_one_line(result, "r.yaml: training.epoch: there is no such key; did you mean 'epochs'?")
    assert os.listdir() == ["r.yaml"]


def test_an_interrupted_process_prints_one_line_and_exits_130() -> None:
    os.mkfifo("r.yaml")
    # A background job ignores SIGINT, and its child processes inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = start_process("train", "r.yaml")
    signal.signal(signal.SIGINT, before)
    with Path("r.yaml").open("w"):  # blocks until the process opens the pipe
        process.send_signal(signal.SIGINT)
        result = wait_for(process)
    assert result == CommandResult(130, "", "Interrupted; no incomplete file was left.\n")


def test_a_process_collects_garbage_rarely_and_not_at_exit() -> None:
    code = """
import atexit, gc, sys
from adapterkit.__main__ import main

atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count()))  # runs last
sys.argv = ["adapterkit", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    threshold, frozen = map(int, done.stdout.split()[-2:])
    assert threshold > 100_000
    assert frozen > 10_000
