"""Summarisation: where sentences end, its loss against a plain loop, its choice and its goals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapterkit.backbone.model import Backbone
from adapterkit.data.requests import parse_text, read_requests
from adapterkit.inference.labelled import prepare_rows
from adapterkit.inference.predictor import Predictor
from adapterkit.metrics.rouge import rouge_l, rouge_words
from adapterkit.prediction.answers import answer_row, answers_table
from adapterkit.tasks.base import tasks
from adapterkit.tasks.fields import FieldKind
from adapterkit.tasks.sentences import join_sentences, split_sentences
from adapterkit.tasks.summarisation import greedy
from adapterkit.tasks.types import Outputs, Row
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.train import train
from helpers.task_rows import task_recipe


def summarisation(**settings: Any) -> Any:
    return tasks()["summarisation"](**settings)


@pytest.mark.parametrize(
    "sentences",
    [
        ["One.", "Two!", "Three?"],
        ["It costs 3.50 euros, e.g. in Bonn.", "No more."],
        ["Mr. J. Smith met Dr. Wu.", "So did I.", "Then both left."],
        ["“Really?” he asked.", '"Yes."', "(It was so.)", "End"],
        ["Wait... what is it?", "It is gone…", "Gone!!!"],
        ["1. Open the door.", "2. Close it."],
        ["“No.”", "They left."],
        ["今天开会。", "谁来？", "他说：“我来。”", "好！"],  # noqa: RUF001
        ["手机坏了。", "Please call Mr. Li.", "谢谢！"],  # noqa: RUF001
    ],
)
def test_sentences_end_where_a_reader_says(sentences: list[str]) -> None:
    for between in (" ", "  \n", "\n\n"):
        text = f" {between.join(sentences)}\n"
        spans = split_sentences(text)
        assert [text[start:end] for start, end in spans] == sentences
    text = join_sentences(sentences)
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


def test_lines_are_sentences_and_nothing_is_lost() -> None:
    for text in ("A title\nthe first line\r\n\nthe next", "no end", "?!", "。。", "5", "a。b。"):
        spans = split_sentences(text)
        assert "".join(text[a:b] for a, b in spans) == "".join(
            part for line in text.split("\n") for part in [line.strip()]
        )
        assert all(text[a:b].strip() for a, b in spans)
    assert len(split_sentences("A title\nthe first line\r\n\nthe next")) == 3


def said_of(backbone: Backbone, text: Any, limit: int, task: Any) -> tuple[Any, list[Any]]:
    """A document's example and a random line for each of its tokens, window by window."""
    fields = task.fields(text, "text 1")
    (example,) = task.examples([fields], backbone.reader, limit)
    generator = torch.Generator().manual_seed(2)
    lines = [torch.randn(len(window), 1, generator=generator) for window in example.inputs]
    return example, lines


