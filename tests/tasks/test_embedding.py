"""Embedding: its loss and ranks against plain loops, its vectors against PEFT, its answers."""

from __future__ import annotations

import json
import runpy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError
from adapterkit.inference.labelled import prepare_rows
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.prediction.answers import answers_table
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Outputs, Row
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.paths import ROOT
from helpers.sequences import logits_of, tokenise
from helpers.task_rows import task_recipe


def embedding(**settings: Any) -> Any:
    return tasks()["embedding"](**{"pooling": "mean", **settings})


def random_outputs(
    rows: Sequence[tuple[str, ...]], d: int = 6
) -> tuple[Outputs, list[Any], dict[str, Any]]:
    """Outputs with a random vector for each text; equal texts have equal vectors."""
    generator = torch.Generator().manual_seed(5)
    lines: dict[str, Any] = {}
    for text in (text for row in rows for text in row):
        if text not in lines:
            lines[text] = torch.randn(d, generator=generator).requires_grad_()
    outputs = Outputs.of([tuple(lines[text][None] for text in row) for row in rows])
    from adapterkit.tasks.embedding import Texts

    return outputs, [Texts(row, (1,) * len(row)) for row in rows], lines


def metrics_of(outputs: Outputs, targets: Any) -> dict[str, float]:
    task = embedding()
    return dict(task.metrics(task.predictions(outputs, [], targets)))


def plain_loss(row: int, rows: list[tuple[str, ...]], lines: dict[str, Any], t: float) -> Any:
    """The loss of one row, computed candidate by candidate."""
    text, own = rows[row][:2]
    right = {text, *(other[1] for other in rows if other[0] == text)}
    candidates = [other[1] for other in rows] + [x for other in rows for x in other[2:]]
    scores = []
    for index, candidate in enumerate(candidates):
        if index == row or candidate not in right:
            scores.append(F.cosine_similarity(lines[text], lines[candidate], dim=0) / t)
    best = F.cosine_similarity(lines[text], lines[own], dim=0) / t
    return torch.stack(scores).exp().sum().log() - best


ROWS: list[tuple[str, ...]] = [
    ("where is my card", "we sent it on monday"),
    ("card lost", "we block it"),
    ("i lost it", "we block it"),  # the same answer as the row before
    ("fee", "it is five"),
    ("fee", "it went up"),  # the same question with another answer
    ("我的卡丢了", "我们会冻结您的卡"),
    ("it went up", "yes"),  # the question is the answer of another row
]
HARD = [(*row, f"not {n}") for n, row in enumerate(ROWS[:-1])] + [(*ROWS[-1], "it is five")]


