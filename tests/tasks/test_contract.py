"""The contract every task keeps, and each task's answers and metrics on tricky cases."""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.tokenizer import truncate
from adapterkit.client.http import Client
from adapterkit.data.dataset import Data
from adapterkit.errors import DataError
from adapterkit.inference.forward import text_limit
from adapterkit.inference.labelled import prepare_rows
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.metrics.base import Predictions
from adapterkit.tasks.base import tasks
from adapterkit.tasks.columns import input_columns, required_columns, target_columns
from adapterkit.tasks.fields import FieldKind
from adapterkit.tasks.types import Example, Outputs, Row
from adapterkit.training.batches import MicroBatch
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from adapterkit.training.trainable import TrainableAdapter, TrainableAdapters
from helpers.server import serving
from helpers.task_adapters import random_task_adapter, request_row
from helpers.task_rows import every_divisible_task, every_task, task_recipe, task_rows

kept_whole = pytest.mark.parametrize(
    "kind", sorted(kind for kind, task in tasks().items() if task.whole_batch)
)


@every_task
def test_trained_saved_and_served_answers_are_the_same(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    recipe = task_recipe(kind, tmp_path)
    adapter = train(recipe, tiny, progress=False)
    first, last = (adapter.training["losses"][n][1] for n in (0, -1))
    assert last < first
    folder = Store(tmp_path / "store").publish(adapter, tiny.geometry)
    again = load_adapter(folder, tiny)
    rows = recipe.data.load(tmp_path, 0, recipe.task)["test"]
    metrics = evaluate(tiny, again, rows)
    message = {k: v for k, v in adapter.metrics["test"].items() if k != "loss"}
    assert metrics == pytest.approx(message, abs=1e-6)
    assert adapter.task.main_metric in metrics
    predictor = Predictor(tiny, [again])
    requests = [
        (again.name, {role: row.fields[role] for role in again.inputs.required}) for row in rows
    ]
    together = predictor([*requests, (None, "a plain text")])
    for request, answer in zip(requests, together, strict=False):
        (alone,) = predictor([request])
        assert _rounded(alone) == _rounded(answer)
        json.dumps(answer)
        text, score = again.task.summary(answer)
        assert text
        assert score is None or 0.0 <= score <= 1.0
        for key in again.task.tensor_keys & answer.keys():
            assert type(answer[key]) in (str, int, float, list), key
    counted = [d for answer in together[:-1] if (d := again.task.decision(answer)) is not None]
    assert len(counted) == (len(requests) if again.task.has_decisions else 0)
    assert again.task.has_decisions == ("answers" in adapter.training)
    if counted:
        record = adapter.training["answers"]
        assert record["rows"] == adapter.training["rows"][record["split"]]
    for labels, confidence in counted:
        assert all(type(label) is str for label in labels)
        assert confidence is None or 0.0 <= confidence <= 1.0


@every_task
def test_columns_are_declared(kind: str) -> None:
    task = tasks()[kind]
    own = {field.name for field in fields(Data)}
    assert required_columns(task.columns)
    assert input_columns(task.columns).keys() <= task.columns.keys()
    for role, column in task.columns.items():
        assert role.isidentifier()
        assert role not in own, f"{role} is a key of data with another meaning"
        assert column.doc
        assert column.required or column.default_name(role) is None
        assert column.learned or not column.also_input
    assert task.document_role in required_columns(task.columns)
    assert set(task.augmentable) <= task.columns.keys()
    given = {role: row for role, row in task_rows(kind, 1)[0].items() if role in task.columns}
    assert (
        target_columns(task.columns).keys() | required_columns(task.columns).keys() <= given.keys()
    )
    for role, value in given.items():
        assert task.columns[role].kind.check(value, "row 1") is not None


@every_task
def test_every_task_is_served_with_one_line_of_each_answer(
    tiny: Backbone, tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    adapter = random_task_adapter(tiny, kind, tmp_path)
    Store(tmp_path / "store").publish(adapter, tiny.geometry)
    row = request_row(adapter)
    with serving(tmp_path / "store", tiny_folder) as url, Client(url) as client:
        (answer,) = client.ask([(adapter.name, row)], one_line=True)
        (about,) = (model for model in client.models() if model["id"] == adapter.name)
    text, score = adapter.task.summary(answer)
    assert answer.pop("one_line") == {"text": text, "score": score}
    assert about["reads"].keys() == row.keys()
    (local,) = Predictor(tiny, [adapter])([(adapter.name, row)])
    assert _rounded(local) == _rounded({k: v for k, v in answer.items() if k != "version"})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


@every_divisible_task
def test_a_batch_cut_in_pieces_has_the_same_loss_and_gradient(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    in_windows = kind in ("tagging", "question_answering", "summarisation")
    changes = {"max_length": 9, "stride": 2} if in_windows else {}
    recipe = task_recipe(kind, tmp_path, **changes)
    rows = recipe.data.load(tmp_path, 0, recipe.task)["train"]
    adapter = fresh_adapter(recipe, tiny, rows)
    split = prepare_rows(tiny, adapter, rows)
    lengths = [[len(i) for i in example.inputs] for example in split.examples]
    starts = [sum(len(row) for row in lengths[:n]) for n in range(len(lengths))]
    found = []
    for parts in ([range(24)], [range(0, 24, 3), range(1, 24, 3), range(2, 24, 3)]):
        trainee, total = TrainableAdapters(tiny, [TrainableAdapter(adapter)]), 0.0
        for part in parts:
            indices = [s for n in part for s in range(starts[n], starts[n] + len(lengths[n]))]
            micro_batch = MicroBatch(
                [split.examples[n] for n in part],
                [split.targets[n] for n in part],
                [1 / 24] * len(part),
                indices,
                [size for row in lengths for size in row],
                seed=3,
            ).masked_for(adapter.task)
            (loss,) = trainee({0: micro_batch})
            loss.backward()
            total += float(loss.detach())
        grads = torch.cat([p.grad.flatten() for p in trainee.parameters() if p.grad is not None])
        found.append((total, grads))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


@kept_whole
def test_rows_that_are_compared_need_each_other(tmp_path: Path, kind: str) -> None:
    recipe = task_recipe(kind, tmp_path)
    for key, training in (
        ("batch_size", {"batch_size": 1}),
        ("adversarial", {"accumulation": 2, "adversarial": 0.5}),
    ):
        content = recipe.plain()
        content["training"] |= training
        with pytest.raises(ValueError, match=rf"^training\.{key}: {kind} compares the rows of a"):
            Recipe.of(content, tmp_path)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("embedding", {"text": "a"}, "there is no column 'text_pair' for text_pair"),
        ("multi_label", {"text": "a", "labels": ["moneyy"]}, "did you mean 'money'"),
        (
            "regression",
            {"text": "a", "text_pair": "b", "label": "high"},
            "expected a number, got 'high'",
        ),
        ("tagging", {"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags"),
        ("tagging", {"tokens": ["a"], "tags": ["B-ORK"]}, "did you mean 'B-ORG'"),
        ("tagging", {"tokens": [], "tags": []}, "column 'tokens' is empty"),
        (
            "question_answering",
            {"question": "a", "context": "tea", "answers": {"text": ["ea"], "answer_start": [0]}},
            "the answer 'ea' is not at character 0 of the context, which has 'te' there",
        ),
        ("question_answering", {"question": "a", "context": "b", "answers": ["b"]}, "as many of"),
        (
            "relation",
            {"text": "a b", "head": {"start": 2, "end": 1}, "tail": [0, 1], "label": "pays"},
            "end past the last character",
        ),
        ("multiple_choice", {"text": "a", "choices": ["b"], "label": "b"}, "at least two choices"),
        (
            "summarisation",
            {"sentences": "One. Two.", "summary": [0, 2]},
            "summary names sentence 2, the last of the document is 1",
        ),
        ("summarisation", {"sentences": ["a"], "summary": [-1]}, "sentences from 0, got -1"),
        ("summarisation", {"sentences": ["a"], "summary": []}, "sentences from 0, or a text"),
        ("summarisation", {"sentences": [], "summary": [0]}, "column 'sentences' is empty"),
        ("multiple_choice", {"text": "a", "choices": "b|c", "label": "7"}, "from 0 to 1"),
        (
            "question_answering",
            {"question": "a", "context": "tea", "answers": {"text": ["e"], "answer_start": [-2]}},
            "expected texts and whole numbers from 0",
        ),
    ],
)
def test_faulty_rows_are_told_by_file_and_row(
    tiny: Backbone, tmp_path: Path, kind: str, row: dict[str, Any], message: str
) -> None:
    recipe = task_recipe(kind, tmp_path)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({**row, "split": "test"}))
    with pytest.raises(DataError, match=message) as reported:
        train(recipe, tiny, progress=False)
    assert "rows.jsonl:35" in str(reported.value)


KINDS: dict[str, FieldKind] = {
    column.kind.name: column.kind for task in tasks().values() for column in task.columns.values()
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_field_takes_what_it_cannot_hold(kind: str) -> None:
    valid = {"label": (True,), "labels": ({"x": 1},)}.get(kind, ())
    for value in (None, True, {"x": 1}, float("nan")):
        if value in valid:
            KINDS[kind].check(value, "row 1")
            continue
        with pytest.raises(DataError, match="row 1"):
            KINDS[kind].check(value, "row 1")


# Long texts.


@pytest.mark.parametrize(
    ("how", "kept"),
    [("head", "a b c d"), ("tail", "g h i j"), ("head+tail", "a b i j")],
)
def test_long_texts_keep_what_the_recipe_says(tiny: Backbone, how: Any, kept: str) -> None:
    (encoding,) = tiny.reader.encode(["a b c d e f g h i j"])
    (inputs,) = truncate(encoding, 6, how)
    assert tiny.tokenizer.decode(inputs.input_ids) == f"[CLS] {kept} [SEP]"
    assert inputs.truncated


def test_windows_overlap_and_miss_nothing(tiny: Backbone) -> None:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    for n, limit, stride in ((26, 9, 3), (26, 9, 0), (8, 9, 3), (7, 9, 6), (26, 6, 2)):
        (encoding,) = tiny.reader.encode([" ".join(letters[:n])])
        windows = truncate(encoding, limit, "windows", stride)
        words = [tiny.tokenizer.decode(w.input_ids).split()[1:-1] for w in windows]
        assert list(dict.fromkeys(x for window in words for x in window)) == letters[:n]
        assert all(len(window) <= limit for window in windows)
        for one, other in pairwise(words):
            assert one[len(one) - stride :] == other[:stride]


@pytest.mark.parametrize("stride", [3, 4, 6, 7, 128])
def test_windows_share_at_most_half_of_themselves(tiny: Backbone, stride: int) -> None:
    (encoding,) = tiny.reader.encode(["a b c d e f g h i j k l"])
    windows = truncate(encoding, 8, "windows", stride)
    assert [tiny.tokenizer.decode(w.input_ids).split()[1:-1] for w in windows] == [
        "a b c d e f".split(),
        "d e f g h i".split(),
        "g h i j k l".split(),
    ]


def test_windows_of_a_pair_run_over_the_second_text(tiny: Backbone) -> None:
    (encoding,) = tiny.reader.encode(["the card"], ["a b c d e f g h"])
    words = [tiny.tokenizer.decode(w.input_ids) for w in truncate(encoding, 9, "windows", 1)]
    assert words == [
        "[CLS] the card [SEP] a b c d [SEP]",
        "[CLS] the card [SEP] d e f g [SEP]",
        "[CLS] the card [SEP] g h [SEP]",
    ]


def test_windows_tell_whether_anything_is_lost(tiny: Backbone) -> None:
    (one,) = tiny.reader.encode(["a b c d e f g h"])
    assert not any(window.truncated for window in truncate(one, 6, "windows", 1))
    (short, long) = tiny.reader.encode(["a b", "a b c d e f"], ["the card is lost"] * 2)
    assert not any(window.truncated for window in truncate(short, 8, "windows", 1))
    assert all(window.truncated for window in truncate(long, 8, "windows", 1))


def test_windows_agree_by_their_mean(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("classification", tmp_path, long_text="windows", max_length=8, stride=2)
    adapter = train(recipe, tiny, progress=False)
    predictor = Predictor(tiny, [adapter])
    (long,) = predictor([(adapter.name, "bank " * 20)])
    (short,) = predictor([(adapter.name, "bank " * 6)])
    assert "truncated" not in long
    assert long["label"] == short["label"]


# Tagging.


def tagging(labels: tuple[str, ...]) -> Any:
    kind: Any = tasks()["tagging"]
    return kind(labels=labels)


def test_entities_are_what_conll_counts() -> None:
    from adapterkit.metrics.entity_tags import entities_of

    cases = {
        "B-A I-A O B-B": [("A", 0, 2), ("B", 3, 4)],
        "B-A B-A I-A": [("A", 0, 1), ("A", 1, 3)],
        "I-A I-A O": [("A", 0, 2)],
        "O I-A I-B B-B": [("A", 1, 2), ("B", 2, 3), ("B", 3, 4)],
        "B-A O I-A": [("A", 0, 1), ("A", 2, 3)],
        "O O": [],
        "B-GPE.NAM I-GPE.NAM": [("GPE.NAM", 0, 2)],
        "B-A E-A S-A I-A": [("A", 0, 2), ("A", 2, 3), ("A", 3, 4)],
        "S-A O B-B I-B E-B": [("A", 0, 1), ("B", 2, 5)],
        "B-A M-A E-A S-B": [("A", 0, 3), ("B", 3, 4)],
        "B-A L-A U-A U-B": [("A", 0, 2), ("A", 2, 3), ("B", 3, 4)],
        "E-A E-A X-A": [("A", 0, 1), ("A", 1, 2)],
    }
    for tags, expected in cases.items():
        assert entities_of(tags.split()) == expected


def test_answers_longer_than_the_longest_are_reported(tiny: Backbone) -> None:
    context = "the quick brown fox jumps over the lazy dog"
    answers = (("quick brown fox jumps", 4),)
    rows = [
        Row({"question": "who?", "context": context, "answers": found}, "x")
        for found in (answers, (("fox", 16),), ())
    ]
    kind: Any = tasks()["question_answering"]
    for longest, warnings in ((40, 0), (4, 1)):
        task = kind(max_answer=longest)
        examples = task.examples([row.fields for row in rows], tiny.reader, 64)
        targets = [task.target(*pair) for pair in zip(rows, examples, strict=True)]
        found = task.warnings(rows, targets)
        assert len(found) == warnings
    assert "1 of 3 training rows have an answer of more than 4 tokens" in found[0]


def test_entity_scores_count_whole_entities() -> None:
    task = tagging(("B-A", "I-A", "O"))
    indices = tuple((0, n) for n in range(4))
    target = [0, 1, 2, 0]  # B-A I-A O B-A
    result = torch.full((4, 3), -9.0)
    result[range(4), [0, 2, 2, 0]] = 9.0  # B-A O O B-A: one of two entities is whole
    outputs = Outputs(result, ((4,),))
    metrics = task.metrics(task.predictions(outputs, [], [(indices, target)]))
    assert metrics == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.75})


def test_spans_stand_in_the_text_in_any_script(chinese_folder: Path) -> None:
    backbone = Backbone.load(str(chinese_folder), device="cpu")
    task = tagging(("B-LOC", "I-LOC", "O"))
    text = "我爱 北京天安门, Beijing!"
    fields = task.fields(text, "text 1")
    assert fields["tokens"][:7] == ("我", "爱", "北", "京", "天", "安", "门")
    assert fields["tokens"][-2:] == ("Beijing", "!")
    (example,) = task.examples([fields], backbone.reader, 32)
    result = torch.full((len(example.inputs[0]), 3), -5.0)
    result[:, 2] = 0.0
    for word, tag in {2: 0, 3: 1, 8: 0}.items():
        result[example.notes.first_tokens[word][1], tag] = 9.0
    (answer,) = task.answers(Outputs.of([(result,)]), [example])
    found = [(e["word"], e["start"], e["end"]) for e in answer["entities"]]
    assert found == [("北京", 3, 5), ("Beijing", 10, 17)]
    assert all(text[e["start"] : e["end"]] == e["word"] for e in answer["entities"])


def test_every_word_of_a_long_row_is_said_once(tiny: Backbone) -> None:
    task = tagging(("B-A", "O"))
    words = [f"{a}{b}" for a in "abcdefgh" for b in "xyz"]
    (example,) = task.examples([{"tokens": words}], tiny.reader, 12)
    assert len(example.inputs) > 3
    assert None not in example.notes.first_tokens
    ids = [example.inputs[n].input_ids[line] for n, line in example.notes.first_tokens]
    assert tiny.tokenizer.convert_ids_to_tokens(ids) == [word[0] for word in words]


# Question answering.


def answering(**settings: Any) -> Any:
    return tasks()["question_answering"](**settings)


def test_answer_spans_are_found_across_windows(tiny: Backbone) -> None:
    task = answering(stride=2, unanswerable=True)
    context = "the card is lost and the bank is slow please wait"
    row = Row({"question": "who", "context": context, "answers": (("bank is", 25),)}, "x:1")
    (example,) = task.examples([row.fields], tiny.reader, 14)
    target = task.target(row, example)
    assert len(target.token_spans) > 1
    rows = []
    for window, (first, last) in zip(example.inputs, target.token_spans, strict=True):
        result = torch.zeros(len(window), 2)
        result[first, 0] += 8.0
        result[last, 1] += 8.0
        rows.append(result)
    (answer,) = task.answers(Outputs.of([rows]), [example])
    assert (answer["answer"], answer["start"], answer["end"]) == ("bank is", 25, 32)
    message = task.predictions(Outputs.of([rows]), [example], [target])
    assert task.metrics(message) == {"f1": 1.0, "exact_match": 1.0}
    nothing = [result * 0.0 for result in rows]
    for result in nothing:
        result[0] += 8.0
    (none,) = task.answers(Outputs.of([nothing]), [example])
    assert (none["answer"], none["start"], none["end"]) == ("", 0, 0)


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", True, 1.0),
        ("eiffel", "the eiffel tower", False, 2 / 3),
        ("", "", True, 1.0),
        ("a", "tower", False, 0.0),
        ("北京市", "北京", False, 0.8),
        ("“北京”。", "北京", True, 1.0),
        ("in 1889", "1889.", False, 2 / 3),
    ],
)
def test_squad_metrics_of_edge_cases(prediction: str, answer: str, exact: bool, f1: float) -> None:
    metrics = answering().metrics(Predictions([prediction], [[answer]]))
    assert metrics == pytest.approx({"exact_match": float(exact), "f1": f1})


