"""The check of a card: everything that a list, the page or a command shows or computes with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..methods.base import methods
from ..names import check_name
from ..schema import build_kind, convert, is_text
from ..tasks.answer_distribution import AnswerDistribution
from ..tasks.base import tasks
from .adapter import MOST_MEMBERS
from .inputs import Inputs
from .stacking import DIGEST, ParentRef

PARTS = {
    "method": ("type",),
    "task": ("type",),
    "backbone": ("name", "fingerprint", "lower_case"),
    "metrics": (),
    "training": (),
}
"""Parts of a card and the keys that each must have; the last two parts may be omitted."""

LONGEST_KIND = 100
"""Most characters of the name of a method or task."""

DEPTH = 60
"""Most levels of lists and mappings in a card."""

SECTIONS = ("recipe", "rows", "intervals", "report", "composed", "answers")
"""Parts of a training record that are mappings, if they are there."""


def check_card(content: Mapping[str, Any]) -> None:
    """Checks the content of a card.

    Settings of a method or task that is not installed here are not checked.

    Raises:
        AdapterkitError: A name is not valid.
        ValueError: A part is missing, or a value is not what it must be.
    """
    _check_values(content, DEPTH)
    for part, keys in PARTS.items():
        section = content.get(part, None if keys else {})
        if not isinstance(section, Mapping) or any(key not in section for key in keys):
            raise ValueError(f"lacks or garbles '{part}'")
    if "name" in content:
        check_name(convert(str, content["name"], "name"))
    # An adapter that was read from a folder of PEFT does not say on which weights it was trained.
    kinds_of_keys: dict[str, Any] = {"name": str, "fingerprint": str | None, "lower_case": bool}
    for key, kind in kinds_of_keys.items():
        convert(kind, content["backbone"][key], f"backbone.{key}")
    for part, kinds in (("method", methods()), ("task", tasks())):
        kind = convert(str, content[part]["type"], f"{part}.type")
        if len(kind) > LONGEST_KIND:
            raise ValueError(f"{part}.type: {kind:.80} is too long")
        if kind in kinds:
            build_kind(kinds, content[part], part)
    labels = content["task"].get("labels")
    if labels is not None and not (isinstance(labels, list) and all(map(is_text, labels))):
        raise ValueError(f"task.labels: expected a list of texts, got {labels!r:.80}")
    members = content.get("members", [])
    are_digests = isinstance(members, list) and all(DIGEST.fullmatch(str(m)) for m in members)
    if not are_digests or len(members) >= MOST_MEMBERS:
        raise ValueError(
            f"members: expected up to {MOST_MEMBERS - 1} digests (sha256:...), got {members!r:.80}"
        )
    ParentRef.read(content.get("on_top_of"))
    _check_metrics(content.get("metrics", {}))
    _check_training(content)


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    for split, scores in metrics.items():
        if not isinstance(scores, Mapping):
            raise ValueError(f"metrics.{split}: expected names and numbers, got {scores!r:.80}")
        for name, value in scores.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"metrics.{split}.{name}: expected a number, got {value!r:.80}")


def _check_training(content: Mapping[str, Any]) -> None:
    """Checks what is read of the record: rows, columns of the recipe, parents, seeds and epochs
    of members."""
    training = content.get("training", {})
    for key in SECTIONS:
        if not isinstance(training.get(key, {}), Mapping):
            raise ValueError(f"training.{key}: expected keys and values, got {training[key]!r:.80}")
    for split, n in training.get("rows", {}).items():
        if isinstance(n, bool) or not isinstance(n, int):
            raise ValueError(f"training.rows.{split}: expected a number of rows, got {n!r:.80}")
    if "answers" in training:
        try:
            AnswerDistribution.from_plain(training["answers"])
        except ValueError as error:
            raise ValueError(f"training.answers: {error}") from None
    data = training.get("recipe", {}).get("data", {})
    if not isinstance(data, Mapping):
        raise ValueError(f"training.recipe.data: expected keys and values, got {data!r:.80}")
    task = tasks().get(content["task"]["type"])
    if task is not None:
        Inputs.of(task, training)
    _check_parents("composed", training.get("composed", {}).get("parents", []), "weight")
    _check_parents("parents", training.get("parents", []))
    members = training.get("members", [])
    if not isinstance(members, list) or not all(
        isinstance(member, Mapping) and {"seed", "epoch"} <= member.keys() for member in members
    ):
        raise ValueError(f"training.members: expected seeds and epochs, got {members!r:.80}")


def _check_parents(key: str, parents: Any, *further: str) -> None:
    """Checks the parents in a training record.

    Args:
        key: Where they are in the record.
        parents: The parents.
        further: Keys that each must have beside name and digest.
    """
    keys = ["name", "digest", *further]
    if not isinstance(parents, list) or not all(
        isinstance(parent, Mapping) and {*keys} <= parent.keys() for parent in parents
    ):
        words = f"{', '.join(keys[:-1])} and {keys[-1]}"
        raise ValueError(f"training.{key}: expected parents with {words}, got {parents!r:.80}")


def _check_values(value: Any, depth: int) -> None:
    """Checks that all numbers are finite, all texts can be written and nothing is too deep.

    Raises:
        ValueError: One is not; the message begins with its path, or with a colon at the top.
    """
    if depth == 0:
        raise ValueError(": is nested too deeply")
    if isinstance(value, str):
        if not is_text(value):
            raise ValueError(f": {value!r:.80} is not a text that can be written")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f": expected a finite number, got {value}")
    elif isinstance(value, int):
        if abs(value) > 2**63:
            raise ValueError(": the number is too large")
    elif isinstance(value, (Mapping, list, tuple)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            try:
                _check_values(key, 1)
                _check_values(inner, depth - 1)
            except ValueError as error:  # the path is built only if it is needed
                text = str(error)
                raise ValueError(f"{key!s:.40}{'' if text[0] == ':' else '.'}{text}") from None
