"""The texts in the rows of a request, as a log masks and shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby, islice
from typing import Any

from ...tasks.base import column_roles
from .text_span import TextSpan, mask_text

LONGEST = 2000
"""Characters after which a text is cut in the log."""

MARGIN = 200
"""Characters beyond the last one of the log that are read to recognise what it begins."""

OVERHEAD = 50
"""For how many characters a text counts in addition: a short one takes time and memory as well."""

NESTED = (Mapping, list, tuple)
"""Values that have others in them."""

LoggedRow = tuple[str | None, Any]
"""Adapter reference and request of one row."""


class RowTexts:
    """The texts of a request's rows, and their places in the rows.

    Words and numbers that stand side by side in a list become one text, because a number or a name
    may be cut into them. Keys are texts as well, unless they are roles of a task: a client can
    write anything into them.

    Args:
        rows: The rows, which are not checked yet. They are not stored.

    Attributes:
        texts: The texts, each cut after `LONGEST + MARGIN` characters.
    """

    def __init__(self, rows: Sequence[LoggedRow]) -> None:
        self.texts: list[str] = []
        self._rows = [(name, self._place(request)) for name, request in rows]

    @property
    def size(self) -> int:
        """Number of characters of the texts, with `OVERHEAD` for each text."""
        return sum(map(len, self.texts)) + OVERHEAD * len(self.texts)

    def masked(self, spans: Sequence[Sequence[TextSpan]]) -> list[LoggedRow]:
        """The rows as the log shows them.

        Args:
            spans: For each text what is masked in it.
        """
        pairs = zip(self.texts, spans, strict=True)
        texts = [mask_text(text, found, LONGEST) for text, found in pairs]
        return [(name, _filled(place, texts)) for name, place in self._rows]

    def _place(self, request: Any) -> Any:
        """The request with the number of each text in the place of the text."""
        if isinstance(request, Mapping):
            return {self._key(key): self._place(value) for key, value in request.items()}
        if not isinstance(request, (list, tuple)):
            return self._add(str(request))
        if not any(issubclass(kind, NESTED) for kind in set(map(type, request))):
            return self._add(_joined(request))
        places: list[Any] = []
        for nested, parts in groupby(request, _is_nested):
            if nested:
                places += map(self._place, parts)
            else:
                places.append(self._add(_joined(parts)))
        return places

    def _key(self, key: Any) -> Any:
        return key if key in _roles() else self._add(str(key))

    def _add(self, text: str) -> int:
        self.texts.append(text[: LONGEST + MARGIN])
        return len(self.texts) - 1


@cache
def _roles() -> frozenset[str]:
    return frozenset(column_roles())


def _is_nested(value: Any) -> bool:
    return isinstance(value, NESTED)


def _joined(parts: Iterable[Any]) -> str:
    """The beginning of some words and numbers as one text."""
    return " ".join(map(str, islice(parts, LONGEST + MARGIN)))


def _filled(place: Any, texts: Sequence[str]) -> Any:
    if isinstance(place, dict):
        return {
            texts[key] if isinstance(key, int) else key: _filled(value, texts)
            for key, value in place.items()
        }
    if isinstance(place, list):
        return [_filled(part, texts) for part in place]
    return texts[place]
