"""Many at once: every adapter of a joint training is the one its recipe trains alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.folder import save_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError, DataError, RecipeError
from adapterkit.inference.forward import forward
from adapterkit.training import trainable as trainables
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import StoppedError
from helpers.command_line import assert_refused, run_command
from helpers.joint_training import (
    assert_equals_solo,
    recipe_for,
    train_alone,
    train_together,
    trained_once,
    varied_recipes,
    with_changes,
    write_rows,
)
from helpers.vocabulary import WORDS


@pytest.mark.parametrize("max_tokens", [4096, 150, 1])
def test_joint_is_solo_under_any_budget(tiny: Backbone, max_tokens: int) -> None:
    recipes = varied_recipes()
    expected = {recipe.name: trained_once(recipe, tiny) for recipe in recipes}
    assert len({len(solo.training["losses"]) for solo in expected.values()}) > 4
    for together in train_together(recipes, tiny, max_tokens=max_tokens):
        assert_equals_solo(together, expected[together.name])
        assert together.training["together"] == len(recipes)


def test_the_order_of_recipes_does_not_matter(tiny: Backbone) -> None:
    recipes = varied_recipes()
    straight = train_together(recipes, tiny)
    back = train_together(recipes[::-1], tiny)[::-1]
    assert [adapter.name for adapter in straight] == [recipe.name for recipe in recipes]
    for one, other in zip(straight, back, strict=True):
        assert_equals_solo(one, other)


def test_tasks_train_side_by_side(tiny: Backbone) -> None:
    Path("numbers.jsonl").write_text(
        "\n".join(json.dumps({"text": f"a {w}", "label": len(w)}) for w in WORDS)
    )
    tags = [{"tokens": ["my", w], "tags": ["O", "B-x" if len(w) > 4 else "O"]} for w in WORDS]
    Path("tags.jsonl").write_text("\n".join(map(json.dumps, tags)))
    recipes = [
        recipe_for("class", write_rows(1, 30)),
        recipe_for("number", str(Path("numbers.jsonl").resolve()), task={"type": "regression"}),
        recipe_for("tags", str(Path("tags.jsonl").resolve()), task={"type": "tagging"}),
    ]
    for together, recipe in zip(train_together(recipes, tiny), recipes, strict=True):
        assert_equals_solo(together, train_alone(recipe, tiny))


def test_one_forward_holds_no_more_than_the_budget(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def spied(backbone: Any, rows: Any, *more: Any) -> Any:
        seen.append((len({id(adapter) for adapter, _ in rows}), sum(len(i) for _, i in rows)))
        return forward(backbone, rows, *more)

    monkeypatch.setattr(trainables, "forward", spied)
    recipes = [recipe_for(f"t{n}", write_rows(n, 30), epochs=1) for n in range(6)]
    train_together(recipes, tiny, max_tokens=150)
    assert max(owners for owners, _ in seen) > 1
    assert all(tokens <= 150 or owners == 1 for owners, tokens in seen)
    seen.clear()
    train_together(recipes, tiny)
    assert {owners for owners, _ in seen} == {6}
    assert len(seen) == 3  # 24 rows in batches of 8


@pytest.fixture(autouse=True)
def _weights_may_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a training begin from weights that no adapter folder may have."""
    monkeypatch.setattr("adapterkit.adapter.weights.LARGEST_FACTOR", float("inf"))


def endless(backbone: Backbone) -> Recipe:
    """A recipe whose loss is no number at its first step: it goes on from a head that overflows."""
    recipe = recipe_for("bad/endless", write_rows(9, 30))
    solo = train_alone(recipe, backbone)
    broken = replace(solo, head={name: t.sign() * 3e38 for name, t in solo.head.items()})
    save_adapter(broken, Path("broken"), backbone.geometry)
    return with_changes(recipe, training={"start_from": str(Path("broken").resolve())})


@pytest.mark.parametrize("max_tokens", [4096, 1])
def test_one_run_that_diverges_stops_and_spoils_no_other(tiny: Backbone, max_tokens: int) -> None:
    recipes = varied_recipes()[:6]
    recipes.insert(2, endless(tiny))
    with pytest.raises(
        StoppedError, match=r"^bad/endless: the training loss became (inf|nan) at step 1; lower"
    ) as caught:
        train_together(recipes, tiny, max_tokens=max_tokens)
    del recipes[2]
    assert [adapter.name for adapter in caught.value.finished] == [r.name for r in recipes]
    for together, recipe in zip(caught.value.finished, recipes, strict=True):
        assert_equals_solo(together, trained_once(recipe, tiny))


def test_a_run_alone_that_diverges_has_nothing_to_show(tiny: Backbone) -> None:
    with pytest.raises(StoppedError) as caught:
        train_alone(endless(tiny), tiny)
    assert caught.value.finished == []


