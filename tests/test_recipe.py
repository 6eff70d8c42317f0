"""Recipes: what a YAML file may say, and the one line that tells each thing it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, SHARED

from adapterkit.data.dataset import Data
from adapterkit.errors import RecipeError
from adapterkit.methods.base import methods
from adapterkit.schema import keys_of
from adapterkit.tasks.base import tasks
from adapterkit.training.recipe import BackboneSection, Recipe, Training, describe_keys

GOOD = """\
name: acme/intent
data: {path: rows.csv}
task: {type: classification}
method: {type: lora, r: 2}
backbone: {model: minilm}
training: {epochs: 3}
"""

NAMES = {
    "name with dots": "acme/../other",
    "name up": "../intent",
    "name hidden": ".intent",
    "name absolute": "/tmp/intent",
    "name of three parts": "acme/team/intent",
    "name with a space": "acme/my intent",
    "name with a backslash": "acme\\intent",
    "name with an accent": "ácme",
    "name in Chinese": "银行/意图",
    "name with a version": "acme/intent@2",
    "name without end": "acme/",
    "name too long": "a" * 65,
}
"""Names that may not become paths."""

FAULTS = {
    **{
        label: (GOOD.replace("acme/intent", name), f"r.yaml: '{name}' is not an adapter name")
        for label, name in NAMES.items()
    },
    # The file.
    "empty file": ("", "r.yaml: expected keys and values (name, data, task, method, ...)"),
    "list": ("- name\n- data\n", "r.yaml: expected keys and values (name, data"),
    "number": ("5", "r.yaml: expected keys and values (name, data"),
    "broken YAML": (GOOD.replace("r: 2}", "r: 2"), "r.yaml: line 5, column 9: not YAML"),
    "tab": ("\t" + GOOD, "r.yaml: line 1, column 1: not YAML, found character '\\t'"),
    "NUL": (GOOD.replace("acme", "ac\0me"), "r.yaml: unacceptable character #x0000"),
    "tag": (GOOD.replace("r: 2", "r: !!python/name:os.system ''"), "line 4, column 25: not Y"),
    "nothing but depth": (GOOD.replace("r: 2", f"r: {'[' * 1500}"), "r.yaml: the YAML is nested"),
    "endless": (GOOD.replace("r: 2", "r: &a [*a]"), "r.yaml: line 4: a value contains itself"),
    "number of 5000 digits": (GOOD.replace("r: 2", f"r: {'1' * 5000}"), "r.yaml: Exceeds the lim"),
    # Two values that the core schema of YAML 1.2 reads otherwise than YAML 1.1.
    "time of day": (GOOD.replace("r: 2", "r: 1:30"), "method.r: expected a whole number, got '1:3"),
    "date": (GOOD.replace("r: 2", "r: 2026-01-02"), "method.r: expected a whole number, got '2026"),
    "merged key twice": (
        "x: &x {r: 1}\n" + GOOD.replace("r: 2", "<<: *x, r: 2, r: 3"),
        "r.yaml: line 5: the key 'r' is given twice",
    ),
    # Keys.
    "key twice": (GOOD + "name: other\n", "r.yaml: line 7: the key 'name' is given twice"),
    "key twice inside": (GOOD.replace("r: 2", "r: 2, r: 4"), "line 4: the key 'r' is given twice"),
    "list as a key": ("? [a, b]\n: c\n" + GOOD, "r.yaml: line 1: a key must be a text"),
    "unknown key": ("nmae: x\n" + GOOD, "r.yaml: nmae: there is no such key; did you mean 'name'?"),
    "number as a key": ("5: x\n" + GOOD, "r.yaml: 5: there is no such key; valid are: augmentat"),
    "unknown method key": (
        GOOD.replace("r: 2", "drop: 0.1"),
        "r.yaml: method.drop: there is no such key; did you mean 'dropout'?",
    ),
    "unknown training key": (
        GOOD.replace("epochs", "epoch"),
        "r.yaml: training.epoch: there is no such key; did you mean 'epochs'?",
    ),
    "unknown data key": (
        GOOD.replace("path", "file"),
        "r.yaml: data.file: there is no such key; valid are: answers, choices, context",
    ),
    "unknown task key": (
        GOOD.replace("classification", "classification, lables: [a, b]"),
        "r.yaml: task.lables: there is no such key; did you mean 'labels'?",
    ),
    "key of another method": (
        GOOD.replace("r: 2", "num_virtual_tokens: 4"),
        "r.yaml: method.num_virtual_tokens: there is no such key; valid are: alpha",
    ),
    "no name": (GOOD.replace("name: acme/intent", ""), "r.yaml: name: this key is required"),
    "no data": (GOOD.replace("data: {path: rows.csv}", ""), "r.yaml: data: this key is required"),
    "no method": (GOOD.replace("method: {type: lora, r: 2}", ""), "method: this key is required"),
    # Sections.
    "data a text": (GOOD.replace("{path: rows.csv}", "rows.csv"), "data: expected keys and values"),
    "training empty": (
        GOOD.replace("{epochs: 3}", ""),
        "training: expected keys and values, got N",
    ),
    "backbone a text": (GOOD.replace("{model: minilm}", "minilm"), "backbone: expected keys and"),
    "method a text": (GOOD.replace("{type: lora, r: 2}", "lora"), "method.type: this key is req"),
    "method without type": (
        GOOD.replace("type: lora, ", ""),
        "r.yaml: method.type: this key is required; one of bottleneck, head, lora, prefix",
    ),
    "method unknown": (
        GOOD.replace("lora", "lorra"),
        "r.yaml: method.type: 'lorra' is not known; did you mean 'lora'?",
    ),
    "method a list": (GOOD.replace("lora", "[lora]"), "method.type: '['lora']' is not known"),
    "task unknown": (
        GOOD.replace("classification", "clasification"),
        "r.yaml: task.type: 'clasification' is not known; did you mean 'classification'?",
    ),
    # Values of another type.
    "name a number": (
        GOOD.replace("acme/intent", "5"),
        "name: expected a text, got 5; put it in q",
    ),
    "name a list": (GOOD.replace("acme/intent", "[a]"), "name: expected a text, got ['a']"),
    "name empty": (GOOD.replace("acme/intent", "''"), "r.yaml: '' is not an adapter name"),
    "name of the backbone": (
        GOOD.replace("acme/intent", "base"),
        "r.yaml: an adapter cannot be called 'base', the plain backbone's name",
    ),
    "rank a text": (GOOD.replace("r: 2", "r: two"), "method.r: expected a whole number, got 'two'"),
    "rank a fraction": (
        GOOD.replace("r: 2", "r: 2.5"),
        "method.r: expected a whole number, got 2.",
    ),
    "rank true": (GOOD.replace("r: 2", "r: true"), "method.r: expected a whole number, got True"),
    "alpha a list": (
        GOOD.replace("r: 2", "alpha: [1]"),
        "method.alpha: expected a number, got [1]",
    ),
    "alpha no number": (
        GOOD.replace("r: 2", "alpha: .nan"),
        "method.alpha: expected a number, got",
    ),
    "alpha endless": (
        GOOD.replace("r: 2", "alpha: .inf"),
        "method.alpha: expected a number, got i",
    ),
    "alpha too large": (
        GOOD.replace("r: 2", f"alpha: 1{'0' * 400}"),
        "method.alpha: expected a nu",
    ),
    "targets a text": (GOOD.replace("r: 2", "targets: query"), "method.targets: expected a list"),
    "layers of texts": (
        GOOD.replace("r: 2", "layers: [a]"),
        "method.layers[0]: expected a whole n",
    ),
    "labels of numbers": (
        GOOD.replace("classification", "classification, labels: [0, 1]"),
        "task.labels[0]: expected a text, got 0; put it in quotes",
    ),
    "model a number": (GOOD.replace("minilm", "5"), "backbone.model: expected a text, got 5; put"),
    "keep_best a word": (
        GOOD.replace("epochs: 3", "keep_best: maybe"),
        "training.keep_best: expected true or false, got 'maybe'",
    ),
    "validation true": (
        GOOD.replace("rows.csv", "rows.csv, validation: true"),
        "data.validation: expected a text or a number, got True",
    ),
    # Values out of range.
    "rank 0": (GOOD.replace("r: 2", "r: 0"), "method.r: expected 1 or more, got 0"),
    "dropout 1": (
        GOOD.replace("r: 2", "dropout: 1"),
        "method.dropout: expected 0 or more and less",
    ),
    "targets unknown": (
        GOOD.replace("r: 2", "targets: [quer]"),
        "method.targets: expected distinct of query, key, value",
    ),
    "targets twice": (GOOD.replace("r: 2", "targets: [key, key]"), "targets: expected distinct of"),
    "targets none": (GOOD.replace("r: 2", "targets: []"), "method.targets: expected distinct of"),
    "layers backwards": (
        GOOD.replace("r: 2", "layers: [1, 0]"),
        "layers: expected ascending layer",
    ),
    "prefix of nothing": (
        GOOD.replace("lora, r: 2", "prefix, num_virtual_tokens: 0"),
        "method.num_virtual_tokens: expected 1 or more, got 0",
    ),
    "bottleneck nowhere": (
        GOOD.replace("lora, r: 2", "bottleneck, placement: anywhere"),
        "method.placement: expected one of pfeiffer, houlsby, parallel, got 'anywhere'",
    ),
    "bottleneck of nothing": (
        GOOD.replace("lora, r: 2", "bottleneck, size: 0"),
        "method.size: expected 1 or more, got 0",
    ),
    "activation unknown": (
        GOOD.replace("lora, r: 2", "bottleneck, activation: step"),
        "method.activation: expected one of relu, gelu",
    ),
    "pooling unknown": (
        GOOD.replace("classification", "classification, pooling: max"),
        "task.pooling: expected one of cls, pooler, mean, got 'max'",
    ),
    "one label": (
        GOOD.replace("classification", "classification, labels: [a]"),
        "task.labels: expected at least two distinct names, got ['a']",
    ),
    "label twice": (
        GOOD.replace("classification", "classification, labels: [a, b, a]"),
        "task.labels: expected at least two distinct names, got ['a', 'b', 'a']",
    ),
    "dtype unknown": (
        GOOD.replace("minilm", "minilm, dtype: float64"),
        "backbone.dtype: expected one of float32, bfloat16, float16, got 'float64'",
    ),
    "device unknown": (
        GOOD.replace("minilm", "minilm, device: gpu"),
        "backbone.device: expected one of auto, cpu, cuda, got 'gpu'",
    ),
    "quantization unknown": (
        GOOD.replace("minilm", "minilm, quantization: 8"),
        "backbone.quantization: expected one of none, int8, 8bit, 4bit, got 8",
    ),
    "no rows named": (GOOD.replace("path: rows.csv", ""), "data.path: give either path (one file)"),
    "rows named twice": (
        GOOD.replace("rows.csv", "rows.csv, train: rows.csv"),
        "data.path: give either path (one file), train (a file",
    ),
    **{
        f"data {label}": (GOOD.replace("rows.csv", f"rows.csv, {keys}"), f"r.yaml: data.{words}")
        for label, keys, words in (
            ("named twice", "dataset: glue", "path: give either path (one file), train (a file"),
            ("subset of a file", "subset: mrpc", "subset: goes with dataset, and there is none"),
            ("revision of a file", "revision: v2", "revision: goes with dataset, and there is"),
            ("stream without end", "streaming: true", "limit: goes with streaming: true; give"),
            ("limit of no stream", "limit: 5", "limit: goes with streaming: true; give both or"),
            ("limit 0", "streaming: true, limit: 0", "limit: expected 1 or more, got 0"),
            ("one fold", "folds: 1", "folds: expected 2 or more, got 1"),
            ("fold too high", "folds: 5, fold: 5", "fold: expected one of 5 folds from 0, got 5"),
            ("fold of none", "fold: 2", "fold: expected one of no folds from 0, got 2"),
            ("folds and a share", "folds: 5, validation: 0.2", "validation: a fold is the valid"),
        )
    },
    "validation of all": (
        GOOD.replace("rows.csv", "rows.csv, validation: 1"),
        "data.validation: expected a share from 0 to below 1, got 1.0",
    ),
    "test below 0": (
        GOOD.replace("rows.csv", "rows.csv, test: -0.1"),
        "data.test: expected a share from 0 to below 1, got -0.1",
    ),
    "schedule unknown": (
        GOOD.replace("epochs: 3", "schedule: lin"),
        "training.schedule: expected one of linear, cosine, constant, got 'lin'",
    ),
    "precision unknown": (
        GOOD.replace("epochs: 3", "mixed_precision: fp8"),
        "training.mixed_precision: expected one of no, bf16, fp16, got 'fp8'",
    ),
    **{
        f"{key} {value}": (
            GOOD.replace("epochs: 3", f"{key}: {value}"),
            f"r.yaml: training.{key}: expected {words}, got {value}",
        )
        for key, value, words in (
            ("epochs", "0", "1 or more"),
            ("batch_size", "0", "1 or more"),
            ("accumulation", "-1", "1 or more"),
            ("patience", "0", "1 or more"),
            ("learning_rate", "0.0", "more than 0 and less than 10"),
            ("head_learning_rate", "10.0", "more than 0 and less than 10"),
            ("weight_decay", "-0.1", "0 or more"),
            ("clip", "-1.0", "0 or more"),
            ("warmup", "1.5", "a share from 0 to 1"),
            ("seed", "-1", "a number from 0 to 2**32 - 1"),
            ("seed", "4294967296", "a number from 0 to 2**32 - 1"),
        )
    },
}
"""What is wrong with a recipe, and the telling part of the message."""

CHANGES = {
    "epochs": "--set epochs: expected key=value or section.key=value",
    "=3": "--set =3: expected key=value or section.key=value",
    ".epochs=3": "--set .epochs=3: expected key=value or section.key=value",
    "training.epochs.x=3": "--set training.epochs.x=3: expected key=value or section.key=value",
    "trainin.epochs=3": "trainin: there is no such key; did you mean 'training'?",
    "training.epoch=3": "training.epoch: there is no such key; did you mean 'epochs'?",
    "training.epochs=": "training.epochs: expected a whole number, got None",
    "training.epochs=many": "training.epochs: expected a whole number, got 'many'",
    "training.epochs=[3": "--set training.epochs=[3: line 1, column 3: not YAML",
    "training.epochs={a: 1, a: 2}": "the key 'a' is given twice",
    "training=3": "training: expected keys and values, got 3",
    "name.x=3": "--set name.x=3: name is 'acme/intent', not keys and values",
    "name=../x": "'../x' is not an adapter name",
    "method.type=prefix": "method.r: there is no such key",
}
"""Changes that cannot be applied, and the telling part of the message."""


def load(text: str, *changes: str) -> Recipe:
    Path("r.yaml").write_text(text, encoding="utf-8")
    return Recipe.load("r.yaml", changes)


def assert_told(text: str, *changes: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text, *changes)
    message = str(caught.value)
    assert message.startswith("r.yaml: ")
    assert words in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_and_key(fault: str) -> None:
    text, words = FAULTS[fault]
    assert text != GOOD
    assert_told(text, words=words)


@pytest.mark.parametrize("change", CHANGES)
def test_a_faulty_change_is_told(change: str) -> None:
    assert_told(GOOD, change, words=CHANGES[change])


@pytest.mark.parametrize("method", ["lora", "5", "[1, 2]"])
def test_a_change_inside_what_is_no_section_is_refused(method: str) -> None:
    text = GOOD.replace("{type: lora, r: 2}", method)
    assert_told(text, "method.r=3", words="--set method.r=3: method is ")


@pytest.mark.parametrize("content", ["acmé: 1".encode("latin-1"), GOOD.encode("utf-16")])
def test_a_file_that_is_not_utf8_is_refused(content: bytes) -> None:
    Path("r.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"^r\.yaml: not UTF-8 text .*; save it as UTF-8$"):
        Recipe.load("r.yaml")


def test_a_recipe_that_is_not_there_is_told() -> None:
    with pytest.raises(RecipeError, match=r"^no/r\.yaml: there is no such recipe$"):
        Recipe.load("no/r.yaml")
    with pytest.raises(RecipeError, match=r"cannot be read \(Is a directory\)$"):
        Recipe.load(Path())
    with pytest.raises(RecipeError, match=r"cannot be read \(File name too long\)$"):
        Recipe.load("r" * 300 + ".yaml")


def test_a_short_recipe_has_the_defaults() -> None:
    recipe = load("name: a\ndata: {train: t.csv}\nmethod: {type: lora}\n")
    assert recipe.training == Training()
    assert recipe.backbone == BackboneSection()
    assert recipe.method == methods()["lora"]()
    assert recipe.task == tasks()["classification"]()
    assert recipe.data == Data(train="t.csv")


def test_a_byte_order_mark_and_windows_lines_are_no_fault() -> None:
    text = "\ufeff" + GOOD.replace("\n", "\r\n")
    assert load(text) == load(GOOD)


@pytest.mark.parametrize("rate", ["2e-3", "2E-3", "0.002", "+.002", "2.0e-3"])
def test_a_number_may_be_written_as_people_do(rate: str) -> None:
    recipe = load(GOOD.replace("epochs: 3", f"learning_rate: {rate}"))
    assert recipe.training.learning_rate == 0.002
    assert load(GOOD, f"training.learning_rate={rate}") == recipe


def test_no_and_yes_are_words() -> None:
    text = GOOD.replace("classification", "classification, labels: [no, yes, on, off, y]")
    recipe = load(text.replace("epochs: 3", "mixed_precision: no"))
    assert recipe.task.labels == ("no", "yes", "on", "off", "y")  # type: ignore[attr-defined]
    assert recipe.training.mixed_precision == "no"


@pytest.mark.parametrize(("word", "value"), [("true", True), ("False", False), ("TRUE", True)])
def test_true_and_false_are_no_words(word: str, value: bool) -> None:
    assert load(GOOD.replace("epochs: 3", f"keep_best: {word}")).training.keep_best is value


def test_a_date_is_a_word() -> None:
    assert load(GOOD.replace("acme/intent", "2024-02-30")).name == "2024-02-30"


def test_names_of_two_parts_and_of_one_are_good() -> None:
    for name in ("a", "acme/intent", "A-1/b_2.c", "a" * 64 + "/" + "b" * 64):
        assert load(GOOD.replace("acme/intent", name)).name == name


def test_labels_and_columns_keep_their_script() -> None:
    text = GOOD.replace("classification", "classification, labels: [银行, señal, 🙂]")
    recipe = load(text.replace("rows.csv", "行.csv, text: 文本, label: categoría"))
    assert recipe.task.labels == ("银行", "señal", "🙂")  # type: ignore[attr-defined]
    assert (recipe.data.path, recipe.data.text, recipe.data.label) == (
        "行.csv",
        "文本",
        "categoría",
    )


def test_changes_come_on_top_of_the_file_in_their_order() -> None:
    recipe = load(
        GOOD,
        "training.epochs=5",
        "training.epochs=7",
        "training.seed=3",
        "backbone.dtype=bfloat16",
        "task={type: classification, labels: [a, b]}",
        "name=acme/other",
    )
    assert (recipe.training.epochs, recipe.training.seed) == (7, 3)
    assert recipe.backbone == BackboneSection(dtype="bfloat16")
    assert recipe.task == tasks()["classification"](labels=("a", "b"))  # type: ignore[call-arg]
    assert recipe.name == "acme/other"
    assert load(GOOD).training.epochs == 3, "the file stays as it is"


def test_a_change_may_add_a_section() -> None:
    short = "name: a\ndata: {path: t.csv}\nmethod: {type: lora}\n"
    assert load(short, "training.epochs=1").training == Training(epochs=1)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load(GOOD, "data.path=a=b.csv").data.path == "a=b.csv"


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_recipe_survives_being_written_out(method: str) -> None:
    recipe = load(GOOD.replace("lora, r: 2", method), "training.learning_rate=1e-3")
    again = Recipe.of(recipe.plain())
    assert again == recipe
    assert again.plain() == recipe.plain()
    assert recipe.plain()["training"].keys() == {name for name, _, _ in keys_of(Training)}


def test_paths_start_from_the_recipes_folder() -> None:
    Path("inner").mkdir()
    Path("inner/r.yaml").write_text(GOOD)
    Path("inner/rows.csv").write_text("text,label\na,no\nb,yes\n")
    recipe = Recipe.load("inner/r.yaml")
    assert recipe.folder == Path("inner")
    assert [row.where for row in recipe.data.load(recipe.folder, 0, recipe.task)["train"]] == [
        "inner/rows.csv:2",
        "inner/rows.csv:3",
    ]


def test_every_key_is_described() -> None:
    text = describe_keys()
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].startswith("name: ")
    for section in (Data, BackboneSection, Training, *methods().values(), *tasks().values()):
        for name, default, meaning in keys_of(section):
            begin = f"{name} ({default}): {meaning.split()[0]}"
            assert any(line.startswith(begin) for line in lines), begin
    for title in ("data", "backbone", "training", "method: {type: lora}", "method: {type: prefix}"):
        assert title in lines
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda f: f.stem)
def test_the_recipes_that_come_along_are_sound(file: Path) -> None:
    recipe = Recipe.load(file)
    folder = recipe.folder
    if file.parent.name == "scores":  # public data sets, which do not come along
        if not SHARED.is_dir():
            pytest.skip("the data sets are not here")
        folder = SHARED
    assert recipe.data.load(folder, recipe.training.seed, recipe.task)["train"]
