"""Entities in tags of the schemes BIO (IOB2), IOB1, BIOES, BMES and BILOU.

A tag is a prefix and a kind, such as `B-PER`: `B` begins an entity, `I` (BMES: `M`) continues it,
`E` (BILOU: `L`) ends it, `S` (BILOU: `U`) is an entity of one word. The schemes differ in the
prefixes that they use, not in what one means, so one reading is right for all: that of the script
of CoNLL-2003.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OUTSIDE = "O"

IOBES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""Each prefix to that of the same meaning in IOBES."""

CONTINUES = ("I", "E")
LAST = ("E", "S")
"""Prefixes of tags that continue an entity, and of those that end one."""


def split_tag(tag: str) -> tuple[str, str] | None:
    """Prefix of a tag, as in `IOBES`, and its kind; None for a tag that is no part of an entity."""
    prefix, _, kind = tag.partition("-")
    return (IOBES[prefix], kind) if prefix in IOBES and kind else None


def has_entities(tags: Iterable[str]) -> bool:
    """Whether a set of tags is of such a scheme: one begins with `B-` or `I-`, or all but `O` are
    parts of entities."""
    parts = [split_tag(tag) for tag in tags if tag != OUTSIDE]
    begins = any(part is not None and part[0] in "BI" for part in parts)
    return begins or (bool(parts) and None not in parts)


def to_iobes(rows: Iterable[Iterable[str]]) -> list[list[str]]:
    """The tags with prefixes of IOBES, as seqeval knows them; `O` for tags outside entities, of
    which it would warn."""
    split = [[split_tag(tag) for tag in row] for row in rows]
    return [[OUTSIDE if part is None else "-".join(part) for part in row] for row in split]


def entities_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Kind, first and past-the-last word of each entity.

    A tag that continues an entity begins one if it is of another kind than the tag before, or
    follows `O` or the end of an entity.
    """
    found, current, is_over = [], None, False
    for index, tag in enumerate([*tags, OUTSIDE]):
        part = split_tag(tag)
        prefix, kind = part or (OUTSIDE, "")
        continues = current is not None and not is_over and kind == current[0]
        continues = continues and prefix in CONTINUES
        if current is not None and not continues:
            found.append((*current, index))
            current = None
        if part is not None and not continues:
            current = (kind, index)
        is_over = prefix in LAST
    return found


def is_iob1(rows: Iterable[Sequence[str]]) -> bool:
    """Whether tags are IOB1: entities begin with `I-`, or with `B-` behind one of the same kind."""
    begins_inside = False
    for row in rows:
        ends: dict[int, str] = {}
        for kind, first, end in entities_of(row):
            if row[first].startswith("B-") and ends.get(first) != kind:
                return False
            begins_inside = begins_inside or row[first].startswith("I-")
            ends[end] = kind
    return begins_inside
