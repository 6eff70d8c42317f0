"""Metrics against scikit-learn, seqeval and the official scripts' definitions, written out here."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import evaluate as hugging_face
import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics
from seqeval.scheme import IOB2, IOBES

from adapterkit.errors import AdapterkitError, RecipeError
from adapterkit.metrics.base import Metric, MetricKind, Predictions, metric_kinds
from adapterkit.metrics.bootstrap import interval
from adapterkit.metrics.entity_tags import entities_of
from adapterkit.metrics.hf_evaluate import local_metric, measure
from adapterkit.tasks.base import tasks
from adapterkit.tasks.classification import Classification
from adapterkit.training.recipe import Recipe
from adapterkit.training.recipe_keys import describe_keys
from helpers.predictions import PREDICTIONS, SQUAD, classes, labels, numbers, tagged


def scores(kind: str, predictions: Predictions, *names: str) -> dict[str, float]:
    """Metrics of a kind, measured by `evaluate`; all of the kind if no name is given."""
    metrics = metric_kinds()[kind]
    return measure(metrics, names or metrics.metrics, predictions)


# Against scikit-learn and SciPy.


@pytest.mark.parametrize("c", [2, 4])
def test_metrics_of_classes_equal_scikit_learn(c: int) -> None:
    p = classes(c=c)
    target, result, probabilities = p.references, p.predicted, p.probabilities
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(target, result),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(target, result),
        "matthews": sklearn.metrics.matthews_corrcoef(target, result),
        "log_loss": sklearn.metrics.log_loss(target, probabilities),
        "roc_auc": sklearn.metrics.roc_auc_score(target, probabilities[:, 1])
        if c == 2
        else sklearn.metrics.roc_auc_score(
            target, probabilities, multi_class="ovr", average="macro"
        ),
    }
    for average in ("micro", "macro", "weighted"):
        found = sklearn.metrics.precision_recall_fscore_support(target, result, average=average)
        for name, value in zip(("precision", "recall", "f1"), found[:3], strict=True):
            expected[f"{name}_{average}"] = value
    assert scores("classes", p) == pytest.approx(expected, abs=1e-12)


def test_a_class_without_rows_leaves_other_metrics_unchanged() -> None:
    p = classes(c=4)
    two_classes = p.rows(np.flatnonzero(p.references < 2))
    found = scores("classes", two_classes)
    each = [
        sklearn.metrics.roc_auc_score(two_classes.references == c, two_classes.probabilities[:, c])
        for c in (0, 1)
    ]
    assert found["roc_auc"] == pytest.approx(np.mean(each))
    one_class = scores("classes", p.rows(np.flatnonzero(p.references == 0)))
    assert "roc_auc" not in one_class
    assert one_class.keys() == found.keys() - {"roc_auc"}
    assert 0.0 < one_class["balanced_accuracy"] < 1.0


def test_metrics_of_labels_equal_scikit_learn() -> None:
    p = labels()
    target, result, probabilities = p.references, p.predicted, p.probabilities
    expected = {
        "exact": sklearn.metrics.accuracy_score(target, result),
        "hamming_loss": sklearn.metrics.hamming_loss(target, result),
        "roc_auc": sklearn.metrics.roc_auc_score(target, probabilities, average="macro"),
        "average_precision": sklearn.metrics.average_precision_score(target, probabilities),
    }
    for average in ("micro", "macro", "weighted", "samples"):
        found = sklearn.metrics.precision_recall_fscore_support(
            target, result, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), found[:3], strict=True):
            expected[f"{name}_{average}"] = value
    assert scores("labels", p) == pytest.approx(expected, abs=1e-12)
    no_labels = Predictions(result * 0, target * 0, probabilities)
    assert scores("labels", no_labels)["f1_micro"] == 0.0
    assert "roc_auc" not in scores("labels", no_labels)


def test_metrics_of_numbers_equal_scipy_and_scikit_learn() -> None:
    p = numbers()
    target, result = p.references, p.predicted
    assert scores("numbers", p) == pytest.approx(
        {
            "pearson": scipy.stats.pearsonr(result, target).statistic,
            "spearman": scipy.stats.spearmanr(result, target).statistic,
            "mae": sklearn.metrics.mean_absolute_error(target, result),
            "mse": sklearn.metrics.mean_squared_error(target, result),
            "rmse": sklearn.metrics.mean_squared_error(target, result) ** 0.5,
            "r2": sklearn.metrics.r2_score(target, result),
        },
        abs=1e-12,
    )
    flat = scores("numbers", Predictions(result, np.ones(len(result))))
    assert (flat["pearson"], flat["spearman"]) == (0.0, 0.0)
    assert "r2" not in flat


def test_tags_without_entities_are_scored_one_by_one() -> None:
    p = tagged(tags="NOUN VERB ADJ B")
    target, result = (list(chain(*rows)) for rows in (p.references, p.predicted))
    assert scores("tags", p) == pytest.approx(
        {
            "f1": sklearn.metrics.f1_score(target, result, average="macro"),
            "accuracy": sklearn.metrics.accuracy_score(target, result),
        }
    )


# Against seqeval.

ENTITIES = {
    "I- without B-": ("I-A I-A O", "B-A I-A O"),
    "I- after another kind": ("B-A I-B O", "B-A B-B O"),
    "neighbours": ("B-A B-A I-A", "B-A I-A I-A"),
    "kind changes inside": ("B-A I-A I-B", "B-A I-A I-A"),
    "end cut short": ("B-A O O", "B-A I-A O"),
    "nothing there": ("O O", "O O"),
    "nothing found": ("O O O", "B-A O B-B"),
    "all wrong": ("B-A O O", "O O B-A"),
    "kind with a point": ("B-GPE.NAM I-GPE.NAM", "B-GPE.NAM I-GPE.NAM"),
    "kind with a hyphen": ("B-A-B I-A-B O", "B-A-B I-A-B O"),
    "中文": ("B-地名 I-地名 O", "B-地名 O O"),
    "one word": ("B-A", "I-A"),
}


@pytest.mark.parametrize("case", ENTITIES)
def test_metrics_of_entities_equal_seqeval(case: str) -> None:
    result, target = ([row.split()] for row in ENTITIES[case])
    expected = {}
    for name in ("f1", "precision", "recall"):
        function: Any = getattr(seqeval.metrics, f"{name}_score")
        expected[name] = function(target, result, zero_division=0)
        strict = 0.0
        if any(tag != "O" for tag in (*result[0], *target[0])):
            strict = function(target, result, zero_division=0, mode="strict", scheme=IOB2)
        expected[f"strict_{name}"] = strict
    expected["accuracy"] = np.mean([a == b for a, b in zip(result[0], target[0], strict=True)])
    assert scores("entities", Predictions(result, target)) == pytest.approx(expected)


def test_a_strict_entity_starts_with_b() -> None:
    found = scores("entities", Predictions([["I-A", "I-A"]], [["B-A", "I-A"]]))
    assert (found["f1"], found["strict_f1"]) == (1.0, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_metrics_of_many_rows_of_entities_equal_seqeval(seed: int) -> None:
    """Includes rows without words and a kind of entity that is never predicted."""
    p = tagged(60, seed)
    result = [["O" if tag.endswith("B") else tag for tag in row] for row in p.predicted]
    for predicted in (p.predicted, result):
        found = scores("entities", Predictions(predicted, p.references))
        for name in ("f1", "precision", "recall"):
            function: Any = getattr(seqeval.metrics, f"{name}_score")
            assert found[name] == pytest.approx(function(p.references, predicted))
            strict = function(p.references, predicted, mode="strict", scheme=IOB2, zero_division=0)
            assert found[f"strict_{name}"] == pytest.approx(strict)
    ours = {(n, *entity) for n, row in enumerate(result) for entity in entities_of(row)}
    theirs = {
        (n, kind, first, last + 1)
        for n, row in enumerate(result)
        for kind, first, last in seqeval.metrics.sequence_labeling.get_entities(row)
    }
    assert ours == theirs


def test_tags_of_no_entity_are_outside() -> None:
    found = scores("entities", Predictions([["B-A", "X", "X-A", "B-"]], [["B-A", "X", "O", "O"]]))
    assert found["f1"] == found["strict_f1"] == 1.0
    assert found["accuracy"] == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_bioes_equal_seqeval(seed: int) -> None:
    rng = random.Random(seed)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in "AB")]
    references, predicted = (
        [[rng.choice(tags) for _ in range(length % 9)] for length in range(60)] for _ in range(2)
    )
    found = scores("entities", Predictions(predicted, references))
    for name in ("f1", "precision", "recall"):
        function: Any = getattr(seqeval.metrics, f"{name}_score")
        assert found[name] == pytest.approx(function(references, predicted))
        strict = function(references, predicted, mode="strict", scheme=IOBES, zero_division=0)
        assert found[f"strict_{name}"] == pytest.approx(strict)
    for written in ("BMES", "BILU"):  # the same entities in the prefixes of BMES and of BILOU
        letters = dict(zip("BIES", written, strict=True))
        renamed = [
            [[letters.get(tag[0], tag[0]) + tag[1:] for tag in row] for row in rows]
            for rows in (predicted, references)
        ]
        assert scores("entities", Predictions(*renamed)) == found


def test_strict_metrics_read_iob1() -> None:
    rows = [["I-A", "I-A", "B-A", "O", "I-B"]]
    found = scores("entities", Predictions(rows, rows))
    assert found["f1"] == found["strict_f1"] == 1.0


# Against the official definitions of SQuAD and CMRC, written out step by step.


def squad_normal(text: str) -> str:
    text = text.lower()
    text = "".join(c for c in text if c not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def squad_scores(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of SQuAD 2.0."""
    targets = [answer for answer in answers if squad_normal(answer)] or [""]
    exact = max(float(squad_normal(prediction) == squad_normal(target)) for target in targets)
    best = 0.0
    for target in targets:
        predicted, expected = squad_normal(prediction).split(), squad_normal(target).split()
        if not predicted or not expected:
            best = max(best, float(predicted == expected))
            continue
        shared = sum((Counter(predicted) & Counter(expected)).values())
        if shared:
            precision, recall = shared / len(predicted), shared / len(expected)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


