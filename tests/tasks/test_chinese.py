"""Real Chinese rows from recipe to answer: alignment, characters and metrics."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import text_limit
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.tasks.columns import target_columns
from adapterkit.tasks.types import Example, Row
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train

N_TRAINING, N_EVALUATION = 24, 12
"""Number of rows of each split in the fast runs."""

KINDS = [f"{kind}.{name}" for kind in ("GPE", "LOC", "ORG", "PER") for name in ("NAM", "NOM")]
TAGS = ", ".join(f"{mark}-{kind}" for kind in KINDS for mark in "BI")
"""A few rows do not contain every tag, so labels are listed."""

SECTIONS = {
    "thucnews_titles": ("data.csv", "", "classification", "test"),
    "waimai_10k": ("data.csv", "", "classification", "test"),
    "fewclue_ocnli": ("data.csv", ", text: text_a, text_pair: text_b", "classification", "test"),
    "weibo_ner": ("data.jsonl", "", f"tagging, labels: [O, {TAGS}]", "test"),
    "cmrc2018": ("data.jsonl", "", "question_answering, stride: 32", "validation"),
}
"""Each data set to its file, columns, task (YAML) and the split for evaluation."""

WHOLE = pytest.param(None, marks=pytest.mark.slow, id="whole")
sizes = pytest.mark.parametrize("size", [pytest.param((N_TRAINING, N_EVALUATION), id="few"), WHOLE])
labelled = pytest.mark.parametrize("name", ["thucnews_titles", "waimai_10k", "fewclue_ocnli"])
Size = tuple[int, int] | None


class Case(NamedTuple):
    """One data set after training: the adapter loaded from its folder, the rows for evaluation, and
    the metrics that training reported for them."""

    backbone: Backbone
    adapter: Adapter
    rows: list[Row]
    metrics: dict[str, float]

    def with_random_head(self) -> Adapter:
        """The adapter with a random head, because after little training all answers are equal."""
        generator = torch.Generator().manual_seed(5)
        head = {k: torch.randn(t.shape, generator=generator) for k, t in self.adapter.head.items()}
        return replace(self.adapter, head=head)

    def answers(self, adapter: Adapter) -> list[Any]:
        roles = [
            role for role in self.rows[0].fields if role not in target_columns(adapter.task.columns)
        ]
        requests = [{role: row.fields[role] for role in roles} for row in self.rows]
        return Predictor(self.backbone, [adapter])(
            [(adapter.name, request) for request in requests]
        )

    def examples(self) -> list[Example]:
        task, limit = self.adapter.task, text_limit(self.backbone, self.adapter)
        return task.examples([row.fields for row in self.rows], self.backbone.reader, limit)


@pytest.fixture(scope="module")
def chinese(chinese_folder: Path) -> Backbone:
    return Backbone.load(str(chinese_folder), device="cpu")


def run(chinese: Backbone, data: Path, name: str, size: Size) -> Case:
    """Train on rows of a data set by a recipe file, publish the adapter and load it."""
    file, columns, task, scored = SECTIONS[name]
    parts = {"train": size[0], scored: size[1]} if size else None
    _copy(data / name / file, Path(file), parts)
    kept = "validation: 0, " if scored == "test" else "test: 0, "
    Path("recipe.yaml").write_text(
        f"name: zh/{name.replace('_', '-')}\n"
        f"data: {{path: {file}, {kept.rstrip(', ')}{columns}}}\n"
        f"task: {{type: {task}}}\n"
        "method: {type: lora, r: 4}\n"
        "training: {epochs: 1, batch_size: 8}\n",
        encoding="utf-8",
    )
    recipe = Recipe.load(Path("recipe.yaml"))
    adapter = train(recipe, chinese, progress=False)
    folder = Store(Path("store")).publish(adapter, chinese.geometry)
    rows = recipe.data.load(recipe.folder, 0, recipe.task)[scored]
    result = {key: value for key, value in adapter.metrics[scored].items() if key != "loss"}
    return Case(chinese, load_adapter(folder, chinese), rows, result)


def _copy(source: Path, target: Path, parts: dict[str, int] | None) -> None:
    """Copy the first rows of each split and label, or all rows."""
    text = source.read_text(encoding="utf-8")
    if parts is None:
        target.write_text(text, encoding="utf-8")
    elif source.suffix == ".csv":
        reader = csv.DictReader(text.splitlines())
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, reader.fieldnames or ())
            writer.writeheader()
            writer.writerows(_first(list(reader), parts))
    else:
        rows = _first([json.loads(line) for line in text.splitlines()], parts)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        target.write_text("\n".join(lines), encoding="utf-8")


def _first(rows: list[Any], parts: dict[str, int]) -> list[Any]:
    found, seen = [], Counter[Any]()
    labels = {row["label"] for row in rows if "label" in row}
    for row in rows:
        key = row["split"], row.get("label")
        if seen[key] < parts.get(row["split"], 0) / max(1, len(labels)):
            seen[key] += 1
            found.append(row)
    return found


@labelled
@sizes
def test_labels_of_texts_and_pairs(
    chinese: Backbone, shared_data: Path, name: str, size: Size
) -> None:
    case = run(chinese, shared_data, name, size)
    assert evaluate(chinese, case.adapter, case.rows) == pytest.approx(case.metrics, abs=1e-6)
    target = [row.fields["label"] for row in case.rows]
    for adapter in (case.adapter, case.with_random_head()):
        result = [answer["label"] for answer in case.answers(adapter)]
        assert set(result) <= set(adapter.task.labels)  # type: ignore[attr-defined]
        metrics = evaluate(chinese, adapter, case.rows)
        right = sum(a == b for a, b in zip(result, target, strict=True))
        assert metrics["accuracy"] == pytest.approx(right / len(target))
        assert metrics["f1_macro"] == pytest.approx(_f1_macro(result, target))
    for row, example in zip(case.rows, case.examples(), strict=True):
        _check_tokens(chinese, row, example)


def _f1_macro(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of each label that occurs, averaged."""
    found = []
    for label in set(predicted) | set(expected):
        hits = sum(a == b == label for a, b in zip(predicted, expected, strict=True))
        found.append(2 * hits / (predicted.count(label) + expected.count(label)))
    return sum(found) / len(found)


