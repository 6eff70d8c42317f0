"""The report on a recipe's rows as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..text_table import table

MOST_LABELS, MOST_TOKENS, MOST_WINDOWS = 20, 40, 3
BAR = 40


def report_text(report: Mapping[str, Any]) -> str:
    """The report of `adapterkit data check` as text."""
    parts = [
        _rows,
        _histogram,
        _labels,
        _numbers,
        _synonyms,
        _duplicates,
        _unseen_labels,
        _warnings,
        _first_rows,
    ]
    blocks = ["\n".join(part(report)) for part in parts]
    return "\n\n".join(block for block in blocks if block)


def _rows(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{report['name']}: {report['task']} on {report['backbone']}"
    yield ""
    rows = []
    for split, entry in report["splits"].items():
        sizes = [f"{entry['tokens'][key]:g}" for key in ("min", "median", "p95", "max")]
        rows.append([split, f"{entry['rows']:,}", *sizes, entry["cut"], entry["in_windows"]])
    header = ["split", "rows", "tokens: min", "median", "95%", "max", "cut", "in windows"]
    yield table(header, rows)
    yield f"cut and windows: rows with more than {report['limit']} tokens"


def _histogram(report: Mapping[str, Any]) -> Iterator[str]:
    bars = report["histogram"]
    most = max(count for _, _, count in bars)
    yield table(
        ["tokens", "sequences", ""],
        [
            [f"{first}-{last}", f"{count:,}", "#" * -(-BAR * count // most)]
            for first, last, count in bars
        ],
    )


def _labels(report: Mapping[str, Any]) -> Iterator[str]:
    found = {split: entry.get("labels", {}) for split, entry in report["splits"].items()}
    names = list(dict.fromkeys(name for labels in found.values() for name in labels))
    if not names:
        return
    rows = [[name, *(_share(labels.get(name)) for labels in found.values())] for name in names]
    if len(rows) > MOST_LABELS:
        half = MOST_LABELS // 2
        omitted = len(rows) - 2 * half
        rows[half:-half] = [[f"... {omitted} more (--json lists all)", *("" for _ in found)]]
    yield table(["label", *found], rows)


def _share(entry: Mapping[str, Any] | None) -> str:
    return "0" if entry is None else f"{entry['count']:,} ({entry['share']:.1%})"


def _numbers(report: Mapping[str, Any]) -> Iterator[str]:
    found = {s: e["numbers"] for s, e in report["splits"].items() if "numbers" in e}
    if found:
        keys = list(next(iter(found.values())))
        rows = [[split, *(f"{entry[key]:.4g}" for key in keys)] for split, entry in found.items()]
        yield table(["number", *keys], rows)


def _synonyms(report: Mapping[str, Any]) -> Iterator[str]:
    found = report["synonyms"]
    if found is not None:
        rows = report["splits"]["train"]["rows"]
        yield (
            f"{found['rows']:,} of {rows:,} training rows have one of the {found['words']:,} words "
            "with synonyms"
        )


def _duplicates(report: Mapping[str, Any]) -> Iterator[str]:
    found = report["duplicates"]
    if not any(found.values()):
        yield "No row has the same input as another."
    for where in ("inside", "across"):
        for splits, entry in found[where].items():
            examples = ", ".join(f"{one} = {two}" for one, two in entry["examples"])
            yield (
                f"{entry['rows']} rows repeat another {where} {splits}, {entry['differing']} of "
                f"them with another answer: {examples}"
            )


def _unseen_labels(report: Mapping[str, Any]) -> Iterator[str]:
    for split, names in report["only_outside_training"].items():
        for name, entry in list(names.items())[:MOST_LABELS]:
            yield (
                f"'{name}' is in {split} ({entry['rows']} rows, first {entry['first']}) and in no "
                "training row"
            )
    if report["refused"] is not None:
        yield f"Training would stop: {report['refused']}"


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    yield from report["warnings"]


def _first_rows(report: Mapping[str, Any]) -> Iterator[str]:
    if report["first_rows"]:
        yield "What the model reads:"
    for entry in report["first_rows"]:
        answer = ", ".join(f"{role} {value!r}" for role, value in entry["answer"].items())
        yield f"{entry['row']}  {answer}  target {entry['target']}"
        for tokens in entry["tokens"][:MOST_WINDOWS]:
            yield f"  {_tokens_text(tokens)}"
        if len(entry["tokens"]) > MOST_WINDOWS:
            yield f"  ... {len(entry['tokens']) - MOST_WINDOWS} more sequences"


def _tokens_text(tokens: Sequence[str]) -> str:
    if len(tokens) <= MOST_TOKENS:
        return " ".join(tokens)
    ends = " ".join(tokens[: MOST_TOKENS - 10]), " ".join(tokens[-10:])
    return f"{ends[0]} ... {ends[1]} ({len(tokens)} tokens)"
