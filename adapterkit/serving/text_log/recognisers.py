"""Recognisers of personal numbers and addresses in texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...errors import AdapterkitError
from .plain_characters import PLAIN_CHARACTERS
from .text_span import TextSpan

_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"
_LABEL = r"[\w-]+"
EMAIL = re.compile(
    rf"(?<!{_LOCAL}){_LOCAL}+"
    rf"(?:(?:@| @ ){_LABEL}(?:(?:\.| \. ){_LABEL})+|(?:@{_LABEL}(?:\.{_LABEL})*)+)"
)
"""Also the words of an address that a list of words divides: `jane @ example . org`."""

CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){11,18}(?!\d)")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
LEAST_IBAN = 15
"""Characters of the shortest IBAN, that of Norway."""

NUMBER = re.compile(r"\+?\d(?:[ ()/._-]{0,4}\d){6,}")
"""Seven digits or more: a phone number without its country, or an account number of a country
without IBANs. A wrongly masked number in a log is a smaller harm than one that is not."""

DIGIT = re.compile(r"\d")

BLANK = "\0"
"""Replaces the characters that were recognised, so that no other recogniser reads them."""


class Recognisers:
    """Recognise e-mail addresses, account numbers (IBAN), card numbers and phone numbers, and every
    other number of seven digits or more (`NUMBER`).

    Characters of the same meaning are read as one (`PlainCharacters`), so that a number is found
    whatever spaces, dashes and digits it is written with.

    Check digits and formats are those of python-stdnum (IBAN: ISO 13616, cards: Luhn, ISO 7812) and
    of Google's libphonenumber in its Python port. Names and postal addresses are not recognised.

    Raises:
        AdapterkitError: The extra `mask` is not installed.
    """

    def __init__(self) -> None:
        try:
            import phonenumbers
            import stdnum.iban
            import stdnum.luhn
        except ImportError:
            raise AdapterkitError(
                "--log-masked-texts needs recognisers: pip install 'adapterkit[mask]'"
            ) from None
        self._phones: Any = phonenumbers
        self._is_iban = stdnum.iban.is_valid
        self._is_card = stdnum.luhn.is_valid

    def find(self, text: str) -> list[TextSpan]:
        """What is recognised in a text; no two spans overlap."""
        text = text.translate(PLAIN_CHARACTERS)
        recognisers = [self._find_emails] if "@" in text else []
        if DIGIT.search(text):
            recognisers += [
                self._find_ibans,
                self._find_cards,
                self._find_phones,
                self._find_numbers,
            ]
        spans: list[TextSpan] = []
        for recognise in recognisers:
            found = list(recognise(text))
            for start, end, _ in found:
                text = text[:start] + BLANK * (end - start) + text[end:]
            spans += found
        return spans

    def _find_emails(self, text: str) -> Iterator[TextSpan]:
        for match in EMAIL.finditer(text):
            yield TextSpan(*match.span(), "EMAIL")

    def _find_ibans(self, text: str) -> Iterator[TextSpan]:
        for match in IBAN.finditer(text):
            length = self._iban_length(match[0])
            if length:
                yield TextSpan(match.start(), match.start() + length, "IBAN")

    def _iban_length(self, text: str) -> int:
        """Length of the longest beginning that is an IBAN, or 0: the words after it look like a
        part."""
        for end in range(len(text), LEAST_IBAN - 1, -1):
            if text[end - 1] not in " -" and self._is_iban(text[:end]):
                return end
        return 0

    def _find_cards(self, text: str) -> Iterator[TextSpan]:
        for match in CARD.finditer(text):
            if self._is_card(re.sub("[ -]", "", match[0])):
                yield TextSpan(*match.span(), "CARD")

    def _find_phones(self, text: str) -> Iterator[TextSpan]:
        for match in self._phones.PhoneNumberMatcher(text, None):
            yield TextSpan(match.start, match.end, "PHONE")

    def _find_numbers(self, text: str) -> Iterator[TextSpan]:
        for match in NUMBER.finditer(text):
            yield TextSpan(*match.span(), "NUMBER")