def _check_tokens(backbone: Backbone, row: Row, example: Example) -> None:
    """Every Chinese character is one token, unless the text was truncated and marked so."""
    (inputs,) = example.inputs
    tokens = backbone.reader.tokens(inputs.input_ids)
    unknown = {"[UNK]"} if "[UNK]" in tokens else set()
    read = [token for token in tokens if _is_chinese(token)]
    request = [
        c for role in ("text", "text_pair") for c in row.fields.get(role, "") if _is_chinese(c)
    ]
    if example.truncated:
        assert Counter(read) <= Counter(request)
    elif not unknown:
        assert read == request
    assert tokens[0] == "[CLS]"
    assert tokens.count("[SEP]") == 1 + ("text_pair" in row.fields)


def _is_chinese(token: str) -> bool:
    return len(token) == 1 and "\u4e00" <= token <= "\u9fff"


@sizes
def test_entities(chinese: Backbone, shared_data: Path, size: Size) -> None:
    case = run(chinese, shared_data, "weibo_ner", size)
    assert evaluate(chinese, case.adapter, case.rows) == pytest.approx(case.metrics, abs=1e-6)
    target = [list(row.fields["tags"]) for row in case.rows]
    adapter = case.with_random_head()
    answers = case.answers(adapter)
    result = [answer["tags"] for answer in answers]
    assert evaluate(chinese, adapter, case.rows) == pytest.approx(_entity_scores(result, target))
    assert sum(len(answer["entities"]) for answer in answers) > len(case.rows)
    for row, answer in zip(case.rows, answers, strict=True):
        tokens = row.fields["tokens"]
        assert len(answer["tags"]) == len(tokens)
        text = " ".join(tokens)
        found = [(e["entity_group"], e["word"]) for e in answer["entities"]]
        runs = _chunks(answer["tags"])
        assert found == [(kind, " ".join(tokens[a:b])) for kind, a, b in runs]
        assert all(text[e["start"] : e["end"]] == e["word"] for e in answer["entities"])
    _check_plain_texts(case, adapter)


