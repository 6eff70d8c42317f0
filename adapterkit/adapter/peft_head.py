"""The head of a folder that PEFT wrote, and the task that answers with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..backbone.geometry import Geometry
from ..methods.base import Tensors
from ..methods.peft_folder import PeftFolder
from ..tasks.base import Task, tasks
from ..tasks.foreign_head import ForeignHead
from .peft_format import BARE, CONFIG, saved_module

SEQUENCE, TOKENS, QUESTIONS = "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"
"""PEFT's task types of sequence and token classifiers and of question answering."""

UNKNOWN_HEADS = "the heads of this family's task models are not known here"

HEAD_PARTS = ("weight", "bias")


@dataclass(frozen=True)
class HeadFacts:
    """What a PEFT folder does not say about its head.

    Attributes:
        labels: Names of the labels, in the order of the logits.
        problem_type: transformers' `problem_type` of a sequence classifier. If it is not given, a
            head of one logit is one of regression, any other chooses one of its labels.
    """

    labels: tuple[str, ...] | None = None
    problem_type: str | None = None


def split_head(folder: PeftFolder) -> tuple[PeftFolder, Tensors]:
    """The folder without the head's tensors, and those, float32."""
    names = {f"{module}.{part}" for module in _head_modules(folder) for part in HEAD_PARTS}
    head = {name: tensor.float() for name, tensor in folder.tensors.items() if name in names}
    rest = {name: tensor for name, tensor in folder.tensors.items() if name not in head}
    return replace(folder, tensors=rest), head


def _head_modules(folder: PeftFolder) -> set[str]:
    """Paths of the modules that may be trained as a head, pooler included."""
    sequence = folder.backbone.geometry.sequence_head
    modules = {"classifier", "qa_outputs"}
    if sequence is not None:
        pooler = sequence.pooler and folder.root + sequence.pooler
        paths = (sequence.linear, sequence.dense, sequence.norm, pooler)
        modules |= {path for path in paths if path}
    return modules


def read_head(
    folder: PeftFolder, head: Tensors, changes: dict[str, Tensor], facts: HeadFacts
) -> tuple[ForeignHead, Tensors]:
    """The head of a folder, and its tensors as the task names them.

    Args:
        folder: The folder.
        head: The trained tensors of `split_head`; those that are read are removed.
        changes: Changes of frozen weights outside the layers, likewise.
        facts: What the folder does not say.

    Raises:
        ValueError: The head is incomplete, or is none of the task type.
    """
    task_type, backbone = folder.config.get("task_type"), folder.backbone
    own: Tensors = {}
    if task_type in BARE:
        # sentence-transformers takes the mean of a checkpoint that names no pooling.
        pooling = "mean" if backbone.pooling == "pooler" else backbone.pooling
        found = ForeignHead(0, pooling=pooling)
    elif task_type == SEQUENCE:
        found, own = _sequence_head(folder, head, changes, facts)
    else:
        geometry, known = backbone.geometry, backbone.geometry.sequence_head
        if known is None or task_type in {TOKENS, QUESTIONS}.difference(known.linear_models):
            raise ValueError(UNKNOWN_HEADS)
        path = "qa_outputs" if task_type == QUESTIONS else "classifier"
        own = _take(head, path, path, geometry)
        # PEFT's model for question answering does not hand on the token types of the tokenizer.
        found = ForeignHead(len(own[f"{path}.weight"]), facts.labels, pair_token_types=False)
    unread = [name for name in head if not _is_frozen(folder, name, head[name])]
    unread += [path for path, change in changes.items() if bool(change.any())]
    if unread:
        raise ValueError(f"'{unread[0]}' is trained, which task_type {task_type} does not read")
    return found, own


def task_of(
    task_type: Any, head: ForeignHead, tensors: Tensors, facts: HeadFacts, hidden: int
) -> Task:
    """The task that answers with a head.

    Args:
        task_type: PEFT's.
        head: What is known of the head.
        tensors: Its tensors as the task names them.
        facts: What the folder does not say.
        hidden: Width of the backbone's states.

    Raises:
        ValueError: There is no such task, or head and facts do not suit it.
    """
    task = _task_type(task_type, head, facts).from_head(head)
    if facts.labels is not None and getattr(task, "labels", None) is None:
        raise ValueError(f"labels: {task.type}, as which this folder is read, has none")
    shapes = task.head_shapes(hidden)
    if tensors.keys() != shapes.keys():
        raise ValueError(f"the head has {sorted(tensors)}, expected {sorted(shapes)}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"the head has {name} of shape {list(tensor.shape)}, expected {shapes[name]}"
            )
    return task


