"""An adapter made of finished ones: a weighted sum, a head, and the adapter below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..backbone.model import Backbone
from ..errors import AdapterError
from ..names import check_name
from ..schema import dump
from ..tasks.base import Task
from .adapter import Adapter
from .folder import check_backbone, check_fit
from .stacking import ParentRef
from .weights import value_errors


def compose(
    adapters: Sequence[Adapter],
    backbone: Backbone,
    *,
    name: str,
    weights: Sequence[float] | None = None,
    head: Adapter | None = None,
    on_top_of: Adapter | None = None,
) -> Adapter:
    """Makes one adapter of several: at every site it adds the weighted sum of what they add there.

    Equal weights that sum to 1 average adapters; others are task arithmetic (Ilharco et al. 2023),
    in which a negative weight subtracts what an adapter has learned. The sum is exact, so a method
    whose tensors cannot be summed is refused (`Method.weighted_sum`). A single adapter without
    weights stays as it is, for example to be put on top of another (Pfeiffer et al. 2020, MAD-X).

    Args:
        adapters: Saved adapters of one method.
        backbone: The backbone that they were trained on.
        name: Name of the new adapter.
        weights: A factor for each adapter; if omitted, all are 1 / number of adapters.
        head: The adapter whose task and head are taken; if omitted, linear heads of equal tasks are
            averaged with the same weights.
        on_top_of: The adapter to stand on; if omitted, the one that all of them stand on.

    Returns:
        The new adapter on the CPU. Its training record names its parents.

    Raises:
        AdapterError: They have no such sum or average. Or one was never saved, is an ensemble, or
            was trained on another backbone.
    """
    factors = _factors(adapters, weights)
    if head is None and len(adapters) == 1:
        (head,) = adapters
    if head is not None and head not in adapters:
        raise AdapterError(f"'{head.name}' is none of the adapters, whose heads may be taken")
    for adapter in (*adapters, *([] if on_top_of is None else [on_top_of])):
        _check_part(adapter, backbone)
    record = {
        "parents": [_parent(one, factor) for one, factor in zip(adapters, factors, strict=True)],
        "head_of": None if head is None else vars(ParentRef.of(head)),
    }
    if on_top_of is None:
        _check_same_stack(adapters)
        on_top_of = adapters[0].on_top_of
    local = [adapter.to("cpu") for adapter in adapters]
    method, tensors = local[0].method, local[0].tensors
    if len(local) > 1 or factors[0] != 1.0:
        method, tensors = _weighted_sum(local, factors, backbone)
    task, own_head = _average_head(local, factors) if head is None else (head.task, head.head)
    inputs = (adapters[0] if head is None else head).without_record().training
    if len(local) > 1 or factors[0] != 1.0 or on_top_of is not adapters[0].on_top_of:
        inputs = {key: value for key, value in inputs.items() if key != "answers"}  # of another one
    composed = replace(
        local[0],
        name=check_name(name),
        method=method,
        task=task,
        tensors=tensors,
        head={key: tensor.cpu() for key, tensor in own_head.items()},
        training={**inputs, "composed": record},
        metrics={},
        on_top_of=on_top_of,
        digest=None,
    ).to("cpu")
    _check_numbers(composed)
    check_fit(composed, backbone, composed.name)
    return composed


def _factors(adapters: Sequence[Adapter], weights: Sequence[float] | None) -> list[float]:
    """The weight of each adapter."""
    if not adapters:
        raise AdapterError("adapters: expected at least one")
    if weights is None:
        return [1 / len(adapters)] * len(adapters)
    if len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        raise AdapterError(
            f"weights: expected a finite number for each of {len(adapters)} adapters, got "
            f"{', '.join(map(str, weights))}"
        )
    return [float(weight) for weight in weights]


def _parent(adapter: Adapter, weight: float) -> dict[str, Any]:
    """What the record of a composed adapter says of a parent.

    Raises:
        AdapterError: It was never saved.
    """
    below = adapter.on_top_of
    stands_on = {} if below is None else {"on_top_of": vars(ParentRef.of(below))}
    return {**vars(ParentRef.of(adapter)), "weight": weight, **stands_on}


def _check_part(adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an ensemble, and an adapter of another backbone."""
    if adapter.extra_members:
        raise AdapterError(
            f"'{adapter.name}' is an ensemble of {adapter.n_members} members; only single adapters "
            "are composed"
        )
    check_backbone(adapter, backbone, f"'{adapter.name}'")


def _check_same_stack(adapters: Sequence[Adapter]) -> None:
    """Refuses adapters that stand on different ones."""
    first = adapters[0]
    for other in adapters[1:]:
        if _parents(other) != _parents(first):
            raise AdapterError(
                f"'{first.name}' and '{other.name}' do not stand on the same adapter; name one for "
                "both with on_top_of (--on-top-of)"
            )


def _parents(adapter: Adapter) -> list[str | None]:
    return [parent.digest for parent in adapter.stack[:-1]]


def _weighted_sum(
    adapters: Sequence[Adapter], factors: Sequence[float], backbone: Backbone
) -> tuple[Any, dict[str, Tensor]]:
    """Method and tensors of the weighted sum of adapters."""
    first = adapters[0]
    for other in adapters[1:]:
        if type(other.method) is not type(first.method):
            raise AdapterError(
                f"'{first.name}' is a {first.method.type} adapter and '{other.name}' a "
                f"{other.method.type} adapter; only adapters of one method are composed"
            )
    members = [(adapter.method, adapter.tensors) for adapter in adapters]
    try:
        return type(first.method).weighted_sum(members, factors, backbone.geometry)
    except ValueError as error:
        names = " and ".join(f"'{adapter.name}'" for adapter in adapters)
        raise AdapterError(f"{names} have no exact weighted sum: {error}") from None


def _average_head(
    adapters: Sequence[Adapter], factors: Sequence[float]
) -> tuple[Task, Mapping[str, Tensor]]:
    """The task of adapters, and the weighted average of their heads.

    Raises:
        AdapterError: The tasks differ, or such a head does not answer with the average.
    """
    first = adapters[0]
    way_out = "name the adapter whose head to take (--head)"
    forms = [adapter.task.transformers_form(adapter.head) for adapter in adapters]
    task, head = forms[0]
    for adapter, (other, _) in zip(adapters, forms, strict=True):
        differing = _differences(task, other)
        if adapter.inputs != first.inputs:
            differing = differing or ["columns"]
        if differing:
            raise AdapterError(
                f"the heads of '{first.name}' and '{adapter.name}' have no average: their tasks "
                f"differ in {', '.join(differing)}; {way_out}"
            )
    total = sum(factors)
    if min(factors) < 0 or total <= 0:
        raise AdapterError(f"heads are averaged with weights of 0 or more alone; {way_out}")
    if len({key.rpartition(".")[0] for key in head}) > 1:
        raise AdapterError(f"heads of more than one layer have no exact average; {way_out}")
    return task, {
        key: sum(
            (factor / total * own[key] for factor, (_, own) in zip(factors, forms, strict=True)),
            start=head[key] * 0,
        )
        for key in head
    }


def _differences(task: Task, other: Task) -> list[str]:
    """Settings in which two tasks differ."""
    one, two = dump(task), dump(other)
    return [key for key in {**one, **two} if one.get(key) != two.get(key)]


def _check_numbers(adapter: Adapter) -> None:
    """Refuses numbers that a folder must not hold."""
    errors = value_errors({**adapter.tensors, **adapter.head})
    if errors:
        raise AdapterError(f"'{adapter.name}': {errors[0]}; give smaller weights")
