"""Metrics against scikit-learn, seqeval and the official scripts' definitions, stated plainly."""

from __future__ import annotations

import random
import re
import string
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import evaluate as hugging_face
import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics
from seqeval.scheme import IOB2

from adapterkit.errors import AdapterkitError, RecipeError
from adapterkit.metrics.base import Metric, Predictions, metric_kinds
from adapterkit.metrics.bio import entities_of
from adapterkit.metrics.bootstrap import interval
from adapterkit.metrics.hf_evaluate import local_metric, measure
from adapterkit.tasks.base import tasks
from adapterkit.training.recipe import Recipe, describe_keys


def scores(kind: str, predictions: Predictions, *names: str) -> dict[str, float]:
    """Metrics as a task takes them, through `evaluate`; all there are where none is named."""
    found = metric_kinds()[kind]
    return measure(found, names or found.metrics, predictions)


def softmax(lines: Any) -> Any:
    powers = np.exp(lines - lines.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def classes(n: int = 60, c: int = 4, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    target = rng.integers(c, size=n)
    lines = rng.normal(size=(n, c)) + 1.5 * np.eye(c)[target]
    return Predictions(lines.argmax(1), target, softmax(lines))


def labels(n: int = 50, c: int = 5, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    target = (rng.random((n, c)) < 0.3).astype(int)
    probabilities = 1 / (1 + np.exp(-rng.normal(size=(n, c)) - 2 * target + 1))
    return Predictions((probabilities >= 0.5).astype(int), target, probabilities)


def numbers(n: int = 40, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=n).round(1)
    return Predictions(target + rng.normal(size=n), target)


def tagged(n: int = 40, seed: int = 0, tags: str = "O O B-A I-A B-B I-B") -> Predictions:
    rng = random.Random(seed)
    target = [rng.choices(tags.split(), k=rng.randrange(9)) for _ in range(n)]
    result = [
        [t if rng.random() < 0.6 else rng.choice(tags.split()) for t in row] for row in target
    ]
    return Predictions(result, target)


# Against scikit-learn and SciPy.


@pytest.mark.parametrize("c", [2, 4])
def test_classes_are_judged_as_scikit_learn_does(c: int) -> None:
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


def test_a_class_that_is_never_there_spoils_no_metric() -> None:
    p = classes(c=4)
    some = p.rows(np.flatnonzero(p.references < 2))
    found = scores("classes", some)
    each = [
        sklearn.metrics.roc_auc_score(some.references == c, some.probabilities[:, c])
        for c in (0, 1)
    ]
    assert found["roc_auc"] == pytest.approx(np.mean(each))
    one = scores("classes", p.rows(np.flatnonzero(p.references == 0)))
    assert "roc_auc" not in one
    assert one.keys() == found.keys() - {"roc_auc"}
    assert 0.0 < one["balanced_accuracy"] < 1.0


def test_labels_are_judged_as_scikit_learn_does() -> None:
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
    nobody = Predictions(result * 0, target * 0, probabilities)
    assert scores("labels", nobody)["f1_micro"] == 0.0
    assert "roc_auc" not in scores("labels", nobody)


def test_numbers_are_judged_as_scipy_and_scikit_learn_do() -> None:
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


def test_tags_that_are_no_entities_are_judged_one_by_one() -> None:
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
def test_entities_are_judged_as_seqeval_does(case: str) -> None:
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


def test_strict_entities_begin_with_b() -> None:
    found = scores("entities", Predictions([["I-A", "I-A"]], [["B-A", "I-A"]]))
    assert (found["f1"], found["strict_f1"]) == (1.0, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_many_rows_of_entities_are_judged_as_seqeval_does(seed: int) -> None:
    """Rows without a word and a kind that is never predicted are among them."""
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


def test_tags_that_are_not_bio_are_outside() -> None:
    found = scores("entities", Predictions([["B-A", "X", "E-A", "B-"]], [["B-A", "X", "O", "O"]]))
    assert found["f1"] == found["strict_f1"] == 1.0
    assert found["accuracy"] == 0.5


# Against the official definitions of SQuAD and CMRC, stated one step after the other.


def squad_normal(text: str) -> str:
    text = text.lower()
    text = "".join(c for c in text if c not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def squad_scores(said: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of SQuAD 2.0."""
    targets = [answer for answer in answers if squad_normal(answer)] or [""]
    exact = max(float(squad_normal(said) == squad_normal(target)) for target in targets)
    best = 0.0
    for target in targets:
        one, other = squad_normal(said).split(), squad_normal(target).split()
        if not one or not other:
            best = max(best, float(one == other))
            continue
        shared = sum((Counter(one) & Counter(other)).values())
        if shared:
            precision, recall = shared / len(one), shared / len(other)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


SQUAD = [
    ("The Eiffel Tower!", ["eiffel tower"]),
    ("eiffel", ["the eiffel tower", "tower"]),
    ("Denver Broncos", ["Carolina Panthers", "the Denver Broncos", "Broncos"]),
    ("an apple a day", ["apple, day", "Apple"]),
    ("", []),
    ("something", []),
    ("", ["something"]),
    ("the", ["a"]),
    ("", ["the", "cat"]),
    ("U.S. dollars $5", ["US dollars 5"]),
    ("the theatre", ["theatre", "theater"]),
    ("b b c", ["b c c"]),
    ("well-known", ["well known"]),
    ("“quoted”", ["quoted"]),
    ("  two   spaces ", ["two spaces"]),
]


@pytest.mark.parametrize(("said", "answers"), SQUAD)
def test_squads_scores_are_the_official_ones(said: str, answers: list[str]) -> None:
    exact, f1 = squad_scores(said, answers)
    found = scores("answers", Predictions([said], [answers]))
    assert found["squad_exact_match"] == exact
    assert found["squad_f1"] == pytest.approx(f1)
    if said.isascii():  # ours differs in the punctuation and the characters of other scripts
        assert found["exact_match"] == exact
        assert found["f1"] == pytest.approx(f1)


def test_squads_scores_of_many_rows_are_their_mean() -> None:
    each = np.array([squad_scores(*row) for row in SQUAD])
    p = Predictions([result for result, _ in SQUAD], [answers for _, answers in SQUAD])
    found = scores("answers", p, "squad_exact_match", "squad_f1")
    assert list(found.values()) == pytest.approx(list(each.mean(0)))


CMRC_SIGNS = [*"-:_*^/\\~`+=，。：？！“”；’《》", "……", *"·、「」（）－～『』"]  # noqa: RUF001


def cmrc_scores(said: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of CMRC 2018, texts without spaces within a script."""

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

    def longest(one: list[str], other: list[str]) -> int:
        return max(
            (
                size
                for a in range(len(one))
                for b in range(len(other))
                for size in range(1, 1 + min(len(one) - a, len(other) - b))
                if one[a : a + size] == other[b : b + size]
            ),
            default=0,
        )

    exact = float(any(without_signs(said) == without_signs(target) for target in answers))
    best = 0.0
    for target in answers:
        one, other = segments(said), segments(target)
        common = longest(one, other)
        if common:
            precision, recall = common / len(one), common / len(other)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


@pytest.mark.parametrize(
    ("said", "answers"),
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
def test_cmrcs_scores_are_the_official_ones(said: str, answers: list[str]) -> None:
    exact, f1 = cmrc_scores(said, answers)
    found = scores("answers", Predictions([said], [answers]))
    assert found["cmrc_exact_match"] == exact
    assert found["cmrc_f1"] == pytest.approx(f1)


def test_chinese_answers_are_compared_by_character() -> None:
    found = scores("answers", Predictions(["京北大学"], [["北京大学"]]), "f1", "cmrc_f1")
    assert found == pytest.approx({"f1": 1.0, "cmrc_f1": 0.5})  # in any order; the longest run


def test_places_are_judged_by_how_near_the_first_they_are() -> None:
    p = MADE["ranks"]
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


def test_summaries_are_judged_by_words_and_by_sentences() -> None:
    found = scores("summaries", MADE["summaries"])
    assert found["precision"] == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert found["recall"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0.0) / 3)
    assert found["rouge_1"] == pytest.approx((2 * 4 / 12 + 2 * 2 / 8 + 0.0) / 3)
    assert found["rouge_2"] == pytest.approx((2 * 2 / 10 + 2 * 1 / 6 + 0.0) / 3)
    assert found["rouge_l"] == pytest.approx((2 * 4 / 12 + 2 * 2 / 8 + 0.0) / 3)


def test_tokens_are_judged_by_guess_and_surprise() -> None:
    found = scores("tokens", MADE["tokens"])
    assert found["accuracy"] == 3 / 5
    assert found["perplexity"] == pytest.approx(np.exp((0.5 + 2.0 + 0.1 + 1.5 + 0.0) / 5))


# Intervals.

MADE: dict[str, Predictions] = {
    "classes": classes(),
    "choices": Predictions(classes().predicted, classes().references),
    "labels": labels(),
    "numbers": numbers(),
    "entities": tagged(),
    "tags": tagged(tags="NOUN VERB ADJ"),
    "ranks": Predictions(np.array([1, 2, 7, 60, 1, 3]), np.full(6, 80)),
    "summaries": Predictions(
        [
            {"text": "tea is hot the bank is slow", "sentences": [0, 2]},
            {"text": "北京很大", "sentences": [1]},
            {"text": "", "sentences": []},
        ],
        [
            {"text": "the bank is very slow", "sentences": [2]},
            {"text": "北京不小", "sentences": [1, 2]},
            {"text": "rain", "sentences": [0]},
        ],
    ),
    "tokens": Predictions(
        [
            [{"token": 7, "surprise": 0.5}, {"token": 8, "surprise": 2.0}],
            [{"token": 9, "surprise": 0.1}],
            [{"token": 9, "surprise": 1.5}, {"token": 1, "surprise": 0.0}],
        ],
        [[{"token": 7}, {"token": 9}], [{"token": 9}], [{"token": 8}, {"token": 1}]],
    ),
    "answers": Predictions([said for said, _ in SQUAD], [goal for _, goal in SQUAD]),
}


def test_every_kind_is_tested_here() -> None:
    assert MADE.keys() == metric_kinds().keys()


@pytest.mark.parametrize("kind", MADE)
def test_counts_of_rows_are_the_metric(kind: str) -> None:
    p = MADE[kind]
    indices = np.random.default_rng(1).integers(len(p), size=len(p))
    for metric in metric_kinds()[kind].metrics.values():
        if metric.counts is not None:
            for rows in (p, p.rows(indices)):
                whole = metric.combine(metric.counts(rows).sum(0))
                assert whole == pytest.approx(metric.score(rows))
            drawn = metric.combine(metric.counts(p)[indices].sum(0))
            assert drawn == pytest.approx(metric.score(p.rows(indices)))


@pytest.mark.parametrize("kind", MADE)
def test_counts_only_make_an_interval_faster(kind: str) -> None:
    for metric in metric_kinds()[kind].metrics.values():
        if metric.counts is not None:
            slow = interval(Metric(metric.score), MADE[kind], resamples=25)
            assert interval(metric, MADE[kind], resamples=25) == pytest.approx(slow)


def test_an_interval_is_that_of_the_binomial() -> None:
    """Of right and wrong rows the spread is known: sqrt(p (1 - p) / n)."""
    target = np.zeros(1000, dtype=int)
    result = (np.arange(1000) >= 900).astype(int)
    low, high = interval(metric_kinds()["choices"].metrics["accuracy"], Predictions(result, target))
    spread = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.9 - spread, 0.9 + spread), abs=0.003)


@pytest.mark.parametrize("kind", MADE)
def test_an_interval_is_that_of_scipy(kind: str) -> None:
    from scipy.stats import bootstrap

    predictions = MADE[kind]
    for name in metric_kinds()[kind].defaults:
        metric = metric_kinds()[kind].metrics[name]

        def statistic(rows: Any, metric: Metric = metric) -> float:
            return metric.score(predictions.rows(rows))

        expected = bootstrap(
            (np.arange(len(predictions)),),
            statistic,
            n_resamples=25,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(3),
        )
        low_and_high = tuple(expected.confidence_interval)
        assert interval(metric, predictions, 25, seed=3) == pytest.approx(low_and_high)


def test_an_interval_is_the_same_every_time_and_holds_its_score() -> None:
    for kind, p in MADE.items():
        for name in metric_kinds()[kind].defaults:
            metric = metric_kinds()[kind].metrics[name]
            low, high = interval(metric, p, resamples=100)
            assert low <= metric.score(p) <= high
            assert (low, high) == interval(metric, p, resamples=100)
    spearman = metric_kinds()["numbers"].metrics["spearman"]
    assert interval(spearman, numbers()) != interval(spearman, numbers(), seed=1)


# Through Hugging Face's library, and from a recipe.


def test_our_metrics_are_modules_of_evaluate() -> None:
    module = local_metric(metric_kinds()["choices"], ["accuracy"])
    assert isinstance(module, hugging_face.EvaluationModule)
    module.add_batch(predictions=[0, 1], references=[0, 0])
    module.add(prediction=2, reference=2)
    assert module.compute() == {"accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        module.compute(predictions=[1], references=[1, 2])


def test_measuring_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    scores("classes", classes())
    assert list(tmp_path.iterdir()) == []


def plan(task: dict[str, Any]) -> Recipe:
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
        plan(task)
    assert "task.extra_metrics" in str(reported.value)


def test_tags_found_in_the_rows_may_not_suit_a_metric() -> None:
    from adapterkit.tasks.types import Row

    task = plan({"type": "tagging", "extra_metrics": ["strict_f1"]}).task
    row = Row({"tokens": ("a", "b"), "tags": ("N", "V")}, "x:1")
    with pytest.raises(AdapterkitError, match=r"task.extra_metrics: .* for tags; valid are: acc"):
        task.fit([row], "mean")


def test_extra_metrics_are_told_after_the_tasks_own() -> None:
    task = plan({"type": "classification", "extra_metrics": ["matthews", "accuracy"]}).task
    assert list(task.metrics(classes())) == ["accuracy", "f1_macro", "matthews"]


def test_every_main_metric_is_among_the_defaults() -> None:
    for name, kind in tasks().items():
        made: Any = kind()
        for judged in ("entities", "tags") if name == "tagging" else (made.metric_kind,):
            assert made.main_metric in metric_kinds()[judged].defaults


def test_the_keys_list_every_metric() -> None:
    text = " ".join(describe_keys().split())
    for kind in metric_kinds().values():
        for name in kind.metrics:
            assert name in text


def test_answering_never_imports_evaluate() -> None:
    code = (
        "import sys, adapterkit.inference.predictor, adapterkit.adapter.store\n"
        "print([name for name in ('evaluate', 'seqeval', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