def _is_frozen(folder: PeftFolder, name: str, tensor: Tensor) -> bool:
    """Whether a tensor is what the backbone's pooler has: PEFT saves it also if no gradient has
    reached it."""
    path, _, part = name.rpartition(".")
    spec = folder.backbone.geometry.sequence_head
    if spec is None or not spec.pooler or path != folder.root + spec.pooler:
        return False
    return torch.equal(folder.frozen_linear(path)[part], tensor)


def _sequence_head(
    folder: PeftFolder, head: Tensors, changes: dict[str, Tensor], facts: HeadFacts
) -> tuple[ForeignHead, Tensors]:
    """The head of a sequence classifier, with the hidden layer that its family has, or with that of
    a pooler which was trained as well."""
    backbone, geometry = folder.backbone, folder.backbone.geometry
    spec = geometry.sequence_head
    if spec is None:
        raise ValueError(UNKNOWN_HEADS)
    own = _take(head, spec.linear, "classifier", geometry)
    pooling, activation, eps = spec.pooling, None, None
    pooler = spec.pooler and folder.root + spec.pooler
    if spec.norm is not None and backbone.has_pooler and not _is_in(head, spec.dense, spec.norm):
        pooling = "pooler"  # the layers before the last are those of the base model
    elif spec.dense is not None:
        bias = spec.has_dense_bias
        own |= _take(head, spec.dense, "dense", geometry, has_bias=bias)
        activation = spec.activation
        if spec.norm is not None:
            bias, eps = spec.has_norm_bias, spec.norm_eps
            own |= _take(head, spec.norm, "norm", geometry, has_bias=bias)
    elif pooler and (pooler in changes or any(name.startswith(f"{pooler}.") for name in head)):
        for name, tensor in folder.frozen_linear(pooler).items():
            head.setdefault(f"{pooler}.{name}", tensor)
        own |= _take(head, pooler, "dense", geometry)
        own["dense.weight"] = own["dense.weight"] + changes.pop(pooler, 0.0)
        pooling, activation = "cls", spec.activation
    n_outputs = len(own["classifier.weight"])
    return ForeignHead(n_outputs, facts.labels, pooling, activation, eps), own


def _is_in(head: Tensors, *paths: str | None) -> bool:
    """Whether a head has tensors of any of some modules."""
    return any(name.rpartition(".")[0] in paths for name in head)


def _take(
    head: Tensors, path: str, name: str, geometry: Geometry, *, has_bias: bool = True
) -> Tensors:
    """Removes weight and bias of a module from a head, and returns them under another path.

    Args:
        head: The head.
        path: Path of the module inside the task model.
        name: Its new path.
        geometry: The backbone's.
        has_bias: Whether the module has a bias; the one that is returned is zero otherwise.

    Raises:
        ValueError: One of them is missing.
    """
    parts = HEAD_PARTS if has_bias else HEAD_PARTS[:1]
    for part in parts:
        if f"{path}.{part}" not in head:
            raise ValueError(
                f"'{path}.{part}' is missing: the head was not saved with the adapter (in PEFT: "
                f"modules_to_save=['{saved_module(path, geometry)}'])"
            )
    taken = {f"{name}.{part}": head.pop(f"{path}.{part}").clone() for part in parts}
    return {f"{name}.bias": torch.zeros(len(taken[f"{name}.weight"])), **taken}


def _task_type(task_type: Any, head: ForeignHead, facts: HeadFacts) -> type[Task]:
    """The task that answers with a head.

    Raises:
        ValueError: There is no such task, or the facts do not suit it.
    """
    problem = facts.problem_type
    if task_type == SEQUENCE:
        problem = problem or head.likely_problem_type
    fits = [
        task
        for task in tasks().values()
        if task.foreign
        and (task.peft_task_type in BARE if task_type in BARE else task.peft_task_type == task_type)
    ]
    if not fits:
        known = sorted({str(t.peft_task_type) for t in tasks().values() if t.foreign})
        raise ValueError(
            f"{CONFIG}: task_type {task_type!r:.80} is not known here; known are {', '.join(known)}"
        )
    for task in fits:
        if task.problem_type == problem:
            return task
    valid = [str(task.problem_type) for task in fits]
    raise ValueError(f"problem type {problem}: expected one of {', '.join(valid)}")
