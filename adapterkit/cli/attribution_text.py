"""An explanation for a terminal: words in colour, or with signs and numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import typer

from ..inference.attribution import Attribution, Explanation, Word

SHOWN = 0.05
"""Least share of the strongest word's attribution at which a word is marked."""

FOR, AGAINST = (38, 110, 220), (224, 108, 20)
"""Blue and orange, which the colour-blind tell apart too."""


def in_colour() -> bool:
    """Whether standard output is a terminal whose user wants colours (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def show(explanations: Sequence[Explanation], colour: bool) -> str:
    """Explanations as text.

    Args:
        explanations: In their order.
        colour: Whether to use a terminal's colours in 24 bits.
    """
    blocks = [block for one in explanations for block in _blocks(one, colour)]
    return "\n\n".join([*blocks, _legend(colour)])


def _blocks(explanation: Explanation, colour: bool) -> Iterator[str]:
    if not explanation.attributions:
        yield f"{explanation.adapter}: nothing was found, so there is nothing to explain"
    for attribution in explanation.attributions:
        yield "\n".join(_lines(explanation, attribution, colour))


def _lines(explanation: Explanation, attribution: Attribution, colour: bool) -> Iterator[str]:
    yield (
        f"{explanation.adapter}: {printable(attribution.name)}  "
        f"score {attribution.score:+.3f}, with every word {explanation.baseline} "
        f"{attribution.baseline_score:+.3f}"
    )
    for role, text in attribution.texts.items():
        words = [word for word in attribution.words if word.role == role]
        strongest = max((abs(word.attribution) for word in attribution.words), default=0.0)
        marked = _marked(text, words, strongest, colour)
        yield f"  {role}: {marked}" if len(attribution.texts) > 1 else f"  {marked}"


def _marked(text: str, words: Sequence[Word], strongest: float, colour: bool) -> str:
    pieces, done = [], 0
    for word in words:
        pieces.append(printable(text[done : word.start]))
        piece, done = printable(text[word.start : word.end]), word.end
        share = word.attribution / strongest if strongest else 0.0
        if abs(share) >= SHOWN:
            piece = _tinted(piece, share) if colour else f"{piece}({word.attribution:+.2f})"
        pieces.append(piece)
    return "".join([*pieces, printable(text[done:])])


def _tinted(piece: str, share: float) -> str:
    """A word on blue (for) or orange (against), the stronger the further from white."""
    tone, depth = FOR if share > 0 else AGAINST, 0.2 + 0.8 * abs(share)
    red, green, blue = (round(255 + depth * (part - 255)) for part in tone)
    return typer.style(piece, fg=(0, 0, 0), bg=(red, green, blue))


def _legend(colour: bool) -> str:
    if colour:
        return f"{_tinted(' for ', 0.6)} the answer, {_tinted(' against ', -0.6)} it"
    return "+ speaks for the answer, - against it, in units of the score"


def printable(text: str) -> str:
    """A text on one line, without characters that would steer the terminal."""
    return "".join(c if c.isprintable() else (" " if c.isspace() else "\ufffd") for c in text)
