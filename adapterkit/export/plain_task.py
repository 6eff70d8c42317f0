"""An adapter whose head returns what transformers' task models return."""

from __future__ import annotations

from dataclasses import replace

from ..adapter.adapter import Adapter


def with_plain_task(adapter: Adapter) -> Adapter:
    """The adapter with a head whose logits need no further settings, such as a number's units."""
    task, head = adapter.task.transformers_form(adapter.head)
    return replace(adapter, task=task, head=dict(head))