def test_bfloat16_products_train_side_by_side(tiny: Backbone) -> None:
    recipes = [recipe_for(f"t{n}", write_rows(n, 30), mixed_precision="bf16") for n in range(3)]
    for together, recipe in zip(train_together(recipes, tiny), recipes, strict=True):
        solo = train_alone(recipe, tiny)
        assert {tensor.dtype for tensor in together.tensors.values()} == {torch.float32}
        for (_, mine), (_, theirs) in zip(
            together.training["losses"], solo.training["losses"], strict=True
        ):
            assert mine == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "two recipes are called 'a'"),
        (
            {"name": "b", "backbone": {"dtype": "bfloat16"}},
            "a and b cannot be trained together: backbone.dtype is float32 in the first and "
            "bfloat16 in the second",
        ),
        ({"name": "b", "backbone": {"model": "other"}}, "backbone.model is minilm in the first"),
        (
            {"name": "b", "training": {"mixed_precision": "bf16"}},
            "training.mixed_precision is no in the first and bf16 in the second",
        ),
    ],
)
def test_recipes_that_cannot_share_a_forward_are_refused(
    tiny: Backbone, changes: dict[str, Any], message: str
) -> None:
    one = recipe_for("a", write_rows(1, 20))
    with pytest.raises(RecipeError, match=message):
        train_together([one, with_changes(one, **changes)], tiny)


@pytest.mark.parametrize(
    ("section", "changes"),
    [("training", {"mixed_precision": "fp16"}), ("backbone", {"quantization": "int8"})],
)
def test_what_all_rows_would_share_is_refused(
    tiny: Backbone, section: str, changes: dict[str, Any]
) -> None:
    both = [
        with_changes(recipe_for(name, write_rows(1, 20)), **{section: changes}) for name in "ab"
    ]
    with pytest.raises(RecipeError, match=rf"{section}\.{next(iter(changes))}: .* at a time"):
        train_together(both, tiny)


def test_no_recipe_is_no_training(tiny: Backbone) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        train_together([], tiny)


def test_a_fault_in_one_recipe_is_told_before_any_training(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("something was trained")

    monkeypatch.setattr(trainables, "forward", never)
    good = recipe_for("good", write_rows(1, 20))
    Path("bad.csv").write_text("text,label\na card,\n")
    with pytest.raises(DataError, match=r"bad: .*bad\.csv:2: column 'label'"):
        train_together([good, recipe_for("bad", str(Path("bad.csv").resolve()))], tiny)
    with pytest.raises(AdapterkitError, match=r"wide: method\.r"):
        train_together(
            [good, recipe_for("wide", write_rows(2, 20), {"type": "lora", "r": 500})], tiny
        )


def write_recipe(name: str, backbone: Path, rows: str, **training: str) -> Path:
    file = Path(f"{name.replace('/', '_')}.yaml")
    file.write_text(
        f"name: {name}\nbackbone: {{model: {backbone}, device: cpu}}\ndata: {{path: {rows}}}\n"
        f"method: {{type: lora}}\ntraining: {json.dumps({'epochs': 1, **training})}\n"
    )
    return file


def test_the_command_trains_and_publishes_all(tiny_folder: Path) -> None:
    files = [write_recipe(f"t/n{n}", tiny_folder, write_rows(n, 20)) for n in range(3)]
    result = run_command("train", *files, "--output", "store", "--json").json
    assert [entry["name"] for entry in result] == ["t/n0", "t/n1", "t/n2"]
    assert [entry["folder"] for entry in result] == [f"store/t/n{n}/1" for n in range(3)]
    alone = run_command("train", files[1], "--output", "store", "--json").json
    assert alone["folder"] == "store/t/n1/2"
    assert alone["metrics"]["validation"] == pytest.approx(result[1]["metrics"]["validation"])
    people = run_command("train", *files[:2], "--output", "store")
    assert [line.split(" (")[0] for line in people.out.splitlines() if line.startswith("s")] == [
        "store/t/n0/2",
        "store/t/n1/3",
    ]
    assert "t/n0, epoch 1: training loss" in people.err


def test_the_command_refuses_what_does_not_go_together(tiny_folder: Path) -> None:
    first = write_recipe("t/a", tiny_folder, write_rows(1, 20))
    second = write_recipe("t/b", Path("elsewhere"), write_rows(1, 20))
    assert_refused("train", first, second, words="t/a and t/b cannot be trained together")
    assert_refused("train", first, first, words="two recipes are called 't/a'")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixed_precision": "bf16"}, "t/a and t/b cannot be trained together"),
        ({}, "there is no such folder"),
    ],
)
def test_the_command_refuses_recipes_before_it_loads_a_backbone(
    changes: dict[str, str], words: str
) -> None:
    missing, rows = Path("elsewhere").resolve(), write_rows(1, 20)
    first = write_recipe("t/a", missing, rows)
    second = write_recipe("t/b", missing, rows, **changes)
    assert_refused("train", first, second, words=words)


def test_the_command_keeps_what_did_not_diverge(tiny_folder: Path, tiny: Backbone) -> None:
    rows = endless(tiny).data.path
    good = write_recipe("t/good", tiny_folder, write_rows(1, 20))
    bad = write_recipe("t/bad", tiny_folder, str(rows), start_from="broken")
    result = run_command("train", bad, good, "--output", "store")
    assert result.code == 2
    assert "store/t/good/1" in result.out
    assert result.err.splitlines()[-1].startswith("Error: t/bad: the training loss became nan")
    assert not Path("store/t/bad").exists()
