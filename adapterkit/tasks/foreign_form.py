"""A task as other programs know it: PEFT, transformers, and the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from ..backbone.sequence_head import SequenceHead
from .foreign_head import ForeignHead
from .types import Answer


class ForeignForm:
    """What other programs call a task, and how its head and its answers look there. By default they
    have no such task."""

    type: ClassVar[str]

    pipeline_tag: ClassVar[str | None] = None
    """Name of the task on the Hugging Face hub; None if it has none."""

    peft_task_type: ClassVar[str | None] = None
    """`task_type` in `adapter_config.json`."""

    foreign: ClassVar[bool] = False
    """Whether a PEFT folder of that `peft_task_type` may be read as this task."""

    transformers_model: ClassVar[str | None] = None
    """Name of transformers' class of models with a head for this task; None if it has none."""

    problem_type: ClassVar[str | None] = None
    """transformers' `problem_type` of its sequence classifiers; None for other tasks."""

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        """Returns the task of a PEFT folder, which has a head and no card.

        Args:
            head: What is known of the head.

        Raises:
            ValueError: It is not a head of this task.
        """
        raise ValueError(f"a {cls.type} head alone does not say what it answers")

    def transformers_head(self, head: SequenceHead | None) -> Mapping[str, str] | None:
        """Where the head's modules are in `transformers_model`, by default under the same names.

        Args:
            head: The head of the family's sequence classifiers, with what is known of its other
                task models; None if nothing is.

        Returns:
            Path by name of the module here, as far as they differ; None if that model computes
            something else from the backbone's states.
        """
        is_known = head is not None and self.peft_task_type in head.linear_models
        return {} if is_known and self.transformers_model is not None else None

    def transformers_form(self, head: Mapping[str, Tensor]) -> tuple[Self, Mapping[str, Tensor]]:
        """The task and its head with logits as `transformers_model` returns them: by default as
        they are.

        Args:
            head: The head's tensors.
        """
        return self, head

    @property
    def peft_claim(self) -> str | None:
        """`task_type` of folders whose head is that of `transformers_model`: None if PEFT's model
        for `peft_task_type` would read other inputs."""
        return self.peft_task_type

    def to_hf_pipeline(self, answer: Answer) -> Any:
        """Returns an answer in the format of Hugging Face pipelines and TEI: for a task with labels
        a list of `{label, score}`, the best first."""
        if "scores" not in answer:
            return answer
        return [{"label": label, "score": score} for label, score in answer["scores"].items()]
