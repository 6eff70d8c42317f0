"""Explanations as one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_output
from .attribution import Attribution, Explanation, Word
from .page_style import PAGE_STYLE

if TYPE_CHECKING:
    from jinja2 import Template

SUFFIXES = (".html", ".htm")
"""Endings of the files that a page is written to."""

STRONGEST_WORDS = 8
"""Words in the list beside the text."""

TEMPLATE = Path(__file__).with_name("attribution.html")


def write_page(path: Path, explanations: Sequence[Explanation]) -> None:
    """Writes the page, complete or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    write_output(path, page(explanations).encode())


def page(explanations: Sequence[Explanation]) -> str:
    """Renders explanations as a page; every value in it is escaped."""
    return _template().render(
        style=PAGE_STYLE,
        baselines=", ".join(sorted({explanation.baseline for explanation in explanations})),
        explanations=[
            {
                "adapter": explanation.adapter,
                "baseline": explanation.baseline,
                "articles": list(map(_article, explanation.attributions)),
            }
            for explanation in explanations
        ],
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _article(attribution: Attribution) -> dict[str, Any]:
    by_strength = sorted(attribution.words, key=lambda word: -abs(word.attribution))
    return {
        "attribution": attribution,
        "strongest": (abs(by_strength[0].attribution) if by_strength else 0.0) or 1.0,
        "strongest_words": by_strength[:STRONGEST_WORDS],
        "texts": [
            (role, list(_pieces(text, [word for word in attribution.words if word.role == role])))
            for role, text in attribution.texts.items()
        ],
    }


def _pieces(text: str, words: Sequence[Word]) -> Iterator[str | Word]:
    """A text as its words and what stands between them, in order."""
    end = 0
    for word in words:
        yield text[end : word.start]
        yield word
        end = word.end
    yield text[end:]
