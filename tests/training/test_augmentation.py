"""Augmentation: changes of training rows, what stays unchanged, and the random draws."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from adapterkit.cli.data_text import report_text
from adapterkit.data.synonyms import Synonyms
from adapterkit.errors import AdapterkitError, DataError, RecipeError
from adapterkit.inference.labelled import Split
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Row
from adapterkit.training.augmentation import Augment, Augmentation, Augmented, hidden
from adapterkit.training.callbacks import evaluation
from adapterkit.training.checked_rows import faults
from adapterkit.training.data_report import check
from adapterkit.training.evaluation import split_outputs
from adapterkit.training.plan import Plan
from adapterkit.training.recipe import Recipe
from adapterkit.training.recipe_keys import describe_keys
from adapterkit.training.train import train, train_many
from helpers.command_line import run_command
from helpers.joint_training import (
    assert_equals_solo,
    assert_same_weights,
    recipe_for,
    train_alone,
    train_together,
    write_rows,
)
from helpers.task_rows import every_divisible_task, every_task, task_recipe
from helpers.vocabulary import WORDS

TABLE = {"bank": ["tea"], "card": ["laptop", "screen"], "the card": ["a laptop"], "RAIN": ["sun"]}
PAIRS = [(word, synonym) for word, some in TABLE.items() for synonym in some]


def with_augmentation(recipe: Recipe, augmentation: dict[str, Any], **training: Any) -> Recipe:
    content = recipe.plain()
    content["training"].update(training)
    return Recipe.of({**content, "augmentation": augmentation}, recipe.folder)


def write_table(folder: Path = Path(), pairs: Sequence[tuple[str, str]] = PAIRS) -> str:
    lines = ["word,synonym", *(f"{word},{synonym}" for word, synonym in pairs)]
    (folder / "synonyms.csv").write_text("\n".join(lines), encoding="utf-8")
    return str((folder / "synonyms.csv").resolve())


def augmented_of(
    recipe: Recipe, backbone: Backbone, augment: Augment | None = None
) -> tuple[Augmented, Split, Sequence[Row]]:
    """The augmented training rows, the encoded rows, and the rows of the file."""
    plan = Plan.of(recipe, backbone, None, augment)
    assert plan.augmented is not None
    return plan.augmented, plan.splits["train"], plan.rows["train"]


def ids_of(split: Split) -> list[list[list[int]]]:
    return [[list(inputs.input_ids) for inputs in example.inputs] for example in split.examples]


# Synonyms in a text.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my bank is open", "my tea is open"),
        ("My Bank, my BANK.", "My Tea, my TEA."),
        ("bankers embank the_bank bank2", "bankers embank the_bank bank2"),
        ("the card", "a laptop"),
        ("The Card", "A laptop"),
        ("the bank's rain", "the tea's sun"),
        ("rain", "sun"),
        ("RAIN", "sun"),  # in the case of the table
        ("nothing", "nothing"),
        ("İ bank ß bank", "İ tea ß tea"),
        ("bank  bank\nbank", "tea  tea\ntea"),
        ("", ""),
    ],
)
def test_only_complete_words_are_replaced(text: str, expected: str) -> None:
    assert Synonyms(PAIRS).reworded(text, 1.0, "s") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我的银行卡丢了", "我的信用卡丢了"),
        ("银行在哪里", "钱庄在哪里"),
        ("去银行abc银行", "去钱庄abc钱庄"),
        ("行银", "行银"),
        ("卡号ATM机", "卡号取款机"),
        ("看ATMs", "看ATMs"),
        ("๒ ธนาคารไทย", "๒ แบงก์ไทย"),
    ],
)
def test_the_longest_word_is_replaced_in_text_without_spaces(text: str, expected: str) -> None:
    table = Synonyms(
        [
            ("银行", "钱庄"),
            ("银行卡", "信用卡"),
            ("ATM机", "取款机"),
            ("ATM", "机"),
            ("ธนาคาร", "แบงก์"),
        ]
    )
    assert table.reworded(text, 1.0, "s") == expected


def test_the_share_of_replaced_words_and_of_each_synonym() -> None:
    rewordings = [Synonyms(PAIRS).reworded("card " * 10, 0.3, str(n)).split() for n in range(200)]
    flat = [word for line in rewordings for word in line]
    assert flat.count("card") / len(flat) == pytest.approx(0.7, abs=0.03)
    assert flat.count("laptop") == pytest.approx(flat.count("screen"), rel=0.2)
    assert rewordings[0] == Synonyms(PAIRS).reworded("card " * 10, 0.3, "0").split()
    assert Synonyms(PAIRS).reworded("card " * 10, 0.0, "0") == "card " * 10


# The table.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", None, r"x\.csv: there is no such file"),
        ("x.csv", "", r"x\.csv: there are no rows"),
        ("x.csv", "word,synonym\n", r"x\.csv: there are no rows"),
        ("x.csv", "word,synonim\na,b\n", r"x\.csv:2: .*'synonym' .*did you mean 'synonim'"),
        ("x.csv", "words,synonym\na,b\n", r"x\.csv:2: there is no column 'word'"),
        ("x.tsv", "word\tsynonym\na\tb\nc\t\n", r"x\.tsv:3: column 'synonym' is empty"),
        ("x.jsonl", '{"word": "a", "synonym": ["b"]}', r"x\.jsonl:1: .*expected a text"),
        ("x.doc", "word,synonym\na,b\n", r"x\.doc: expected a file ending in"),
    ],
)
def test_an_error_of_the_table_names_file_and_row(
    tiny: Backbone, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        Path(name).write_text(content, encoding="utf-8")
    recipe = with_augmentation(
        recipe_for("t", write_rows(1, 20)), {"synonyms": str(Path(name).resolve())}
    )
    with pytest.raises(DataError, match=rf"^t: augmentation\.synonyms: .*{message}"):
        train_alone(recipe, tiny)
    assert any("augmentation.synonyms" in fault for fault in faults(recipe, tiny))


def test_a_table_may_be_csv_tsv_or_jsonl_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("synonym,word,note\ntea,bank,\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("word\tsynonym\nbank\ttea\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"word": "bank", "synonym": "tea"}\n', encoding="utf-8")
    for ending in ("csv", "tsv", "jsonl"):
        table = Augmentation(synonyms=f"a.{ending}").load(tmp_path)
        assert table is not None
        assert table.reworded("my bank", 1.0, "") == "my tea"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"token_dropout": 1.0}, "token_dropout: expected 0 or more and less than 1, got 1.0"),
        ({"token_dropout": -0.1}, "token_dropout: expected 0 or more and less than 1, got -0.1"),
        ({"synonyms": "s.csv", "replace": 1.1}, "replace: expected a share from 0 to 1, got 1.1"),
        ({"replace": 0.2}, "replace: goes with synonyms, and there are none"),
        ({"token_droput": 0.1}, "token_droput: there is no such key; did you mean 'token_dropou"),
    ],
)
def test_an_error_of_the_section_names_key_and_value(section: dict[str, Any], message: str) -> None:
    Path("r.yaml").write_text(
        json.dumps({**recipe_for("t", "x.csv").plain(), "augmentation": section})
    )
    with pytest.raises(RecipeError, match=rf"^r\.yaml: augmentation\.{message}"):
        Recipe.load("r.yaml")


@every_task
def test_every_task_uses_synonyms_or_refuses_them(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    recipe = task_recipe(kind, tmp_path)
    synonyms = {"synonyms": write_table(tmp_path), "replace": 1.0}
    if not tasks()[kind].augmentable:
        assert kind in ("question_answering", "relation", "summarisation")
        with pytest.raises(ValueError, match=rf"^augmentation\.synonyms: {kind} has answers that"):
            with_augmentation(recipe, synonyms)
        return
    drawn, split, rows = augmented_of(with_augmentation(recipe, synonyms), tiny)
    everything = range(len(rows))
    assert ids_of(drawn(everything, 1, 0)) != ids_of(split)
    for role in tasks()[kind].augmentable:
        assert any(role in row.fields for row in rows) or role in ("text_pair", "negative")
    adapter = train_alone(with_augmentation(recipe, synonyms, epochs=2), tiny)
    assert adapter.training["recipe"]["augmentation"]["replace"] == 1.0


def test_a_task_that_masks_tokens_refuses_token_dropout(tmp_path: Path) -> None:
    recipe = task_recipe("masked_language_modelling", tmp_path)
    with pytest.raises(
        ValueError, match=r"^augmentation\.token_dropout: masked_language_modelling hides tokens"
    ):
        with_augmentation(recipe, {"token_dropout": 0.1})


# Rows with synonyms.


def write(rows: Sequence[Mapping[str, Any]]) -> str:
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(Path("rows.jsonl").resolve())


def recipe_over(
    kind: str, rows: Sequence[Mapping[str, Any]], augmentation: Any, **data: Any
) -> Recipe:
    """A recipe over these rows, all of them for training."""
    content = recipe_for("t", write(rows), task={"type": kind}).plain()
    content["data"].update(validation=0, **data)
    return Recipe.of({**content, "augmentation": augmentation})


def decode(backbone: Backbone, inputs: TokenSequence) -> str:
    return backbone.reader.decode(inputs.input_ids, skip_special_tokens=True)


def test_tags_follow_their_words(tiny: Backbone) -> None:
    rows = [
        {"tokens": ["the", "bank", "card", "rain"], "tags": ["O", "B-x", "O", "O"]},
        {"tokens": ["rain", "Bank"], "tags": ["O", "B-x"]},
    ]
    table = write_table(pairs=[("bank", "zzz"), ("card", "new card"), ("rain", "雨水")])
    recipe = recipe_over("tagging", rows, {"synonyms": table, "replace": 1.0})
    part = augmented_of(recipe, tiny)[0]([1, 0], 1, 0)
    task: Any = Plan.of(recipe, tiny).adapter.task
    for example, (places, tags), expected in zip(
        part.examples, part.targets, (["rain", "zzz"], ["the", "zzz", "card", "rain"]), strict=True
    ):
        (inputs,) = example.inputs
        pieces = tiny.reader.tokens(inputs.input_ids)
        assert [pieces[line][0] for _, line in places] == [word[0] for word in expected]
        assert "##z" in pieces
        assert [task.labels[tag] for tag in tags][expected.index("zzz")] == "B-x"


def test_each_word_of_a_row_is_drawn_independently(tiny: Backbone) -> None:
    rows = [
        {"tokens": ["bank"] * 40, "tags": ["O"] * 39 + ["B-x"]},
        {"tokens": ["a"], "tags": ["O"]},
    ]
    recipe = recipe_over("tagging", rows, {"synonyms": write_table(), "replace": 0.5})
    (inputs,) = augmented_of(recipe, tiny)[0]([0], 1, 0).examples[0].inputs
    assert 5 < decode(tiny, inputs).split().count("tea") < 35


def test_equal_texts_stay_equal_if_the_task_compares_them(tiny: Backbone) -> None:
    rows = [{"text": f"{w} card", "text_pair": "the bank card rain card"} for w in WORDS[:12]]
    rows += [{"text": "the bank card rain card", "text_pair": "sun"}]
    recipe = recipe_over("embedding", rows, {"synonyms": write_table(), "replace": 0.5})
    drawn = augmented_of(recipe, tiny)[0]
    seen = set()
    for epoch in range(1, 6):
        texts = [target.texts for target in drawn(range(13), epoch, 0).targets]
        (pair,) = {text[1] for text in texts[:12]}
        assert texts[12][0] == pair
        seen.add(pair)
    assert len(seen) > 2


def test_the_label_of_a_choice_follows_its_text(tiny: Backbone) -> None:
    rows = [
        {"text": "my bank", "choices": ["card", "rain"], "label": "rain"},
        {"text": "my bank", "choices": ["0", "bank"], "label": "1"},
        {"text": "my bank", "choices": ["bank", "tea"], "label": "tea"},
    ]
    table = write_table(pairs=[*PAIRS, ("0", "1")])
    drawn, _, _ = augmented_of(
        recipe_over("multiple_choice", rows, {"synonyms": table, "replace": 1}), tiny
    )
    part = drawn(range(3), 1, 0)
    assert part.targets == [1, 1, 1]
    assert part.examples[0].notes[1] == "sun"
    assert part.examples[1].notes == ("1", "tea")
    assert part.examples[2].notes == ("bank", "tea")  # both would become equal
    assert all(decode(tiny, e.inputs[0]).startswith("my tea") for e in part.examples)


# Masked tokens.


def test_a_share_of_the_tokens_is_masked_but_never_all() -> None:
    inputs = TokenSequence([2, 10, 11, 12, 13, 3, 14, 3], [0, 0, 0, 0, 0, 0, 1, 1])
    counts = [0] * 8
    for n in range(2000):
        after = hidden(inputs, 0.4, 9, {2, 3, 9}, {4}, random.Random(n))
        assert len(after) == len(inputs)
        assert after.token_type_ids == inputs.token_type_ids
        for index, (old, new) in enumerate(zip(inputs.input_ids, after.input_ids, strict=True)):
            assert new in (old, 9)
            counts[index] += new == 9
    assert [counts[index] for index in (0, 4, 5, 6, 7)] == [0] * 5
    assert [count / 2000 for count in counts[1:4]] == pytest.approx([0.4] * 3, abs=0.05)
    for n in range(
        200
    ):  # no token is protected; a mask token of the text does not count as visible
        after = hidden(
            TokenSequence([2, 9, 10, 11, 3], [0] * 5), 0.99, 9, {2, 3, 9}, (), random.Random(n)
        )
        assert after.input_ids[2:4] != [9, 9]


@every_divisible_task
def test_masking_tokens_keeps_targets_and_positions(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    if tasks()[kind].masks_tokens:
        return
    recipe = with_augmentation(task_recipe(kind, tmp_path), {"token_dropout": 0.6})
    drawn, split, rows = augmented_of(recipe, tiny)
    mask, everything, seen = tiny.reader.mask, range(len(rows)), set()
    for epoch in range(1, 8):
        part = drawn(everything, epoch, 0)
        assert part.targets == split.targets
        assert [e.notes for e in part.examples] == [e.notes for e in split.examples]
        for after, before in zip(part.examples, split.examples, strict=True):
            for one, other in zip(after.inputs, before.inputs, strict=True):
                pairs = list(zip(one.input_ids, other.input_ids, strict=True))
                assert all(new in (old, mask) for new, old in pairs)
                assert pairs[0][0] == other.input_ids[0]
                seen |= {new == mask for new, _ in pairs}
    assert seen == {True, False}


def test_answers_and_entity_marks_are_not_masked(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("question_answering", tmp_path)
    drawn, _, rows = augmented_of(with_augmentation(recipe, {"token_dropout": 0.9}), tiny)
    for epoch in range(1, 4):
        for row, example in zip(rows, drawn(range(len(rows)), epoch, 0).examples, strict=True):
            assert bool(row.fields["answers"]) <= ("bank" in decode(tiny, example.inputs[0]))
    recipe = task_recipe("relation", tmp_path)
    drawn, _, rows = augmented_of(with_augmentation(recipe, {"token_dropout": 0.9}), tiny)
    for epoch in range(1, 4):
        for example in drawn(range(len(rows)), epoch, 0).examples:
            (inputs,), (marks,) = example.inputs, example.notes
            assert len(marks) == 4
            # The tiny vocabulary has neither @ nor #.
            assert {tiny.reader.tokens(inputs.input_ids)[place] for place in marks} == {"[UNK]"}


# Random draws.


def augmentation_section(folder: Path = Path()) -> dict[str, Any]:
    return {"token_dropout": 0.2, "synonyms": write_table(folder), "replace": 0.5}


def test_draws_depend_on_the_epoch_and_not_on_the_batch(tiny: Backbone) -> None:
    recipe = with_augmentation(recipe_for("t", write_rows(1, 30)), augmentation_section())
    drawn, split, rows = augmented_of(recipe, tiny)
    whole = ids_of(drawn(range(len(rows)), 1, 0))
    assert whole != ids_of(split)
    assert whole != ids_of(drawn(range(len(rows)), 2, 0))
    again = augmented_of(recipe, tiny)[0]
    assert [ids_of(again([n], 1, 0))[0] for n in reversed(range(len(rows)))] == whole[::-1]
    assert ids_of(drawn(range(len(rows)), 1, 1)) != whole


def test_a_share_of_zero_changes_nothing(tiny: Backbone) -> None:
    recipe = recipe_for("t", write_rows(1, 30))
    assert Plan.of(recipe, tiny).augmented is None
    off = with_augmentation(recipe, {"synonyms": write_table(), "replace": 0.0})
    drawn, split, _ = augmented_of(off, tiny)
    part = drawn([3, 1], 1, 0)
    assert [part.examples[0] is split.examples[3], part.targets[1] == split.targets[1]] == [
        True
    ] * 2
    assert_same_weights(train_alone(recipe, tiny), train_alone(off, tiny))


@every_task
def test_accumulation_changes_nothing(tiny: Backbone, tmp_path: Path, kind: str) -> None:
    chosen = augmentation_section(tmp_path)
    if not tasks()[kind].augmentable:
        chosen = {"token_dropout": 0.2}
    if tasks()[kind].masks_tokens:
        chosen["token_dropout"] = 0.0
    recipe = task_recipe(kind, tmp_path)
    whole = train_alone(with_augmentation(recipe, chosen, epochs=2), tiny)
    plain = train_alone(with_augmentation(recipe, {}, epochs=2), tiny)
    assert whole.training["losses"][-1] != plain.training["losses"][-1]
    if tasks()[kind].whole_batch:
        return
    pieces = train_alone(with_augmentation(recipe, chosen, epochs=2, accumulation=3), tiny)
    for (_, one), (_, other) in zip(
        whole.training["losses"], pieces.training["losses"], strict=True
    ):
        assert one == pytest.approx(other, abs=2e-4)


def test_joint_training_equals_training_alone(tiny: Backbone) -> None:
    top = {"type": "lora", "layers": [1, 2]}
    recipes = [
        with_augmentation(
            recipe_for("a", write_rows(1, 30), top, {"dropout": 0.2}, epochs=3),
            augmentation_section(),
        ),
        recipe_for("b", write_rows(2, 25), top, epochs=3),
        with_augmentation(
            recipe_for("c", write_rows(3, 20), {"type": "prefix"}),
            {"token_dropout": 0.5},
            adversarial=1,
        ),
    ]
    for together, recipe in zip(train_together(recipes, tiny), recipes, strict=True):
        assert_equals_solo(together, train_alone(recipe, tiny))


def test_a_member_of_an_ensemble_equals_training_with_its_seed(tiny: Backbone) -> None:
    recipe = with_augmentation(
        recipe_for("t", write_rows(1, 30)), augmentation_section(), adversarial=0.5
    )
    members = train_alone(
        with_augmentation(recipe, augmentation_section(), ensemble=2), tiny
    ).members
    for seed, member in enumerate(members):
        solo = train_alone(with_augmentation(recipe, augmentation_section(), seed=seed), tiny)
        assert_same_weights(replace(member, extra_members=()), solo, tolerance=1e-3)


def test_rows_for_evaluation_are_not_augmented(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented_texts: list[str] = []
    evaluated_ids: list[list[int]] = []

    def record_text(fields: dict[str, Any], draws: random.Random) -> dict[str, Any]:
        augmented_texts.append(fields["text"])
        return fields

    def spy(accelerator: Any, backbone: Any, splits: Any) -> Any:
        evaluated_ids.extend(
            list(i.input_ids) for _, s in splits for e in s.examples for i in e.inputs
        )
        return split_outputs(accelerator, backbone, splits)

    monkeypatch.setattr(evaluation, "split_outputs", spy)
    recipe = with_augmentation(
        recipe_for("t", write_rows(1, 30)),
        {**augmentation_section(), "token_dropout": 0.9, "replace": 1.0},
    )
    train(recipe, tiny, augment=record_text, progress=False)
    rows = recipe.data.load(Path(), 0, recipe.task)
    texts = {row.fields["text"] for row in rows["validation"]}
    assert evaluated_ids
    assert {tuple(ids) for ids in evaluated_ids} == {
        tuple(encoding.ids) for encoding in tiny.reader.encode(sorted(texts))
    }
    assert len(augmented_texts) == 2 * len(rows["train"])  # once in each epoch


# Augmentation by a function of the user.


def append_word(fields: dict[str, Any], draws: random.Random) -> dict[str, Any]:
    return {**fields, "text": f"{fields['text']} {draws.choice(WORDS)}"}


def test_a_function_of_the_user_is_applied_and_recorded(tiny: Backbone) -> None:
    recipe = recipe_for("t", write_rows(1, 30))
    adapter = train(recipe, tiny, augment=append_word, progress=False)
    assert adapter.training["augment"] == "append_word"
    plain = train_alone(recipe, tiny)
    assert "augment" not in plain.training
    assert adapter.training["losses"] != plain.training["losses"]
    other = recipe_for("other", write_rows(2, 30))
    for together, solo in zip(
        train_many([recipe, other], tiny, augment={"t": append_word}, progress=False),
        (adapter, train_alone(other, tiny)),
        strict=True,
    ):
        assert_equals_solo(together, solo)
    drawn, split, _ = augmented_of(recipe, tiny, append_word)
    for example, before in zip(drawn(range(5), 1, 0).examples, split.examples, strict=False):
        assert decode(tiny, example.inputs[0]).startswith(decode(tiny, before.inputs[0]))


def test_a_function_may_move_answers_with_their_text(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("question_answering", tmp_path)

    def move_context(fields: dict[str, Any], draws: random.Random) -> dict[str, Any]:
        answers = {
            "text": [text for text, _ in fields["answers"]],
            "answer_start": [start + 4 for _, start in fields["answers"]],
        }
        return {**fields, "context": f"tea {fields['context']}", "answers": answers}

    drawn, split, rows = augmented_of(recipe, tiny, move_context)
    part = drawn(range(len(rows)), 1, 0)
    for row, target, before in zip(rows, part.targets, split.targets, strict=True):
        shift = 1 if row.fields["answers"] else 0
        assert target.token_spans == tuple((a + shift, b + shift) for a, b in before.token_spans)


@pytest.mark.parametrize(
    ("augmented_row", "message"),
    [
        (None, "augment must give text, label back, got None"),
        ({"text": "a"}, "augment must give text, label back, got {'text': 'a'}"),
        ({"text": "", "label": "money"}, "text from augment is empty"),
        ({"text": "a", "label": "monney"}, "label 'monney' is not one .* did you mean 'money'"),
    ],
)
def test_the_result_of_a_function_is_checked(
    tiny: Backbone, augmented_row: Any, message: str
) -> None:
    recipe = recipe_for("t", write_rows(1, 30))
    with pytest.raises(DataError, match=rf"rows1\.csv:\d+: {message}"):
        train(recipe, tiny, augment=lambda fields, draws: augmented_row, progress=False)


def test_a_function_for_an_unknown_recipe_is_refused(tiny: Backbone) -> None:
    recipe = recipe_for("acme/t", write_rows(1, 30))
    with pytest.raises(RecipeError, match="no recipe is called 'acme/tt'; did you mean 'acme/t'"):
        train_many([recipe], tiny, augment={"acme/tt": append_word})


def test_token_dropout_requires_a_mask_token(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.reader, "mask_token", None)
    recipe = with_augmentation(recipe_for("t", write_rows(1, 20)), {"token_dropout": 0.1})
    with pytest.raises(AdapterkitError, match="t: the backbone's tokenizer has no mask token"):
        train_alone(recipe, tiny)


# Reports.


def test_data_check_reports_rows_with_synonyms(tiny: Backbone, tiny_folder: Path) -> None:
    recipe = with_augmentation(recipe_for("t", write_rows(1, 30)), augmentation_section())
    report = check(recipe, tiny)
    rows = recipe.data.load(Path(), 0, recipe.task)["train"]
    words = {"bank", "card", "rain"}
    reached = sum(bool(words & set(row.fields["text"].split())) for row in rows)
    assert report["synonyms"] == {"words": 4, "rows": reached}
    assert f"{reached} of 24 training rows have one of the 4 words with synonyms" in report_text(
        report
    )
    assert "synonyms" not in report_text(check(recipe_for("t", write_rows(1, 30)), tiny))
    content = with_augmentation(recipe, {"synonyms": "none.csv"}).plain()
    content["backbone"]["model"] = str(tiny_folder)
    Path("r.yaml").write_text(json.dumps(content))
    result = run_command("data", "check", "r.yaml")
    assert result.code == 2
    assert "augmentation.synonyms: none.csv: there is no such file" in result.err


def test_the_keys_are_listed() -> None:
    assert "token_dropout (0.0): Share of" in describe_keys()
