"""The heads of AdapterHub's library `adapters`, as tasks read the heads of other programs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.sequence_head import Activation
from .foreign_head import ForeignHead

ACTIVATIONS: tuple[str, ...] = get_args(Activation)


class HeadType(NamedTuple):
    """A type of heads.

    Attributes:
        task_type: PEFT's name for the tasks that have such heads.
        problem_type: transformers' `problem_type` of a sequence classifier; if it is None, that of
            its number of logits.
        linear: Name of the linear layer that returns the logits.
        of_text: Whether it has logits for a whole text, and may have a hidden layer.
    """

    task_type: str
    problem_type: str | None = None
    linear: str = "classifier"
    of_text: bool = True


HEAD_TYPES = {
    "classification": HeadType("SEQ_CLS"),
    "multilabel_classification": HeadType("SEQ_CLS", "multi_label_classification"),
    "tagging": HeadType("TOKEN_CLS", of_text=False),
    "question_answering": HeadType("QUESTION_ANS", linear="qa_outputs", of_text=False),
}
"""The heads that are read, by the library's `head_type`."""

PLAIN_MODELS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
"""Ends of the names of transformers' task models to PEFT's name for their tasks."""


@dataclass(frozen=True)
class AdapterHubHead:
    """A head as the library saves it.

    Attributes:
        task_type: PEFT's name for its task.
        problem_type: transformers' `problem_type` of a sequence classifier; None for other heads.
        head: What is known of it.
        tensors: Its tensors as tasks name them.
    """

    task_type: str
    problem_type: str | None
    head: ForeignHead
    tensors: dict[str, Tensor]


def read_adapterhub_head(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> AdapterHubHead:
    """The head of an adapter of a model with flexible heads.

    Two linear layers without an activation between them become one.

    Args:
        config: The content of `head_config.json`.
        tensors: The tensors of its weights file.

    Raises:
        ValueError: It has no exact form here.
    """
    settings = config["config"]
    name, kind = settings["head_type"], HEAD_TYPES.get(settings["head_type"])
    if kind is None:
        known = ", ".join(HEAD_TYPES)
        raise ValueError(f"head_type = {name!r:.80} has no form here; known are {known}")
    layers = _linears(tensors, f"heads.{config['name']}.")
    if len(layers) != settings["layers"]:
        raise ValueError(f"layers = {settings['layers']}, but the weights have {len(layers)}")
    activation = settings.get("activation_function")
    if not activation:
        layers = [_joined(layers)]
    if len(layers) > (2 if kind.of_text else 1):
        raise ValueError(f"layers = {len(layers)}: a {name} head has fewer here")
    if len(layers) == 2 and activation not in ACTIVATIONS:
        raise ValueError(
            f"activation_function = {activation!r:.80}: a hidden layer here has one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    names = ("dense", kind.linear)[-len(layers) :]
    pooling: Pooling = "pooler" if settings.get("use_pooler") else "cls"
    head = ForeignHead(
        len(layers[-1][0]),
        label_order(settings.get("label2id")),
        pooling,
        activation if len(layers) == 2 else None,
    )
    problem = kind.problem_type
    if kind.of_text and problem is None:
        problem = head.likely_problem_type
    own = {
        f"{linear}.{part}": tensor
        for linear, layer in zip(names, layers, strict=True)
        for part, tensor in zip(("weight", "bias"), layer, strict=True)
    }
    return AdapterHubHead(kind.task_type, problem, head, own)


def plain_task_type(config: Mapping[str, Any]) -> str:
    """PEFT's name for the task of a task model of transformers, whose head was saved.

    Args:
        config: The content of `head_config.json`.

    Raises:
        ValueError: It is not known here.
    """
    model = str(config.get("model_class"))
    for end, task_type in PLAIN_MODELS.items():
        if model.endswith(end):
            return task_type
    raise ValueError(f"model_class = {model!r:.80} has no form here")


def label_order(label2id: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Names of labels in the order of their numbers; None if they are not known.

    Args:
        label2id: Label to number.

    Raises:
        ValueError: The numbers are not 0, 1, 2, ...
    """
    if not label2id:
        return None
    if sorted(label2id.values()) != list(range(len(label2id))):
        raise ValueError(f"label2id: the numbers of labels are {sorted(label2id.values())!r:.80}")
    return tuple(sorted(label2id, key=label2id.__getitem__))


def _linears(tensors: Mapping[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the linear layers of a head, in their order.

    Raises:
        ValueError: A tensor is missing, or does not belong here.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"{re.escape(prefix)}(\d+)\.(weight|bias)", name)
        if match is None:
            raise ValueError(f"tensor '{name}' does not belong to the head '{prefix[6:-1]}'")
        found.setdefault(int(match[1]), {})[match[2]] = tensor.float()
    layers = [found[index] for index in sorted(found)]
    if not layers or not all("weight" in layer for layer in layers):
        raise ValueError("the weights of the head are missing")
    return [
        (layer["weight"], layer.get("bias", torch.zeros(len(layer["weight"])))) for layer in layers
    ]


def _joined(layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several linear layers, one after the other, as one.

    Raises:
        ValueError: One but the last has not as many outputs as inputs.
    """
    weight, bias = layers[0]
    for next_weight, next_bias in layers[1:]:
        if weight.shape != (next_weight.shape[1],) * 2:
            raise ValueError(f"a hidden layer of the head is {list(weight.shape)}, not square")
        weight, bias = next_weight @ weight, next_weight @ bias + next_bias
    return weight, bias
