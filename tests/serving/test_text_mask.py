"""Texts in the log, with personal numbers and addresses masked."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from adapterkit.errors import AdapterkitError
from adapterkit.serving.text_mask import LONGEST, TextMask
from helpers.command_line import assert_one_line, run_command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to jane.doe+x@mail.example.org, please", "to <EMAIL>, please"),
        ("DE89 3704 0044 0532 0130 00 AND more", "<IBAN> AND more"),
        ("(GB82WEST12345698765432)", "(<IBAN>)"),
        ("4111 1111 1111 1111, 4111111111111111", "<CARD>, <CARD>"),
        ("4111 1111 1111 1112", "<NUMBER>"),
        ("call +49 171 1234567 or 0171/1234567", "call <PHONE> or <NUMBER>"),
        ("3 items, order 12345, 99 euros", "3 items, order 12345, 99 euros"),
        ({"text": "a@b.de", "tokens": ["4111", "1111", "1111", "1111"]}, None),
        ([["a@b.de"], 5], None),
        ("x" * (LONGEST - 8) + " 4111 1111 1111 1111 and a@b.de" + 300 * " y", None),
    ],
)
def test_numbers_and_addresses_are_masked(text: Any, expected: str | None) -> None:
    masked = TextMask().masked(text)
    if expected is not None:
        assert masked == expected
    assert "@" not in json.dumps(masked)
    assert "1111" not in json.dumps(masked)


def test_rows_are_masked_one_by_one() -> None:
    rows = [("acme/a", "12345 a@b.de"), (None, "67890")]
    assert TextMask().masked_rows(rows) == [("acme/a", "12345 <EMAIL>"), (None, "67890")]


def test_a_server_without_recognisers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = run_command("serve", "--log-texts", "--log-masked-texts")
    assert_one_line(both, "give either --log-texts or --log-masked-texts")
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(AdapterkitError, match=r"pip install 'adapterkit\[mask\]'"):
        TextMask()
