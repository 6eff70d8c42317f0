"""Entities in BIO tags, read as CoNLL's own script reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OUTSIDE = "O"


def is_entity_tag(tag: str) -> bool:
    """Whether a tag begins or goes on with an entity."""
    return tag.startswith(("B-", "I-")) and len(tag) > 2


def has_entities(tags: Iterable[str]) -> bool:
    """Whether a set of tags is BIO."""
    return any(map(is_entity_tag, tags))


def only_bio(rows: Iterable[Iterable[str]]) -> list[list[str]]:
    """Rows for seqeval, which warns of tags that are not BIO; no entity has them."""
    return [[tag if is_entity_tag(tag) else OUTSIDE for tag in row] for row in rows]


def entities_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Kind, first and past-the-last word of each entity in BIO tags.

    `I-` after another kind, or after nothing, begins an entity too.
    """
    found, begun = [], None
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, kind = tag.partition("-")
        goes_on = begun is not None and mark == "I" and kind == begun[0]
        if begun is not None and not goes_on:
            found.append((begun[0], begun[1], place))
            begun = None
        if not goes_on and mark in ("B", "I") and kind:
            begun = (kind, place)
    return found
