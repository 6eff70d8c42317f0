"""Training from a file of rows without a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterkit.cli.rows_recipe import write_recipe
from adapterkit.errors import RecipeError
from adapterkit.training.recipe import Recipe
from helpers.command_line import run_command

ROWS = "message,my label,split\n" + "".join(
    f"{text},{label},{split}\n"
    for split in ("train", "train", "train", "test")
    for text, label in (("the sun", "weather"), ("my bank", "money"))
)


def test_a_file_of_rows_is_trained_and_its_recipe_kept(tiny_folder: Path) -> None:
    Path("my rows (1).csv").write_text(ROWS)
    options = ("--text", "message", "--label", "my label", "--name", "acme/topic")
    changes = ("--set", f"backbone.model={tiny_folder}", "--set", "training.epochs=1")
    result = run_command("train", "my rows (1).csv", *options, *changes)
    assert result.code == 0, result.err
    assert "my rows (1).yaml: the recipe of my rows (1).csv" in result.err
    assert Path("my rows (1).yaml").read_text() == (
        'name: acme/topic\ndata: {path: "my rows (1).csv", text: message, label: "my label"}\n'
    )
    assert Path("adapters/acme/topic/1").is_dir()
    again = run_command("train", "my rows (1).csv", *options)
    assert again.code == 2
    assert "my rows (1).yaml exists, so no recipe is written for my rows (1).csv" in again.err
    assert run_command("train", "my rows (1).yaml", *changes).code == 0


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("intents.csv", "intents"),
        ("my rows (1).csv", "my-rows-1"),
        ("投诉.csv", "adapter"),
        ("..a..b.csv", "a-b"),
        ("true.csv", "true"),
    ],
)
def test_the_adapter_is_called_as_the_file(file: str, name: str) -> None:
    Path(file).write_text(ROWS)
    recipe = Recipe.load(write_recipe(Path(file), {"data": {"text": "null"}}, None))
    assert (recipe.name, recipe.data.path, recipe.data.columns) == (name, file, {"text": "null"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.yaml", "--text", "x"), "--text, --label and --name are for a file of rows; a.yaml is"),
        (("a.csv", "b.csv"), "one file of rows is trained at a time; write recipes for several"),
        (("no.csv",), "no.csv: there is no such file"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], message: str) -> None:
    for name in ("a.csv", "b.csv"):
        Path(name).write_text(ROWS)
    result = run_command("train", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert not list(Path().glob("*.yaml"))


def test_a_recipe_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"cannot be written \(No such file or directory\)"):
        write_recipe(Path("missing/rows.csv"), {}, None)


def test_a_recipe_whose_rows_do_not_fit_is_removed() -> None:
    Path("rows.csv").write_text("message,topic\na,x\nb,y\n")
    result = run_command("train", "rows.csv", "--text", "message")
    assert result.code == 2
    assert "there is no column 'label'" in result.err
    assert not Path("rows.yaml").exists()