@pytest.mark.parametrize(("prediction", "answers"), SQUAD)
def test_squad_scores_equal_the_official_script(prediction: str, answers: list[str]) -> None:
    exact, f1 = squad_scores(prediction, answers)
    found = scores("answers", Predictions([prediction], [answers]))
    assert found["squad_exact_match"] == exact
    assert found["squad_f1"] == pytest.approx(f1)
    if prediction.isascii():  # ours differs in the punctuation and the characters of other scripts
        assert found["exact_match"] == exact
        assert found["f1"] == pytest.approx(f1)


def test_squad_scores_of_many_rows_are_their_mean() -> None:
    each = np.array([squad_scores(*row) for row in SQUAD])
    p = Predictions([result for result, _ in SQUAD], [answers for _, answers in SQUAD])
    found = scores("answers", p, "squad_exact_match", "squad_f1")
    assert list(found.values()) == pytest.approx(list(each.mean(0)))


CMRC_SIGNS = [*"-:_*^/\\~`+=，。：？！“”；’《》", "……", *"·、「」（）－～『』"]  # noqa: RUF001


def cmrc_scores(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of CMRC 2018, of texts without spaces within a script."""

    def without_signs(text: str) -> list[str]:
        return [c for c in text.lower().strip() if c not in CMRC_SIGNS]

    def segments(text: str) -> list[str]:
        found, run = [], ""
        for c in without_signs(text):
            if re.search(r"[\u4e00-\u9fa5]", c):
                found += [run, c]
                run = ""
            else:
                run += c
        return [part for part in (*found, run) if part.strip()]

    def longest_common_run(first: list[str], second: list[str]) -> int:
        return max(
            (
                size
                for a in range(len(first))
                for b in range(len(second))
                for size in range(1, 1 + min(len(first) - a, len(second) - b))
                if first[a : a + size] == second[b : b + size]
            ),
            default=0,
        )

    exact = float(any(without_signs(prediction) == without_signs(target) for target in answers))
    best = 0.0
    for target in answers:
        predicted, expected = segments(prediction), segments(target)
        common = longest_common_run(predicted, expected)
        if common:
            precision, recall = common / len(predicted), common / len(expected)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


@pytest.mark.parametrize(
    ("prediction", "answers"),
    [
        ("北京市", ["北京"]),
        ("“北京”。", ["北京"]),
        ("1949年10月1日", ["1949年", "1949年10月"]),
        ("中国NBA球员姚明", ["姚明", "NBA球员"]),
        ("", ["北京"]),
        ("上海", ["北京"]),
        ("京北", ["北京"]),
        ("我爱北京天安门", ["北京很大", "我爱天安门"]),
        ("WTO——世界贸易组织", ["WTO", "世界贸易组织"]),
    ],
)
def test_cmrc_scores_equal_the_official_script(prediction: str, answers: list[str]) -> None:
    exact, f1 = cmrc_scores(prediction, answers)
    found = scores("answers", Predictions([prediction], [answers]))
    assert found["cmrc_exact_match"] == exact
    assert found["cmrc_f1"] == pytest.approx(f1)


def test_chinese_answers_are_compared_by_character() -> None:
    found = scores("answers", Predictions(["京北大学"], [["北京大学"]]), "f1", "cmrc_f1")
    # f1 ignores the order of characters; cmrc_f1 counts the longest common run.
    assert found == pytest.approx({"f1": 1.0, "cmrc_f1": 0.5})


def test_ranks_are_scored_by_reciprocal_rank_and_recall() -> None:
    p = PREDICTIONS["ranks"]
    assert scores("ranks", p) == pytest.approx(
        {
            "mrr": np.mean(1 / p.predicted),
            "mean_rank": np.mean(p.predicted),
            **{f"recall@{k}": np.mean(p.predicted <= k) for k in (1, 3, 5, 10, 50, 100)},
        }
    )
    target = np.arange(80) == 0  # the reciprocal rank is the average precision of one right answer
    for rank in p.predicted:
        order = np.where(np.arange(80) == 0, -rank, -np.arange(80).astype(float))
        order[1:] = [-(n if n < rank else n + 1) for n in range(1, 80)]
        found = sklearn.metrics.average_precision_score(target, order)
        assert scores("ranks", Predictions(np.array([rank]), np.array([80])), "mrr") == (
            pytest.approx({"mrr": found})
        )


def test_summaries_are_scored_by_rouge_and_by_sentences() -> None:
    found = scores("summaries", PREDICTIONS["summaries"])
    assert found["precision"] == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert found["recall"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0.0) / 3)
    assert found["rouge_1"] == pytest.approx((2 * 4 / 12 + 2 * 2 / 8 + 0.0) / 3)
    assert found["rouge_2"] == pytest.approx((2 * 2 / 10 + 2 * 1 / 6 + 0.0) / 3)
    assert found["rouge_l"] == pytest.approx((2 * 4 / 12 + 2 * 2 / 8 + 0.0) / 3)


def test_tokens_are_scored_by_accuracy_and_perplexity() -> None:
    found = scores("tokens", PREDICTIONS["tokens"])
    assert found["accuracy"] == 3 / 5
    assert found["perplexity"] == pytest.approx(np.exp((0.5 + 2.0 + 0.1 + 1.5 + 0.0) / 5))


# Intervals.


def test_an_interval_is_near_the_binomial_one() -> None:
    """The standard error of an accuracy is known: sqrt(p (1 - p) / n)."""
    target = np.zeros(1000, dtype=int)
    result = (np.arange(1000) >= 900).astype(int)
    low, high = interval(metric_kinds()["choices"].metrics["accuracy"], Predictions(result, target))
    margin = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.9 - margin, 0.9 + margin), abs=0.003)


def test_a_main_metric_that_the_rows_leave_undefined_has_no_interval() -> None:
    class ByArea(Classification):
        main_metric: ClassVar[str] = "roc_auc"

    rows = np.zeros(4, dtype=int)
    one_class = Predictions(rows, rows, np.full((4, 2), 0.5))
    assert ByArea(labels=("a", "b")).intervals(one_class) == {}
    often = Metric(lambda p: 1.0 if p.references.any() else float("nan"))
    assert interval(often, Predictions(rows, np.array([0, 0, 0, 1])), resamples=50) == (1.0, 1.0)


def test_an_interval_is_reproducible_and_contains_its_score() -> None:
    for kind, p in PREDICTIONS.items():
        for name in metric_kinds()[kind].defaults:
            metric = metric_kinds()[kind].metrics[name]
            low, high = interval(metric, p, resamples=100)
            assert low <= metric.score(p) <= high
            assert (low, high) == interval(metric, p, resamples=100)
    spearman = metric_kinds()["numbers"].metrics["spearman"]
    assert interval(spearman, numbers()) != interval(spearman, numbers(), seed=1)


# Through Hugging Face's evaluate, and from a recipe.


def test_a_metric_is_a_module_of_evaluate() -> None:
    module = local_metric(metric_kinds()["choices"], ["accuracy"])
    assert isinstance(module, hugging_face.EvaluationModule)
    module.add_batch(predictions=[0, 1], references=[0, 0])
    module.add(prediction=2, reference=2)
    assert module.compute() == {"accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        module.compute(predictions=[1], references=[1, 2])


def test_measure_writes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    scores("classes", classes())
    assert list(tmp_path.iterdir()) == []


def recipe_with_task(task: dict[str, Any]) -> Recipe:
    return Recipe.of(
        {"name": "a", "data": {"path": "x.csv"}, "task": task, "method": {"type": "lora"}}
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"type": "classification", "extra_metrics": ["mathews"]}, "did you mean 'matthews'"),
        ({"type": "relation", "extra_metrics": ["pearson"]}, "no metric 'pearson' for classes"),
        ({"type": "regression", "extra_metrics": ["accuracy"]}, "no metric 'accuracy' for numb"),
        ({"type": "multiple_choice", "extra_metrics": ["f1"]}, "valid are: accuracy"),
        ({"type": "tagging", "extra_metrics": ["strict_f2"]}, "did you mean 'strict_f1'"),
        (
            {"type": "tagging", "labels": ["N", "V"], "extra_metrics": ["strict_f1"]},
            "no metric 'strict_f1' for tags",
        ),
        ({"type": "question_answering", "extra_metrics": ["squad"]}, "did you mean 'squad_f1'"),
        ({"type": "classification", "extra_metrics": "matthews"}, "expected a list"),
    ],
)
def test_metrics_that_do_not_suit_the_task_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RecipeError), match=message) as reported:
        recipe_with_task(task)
    assert "task.extra_metrics" in str(reported.value)


def test_a_metric_must_suit_the_tags_of_the_rows() -> None:
    from adapterkit.tasks.types import Row

    task = recipe_with_task({"type": "tagging", "extra_metrics": ["strict_f1"]}).task
    row = Row({"tokens": ("a", "b"), "tags": ("N", "V")}, "x:1")
    with pytest.raises(AdapterkitError, match=r"task.extra_metrics: .* for tags; valid are: acc"):
        task.fit([row], "mean")


class Further(MetricKind):
    """A metric of a plug-in for a kind that exists."""

    type: ClassVar[str] = "further"
    extends: ClassVar[str | None] = "numbers"
    metrics: ClassVar[dict[str, Metric]] = {"n": Metric(lambda p: float(len(p)))}


def kinds_with(further: type[MetricKind], monkeypatch: pytest.MonkeyPatch) -> Any:
    found: dict[str, Any] = {"numbers": metric_kinds()["numbers"], further.type: further}
    monkeypatch.setattr("adapterkit.metrics.base.discover", lambda *_: found)
    return metric_kinds.__wrapped__()


def test_a_plug_in_adds_a_metric_to_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = metric_kinds()["numbers"]
    kinds = kinds_with(Further, monkeypatch)
    assert kinds.keys() == {"numbers"}
    assert list(kinds["numbers"].metrics) == [*before.metrics, "n"]
    assert measure(kinds["numbers"], ["n", "mae"], numbers())["n"] == len(numbers())
    assert "n" not in before.metrics


def test_a_metric_of_a_plug_in_cannot_replace_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Again(Further):
        metrics: ClassVar[dict[str, Metric]] = {"mae": Metric(lambda p: 0.0)}

    class Lost(Further):
        extends: ClassVar[str | None] = "number"

    with pytest.raises(AdapterkitError, match="extend 'numbers', which has mae already; rename"):
        kinds_with(Again, monkeypatch)
    with pytest.raises(AdapterkitError, match="no such kind; did you mean 'numbers'"):
        kinds_with(Lost, monkeypatch)


def test_extra_metrics_follow_those_of_the_task() -> None:
    task = recipe_with_task(
        {"type": "classification", "extra_metrics": ["matthews", "accuracy"]}
    ).task
    assert list(task.metrics(classes())) == ["accuracy", "f1_macro", "matthews"]


def test_every_main_metric_is_a_default_metric() -> None:
    for name, kind in tasks().items():
        task: Any = kind()
        for metric_kind in ("entities", "tags") if name == "tagging" else (task.metric_kind,):
            assert task.main_metric in metric_kinds()[metric_kind].defaults


def test_the_keys_list_every_metric() -> None:
    text = " ".join(describe_keys().split())
    for kind in metric_kinds().values():
        for name in kind.metrics:
            assert name in text
