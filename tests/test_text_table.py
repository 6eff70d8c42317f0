"""Tables of text: widths of columns and of characters."""

from __future__ import annotations

from adapterkit.prediction.answers import answers_table
from adapterkit.text_table import table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = table(["a", "long", "x"], [["one", 2, ""], ["", None, "last one"]]).splitlines()
    assert lines == ["a    long  x", "one  2", "     None  last one"]
    assert table(["a", "b"], []) == "a  b"


def test_chinese_takes_two_columns_a_character() -> None:
    labels = [("我的卡", 0.5), ("card", 0.5), ("sí", 0.5)]
    _, *lines = answers_table(["acme/intent"] * 3, ["a", "b", "卡" * 60], labels).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["acme/intent", "我的卡", "0.500", "a"],
        ["acme/intent", "card", "0.500", "b"],
    ]
    # The first label is six columns wide, the second four: two blanks more, one character more.
    assert lines[1].index("0.500") == lines[0].index("0.500") + 3
    assert lines[2].endswith(" " + "卡" * 35 + "…"), "71 columns hold 35 of them and the sign"