def _check_plain_texts(case: Case, adapter: Adapter) -> None:
    """The same rows as texts without spaces: positions refer to these texts."""
    texts = ["".join(row.fields["tokens"]) for row in case.rows]
    for text, answer in zip(
        texts, Predictor(case.backbone, [adapter])([(adapter.name, t) for t in texts]), strict=True
    ):
        ends = [0]
        for entity in answer["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["word"]
            assert entity["start"] >= ends[-1], "entities do not overlap"
            ends.append(entity["end"])


def _chunks(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities as CoNLL's script counts them: a run of one kind; every B- starts a new one."""
    found: list[list[Any]] = []
    for index, tag in enumerate(tags):
        kind, before = tag[2:], tags[index - 1] if index else "O"
        if tag == "O":
            continue
        if tag[0] == "B" or before == "O" or before[2:] != kind:
            found.append([kind, index, index])
        found[-1][2] = index + 1
    return [(kind, start, end) for kind, start, end in found]


def _entity_scores(predicted: list[list[str]], expected: list[list[str]]) -> dict[str, float]:
    ours = {(n, *chunk) for n, tags in enumerate(predicted) for chunk in _chunks(tags)}
    theirs = {(n, *chunk) for n, tags in enumerate(expected) for chunk in _chunks(tags)}
    precision = len(ours & theirs) / max(1, len(ours))
    recall = len(ours & theirs) / max(1, len(theirs))
    both = precision + recall
    pairs = [
        (a, b) for x, y in zip(predicted, expected, strict=True) for a, b in zip(x, y, strict=True)
    ]
    return {
        "f1": 2 * precision * recall / both if both else 0.0,
        "precision": precision,
        "recall": recall,
        "accuracy": sum(a == b for a, b in pairs) / len(pairs),
    }


def test_entity_scores_equal_seqeval(chinese: Backbone, shared_data: Path) -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    case = run(chinese, shared_data, "weibo_ner", (N_TRAINING, 3 * N_EVALUATION))
    target = [list(row.fields["tags"]) for row in case.rows]
    # Every second row has the right tags, so that some entities are right.
    result = [answer["tags"] for answer in case.answers(case.with_random_head())]
    mixed = [
        right if n % 2 else wrong
        for n, (right, wrong) in enumerate(zip(target, result, strict=True))
    ]
    for tags in (result, mixed):
        scores = _entity_scores(tags, target)
        for name in ("f1", "precision", "recall"):
            theirs = getattr(seqeval, f"{name}_score")(target, tags)
            assert scores[name] == pytest.approx(theirs)
    assert _entity_scores(mixed, target)["f1"] > 0
    found = evaluate(chinese, case.with_random_head(), case.rows)
    assert found == pytest.approx(_entity_scores(result, target))


@pytest.mark.parametrize("size", [pytest.param((8, 5), id="few"), WHOLE])
def test_answers_to_questions(chinese: Backbone, shared_data: Path, size: Size) -> None:
    case = run(chinese, shared_data, "cmrc2018", size)
    assert evaluate(chinese, case.adapter, case.rows) == pytest.approx(case.metrics, abs=1e-6)
    adapter = case.with_random_head()
    answers = case.answers(adapter)
    for row, answer in zip(case.rows, answers, strict=True):
        context = row.fields["context"]
        assert answer["answer"]
        for one in answer["best"]:
            assert context[one["start"] : one["end"]] == one["answer"]
    target = [[text for text, _ in row.fields["answers"]] for row in case.rows]
    result = [answer["answer"] for answer in answers]
    assert evaluate(chinese, adapter, case.rows) == pytest.approx(_answer_scores(result, target))
    for row, example in zip(case.rows, case.examples(), strict=True):
        _check_target_spans(case.adapter, row, example)


def _check_target_spans(adapter: Adapter, row: Row, example: Example) -> None:
    """The target tokens are those of the characters of the answer."""
    (text, start), context = row.fields["answers"][0], row.fields["context"]
    target, found = adapter.task.target(row, example), 0
    assert len(example.inputs) == len(target.token_spans)
    for spans, (first, last) in zip(example.notes.spans, target.token_spans, strict=True):
        if (first, last) == (0, 0):
            continue
        found += 1
        begin, end = spans[first][0], spans[last][1]
        assert text.strip() in context[begin:end]
        # A word of Latin letters or digits is one token, and cannot be learnt in part.
        around = context[begin:start] + context[start + len(text) : end]
        assert not any(_is_chinese(character) for character in around)
    # Neighbouring windows share `stride` tokens, so a shorter answer is complete in one of them.
    assert found or len(text) > adapter.task.stride  # type: ignore[attr-defined]


def _answer_scores(predicted: list[str], expected: list[list[str]]) -> dict[str, float]:
    """Exact match and F1 of characters, against the best of the right answers of each row."""
    exact = overlap = 0.0
    for answer, texts in zip(predicted, expected, strict=True):
        ours = _units(answer)
        exact += any(ours == _units(text) for text in texts)
        overlap += max(_overlap(ours, _units(text)) for text in texts)
    return {"f1": overlap / len(predicted), "exact_match": exact / len(predicted)}


def _units(text: str) -> list[str]:
    """Chinese characters one by one, other words undivided, no punctuation."""
    found: list[str] = []
    new_word = True
    for character in text.lower():
        if unicodedata.category(character).startswith("P") or character in "$+<=>^`|~":
            continue
        if _is_chinese(character) or character.isspace():
            found += [character] if _is_chinese(character) else []
            new_word = True
        elif new_word:
            found.append(character)
            new_word = False
        else:
            found[-1] += character
    return [unit for unit in found if unit not in ("a", "an", "the")]


def _overlap(ours: list[str], theirs: list[str]) -> float:
    left, common = list(theirs), 0
    for unit in ours:
        if unit in left:
            left.remove(unit)
            common += 1
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * common / (len(ours) + len(theirs))
