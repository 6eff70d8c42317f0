"""Texts for the log in which personal numbers and addresses are masked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import AdapterkitError

LONGEST = 2000
"""Most characters of a text in the log."""

MARGIN = 200
"""Characters beyond the last one of the log that are read to recognise what it begins."""

EMAIL = re.compile(r"[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+")
CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){11,18}(?!\d)")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}")
LEAST_IBAN = 15
"""Characters of the shortest IBAN, that of Norway."""

NUMBER = re.compile(r"\+?\d(?:[ ()/.-]{0,2}\d){6,}")
"""Seven digits or more: a phone number without its country, or an account number of a country
without IBANs. A wrongly masked number in a log is a smaller harm than one that is not."""


class TextMask:
    """Replaces e-mail addresses, account numbers (IBAN), card numbers and phone numbers by their
    kind, and every other number of seven digits or more by `<NUMBER>`.

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

    def masked_rows(self, rows: Sequence[tuple[str | None, Any]]) -> list[tuple[str | None, Any]]:
        """Rows of adapter and request, each masked for itself."""
        return [(name, self.masked(text)) for name, text in rows]

    def masked(self, text: Any) -> Any:
        """A request with all its texts masked. A list of words is joined first, because a number
        may be cut into words.

        Args:
            text: A text, several texts, or values by role, as a request has them.
        """
        if isinstance(text, str):
            return self._mask(text)
        if isinstance(text, Mapping):
            return {self._mask(str(key)): self.masked(value) for key, value in text.items()}
        if isinstance(text, (list, tuple)):
            if all(isinstance(part, str) for part in text):
                return self._mask(" ".join(text))
            return [self.masked(part) for part in text]
        return self._mask(str(text))

    def _mask(self, text: str) -> str:
        whole, text = len(text), text[: LONGEST + MARGIN]
        text = EMAIL.sub("<EMAIL>", text)
        text = IBAN.sub(lambda found: self._iban(found[0]), text)
        text = CARD.sub(lambda found: self._card(found[0]), text)
        matches = [(one.start, one.end) for one in self._phones.PhoneNumberMatcher(text, None)]
        for start, end in reversed(matches):
            text = f"{text[:start]}<PHONE>{text[end:]}"
        text = NUMBER.sub("<NUMBER>", text)
        if whole <= LONGEST:
            return text
        # What was cut in two at the end of the piece may not be recognised.
        return text[: max(0, min(LONGEST, len(text) - MARGIN))] + "..."

    def _iban(self, text: str) -> str:
        """Masks the longest beginning that is an IBAN: the words after it look like a part."""
        for end in range(len(text), LEAST_IBAN - 1, -1):
            if text[end - 1] != " " and self._is_iban(text[:end]):
                return f"<IBAN>{text[end:]}"
        return text

    def _card(self, digits: str) -> str:
        return "<CARD>" if self._is_card(re.sub("[ -]", "", digits)) else digits
