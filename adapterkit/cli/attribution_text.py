"""Explanations on a terminal: words in colour, or followed by signed numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from ..inference.attribution import Attribution, Explanation, Word

LEAST_SHARE = 0.05
"""Least share of the strongest word's attribution at which a word is marked."""

FOR, AGAINST = (38, 110, 220), (224, 108, 20)
"""Blue and orange, in red, green and blue: colour-blind people can tell them apart too."""

BLACK = Color.from_rgb(0, 0, 0)


def print_explanations(explanations: Sequence[Explanation], console: Console) -> None:
    """Prints explanations, in their order.

    Args:
        explanations: What is printed.
        console: Where. Words are coloured if it shows colours (rich reads NO_COLOR and TERM);
            elsewhere each marked word is followed by its attribution.
    """
    colour = console.color_system is not None and not console.no_color
    blocks = [block for explanation in explanations for block in _blocks(explanation, colour)]
    text = Text("\n\n").join([*blocks, _legend(colour)])
    console.print(text, soft_wrap=True)


def _blocks(explanation: Explanation, colour: bool) -> Iterator[Text]:
    if not explanation.attributions:
        yield Text(f"{explanation.adapter}: nothing was found, so there is nothing to explain")
    for attribution in explanation.attributions:
        yield Text("\n").join(_lines(explanation, attribution, colour))


def _lines(explanation: Explanation, attribution: Attribution, colour: bool) -> Iterator[Text]:
    yield Text(
        f"{explanation.adapter}: {printable(attribution.name)}  "
        f"score {attribution.score:+.3f}, with every word {explanation.baseline} "
        f"{attribution.baseline_score:+.3f}"
    )
    for role, text in attribution.texts.items():
        words = [word for word in attribution.words if word.role == role]
        strongest = max((abs(word.attribution) for word in attribution.words), default=0.0)
        line = Text(f"  {role}: " if len(attribution.texts) > 1 else "  ")
        yield line.append_text(_marked(text, words, strongest, colour))


def _marked(text: str, words: Sequence[Word], strongest: float, colour: bool) -> Text:
    marked, end = Text(), 0
    for word in words:
        marked.append(printable(text[end : word.start]))
        shown, end = printable(text[word.start : word.end]), word.end
        share = word.attribution / strongest if strongest else 0.0
        if abs(share) < LEAST_SHARE:
            marked.append(shown)
        elif colour:
            marked.append(shown, _tint(share))
        else:
            marked.append(f"{shown}({word.attribution:+.2f})")
    return marked.append(printable(text[end:]))


def _tint(share: float) -> Style:
    """Blue (for) or orange (against); the larger the share, the further from white."""
    colour, strength = FOR if share > 0 else AGAINST, 0.2 + 0.8 * abs(share)
    red, green, blue = (round(255 + strength * (part - 255)) for part in colour)
    return Style(color=BLACK, bgcolor=Color.from_rgb(red, green, blue))


def _legend(colour: bool) -> Text:
    if not colour:
        return Text("+ speaks for the answer, - against it, in units of the score")
    return Text.assemble((" for ", _tint(0.6)), " the answer, ", (" against ", _tint(-0.6)), " it")


def printable(text: str) -> str:
    """A text on one line, without characters that would steer the terminal."""
    return "".join(c if c.isprintable() else (" " if c.isspace() else "\ufffd") for c in text)
