"""ROUGE computed by hand, and its longest common subsequence against dynamic programming."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from adapterkit.metrics.rouge import longest_common, rouge_l, rouge_n, rouge_words


@pytest.mark.parametrize(
    ("prediction", "reference", "rouge_1", "rouge_2", "rouge_longest"),
    [
        # Lin 2004, section 3: row 2 has the words of the reference in order, row 3 does not.
        ("police killed the gunman", "police killed the gunman", 1.0, 1.0, 1.0),
        ("police kill the gunman", "police killed the gunman", 3 / 4, 1 / 3, 3 / 4),
        ("the gunman kill police", "police killed the gunman", 3 / 4, 1 / 3, 2 / 4),
        # 2 of 3 predicted words and 2 of 5 reference words: p 2/3, r 2/5, f 1/2; no pair in common.
        ("the cat ran", "a cat on the mat", 2 / 4, 0.0, 1 / 4),
        # A word counts as often as both texts have it: 1 of 3 and 1 of 2.
        ("fee fee fee", "the fee", 2 / 5, 0.0, 2 / 5),
        ("The FEE: it's 5 €.", "the fee its 5", 6 / 9, 2 / 7, 6 / 9),
        ("我的卡丢了", "卡丢了", 6 / 8, 4 / 6, 6 / 8),
        ("银行 Visa 卡", "visa银行", 6 / 7, 2 / 5, 4 / 7),
        ("", "a", 0.0, 0.0, 0.0),
        ("", "", 0.0, 0.0, 0.0),
        ("。", "a b", 0.0, 0.0, 0.0),
    ],
)
def test_scores_computed_by_hand(
    prediction: str, reference: str, rouge_1: float, rouge_2: float, rouge_longest: float
) -> None:
    a, b = rouge_words(prediction), rouge_words(reference)
    assert [rouge_n(a, b, 1), rouge_n(a, b, 2), rouge_l(a, b)] == pytest.approx(
        [rouge_1, rouge_2, rouge_longest]
    )


def test_words_are_lower_case_and_chinese_is_cut_by_character() -> None:
    assert rouge_words("Don't pay £5, snake_case: 北京2024年!") == [
        *("don", "t", "pay", "5", "snake", "case"),
        *("北", "京", "2024", "年"),
    ]


def longest_common_by_table(first: Sequence[str], second: Sequence[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_longest_common_equals_the_table() -> None:
    rng = random.Random(4)
    for _ in range(300):
        letters = "abcdefgh"[: rng.randint(1, 8)]
        first, second = (rng.choices(letters, k=rng.randint(0, 90)) for _ in range(2))
        assert longest_common(first, second) == longest_common_by_table(first, second)