# Relation, multiple choice, multi-label, regression.


def test_marks_stand_around_head_and_tail() -> None:
    from adapterkit.tasks.relation import marked

    row = {"text": "Ana met Bob", "head": (8, 11), "tail": (0, 3)}
    assert marked(row).split() == ["#", "Ana", "#", "met", "@", "Bob", "@"]
    near = {"text": "AnaBob", "head": (0, 3), "tail": (3, 6)}
    assert marked(near).split() == ["@", "Ana", "@", "#", "Bob", "#"]


def test_relations_outside_the_text_are_refused() -> None:
    kind: Any = tasks()["relation"]
    task = kind(labels=("a", "b"))
    with pytest.raises(DataError, match="tail ends at character 9, the text has 3"):
        task.fields({"text": "abc", "head": [0, 1], "tail": [2, 9]}, "text 1")


def test_multi_label_gives_what_is_above_its_threshold() -> None:
    task: Any = tasks()["multi_label"](labels=("a", "b", "c"), threshold=0.6)  # type: ignore[call-arg]
    lines = torch.tensor([[2.0, 0.0, 1.0], [-2.0, -1.0, 0.0]])
    first, second = task.answers(Outputs(lines, ((1,), (1,))), [])
    assert first["labels"] == ["a", "c"]
    assert second["labels"] == []
    target = [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    metrics = task.metrics(task.predictions(Outputs(lines, ((1,), (1,))), [], target))
    assert metrics == pytest.approx({"f1_micro": 0.8, "f1_macro": 2 / 3, "exact": 0.5})


def test_regression_speaks_in_the_rows_own_units() -> None:
    rows = [Row({"text": "a", "label": value}, "x") for value in (1.0, 3.0, 5.0)]
    task: Any = tasks()["regression"]().fit(rows, "mean")
    target = [task.target(row, Example(())) for row in rows]
    exact = Outputs((torch.tensor(target)[:, None] - task.center) / task.spread, ((1,),) * 3)
    assert float(task.loss(exact, target).abs().max()) < 1e-10
    assert [a["score"] for a in task.answers(exact, [])] == pytest.approx(target)
    metrics = task.metrics(task.predictions(exact, [], target))
    assert metrics == pytest.approx({"pearson": 1.0, "spearman": 1.0, "mae": 0.0}, abs=1e-6)
    flat = Outputs(torch.zeros(3, 1), ((1,),) * 3)
    assert task.metrics(task.predictions(flat, [], target))["spearman"] == 0.0


def test_balanced_classes_weigh_rare_labels_more() -> None:
    rows = [Row({"text": "a", "label": label}, "x") for label in ("a", "a", "a", "b")]
    task: Any = tasks()["classification"](class_weights="balanced").fit(rows, "mean")  # type: ignore[call-arg]
    assert task.weights == pytest.approx((4 / 6, 2.0))
    lines = Outputs(torch.zeros(2, 2), ((1,), (1,)))
    one, other = task.loss(lines, [0, 1])
    assert float(other / one) == pytest.approx(3.0)


def test_limits_leave_room_for_a_prefix(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("tagging", tmp_path)
    content = {**recipe.plain(), "method": {"type": "prefix", "num_virtual_tokens": 50}}
    recipe = Recipe.of(content, tmp_path)
    rows = recipe.data.load(tmp_path, 0, recipe.task)["train"]
    adapter = fresh_adapter(recipe, tiny, rows)
    assert text_limit(tiny, adapter) == 14
    assert all(len(i) <= 14 for e in prepare_rows(tiny, adapter, rows).examples for i in e.inputs)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("dropout", 1.0, "expected 0 or more and less than 1, got 1.0"),
        ("dropout", -0.1, "expected 0 or more and less than 1, got -0.1"),
        ("stride", -1, "expected 0 or more, got -1"),
    ],
)
def test_every_task_refuses_an_invalid_dropout_or_stride(
    setting: str, value: float, message: str
) -> None:
    kinds: list[Any] = list(tasks().values())
    having = [make for make in kinds if setting in {one.name for one in fields(make)}]
    assert len(having) >= 6
    for make in having:
        with pytest.raises(ValueError, match=f"{setting}: {message}"):
            make(**{setting: value})
