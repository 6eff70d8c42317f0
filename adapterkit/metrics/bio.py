"""Entities in BIO tags, as in the official script of CoNLL-2003."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OUTSIDE = "O"


def is_entity_tag(tag: str) -> bool:
    """Whether a tag begins or continues an entity."""
    return tag.startswith(("B-", "I-")) and len(tag) > 2


def has_entities(tags: Iterable[str]) -> bool:
    """Whether a set of tags is BIO."""
    return any(map(is_entity_tag, tags))


def only_bio(rows: Iterable[Iterable[str]]) -> list[list[str]]:
    """Tags for seqeval, which warns of tags that are not BIO: those are replaced by `O`."""
    return [[tag if is_entity_tag(tag) else OUTSIDE for tag in row] for row in rows]


def entities_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Kind, first and past-the-last word of each entity in BIO tags.

    `I-` after another kind or after `O` begins an entity as well.
    """
    found, current = [], None
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, kind = tag.partition("-")
        continues = current is not None and prefix == "I" and kind == current[0]
        if current is not None and not continues:
            found.append((*current, index))
            current = None
        if not continues and prefix in ("B", "I") and kind:
            current = (kind, index)
    return found
