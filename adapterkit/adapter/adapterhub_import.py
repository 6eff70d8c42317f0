"""Adapters that AdapterHub's library `adapters` trained, read as adapters of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from torch import Tensor

from ..backbone.model import Backbone
from ..methods.adapterhub import architecture, peft_folders
from ..methods.base import Method, PeftReading, Tensors
from ..methods.peft_folder import PeftFolder
from ..tasks.adapterhub_head import label_order, plain_task_type, read_adapterhub_head
from ..tasks.base import Task
from .adapter import Adapter
from .foreign_content import ForeignContent
from .peft_format import base_model
from .peft_head import HeadFacts, read_head, split_head, task_of
from .peft_import import reading_of

HUB_WEIGHTS = "adapter.safetensors"
HEAD_CONFIG, HEAD_WEIGHTS = "head_config.json", "model_head.safetensors"
FUSION_CONFIG = "adapter_fusion_config.json"
ADAPTERHUB_FILES = (HUB_WEIGHTS, HEAD_CONFIG, HEAD_WEIGHTS)
"""Files that the library writes beside `adapter_config.json`."""


def is_adapterhub(config: Mapping[str, Any]) -> bool:
    """Whether AdapterHub's library wrote a folder.

    Args:
        config: The content of its `adapter_config.json`.
    """
    return "peft_type" not in config and isinstance(config.get("config"), Mapping)


STACKED_SITES = {
    ("after_attention", "after_attention"),
    ("after_ffn", "after_ffn"),
    ("after_ffn", "ffn_norm"),
    ("ffn_norm", "ffn_norm"),
}
"""Sites of a lower and of an upper adapter of which the upper one reads what the lower one did, in
the library as here."""

BEHIND_FEED_FORWARD = {"after_ffn", "ffn_norm", "ffn_residual"}
"""Sites that are one place in the library."""


@dataclass(frozen=True)
class AdapterHubFolder:
    """A folder that AdapterHub's library wrote.

    Attributes:
        config: The content of `adapter_config.json`.
        tensors: The tensors of its weights file.
        head_config: The content of `head_config.json`; None without a head.
        head: The tensors of the head's weights file.
        backbone: The backbone that it is read for.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    head_config: Mapping[str, Any] | None
    head: Mapping[str, Tensor]
    backbone: Backbone

    def adapter(self, name: str, facts: HeadFacts, on_top_of: Adapter | None = None) -> Adapter:
        """The adapter, on top of one for each further method of a union.

        Its fingerprint is None, since the folder does not say on which weights it was trained.

        Args:
            name: Name of the adapter, and of those below it.
            facts: What is known of the head; it goes before what the folder says.
            on_top_of: The adapter below it in the library's stack, which was imported before.

        Raises:
            ValueError: Something in it cannot be expressed exactly here.
        """
        *below, last = self._readings()
        _check_stack(on_top_of, [reading.method for reading in (*below, last)])
        task, head = self._head(facts)
        plain, _ = replace(self, head_config=None, head={})._head(HeadFacts())
        origin = {"architecture": architecture(self.config), "base_model": base_model(self.config)}
        floor = on_top_of
        for reading in below:
            floor = ForeignContent(reading, plain, {}, origin).adapter(name, self.backbone, floor)
        return ForeignContent(last, task, head, origin).adapter(name, self.backbone, floor)

    def method(self) -> tuple[Method, Tensors]:
        """Its method with its tensors; the head is not read.

        Raises:
            ValueError: It has several, or something cannot be expressed exactly here.
        """
        readings = self._readings()
        if len(readings) > 1:
            raise ValueError(f"it has {len(readings)} methods; one is needed here")
        return readings[0].method, readings[0].tensors

    def _readings(self) -> list[PeftReading]:
        """What the methods read, the one that the head is trained on at the end.

        Raises:
            ValueError: Something cannot be expressed exactly here.
        """
        found = [
            reading_of(part) for part in peft_folders(self.config, self.tensors, self.backbone)
        ]
        for reading in found:
            for name, tensor in reading.tensors.items():
                if not bool(tensor.isfinite().all()):
                    raise ValueError(f"{name} has NaN or infinite numbers after its scale")
        return found

    def _head(self, facts: HeadFacts) -> tuple[Task, Tensors]:
        """The task and its head, that of a plain model of transformers or one of the library.

        Raises:
            ValueError: The head has no exact form here.
        """
        config, hidden = self.head_config, self.backbone.geometry.hidden
        if config is not None and config.get("config") is not None:
            found = read_adapterhub_head(config, self.head)
            known = HeadFacts(facts.labels, facts.problem_type or found.problem_type)
            head = replace(found.head, labels=facts.labels or found.head.labels)
            return task_of(found.task_type, head, found.tensors, known, hidden), found.tensors
        if config is None:
            task_type, labels = None, None
        else:
            task_type, labels = plain_task_type(config), label_order(config.get("label2id"))
        known = HeadFacts(facts.labels or labels, facts.problem_type)
        folder = PeftFolder.of({"task_type": task_type}, self.head, self.backbone)
        rest, tensors = split_head(folder)
        if rest.tensors:
            raise ValueError(f"tensor '{next(iter(rest.tensors))}' belongs to no head here")
        head, own = read_head(folder, tensors, {}, known)
        head = replace(head, pair_token_types=True)  # the library hands them on
        return task_of(task_type, head, own, facts, hidden), own


def _check_stack(below: Adapter | None, methods: Sequence[Method]) -> None:
    """Refuses a stack that computes something else in the library than here.

    There a product beside a linear reads the output of the lower adapter's product, and a parallel
    bottleneck takes the place of what is below it.

    Args:
        below: The adapter below; None without one.
        methods: The methods that are put on it.

    Raises:
        ValueError: It does, or the adapter below is none of the library's.
    """
    for low in below.stack if below is not None else ():
        if "architecture" not in low.training.get("imported", {}):
            raise ValueError(f"'{low.name}' was not imported from a folder of AdapterHub's library")
        for pair in product(low.method.sites, (s for method in methods for s in method.sites)):
            is_one_place = pair[0] == pair[1] or set(pair) <= BEHIND_FEED_FORWARD
            if is_one_place and pair not in STACKED_SITES:
                raise ValueError(
                    f"on '{low.name}' it computes something else in the library than here: both "
                    f"edit {pair[1]}"
                )
