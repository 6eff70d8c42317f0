"""Recipes: what a YAML file may say, and the one line that tells each thing it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterkit.data.dataset import Data
from adapterkit.errors import RecipeError
from adapterkit.methods.base import methods
from adapterkit.schema import keys_of
from adapterkit.tasks.base import tasks
from adapterkit.training.backbone_section import BackboneSection
from adapterkit.training.recipe import Recipe
from adapterkit.training.recipe_keys import describe_keys
from adapterkit.training.training_section import Training
from helpers.paths import RECIPES, SHARED
from helpers.recipe_faults import GOOD_RECIPE, RECIPE_CHANGES, RECIPE_FAULTS


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


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_a_fault_is_told_with_file_and_key(fault: str) -> None:
    text, words = RECIPE_FAULTS[fault]
    assert text != GOOD_RECIPE
    assert_told(text, words=words)


@pytest.mark.parametrize("change", RECIPE_CHANGES)
def test_a_faulty_change_is_told(change: str) -> None:
    assert_told(GOOD_RECIPE, change, words=RECIPE_CHANGES[change])


def test_a_change_reaches_a_section_of_a_section() -> None:
    changes = ("training.checkpoint.steps=5", "training.checkpoint.minutes=1")
    checkpoint = load(GOOD_RECIPE, *changes).training.checkpoint
    assert (checkpoint.steps, checkpoint.minutes) == (5, 1.0)


@pytest.mark.parametrize("method", ["lora", "5", "[1, 2]"])
def test_a_change_inside_what_is_no_section_is_refused(method: str) -> None:
    text = GOOD_RECIPE.replace("{type: lora, r: 2}", method)
    assert_told(text, "method.r=3", words="--set method.r=3: method is ")


@pytest.mark.parametrize("content", ["acmé: 1".encode("latin-1"), GOOD_RECIPE.encode("utf-16")])
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


def test_a_change_of_the_task_needs_no_type() -> None:
    recipe = load("name: a\ndata: {train: t.csv}\n", "task.dropout=0.2")
    assert recipe.task.type == "classification"
    assert recipe.plain()["task"]["dropout"] == 0.2


def test_a_byte_order_mark_and_windows_lines_are_no_fault() -> None:
    text = "\ufeff" + GOOD_RECIPE.replace("\n", "\r\n")
    assert load(text) == load(GOOD_RECIPE)


@pytest.mark.parametrize("rate", ["2e-3", "2E-3", "0.002", "+.002", "2.0e-3"])
def test_a_number_may_be_written_as_people_do(rate: str) -> None:
    recipe = load(GOOD_RECIPE.replace("epochs: 3", f"epochs: 3, learning_rate: {rate}"))
    assert recipe.training.learning_rate == 0.002
    assert load(GOOD_RECIPE, f"training.learning_rate={rate}") == recipe


def test_no_and_yes_are_words() -> None:
    text = GOOD_RECIPE.replace("classification", "classification, labels: [no, yes, on, off, y]")
    recipe = load(text.replace("epochs: 3", "mixed_precision: no"))
    assert recipe.task.labels == ("no", "yes", "on", "off", "y")  # type: ignore[attr-defined]
    assert recipe.training.mixed_precision == "no"


@pytest.mark.parametrize(("word", "value"), [("true", True), ("False", False), ("TRUE", True)])
def test_true_and_false_are_no_words(word: str, value: bool) -> None:
    assert load(GOOD_RECIPE.replace("epochs: 3", f"keep_best: {word}")).training.keep_best is value


def test_a_date_is_a_word() -> None:
    assert load(GOOD_RECIPE.replace("acme/intent", "2024-02-30")).name == "2024-02-30"


def test_names_of_two_parts_and_of_one_are_good() -> None:
    for name in ("a", "acme/intent", "A-1/b_2.c", "a" * 64 + "/" + "b" * 64):
        assert load(GOOD_RECIPE.replace("acme/intent", name)).name == name


def test_labels_and_columns_keep_their_script() -> None:
    text = GOOD_RECIPE.replace("classification", "classification, labels: [银行, señal, 🙂]")
    recipe = load(text.replace("rows.csv", "行.csv, text: 文本, label: categoría"))
    assert recipe.task.labels == ("银行", "señal", "🙂")  # type: ignore[attr-defined]
    assert recipe.data.path == "行.csv"
    assert recipe.data.columns == {"text": "文本", "label": "categoría"}
    nested = text.replace("rows.csv", "行.csv, columns: {text: 文本, label: categoría}")
    assert load(nested) == recipe


def test_a_column_that_is_named_as_its_role_is_not_named() -> None:
    named = GOOD_RECIPE.replace("rows.csv", "rows.csv, text: text, label: label, text_pair: null")
    assert load(named) == load(GOOD_RECIPE)
    pair = load(GOOD_RECIPE.replace("rows.csv", "rows.csv, text_pair: text_pair"))
    assert pair.data.columns == {"text_pair": "text_pair"}, "an optional column is read if named"


def test_changes_come_on_top_of_the_file_in_their_order() -> None:
    recipe = load(
        GOOD_RECIPE,
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
    assert load(GOOD_RECIPE).training.epochs == 3, "the file stays as it is"


def test_a_change_may_add_a_section() -> None:
    short = "name: a\ndata: {path: t.csv}\nmethod: {type: lora}\n"
    assert load(short, "training.epochs=1").training == Training(epochs=1)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load(GOOD_RECIPE, "data.path=a=b.csv").data.path == "a=b.csv"


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_recipe_survives_being_written_out(method: str) -> None:
    recipe = load(GOOD_RECIPE.replace("lora, r: 2", method), "training.learning_rate=1e-3")
    again = Recipe.of(recipe.plain())
    assert again == recipe
    assert again.plain() == recipe.plain()
    assert recipe.plain()["training"].keys() == {name for name, _, _ in keys_of(Training)}


def test_paths_start_from_the_recipes_folder() -> None:
    Path("inner").mkdir()
    Path("inner/r.yaml").write_text(GOOD_RECIPE)
    Path("inner/rows.csv").write_text("text,label\na,no\nb,yes\n")
    recipe = Recipe.load("inner/r.yaml")
    assert recipe.folder == Path("inner")
    assert [row.where for row in recipe.data.load(recipe.folder, 0, recipe.task)["train"]] == [
        "inner/rows.csv:2",
        "inner/rows.csv:3",
    ]


def test_every_key_is_described() -> None:
    text = describe_keys()
    lines, unwrapped = [line.strip() for line in text.splitlines()], " ".join(text.split())
    assert lines[0].startswith("name: ")
    for section in (Data, BackboneSection, Training, *methods().values(), *tasks().values()):
        for name, default, meaning in keys_of(section):
            assert f" {name} ({default}): {meaning.split()[0]}" in unwrapped
    for title in ("data", "backbone", "training", "method: {type: lora}", "method: {type: prefix}"):
        assert title in lines
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_that_come_along_are_sound(file: Path) -> None:
    recipe = Recipe.load(file)
    folder = recipe.folder
    if file.parent.name == "scores":  # public data sets, which do not come along
        if not SHARED.is_dir():
            pytest.skip("the data sets are not here")
        folder = SHARED
    assert recipe.data.load(folder, recipe.training.seed, recipe.task)["train"]
