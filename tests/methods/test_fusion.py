"""AdapterFusion beside a plain loop; its saved adapters, its training and its refusals."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterkit import AdapterkitError, Recipe, Store, train
from adapterkit.adapter.adapter import Adapter, MemberWeights
from adapterkit.adapter.card import read_card
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.model_card import model_card
from adapterkit.backbone.model import Backbone
from adapterkit.methods.base import Tensors, methods
from adapterkit.methods.bottleneck import ACTIVATIONS, Bottleneck
from adapterkit.methods.fusion import TRAINED, Fusion
from adapterkit.methods.group import Group
from adapterkit.ops.segments import Segments
from adapterkit.training.plan import Plan
from adapterkit.training.run import Run
from adapterkit.training.trainable import TrainableAdapter
from helpers.adapters import MakeAdapter
from helpers.joint_training import recipe_for, with_changes, write_rows
from helpers.sequences import logits_of, tokenise

PARENTS: dict[str, dict[str, Any]] = {
    "acme/a": {"size": 3, "scaling": 0.5},
    "acme/b": {"size": 2, "activation": "gelu"},
}
"""The saved adapters, which differ in what may differ."""


def fused(backbone: Backbone, placement: Any, seed: int) -> tuple[Fusion, Tensors]:
    """A fusion of three bottlenecks with random tensors."""
    method = Fusion(placement=placement, sizes=(4, 2, 3), activations=("relu", "gelu", "tanh"))
    generator = torch.Generator().manual_seed(seed)
    shapes = method.shapes(backbone.geometry)
    return method, {n: 0.15 * torch.randn(s, generator=generator) for n, s in shapes.items()}


def by_loop(
    method: Fusion, own: Mapping[str, Tensor], site: str, layer: int, y: Tensor, x: Tensor
) -> Tensor:
    """Pfeiffer et al. 2021, equation 5, one token after the other, with the residual stream y and
    the bias of the query as in the library `adapters`."""
    part = {name: own[f"{site}.{name}"][layer] for name in (*TRAINED, "down", "down_bias", "up")}
    lines = []
    for residual, token in zip(y, x, strict=True):
        added, start = [], 0
        for n, (size, kind) in enumerate(zip(method.sizes, method.activations, strict=True)):
            rows = slice(start, start + size)
            units = ACTIVATIONS[kind](part["down"][rows] @ token + part["down_bias"][rows])
            added.append(part["up"][:, rows] @ units + own[f"{site}.up_bias"][layer, n])
            start += size
        query = part["query"] @ token + part["query_bias"]
        scores = torch.stack([query @ (part["key"] @ z) for z in added])
        shares = torch.exp(scores) / torch.exp(scores).sum()
        values = torch.stack([part["value"] @ z for z in added])
        lines.append(residual + shares @ values)
    return torch.stack(lines)


@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby", "parallel"])
def test_it_is_the_attention_of_the_paper(tiny: Backbone, placement: str) -> None:
    lengths, width, generator = [3, 2], tiny.geometry.hidden, torch.Generator().manual_seed(9)
    members = [fused(tiny, placement, seed) for seed in (0, 1)]
    leaves = [{n: t.requires_grad_() for n, t in tensors.items()} for _, tensors in members]
    bound = [(m, m.bind(own, tiny.frozen_weights)) for (m, own) in members]
    edits = Fusion.edits(bound, Group(Segments(lengths), tiny.geometry))
    y, x, weights = (torch.randn(5, width, generator=generator) for _ in range(3))
    x.requires_grad_()
    assert {site for _, site in edits.deltas} == {*members[0][0].sites}
    for (layer, site), delta in edits.deltas.items():
        found = delta(y, x)
        blocks = zip(members, leaves, y.split(lengths), x.split(lengths), strict=True)
        expected = torch.cat(
            [by_loop(method, own, site, layer, *rows) for (method, _), own, *rows in blocks]
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        towards = [x, *(own[n] for own in leaves for n in own if n.startswith(f"{site}."))]
        gradients = [
            torch.autograd.grad((output * weights).sum(), towards, retain_graph=True)
            for output in (found, expected)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def shop(tiny: Backbone, make_adapter: MakeAdapter, **changes: Any) -> Store:
    """A store with the adapters to fuse; `changes` are settings of the second."""
    store = Store("shop")
    for seed, (name, settings) in enumerate(PARENTS.items()):
        own = {**settings, **changes} if seed else settings
        adapter = make_adapter(tiny, Bottleneck.type, name=name, seed=seed, **own)
        store.publish(adapter, tiny.geometry)
    return store


def fusing(of: Sequence[str] = tuple(PARENTS), **settings: Any) -> Recipe:
    """A recipe that fuses saved adapters."""
    method = {"type": "fusion", "of": list(of), **settings}
    return recipe_for("acme/c", write_rows(1, 20), method, {"pooling": "mean"}, epochs=1)


def test_a_new_fusion_of_one_adapter_with_itself_answers_as_it(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    shop(tiny, make_adapter)
    shutil.copytree("shop/acme/a/1", "copy")
    of = [str(Path("shop/acme/a/1").resolve()), str(Path("copy").resolve())]
    parent = load_adapter(of[0], tiny)
    adapter = Plan.of(fusing(of), tiny).adapter
    assert adapter.method == Fusion(of=tuple(of), sizes=(3, 3))
    rows = tokenise(tiny, ["where is my card", "rain"], None, 40)
    found = logits_of(tiny, replace(adapter, task=parent.task, head=parent.head), rows)
    torch.testing.assert_close(found, logits_of(tiny, parent, rows), rtol=1e-5, atol=1e-5)


def test_a_training_keeps_the_adapters_and_its_folder_stands_alone(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store = shop(tiny, make_adapter)
    parents = [load_adapter(store.path(name), tiny) for name in PARENTS]
    adapter = train(fusing(), tiny, store=store, progress=False)
    assert adapter.method == Fusion(tuple(PARENTS), sizes=(3, 2), activations=("relu", "gelu"))
    ups = [Bottleneck(**PARENTS[p.name]).scaling * p.tensors["ffn_norm.up"] for p in parents]
    assert torch.equal(adapter.tensors["ffn_norm.up"], torch.cat(ups, 2))
    for part, dim in (("down", 1), ("down_bias", 1)):
        both = torch.cat([parent.tensors[f"ffn_norm.{part}"] for parent in parents], dim)
        assert torch.equal(adapter.tensors[f"ffn_norm.{part}"], both)
    record = [{"name": parent.name, "digest": parent.digest} for parent in parents]
    folder = store.publish(adapter, tiny.geometry)
    assert read_card(folder)["training"]["parents"] == record
    for name in PARENTS:
        shutil.rmtree(Path("shop") / name)
    again = load_adapter(folder, tiny)
    assert f"`acme/a`, weights `{parents[0].digest}`" in model_card(again)
    rows = tokenise(tiny, ["where is my card", "rain"], None, 40)
    assert torch.equal(logits_of(tiny, again, rows), logits_of(tiny, adapter, rows))


def test_only_the_attention_is_trained_and_in_checkpoints(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store, recipe = shop(tiny, make_adapter), fusing()
    plan = Plan.of(recipe, tiny, store)
    first = TrainableAdapter(plan.adapter)
    trained = {f"tensors.ffn_norm__{name}" for name in TRAINED}
    assert {n for n in first.snapshot() if n.startswith("tensors")} == trained
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    state = Run(first, plan.splits, recipe.training).state_dict()
    second = TrainableAdapter(Plan.of(recipe, tiny, store).adapter)
    Run(second, plan.splits, recipe.training).load_state_dict(state)
    for name, tensor in first.detached().tensors.items():
        assert torch.equal(second.detached().tensors[name], tensor), name


@pytest.mark.parametrize(
    ("changes", "of", "settings", "words"),
    [
        ({}, [], {}, "method.of: name two or more saved bottleneck adapters"),
        ({}, ["acme/a", "acme/x"], {}, "method.of: there is no adapter 'acme/x'"),
        ({}, ["acme/a", "acme/lora"], {}, "method.of: acme/lora is a lora adapter; only those of"),
        ({}, ["acme/a", "acme/top"], {}, "method.of: acme/top stands on 'acme/a'; only single"),
        ({}, ["acme/a", "acme/crowd"], {}, "method.of: acme/crowd is an ensemble of 2 members"),
        ({"layers": (1,)}, [*PARENTS], {}, "acme/a and acme/b differ in layers: None, (1,)"),
        (
            {"placement": "houlsby"},
            [*PARENTS],
            {},
            "method.of: acme/a and acme/b differ in placement: pfeiffer, houlsby",
        ),
        ({}, [*PARENTS], {"sizes": [5, 5]}, "method.sizes: the adapters have (3, 2), got (5, 5)"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(
    tiny: Backbone,
    make_adapter: MakeAdapter,
    changes: Any,
    of: list[str],
    settings: Any,
    words: str,
) -> None:
    store = shop(tiny, make_adapter, **changes)
    parent = load_adapter(store.path("acme/a"), tiny)
    others: dict[str, Adapter] = {
        "acme/lora": make_adapter(tiny, name="acme/lora"),
        "acme/top": replace(parent, name="acme/top", on_top_of=parent),
        "acme/crowd": replace(
            parent,
            name="acme/crowd",
            extra_members=(MemberWeights(parent.tensors, parent.head),),
        ),
    }
    for name in {*of} & {*others}:
        store.publish(others[name], tiny.geometry)
    with pytest.raises(AdapterkitError) as caught:
        Plan.of(fusing(of, **settings), tiny, store)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_are_refused_by_name() -> None:
    kind: Any = methods()["fusion"]
    for settings, words in (
        ({"of": ("acme/a",)}, "of: expected two or more distinct adapters"),
        ({"of": ("acme/a", "acme/a")}, "of: expected two or more distinct adapters"),
        ({"sizes": (0, 2)}, "sizes: expected 1 or more"),
        ({"activations": ("relu",)}, "activations: expected one of"),
        ({"activations": ("relu", "sine")}, "activations: expected one of"),
        ({"placement": "below"}, "placement: expected one of"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(**settings)


def test_a_start_over_other_versions_is_refused(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    store = shop(tiny, make_adapter)
    store.publish(replace(Plan.of(fusing(), tiny, store).adapter), tiny.geometry)
    again = with_changes(fusing(), training={"start_from": "acme/c"})
    started = Plan.of(again, tiny, store).adapter
    assert started.training["start"] == "acme/c, with its head"
    assert [parent["name"] for parent in started.training["parents"]] == [*PARENTS]
    store.publish(make_adapter(tiny, Bottleneck.type, name="acme/a", seed=7, size=3), tiny.geometry)
    with pytest.raises(AdapterkitError, match="was trained over other weights of acme/a, acme/b"):
        Plan.of(again, tiny, store)