@pytest.mark.parametrize("limit", [64, 12])
def test_the_loss_is_that_of_a_plain_loop(tiny: Backbone, limit: int) -> None:
    task = summarisation(stride=3)
    sentences = ["The card is lost.", "I want my money!", "Please wait for rain.", "Tea?"]
    example, lines = said_of(tiny, " ".join(sentences), limit, task)
    assert (len(lines) > 1) is (limit == 12)
    sizes = [len(tiny.tokenizer(s, add_special_tokens=False).input_ids) for s in sentences]
    found: list[list[Any]] = [[] for _ in sentences]
    for window, part in zip(example.inputs, lines, strict=True):
        for line, index in enumerate(window.kept or range(len(window))):
            if 0 < index <= sum(sizes):  # between the special tokens
                number = next(n for n in range(4) if index <= sum(sizes[: n + 1]))
                found[number].append(part[line, 0])
    scores = torch.stack([torch.stack(part).mean() for part in found])
    target = task.target(Row({"summary": (1, 3)}, "x:1"), example)
    outputs = Outputs.of([lines])
    (loss,) = task.loss(outputs, [target])
    expected = F.binary_cross_entropy(scores.sigmoid(), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(loss, expected)
    (answer,) = summarisation(sentences=4).answers(outputs, [example])
    assert [part["score"] for part in answer["extract"]] == pytest.approx(scores.sigmoid().tolist())


def test_the_best_sentences_come_in_the_documents_order(tiny: Backbone) -> None:
    task = summarisation(sentences=2)
    text = "  Money is good.  The rain is slow.\nWait for sun! Open it."
    example, lines = said_of(tiny, text, 64, task)
    owners = example.notes.owners[0]
    worth = [0.5, -2.0, 3.0, -1.0]
    lines = [torch.tensor([[9.0 if o < 0 else worth[o]] for o in owners])]
    outputs = Outputs.of([lines])
    (answer,) = task.answers(outputs, [example])
    assert answer["summary"] == "Money is good. Wait for sun!"
    assert [part["index"] for part in answer["extract"]] == [0, 2]
    assert [part["text"] for part in answer["extract"]] == ["Money is good.", "Wait for sun!"]
    for part in answer["extract"]:
        assert text[part["start"] : part["end"]] == part["text"]
        assert part["score"] == pytest.approx(torch.tensor(worth[part["index"]]).sigmoid())
    target = task.target(Row({"summary": (2, 3)}, "x:1"), example)
    metrics = task.metrics(task.predictions(outputs, [example], [target]))
    # Said: money is good wait for sun; reference: wait for sun open it. Three words, two pairs.
    expected = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    expected |= {"rouge_1": 6 / 11, "rouge_2": 4 / 9, "rouge_l": 6 / 11}
    assert metrics == pytest.approx(expected)


def test_a_reference_text_becomes_the_sentences_that_have_most_of_it(tiny: Backbone) -> None:
    text = "The tea is hot. I lost my card and my money. Rain. The bank will wait for a fee."
    task = summarisation()
    example, lines = said_of(tiny, text, 64, task)
    for reference, chosen in {
        "i lost my card and the bank will wait": (1, 3),
        "he lost his card": (1,),
        "the bank will wait for a fee": (3,),
        "nothing in common": (),
    }.items():
        assert greedy(example.notes, reference, 3) == chosen
    reference = "i lost my card and the bank will wait"
    assert greedy(example.notes, reference, 1) == (1,)
    target = task.target(Row({"summary": reference}, "x:1"), example)
    task = summarisation(sentences=4)
    metrics = task.metrics(task.predictions(Outputs.of([lines]), [example], [target]))
    assert metrics["rouge_l"] == pytest.approx(rouge_l(rouge_words(text), rouge_words(reference)))
    assert (metrics["recall"], metrics["precision"]) == (1.0, 0.5)
    other = task.target(Row({"summary": "nothing in common"}, "x:1"), example)
    losses = task.loss(Outputs.of([lines, lines]), [target, other])
    assert torch.isfinite(losses).all()


def test_a_sentence_without_a_token_is_never_chosen_before_others(tiny: Backbone) -> None:
    task = summarisation(sentences=1)
    example, lines = said_of(tiny, ["\u200b", "money"], 16, task)
    assert set(example.notes.owners[0]) == {-1, 1}
    (answer,) = task.answers(Outputs.of([[-50.0 + 0.0 * part for part in lines]]), [example])
    assert answer["extract"][0]["index"] == 1
    target = task.target(Row({"summary": (0,)}, "x:1"), example)
    assert torch.isfinite(task.loss(Outputs.of([lines]), [target])).all()


def test_a_long_chinese_document_is_read_whole(chinese_folder: Path) -> None:
    backbone = Backbone.load(str(chinese_folder), device="cpu")
    sentences = [f"第{n}天我们在北京开会讨论新的产品。" for n in range(30)]
    task = summarisation(sentences=2)
    example, lines = said_of(backbone, "".join(sentences), 128, task)
    assert len(lines) > 4
    assert not example.truncated
    assert {o for window in example.notes.owners for o in window} == {-1, *range(30)}
    for window, owners in zip(example.inputs, example.notes.owners, strict=True):
        for number in set(owners) - {-1}:
            ids = [i for i, o in zip(window.input_ids, owners, strict=True) if o == number]
            assert backbone.tokenizer.decode(ids).replace(" ", "") in sentences[number]
    (answer,) = task.answers(Outputs.of([lines]), [example])
    first, second = answer["extract"]
    assert answer["summary"] == sentences[first["index"]] + sentences[second["index"]]


def test_a_document_is_accepted_in_any_form(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("summarisation", tmp_path, sentences=1)
    adapter = train(recipe, tiny, progress=False)
    predictor = Predictor(tiny, [adapter])
    sentences = ["The card is lost.", "Wait for the bank.", "Rain."]
    text = " ".join(sentences)
    (tmp_path / "asked.jsonl").write_text(
        json.dumps({"sentences": sentences}) + "\n" + json.dumps({"text": text})
    )
    listed, whole = read_requests(tmp_path / "asked.jsonl", {"text": "text"}, "adapter")
    word = parse_text(json.dumps({"text": text}))
    request = [text, sentences, listed.text, whole.text, word]
    answers = predictor([(adapter.name, document) for document in request])
    for answer in answers:
        assert answer["summary"] in sentences
        assert answer["extract"][0]["score"] == pytest.approx(
            answers[0]["extract"][0]["score"], abs=1e-6
        )
        assert {**answer, "extract": []} == {**answers[0], "extract": []}
    rows = [answer_row(text, answer) for text, answer in zip(request, answers, strict=True)]
    assert rows[2]["sentences"] == sentences, "the input stays beside the answer"
    shown = answers_table([adapter.name] * 5, request, [adapter.task.summary(a) for a in answers])
    first, _, listed_line, *_ = shown.splitlines()[1:]
    assert first.split("  ")[0:2] == [adapter.name, answers[0]["summary"]]
    assert first.endswith(text)
    assert listed_line.endswith(" | ".join(sentences))
    (long,) = predictor([(adapter.name, "money " * 60)])
    assert "truncated" not in long
    (_, line) = answers_table(["a"], ["a"], [adapter.task.summary(long)]).splitlines()
    assert "…" in line
    assert len(line) < 120


def test_documents_without_other_sentences_are_a_warning(tiny: Backbone, tmp_path: Path) -> None:
    rows = task_recipe("summarisation", tmp_path).data.load(tmp_path, 0, summarisation())["train"]
    assert summarisation(sentences=3).warnings(rows, []) == []
    (warning,) = summarisation(sentences=4).warnings(rows, [])
    assert warning.startswith("24 of 24 training documents have no more than 4 sentences")
    with pytest.raises(ValueError, match="sentences: expected 1 or more, got 0"):
        summarisation(sentences=0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [([0, 2], (0, 2)), ("0|2", (0, 2)), (" 3 ", (3,)), ("3 cards", "3 cards"), ("我", "我")],
)
def test_a_summary_is_numbers_or_a_text(value: Any, expected: Any) -> None:
    assert FieldKind.SUMMARY.check(value, "row 1") == expected
    assert FieldKind.SUMMARY.check(expected, "row 1") == expected


def test_the_target_of_a_row_is_in_its_windows(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("summarisation", tmp_path, max_length=9, stride=2)
    rows = recipe.data.load(tmp_path, 0, recipe.task)["train"]
    split_of = prepare_rows(tiny, fresh_adapter(recipe, tiny, rows), rows)
    assert max(len(example.inputs) for example in split_of.examples) > 2
    for row, target in zip(rows, split_of.targets, strict=True):
        expected_index = next(
            n for n, s in enumerate(row.fields["sentences"]) if {"bank", "rain"} & {*s.split()}
        )
        assert target.chosen == (expected_index,)
