"""An explanation as one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..atomic import write_file
from ..errors import DataError
from .attribution import Attribution, Explanation, Word

TOP = 8
"""Words in the list beside the text."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2230; --soft: #667085; --page: #f4f5f8; --card: #fff;
  --line: #e3e6ec; --for: 38 110 220; --against: 224 108 20; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --page: #12151c;
  --card: #1b2029; --line: #2c333f; --for: 84 148 255; --against: 245 140 60; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .875rem; }
.key i { font-style: normal; padding: .1em .5em; border-radius: .3em; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  margin-top: 1.5rem; padding: 1.25rem 1.5rem; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline;
  justify-content: space-between; }
.body { display: grid; grid-template-columns: minmax(0, 1fr) 17rem; gap: 2rem; margin-top: 1rem; }
@media (max-width: 46rem) { .body { grid-template-columns: 1fr; gap: 1rem; } }
.text { font-size: 1.125rem; line-height: 2; margin: 0 0 .75rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.role { display: block; line-height: 1.2; }
mark { color: inherit; border-radius: .25em; padding: .15em .1em; }
mark.for { background: rgb(var(--for) / var(--s)); box-shadow: 0 2px rgb(var(--for) / var(--s)); }
mark.against { background: rgb(var(--against) / var(--s));
  box-shadow: 0 2px rgb(var(--against) / var(--s)); }
table { border-collapse: collapse; width: 100%; font-size: .875rem; align-self: start;
  table-layout: fixed; }
th { text-align: left; font-weight: 400; color: var(--soft); padding: 0 0 .35rem; }
td { padding: .18rem 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
th:last-child, td:last-child { text-align: right; width: 4.2rem;
  font-variant-numeric: tabular-nums; }
td:nth-child(2), th:nth-child(2) { width: 6rem; padding-left: .75rem; }
td b { display: block; height: .6rem; border-radius: .2rem; }
.sum { margin: 1rem 0 0; padding-top: .75rem; border-top: 1px solid var(--line); }
"""


def check_page(path: Path) -> None:
    """Refuses a file that a page cannot be written to, before anything is computed.

    Raises:
        DataError: It does not end in .html, or its folder is missing.
    """
    if path.suffix not in (".html", ".htm"):
        raise DataError(f"--explain-html {path}: expected a file ending in .html")
    if path.is_dir() or not path.parent.is_dir():
        raise DataError(
            f"--explain-html {path}: is a folder, or is in a folder that does not exist"
        )


def write_page(path: Path, explanations: Sequence[Explanation]) -> None:
    """Writes the page, whole or not at all.

    Raises:
        DataError: It cannot be written.
    """
    check_page(path)
    try:
        write_file(path, page(explanations).encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def page(explanations: Sequence[Explanation]) -> str:
    """Explanations as a page; everything a text says is escaped."""
    articles = "\n".join(article for one in explanations for article in _articles(one))
    baselines = ", ".join(sorted({one.baseline for one in explanations}))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Why this answer? - adapterkit</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Why this answer?</h1>
<p class="soft key">Words that speak <i style="background: rgb(var(--for) / .35)">for</i> the
answer and <i style="background: rgb(var(--against) / .35)">against</i> it, by integrated gradients
from a text whose every word is {escape(baselines)}. Point at a word for its number.</p>
{articles}
</main>
</body>
</html>
"""


def _articles(explanation: Explanation) -> Iterator[str]:
    adapter = f'<span class="soft">{escape(explanation.adapter)}</span>'
    if not explanation.attributions:
        yield (
            f"<article><header><h2>Nothing was found</h2>{adapter}</header>"
            '<p class="soft">There is nothing to explain.</p></article>'
        )
    for attribution in explanation.attributions:
        yield (
            f"<article><header><h2>{escape(attribution.name)}</h2>{adapter}</header>\n"
            f'<div class="body"><div>{"".join(_texts(attribution))}</div>\n'
            f"{_table(attribution)}</div>\n{_sum(explanation, attribution)}</article>"
        )


def _texts(attribution: Attribution) -> Iterator[str]:
    strongest = _strongest(attribution)
    for role, text in attribution.texts.items():
        pieces, done = [], 0
        for word in attribution.words:
            if word.role == role:
                pieces += [escape(text[done : word.start]), _mark(word, strongest)]
                done = word.end
        pieces.append(escape(text[done:]))
        yield f'<p class="text" dir="auto"><span class="role soft">{escape(role)}</span>'
        yield f"{''.join(pieces)}</p>"


def _mark(word: Word, strongest: float) -> str:
    strength = 0.75 * abs(word.attribution) / strongest
    return (
        f'<mark class="{_side(word)}" style="--s: {strength:.2f}" '
        f'title="{word.attribution:+.4f}">{escape(word.word)}</mark>'
    )


def _table(attribution: Attribution) -> str:
    strongest = _strongest(attribution)
    best = sorted(attribution.words, key=lambda word: -abs(word.attribution))[:TOP]
    rows = "".join(
        f'<tr><td dir="auto">{escape(word.word)}</td><td><b style="width: '
        f"{100 * abs(word.attribution) / strongest:.0f}%; background: rgb(var(--{_side(word)}))"
        f'"></b></td><td>{word.attribution:+.3f}</td></tr>'
        for word in best
    )
    return f"<table><tr><th>strongest</th><th></th><th>score</th></tr>{rows}</table>"


def _sum(explanation: Explanation, attribution: Attribution) -> str:
    return (
        f'<p class="sum soft">score {attribution.score:+.3f} = {attribution.baseline_score:+.3f} '
        f"(every word {escape(explanation.baseline)}) "
        f"{attribution.score - attribution.baseline_score:+.3f} (the words, within "
        f"{attribution.error:.1g} after {attribution.steps} steps)</p>"
    )


def _strongest(attribution: Attribution) -> float:
    return max((abs(word.attribution) for word in attribution.words), default=0.0) or 1.0


def _side(word: Word) -> str:
    return "for" if word.attribution > 0 else "against"
