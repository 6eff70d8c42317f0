"""Adapters that PEFT trained: folders without a card, read as adapters of ours."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from ..methods.base import Method, PeftReading, Tensors, methods, writers_of
from ..methods.peft_folder import PeftFolder
from .adapter import Adapter
from .foreign_content import ForeignContent
from .peft_format import BARE, CONFIG, base_model
from .peft_head import UNKNOWN_HEADS, HeadFacts, read_head, split_head, task_of

log = logging.getLogger("adapterkit")

OTHER_HEADS = ("classifier.", "score.", "cls.", "lm_head.")
"""Beginnings of the names of heads that no task reads, where heads do not matter."""


def read_peft(name: str, folder: PeftFolder, facts: HeadFacts) -> Adapter:
    """The adapter of a folder that PEFT wrote.

    It computes what PEFT computes with it over the same base model. Its fingerprint is None,
    since the folder does not say on which weights it was trained.

    Args:
        name: Name of the adapter.
        folder: The content of the folder.
        facts: What the folder does not say about its head.

    Raises:
        ValueError: Something in it cannot be expressed exactly here.
    """
    if folder.config.get("task_type") not in BARE and not folder.backbone.geometry.sequence_head:
        raise ValueError(UNKNOWN_HEADS)
    inside, head = split_head(folder)
    reading = reading_of(inside)
    found, own_head = read_head(folder, head, dict(reading.changes), facts)
    hidden = folder.backbone.geometry.hidden
    task = task_of(folder.config.get("task_type"), found, own_head, facts, hidden)
    if task.problem_type is not None and facts.problem_type is None:
        log.info(
            f"{name}: a PEFT folder does not say what its logits mean; they are read as "
            f"{task.problem_type} (another: `adapterkit import --problem`)"
        )
    origin = {"peft_type": folder.config["peft_type"], "base_model": base_model(folder.config)}
    return ForeignContent(reading, task, own_head, origin).adapter(name, folder.backbone)


def read_peft_method(folder: PeftFolder) -> tuple[Method, Tensors]:
    """The method of a folder that PEFT wrote, with its tensors; heads are not read.

    Args:
        folder: The content of the folder.

    Raises:
        ValueError: Something in it cannot be expressed exactly here.
    """
    inside, _ = split_head(folder)
    rest = {n: tensor for n, tensor in inside.tensors.items() if not n.startswith(OTHER_HEADS)}
    reading = reading_of(replace(inside, tensors=rest))
    return reading.method, reading.tensors


def reading_of(folder: PeftFolder) -> PeftReading:
    """What the first method that can express a folder reads of it: the one that wrote it before
    those that read it as well.

    Raises:
        ValueError: There is none; the message is that of the one that wrote it.
    """
    peft_type = folder.config.get("peft_type")
    kinds = methods().values()
    readers = [method for method in kinds if peft_type in method.reads_peft_types]
    candidates = list(dict.fromkeys((*writers_of(folder.config), *readers)))
    if not candidates:
        known = {name for kind in kinds for name in (kind.peft_type, *kind.reads_peft_types)}
        raise ValueError(
            f"{CONFIG}: peft_type {peft_type!r:.80} is not known here, only "
            f"{', '.join(sorted(known))}; merge the adapter into its base model in PEFT"
        )
    first, *others = candidates
    try:
        return first.from_peft(folder)
    except ValueError:
        for other in others:
            with suppress(ValueError):
                return other.from_peft(folder)
        raise
