"""Adapters with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.methods.base import methods
from adapterkit.tasks.classification import Classification

MakeAdapter = Callable[..., Adapter]

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 3, "alpha": 3.0, "targets": LINEAR_SITES},
    "dora": {"r": 3, "targets": LINEAR_SITES},
    "biased_lora": {},
    "head": {},
    "prefix": {"num_virtual_tokens": 2},
    "bottleneck": {"size": 4},
    "fusion": {"sizes": (4, 3)},
    "vera": {"r": 5, "targets": LINEAR_SITES},
    "ia3": {},
    "bitfit": {},
    "ln_tuning": {},
}
"""Methods with settings that fit every family."""


def random_adapter(
    backbone: Backbone,
    method: str = "lora",
    name: str = "acme/intent",
    labels: tuple[str, ...] = ("no", "yes"),
    seed: int = 0,
    pooling: Any = "mean",
    **settings: Any,
) -> Adapter:
    """An adapter with random weights, large enough to change answers."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.2 * (32 / backbone.geometry.hidden) ** 0.5
    chosen, tensors = methods()[method](**settings), {}
    for key, shape in chosen.shapes(backbone.geometry).items():
        tensors[key] = torch.randn(shape, generator=generator) * spread
    task = Classification(pooling=pooling, labels=labels)
    shapes = task.head_shapes(backbone.geometry.hidden)
    return Adapter(
        name=name,
        method=chosen,
        task=task,
        tensors=tensors,
        head={key: torch.randn(s, generator=generator) * spread for key, s in shapes.items()},
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        lower_case=backbone.lower_case,
    ).to(backbone.device)


def varied_adapters(backbone: Backbone, make_adapter: MakeAdapter) -> list[Adapter]:
    """Every method, several ranks, sites, placements, layers and label counts."""
    plans: list[tuple[str, dict[str, Any]]] = [
        ("lora", {"r": 2}),
        ("lora", {"r": 8, "alpha": 3.0}),
        ("lora", {"r": 3, "targets": LINEAR_SITES}),
        ("lora", {"r": 3, "layers": (1,)}),
        ("prefix", {"num_virtual_tokens": 3}),
        ("prefix", {"num_virtual_tokens": 9}),
        ("bottleneck", {"size": 2}),
        ("bottleneck", {"size": 7, "scaling": 0.5}),
        ("bottleneck", {"size": 4, "placement": "houlsby", "activation": "gelu"}),
        ("bottleneck", {"size": 4, "placement": "parallel"}),
    ]
    poolings = ("mean", "cls", "pooler")
    return [
        make_adapter(
            backbone,
            kind,
            name=f"t{n}/{kind}",
            labels=tuple(f"label{i}" for i in range(2 + n % 4)),
            seed=n,
            pooling=poolings[n % 3],
            **settings,
        )
        for n, (kind, settings) in enumerate(plans)
    ]


def of_method(adapter: Adapter, kind: str, backbone: Backbone) -> Adapter:
    """The adapter with another method and random tensors for it."""
    other = random_adapter(backbone, kind, **METHODS[kind])
    return replace(adapter, method=other.method, tensors=other.tensors)
