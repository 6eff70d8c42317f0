"""What a folder of another program holds, as an adapter of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..backbone.model import Backbone
from ..methods.base import PeftReading, Tensors
from ..names import check_name
from ..tasks.base import Task
from .adapter import Adapter


@dataclass(frozen=True)
class ForeignContent:
    """What a folder that another program wrote holds.

    Attributes:
        reading: Its method and tensors.
        task: The task that answers with its head.
        head: The head's tensors as the task names them.
        origin: For the record: the program's name of the method, and its `base_model`.
    """

    reading: PeftReading
    task: Task
    head: Tensors
    origin: Mapping[str, str | None]

    def adapter(self, name: str, backbone: Backbone, on_top_of: Adapter | None = None) -> Adapter:
        """The adapter. It has no fingerprint: the folder does not say on which weights it was
        trained.

        Args:
            name: Its name.
            backbone: The backbone that the folder was read for.
            on_top_of: The adapter below it.
        """
        return Adapter(
            name=check_name(name),
            method=self.reading.method,
            task=self.task,
            tensors=self.reading.tensors,
            head=self.head,
            backbone=self.origin["base_model"] or backbone.name,
            fingerprint=None,
            lower_case=backbone.lower_case,
            training={"imported": dict(self.origin)},
            on_top_of=on_top_of,
        )