@pytest.mark.parametrize("rows", [ROWS, HARD], ids=["pairs", "with negatives"])
def test_the_loss_equals_a_loop(rows: list[tuple[str, ...]]) -> None:
    outputs, targets, lines = random_outputs(rows)
    ours = embedding(temperature=0.1).loss(outputs, targets)
    theirs = torch.stack([plain_loss(n, rows, lines, 0.1) for n in range(len(rows))])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(ours.sum(), list(lines.values()), retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(theirs.sum(), [*lines.values()]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_without_equal_texts_the_loss_is_cross_entropy() -> None:
    rows = [(f"a{n}", f"b{n}") for n in range(9)]
    outputs, targets, _ = random_outputs(rows)
    first, second = F.normalize(outputs.logits, dim=-1).view(9, 2, -1).unbind(1)
    scores = first @ second.T / 0.05
    forward_loss = F.cross_entropy(scores, torch.arange(9), reduction="none")
    backward_loss = F.cross_entropy(scores.T, torch.arange(9), reduction="none")
    torch.testing.assert_close(embedding().loss(outputs, targets), forward_loss)
    both = embedding(symmetric=True).loss(outputs, targets)
    torch.testing.assert_close(both, (forward_loss + backward_loss) / 2)


def test_the_symmetric_loss_ignores_equal_texts_in_both_directions() -> None:
    swapped = [row[::-1] for row in ROWS]
    outputs, targets, lines = random_outputs(ROWS)
    ours = embedding(symmetric=True, temperature=0.1).loss(outputs, targets)
    for row, loss in enumerate(ours):
        forward_loss = plain_loss(row, ROWS, lines, 0.1)
        backward_loss = plain_loss(row, swapped, lines, 0.1)
        torch.testing.assert_close(loss, (forward_loss + backward_loss) / 2, rtol=1e-4, atol=1e-5)


def test_a_row_without_other_candidates_has_loss_zero() -> None:
    outputs, targets, lines = random_outputs([("a", "b"), ("c", "b")])
    losses = embedding().loss(outputs, targets)
    assert losses.tolist() == [0.0, 0.0]
    (gradient, *_) = torch.autograd.grad(losses.sum(), list(lines.values()))
    assert not bool(gradient.any())


def test_ranks_computed_by_hand() -> None:
    # Candidates x, y, z lie on the axes; each row's line is its cosines with them.
    axes = {"x": [1.0, 0.0, 0.0], "y": [0.0, 1.0, 0.0], "z": [0.0, 0.0, 1.0]}
    rows = [("a", "x"), ("b", "y"), ("c", "z"), ("d", "x"), ("b", "x")]
    asks = {"a": [3.0, 2.0, 1.0], "b": [2.0, 1.0, 3.0], "c": [3.0, 2.0, 1.0], "d": [1.0, 2.0, 0.0]}
    lines = [tuple(torch.tensor([(asks | axes)[t]]) for t in row) for row in rows]
    _, targets, _ = random_outputs(rows)
    # a finds x first; b has x and y for answers, each ranked beside z alone: second and second;
    # c finds z third; d finds x second.
    metrics = metrics_of(Outputs.of(lines), targets)
    expected = {"mrr": (1 + 1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 5, "recall@1": 1 / 5}
    assert metrics == pytest.approx({**expected, "recall@5": 1.0, "recall@10": 1.0})


def test_ranks_equal_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"a{n % 30}", f"b{n % 23}") for n in range(50)]
    outputs, targets, lines = random_outputs(rows)
    unique = {row[1] for row in rows}
    ranks = []
    for text, own in rows:
        others = unique - {pair for ask, pair in rows if ask == text}
        cosine = {
            b: float(F.cosine_similarity(lines[text], lines[b], dim=0).detach()) for b in unique
        }
        ranks.append(1 + sum(cosine[other] > cosine[own] for other in others))
    expected = {f"recall@{k}": sum(r <= k for r in ranks) / 50 for k in (1, 5, 10)}
    expected["mrr"] = sum(1 / r for r in ranks) / 50
    whole = metrics_of(outputs, targets)
    assert whole == pytest.approx(expected)
    losses = embedding().loss(outputs, targets)
    monkeypatch.setattr("adapterkit.tasks.embedding.BLOCK", 7)
    assert metrics_of(outputs, targets) == pytest.approx(expected)
    torch.testing.assert_close(embedding().loss(outputs, targets), losses)


def test_equal_vectors_have_the_lowest_rank() -> None:
    rows = [(f"a{n}", f"b{n}") for n in range(20)]
    outputs, targets, _ = random_outputs(rows)
    same = Outputs(torch.ones_like(outputs.logits), outputs.counts)
    metrics = metrics_of(same, targets)
    assert metrics == pytest.approx({"mrr": 0.05, "recall@1": 0, "recall@5": 0, "recall@10": 0})


def trained(tiny: Backbone, folder: Path, **changes: Any) -> Adapter:
    return train(task_recipe("embedding", folder, **changes), tiny, progress=False)


def test_a_text_has_a_vector_and_two_have_a_score(tiny: Backbone, tmp_path: Path) -> None:
    adapter = trained(tiny, tmp_path, dimensions=5)
    assert {name: list(t.shape) for name, t in adapter.head.items()} == {
        "projection.weight": [5, 32]
    }
    predictor = Predictor(tiny, [adapter])
    texts = ["where is my bank", "我的卡丢了", "money " * 90]
    found = predictor([(adapter.name, text) for text in texts])
    vectors = torch.tensor([answer["vector"] for answer in found])
    assert vectors.shape == (3, 5)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert [answer.get("truncated") for answer in found] == [None, None, True]
    pairs = [(adapter.name, (texts[0], text)) for text in texts]
    answers = predictor(pairs)
    for answer, cosine in zip(answers, (vectors @ vectors[0]).tolist(), strict=True):
        assert answer["score"] == pytest.approx(cosine, abs=1e-5)
        assert "vector" not in answer
    assert answers[2]["truncated"] is True
    summaries = [adapter.task.summary(answer) for answer in answers]
    request = [text for _, text in pairs]
    lines = answers_table([adapter.name] * 3, request, summaries).splitlines()
    assert lines[1].split()[:2] == [adapter.name, "1.000"]
    assert lines[1].endswith("where is my bank | where is my bank")


def test_a_long_text_is_the_mean_of_its_windows(tiny: Backbone, tmp_path: Path) -> None:
    changes = {"long_text": "windows", "max_length": 8, "stride": 2}
    recipe = task_recipe("embedding", tmp_path, **changes)
    rows = recipe.data.load(tmp_path, 0, recipe.task)["train"]
    long = [
        Row({**row.fields, "text": "money " * (3 + n)}, row.where) for n, row in enumerate(rows)
    ]
    adapter = fresh_adapter(recipe, tiny, long)
    split = prepare_rows(tiny, adapter, long)
    assert {len(example.inputs) for example in split.examples} >= {2, 4}
    assert not any(example.truncated for example in split.examples)
    task: Any = adapter.task
    whole = replace(adapter, task=replace(task, max_length=None))
    predictor = Predictor(tiny, [adapter, replace(whole, name="t/whole")])
    short, other = predictor([(name, "money bank") for name in predictor.names])
    assert short["vector"] == pytest.approx(other["vector"])
    (answer,) = predictor([(adapter.name, " ".join("abcdefghij"))])
    parts = predictor([("t/whole", " ".join(part)) for part in ("abcdef", "efghij")])
    raw = _raw(tiny, whole, [" ".join(part) for part in ("abcdef", "efghij")])
    assert answer["vector"] == pytest.approx(F.normalize(raw.mean(0), dim=0).tolist(), abs=1e-5)
    assert parts[0]["vector"] == pytest.approx(F.normalize(raw[0], dim=0).tolist(), abs=1e-5)


def _raw(backbone: Backbone, adapter: Adapter, texts: list[str]) -> torch.Tensor:
    return logits_of(backbone, adapter, tokenise(backbone, texts, None, 64))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_our_folder_gives_the_same_vectors_in_peft(
    tiny: Backbone, tiny_folder: Path, tmp_path: Path, method: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    content = task_recipe("embedding", tmp_path).plain()
    adapter = train(
        Recipe.of({**content, "method": {"type": method}}, tmp_path), tiny, progress=False
    )
    assert adapter.head == {}
    folder = save_adapter(adapter, tmp_path / "folder", tiny.geometry)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "FEATURE_EXTRACTION"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = AutoModel.from_pretrained(tiny_folder)
        model = PeftModel.from_pretrained(bare, str(folder)).eval()
    texts = ["where is my bank", "rain", "please wait"]
    ours = Predictor(tiny, [load_adapter(folder, tiny)])([(adapter.name, t) for t in texts])
    for text, answer in zip(texts, ours, strict=True):
        with torch.no_grad():
            ids = tiny.tokenizer(text, return_tensors="pt").input_ids
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        vector = F.normalize(states.mean(1)[0], dim=0)
        assert answer["vector"] == pytest.approx(vector.tolist(), abs=1e-5)


def test_training_on_hard_negatives_and_in_chinese(chinese_folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(str(chinese_folder), device="cpu")
    pairs = [
        ("我的卡丢了", "我们会冻结您的卡", "您的卡已寄出"),
        ("卡什么时候到", "您的卡已寄出", "我们会冻结您的卡"),
        ("转账要多少钱", "转账免费", "转账需要两天"),
        ("转账要多久", "转账需要两天", "转账免费"),
    ]
    rows = [dict(zip(("frage", "antwort", "falsch"), pair, strict=True)) for pair in pairs * 4]
    lines = [
        json.dumps({**r, "split": s}, ensure_ascii=False) for s in ("train", "test") for r in rows
    ]
    columns = {"text": "frage", "text_pair": "antwort", "negative": "falsch"}
    content = task_recipe("embedding", tmp_path).plain()
    data = {"path": "rows.jsonl", "validation": 0, **columns}
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    training = {"epochs": 30, "batch_size": 8, "learning_rate": 2e-2}
    recipe = Recipe.of({**content, "data": data, "training": training}, tmp_path)
    loaded = recipe.data.load(tmp_path, 0, recipe.task)
    split = prepare_rows(
        backbone, fresh_adapter(recipe, backbone, loaded["train"]), loaded["train"]
    )
    assert all(len(example.inputs) == 3 for example in split.examples)
    adapter = train(recipe, backbone, progress=False)
    assert adapter.metrics["test"]["recall@1"] == 1.0
    assert evaluate(backbone, adapter, loaded["test"])["mrr"] == 1.0


def test_the_faq_script_finds_the_three_best_answers(
    tiny: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "recipes" / "scripts" / "faq_search.py"
    script = runpy.run_path(str(path))
    adapter = trained(tiny, tmp_path)
    folder = str(save_adapter(adapter, tmp_path / "folder", tiny.geometry))
    answers = ["money is good", "wait for sun", "the card is lost", "tea", "tea"]
    faq = tmp_path / "faq.csv"
    faq.write_text("text_pair\n" + "\n".join(answers), encoding="utf-8")
    questions = ["my bank account", "the rain"]
    script["main"]([folder, str(faq), *questions])
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[4]] == questions
    predictor = Predictor(tiny, [adapter])
    for start, question in ((1, questions[0]), (5, questions[1])):
        scores = {
            answer: predictor([(adapter.name, (question, answer))])[0]["score"]
            for answer in answers
        }
        best = sorted(scores, key=lambda answer: -scores[answer])[:3]
        assert lines[start : start + 3] == [f"  {scores[a]:.3f}  {a}" for a in best]
    with pytest.raises(SystemExit):
        script["main"]([folder, str(tmp_path / "none.csv"), "a"])
    assert "none.csv: there is no such file" in capsys.readouterr().err


def test_pairs_that_cannot_be_told_apart_are_refused(tiny: Backbone, tmp_path: Path) -> None:
    recipe = task_recipe("embedding", tmp_path)
    rows = [Row({"text": text, "text_pair": "b"}, "x:1") for text in "acd"]
    with pytest.raises(DataError, match="at least two different text_pair"):
        fresh_adapter(recipe, tiny, rows)
    for changes in ({"dimensions": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=rf"{next(iter(changes))}: expected"):
            embedding(**changes)
